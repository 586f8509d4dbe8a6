"""Checkpoints: the state of a run on disk. The only module that knows Orbax.

A folder holds one folder a step, named by the plain number:

    checkpoints/2000/checkpoint.json   format version, score, `meta`, shapes and types, checksums of the files
    checkpoints/2000/...               the arrays, as Orbax (OCDBT) writes them

A step appears under its number only when all of it is on disk: Orbax writes to `<step>.orbax-checkpoint-tmp`
and renames. `checkpoint.json` is written just before that renaming. Orbax by itself reads flipped bits
without a complaint; the checksums turn them into an error.

Arrays are stored under the path of their names ("params/encoder/kernel", "opt_state/0/mu/..."), so reading
needs neither the optimiser nor the devices that wrote them.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.errors import UserError

FORMAT_VERSION = 1
HEADER = "checkpoint.json"
_TMP = ".orbax-checkpoint-tmp"
_REMOVED = ".removed"
# Without a checksum, because Orbax writes them last; reading does not need them.
_UNSEALED = ("_CHECKPOINT_METADATA", "commit_success.txt")


class _Damaged(Exception):
  """A checkpoint that cannot be read; the message is the reason."""


class Checkpoints:
  """The checkpoints of one run. Reading leaves the folder as it is, and is safe while another process writes.

  With several processes, call `save`, `wait` and `close` on all of them, on a shared file system.
  """

  def __init__(self, folder: str | Path, keep: int = 2, warn: Callable[[str], None] | None = None):
    """
    Args:
      folder: created at the first `save`.
      keep: how many of the newest steps to keep, beside the best one. Between two saves there may be one
        more, because a step is deleted only once its successor is complete.
      warn: receives one line when a damaged checkpoint is passed over; the log by default.
    """
    if keep < 1:
      raise UserError(f"training.keep is {keep}; keep at least 1 checkpoint")
    self.folder = Path(folder).expanduser().resolve()
    self.keep = keep
    self._warn = warn or logging.getLogger(__name__).warning
    self._writer: Any = None
    self._saving: tuple[int, dict] | None = None
    self._damaged: set[int] = set()

  def steps(self) -> list[int]:
    """Complete steps, ascending. A step that is still being written is not among them."""
    if not self.folder.is_dir():
      return []
    folders = (p.name for p in self.folder.iterdir() if p.is_dir())
    return sorted(int(name) for name in folders if re.fullmatch(r"0|[1-9]\d*", name))

  def latest(self) -> int | None:
    """The newest complete step."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """The step with the lowest finite score; of equal ones the newest. None if no step has a score."""
    scores: list[tuple[float, int]] = []
    for step in set(self.steps()) - self._damaged:
      try:
        score = _read_header(self.folder / str(step))["score"]
      except (_Damaged, UserError):
        continue
      if score is not None:
        scores.append((score, -step))
    return -min(scores)[1] if scores else None

  def save(self, step: int, state: Any, *, meta: dict, score: float | None = None) -> None:
    """Copies `state` to the host, then writes it in the background; the caller may donate `state` at once.

    Waits for the previous save first. A step that is already there is left alone, unless it is damaged; then
    it is replaced.

    Args:
      state: a pytree of arrays; no typed PRNG keys.
      meta: small JSON data to keep beside the arrays (config, image shape, versions); no NaN, no infinity.
      score: lower is better. NaN and infinities are never best.

    Raises:
      UserError: this checkpoint, or the one before, could not be written.
    """
    import orbax.checkpoint as ocp

    step, path = int(step), self.folder / str(int(step))
    score = None if score is None or not math.isfinite(score) else float(score)
    arrays = _to_host(state)
    header = {
      "step": step,
      "score": score,
      "meta": json.loads(json.dumps(meta, allow_nan=False)),
      "arrays": {name: [list(x.shape), x.dtype.name] for name, x in arrays.items()},
    }
    self.wait()
    if _is_good(path):
      return
    if self._writer is None:
      self._open_writer()
    self._saving = (step, header)
    stored = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty arrays
    try:
      self._writer.save(path, args=ocp.args.PyTreeSave(_nest(stored)), force=True)
    except Exception as error:
      raise _not_written(path, error) from error
    self._damaged.discard(step)

  def restore(
    self, step: int | None = None, like: Any = None, only: str | tuple[str, ...] | None = None
  ) -> tuple[Any, dict]:
    """Reads one step and checks it against its checksums.

    Args:
      step: None reads the newest; if that is damaged, warns and falls back to the newest good one.
      like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure of what was saved. The result has
        this structure, on the leaves' shardings. None gives numpy arrays in nested dicts, keyed by field
        names and, in tuples, by position ("0", "1"): for a machine with other devices, or without the
        optimiser.
      only: a part of the state, such as "ema", or the first that there is of several; `like` then describes it.

    Returns:
      (state, meta): meta as it was saved, and "step", "score" and "format_version".

    Raises:
      UserError: nothing there; damaged; written by a newer version; not the shapes of `like`.
    """
    steps = self.steps()
    if not steps:
      raise UserError(f"no checkpoint in {self.folder}; train first, or name another folder")
    if step is not None and step not in steps:
      raise UserError(f"no checkpoint of step {step} in {self.folder}; there are {_listed(steps)}")
    reasons = []
    for candidate in [step] if step is not None else reversed(steps):
      path = self.folder / str(candidate)
      try:
        header = _verify(path)
        part = _part(header["arrays"], only, path)
        arrays = _read_arrays(path, _select(header["arrays"], part))
      except _Damaged as reason:
        reasons.append(f"checkpoint {path} is damaged ({reason})")
        self._damaged.add(candidate)
        continue
      for line in reasons:
        self._warn(f"{line}; falling back to step {candidate}")
      meta = header["meta"] | {k: header[k] for k in ("step", "score", "format_version")}
      return _shape_as(arrays, like, part, path), meta
    if step is not None:
      others = [s for s in steps if s != step]
      remedy = f"use another step: {_listed(others)}" if others else "train again, or restore a backup"
    else:
      remedy = "no other can be read; delete the folder and train again, or restore a backup"
    raise UserError(f"{reasons[0]}; {remedy}")

  def wait(self) -> None:
    """Returns when everything that was saved is on disk and superseded steps are gone."""
    if self._writer is None:
      return
    try:
      self._writer.wait_until_finished()
    except Exception as error:
      raise _not_written(self.folder, error) from error
    self._prune()

  def close(self) -> None:
    """Waits, then frees the threads. Harmless if called twice."""
    try:
      self.wait()
    finally:
      if self._writer is not None:
        self._writer.close()
        self._writer = None

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _open_writer(self) -> None:
    import orbax.checkpoint as ocp

    if jax.process_index() == 0:
      try:
        self.folder.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise _not_written(self.folder, error) from error
      for leftover in self.folder.iterdir():  # of a run that was killed
        if leftover.is_dir() and re.fullmatch(rf"\d+({_TMP}.*|{_REMOVED})", leftover.name):
          shutil.rmtree(leftover, ignore_errors=True)
    self._writer = ocp.AsyncCheckpointer(
      ocp.PyTreeCheckpointHandler(),
      async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
    )

  def _seal(self) -> None:
    """Runs in the background when the arrays are complete, before the folder gets its final name."""
    if jax.process_index() != 0 or self._saving is None:
      return
    step, header = self._saving
    (folder,) = [p for p in [*self.folder.glob(f"{step}{_TMP}*"), self.folder / str(step)] if p.is_dir()][:1]
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    sums = {name: [p.stat().st_size, _checksum(p)] for name, p in files.items() if p.name not in _UNSEALED}
    body = header | {"files": sums}
    seal = {"format_version": FORMAT_VERSION, "crc32": _body_checksum(body), "body": body}
    (folder / HEADER).write_text(json.dumps(seal))

  def _prune(self) -> None:
    """Deletes what is neither among the newest, nor the best, nor the step just saved."""
    if jax.process_index() != 0:
      return
    steps = self.steps()
    good = [s for s in steps if s not in self._damaged]
    wanted = {*good[-self.keep :], self.best()}
    if self._saving is not None:
      wanted.add(self._saving[0])
    for step in steps:
      if step not in wanted:
        removed = self.folder / f"{step}{_REMOVED}"  # never leaves half a checkpoint under its number
        (self.folder / str(step)).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
        self._damaged.discard(step)


def _to_host(state: Any) -> dict[str, Any]:
  """Name -> numpy copy; a view would see what the caller does to its arrays while they are being written."""
  leaves = _flat(state)
  for x in leaves.values():
    if isinstance(x, jax.Array):
      x.copy_to_host_async()  # all transfers at once

  def copy(x):
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
      return x  # in parts on several hosts; Orbax gathers it
    return np.array(x)

  return {name: copy(x) for name, x in leaves.items()}


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, x in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = x
  return tree


def _flat(tree: Any) -> dict[str, Any]:
  """Leaves by name: "params/encoder/kernel"."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _checksum(path: Path) -> int:
  crc = 0
  with path.open("rb") as file:
    while block := file.read(1 << 22):
      crc = zlib.crc32(block, crc)
  return crc


def _body_checksum(body: dict) -> int:
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _read_header(path: Path) -> dict:
  """The body of `checkpoint.json` and its format version."""
  try:
    seal = json.loads((path / HEADER).read_bytes())
    version = seal["format_version"]
  except FileNotFoundError:
    raise _Damaged(f"{HEADER} is missing") from None
  except (OSError, ValueError, KeyError, TypeError):
    raise _Damaged(f"{HEADER} cannot be read") from None
  if isinstance(version, int) and version > FORMAT_VERSION:
    raise UserError(
      f"checkpoint {path} has format {version}, this vae_jax reads up to {FORMAT_VERSION}; update vae_jax"
    )
  if version != FORMAT_VERSION or _body_checksum(seal.get("body")) != seal.get("crc32"):
    raise _Damaged(f"{HEADER} does not match its checksum")
  return seal["body"] | {"format_version": version}


def _verify(path: Path) -> dict:
  """The header, once every file has the size and the checksum that it had when it was written."""
  header = _read_header(path)
  for name, (size, crc) in header["files"].items():
    file = path / name
    try:
      if file.stat().st_size != size:
        raise _Damaged(f"{name} has {file.stat().st_size} bytes instead of {size}")
      if _checksum(file) != crc:
        raise _Damaged(f"{name} does not match its checksum")
    except FileNotFoundError:
      raise _Damaged(f"{name} is missing") from None
    except OSError as error:
      raise _Damaged(f"{name}: {error.strerror}") from None
  return header


def _is_good(path: Path) -> bool:
  if not path.exists():
    return False
  try:
    _verify(path)
  except _Damaged:
    return False
  return True


def _part(arrays: dict[str, list], only: str | tuple[str, ...] | None, path: Path) -> str | None:
  """The first of the parts asked for that the checkpoint has."""
  if only is None:
    return None
  wanted = (only,) if isinstance(only, str) else only
  parts = {name.split("/")[0] for name in arrays}
  found = [name for name in wanted if name in parts]
  if not found:
    raise UserError(f"checkpoint {path} has no part {wanted[0]!r}; it has {', '.join(sorted(parts))}")
  return found[0]


def _select(arrays: dict[str, list], part: str | None) -> dict[str, list]:
  return {n: x for n, x in arrays.items() if part is None or n == part or n.startswith(f"{part}/")}


def _read_arrays(path: Path, record: dict[str, list]) -> dict[str, np.ndarray]:
  """Name -> numpy array, for the names in `record` (name -> [shape, dtype])."""
  import orbax.checkpoint as ocp

  like = {n: np.empty(shape, jax.numpy.dtype(dtype)) for n, (shape, dtype) in record.items()}
  stored = _nest({n: x for n, x in like.items() if x.size})
  arrays: dict[str, Any] = {}
  if stored:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    args = ocp.args.PyTreeRestore(item=stored, restore_args=as_numpy, partial_restore=True)
    try:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = _flat(reader.restore(path, args=args))
    except Exception as error:
      raise _Damaged(_one_line(error)) from error
  return {n: arrays.get(n, x) for n, x in like.items()}


def _shape_as(arrays: dict[str, np.ndarray], like: Any, only: str | None, path: Path) -> Any:
  """`arrays` in nested dicts, or in the structure and on the devices of `like`."""
  if like is None:
    tree = _nest(arrays)
    for part in only.split("/") if only else []:
      tree = tree[part]
    return tree
  remedy = "use the config that wrote it, or another workdir"
  placed = []
  names = []
  for name, want in _flat(like).items():
    name = "/".join(part for part in (only, name) if part)
    if name not in arrays:
      raise UserError(f"checkpoint {path} lacks {name}; {remedy}")
    x = arrays[name]
    if x.shape != tuple(want.shape) or x.dtype != want.dtype:
      is_not = f"is {x.dtype.name}{list(x.shape)}, not {want.dtype.name}{list(want.shape)}"
      raise UserError(f"checkpoint {path}: {name} {is_not}; {remedy}")
    names.append(name)
    placed.append(jax.device_put(x, getattr(want, "sharding", None)))
  if extra := sorted(set(arrays) - set(names)):
    raise UserError(f"checkpoint {path} has {extra[0]}, which this model lacks; {remedy}")
  return jax.tree.unflatten(jax.tree.structure(like), placed)


def _not_written(path: Path, error: Exception) -> UserError:
  reason = _one_line(error)
  return UserError(f"checkpoint {path} was not written ({reason}); make room, or choose another workdir")


def _one_line(error: Exception) -> str:
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:200]


def _listed(steps: list[int]) -> str:
  return ", ".join(map(str, steps))
