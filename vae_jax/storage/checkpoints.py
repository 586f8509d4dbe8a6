"""Checkpoints: the state of a run on disk. The only module that knows Orbax.

A folder holds one folder a step, named by the plain number:

    checkpoints/2000/checkpoint.json   format version, score, `meta`, shapes and types, checksums of the files
    checkpoints/2000/...               the arrays, as Orbax (OCDBT) writes them

A step appears under its number only when all of it is on disk: Orbax writes to `<step>.orbax-checkpoint-tmp`
and renames. `checkpoint.json` is written just before that renaming. The arrays by themselves would be read with
flipped bits without a complaint; the checksums turn them into an error.

Arrays are stored under the path of their names ("params/encoder/kernel", "opt_state/0/mu/..."), so reading
needs neither the optimiser nor the devices that wrote them, nor Orbax.

A folder may come from a stranger: every part of `checkpoint.json` is checked before it is used, files are looked for
inside the step's folder alone, and no memory is taken that the sizes of the files do not account for. Checksums tell
damage, not malice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.files import write_whole

FORMAT_VERSION = 1
HEADER = "checkpoint.json"
_TMP = ".orbax-checkpoint-tmp"
_REMOVED = ".removed"
# Without a checksum, because Orbax writes them last; reading does not need them.
_UNSEALED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_FILES = 32  # more than one checkpoint has, folders included
_MAX_HEADER = 2**26  # bytes; a header has about a hundred for each array
# Arrays are compressed, zeros to almost nothing. A state has parameters besides, which are not zeros: its arrays are a
# few times as large as its files. More than this, and they are a stranger's invention.
_MAX_RATIO, _FREE_BYTES = 100, 2**26


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
    try:
      names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise UserError(f"{self.folder}: cannot be read ({error.strerror}); change its permissions") from None
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))

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
    if wrong := _wrong_part(header | {"files": {}}):
      raise ValueError(f"{wrong!r} cannot be saved: it could not be read again")
    self.wait()
    if _is_good(path):
      return
    if self._writer is None:
      self._open_writer()
    self._saving = (step, header)
    stored = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty arrays
    try:
      if jax.process_index() == 0:
        if path.is_dir():
          self._remove(step)
        _check_room(self.folder, arrays)
      self._writer.save(path, args=ocp.args.PyTreeSave(_nest(stored)), force=True)
    except Exception as error:
      raise self._not_written(error) from error
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
      raise self._not_written(error) from error
    self._prune()

  def close(self) -> None:
    """Waits, then frees the threads. Harmless if called twice."""
    try:
      self.wait()
    finally:
      self._close_writer()

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
        raise self._not_written(error) from error
      self._sweep()
    _tell_failures_once()
    self._writer = ocp.AsyncCheckpointer(
      ocp.PyTreeCheckpointHandler(),
      # Made in the background, a folder for which there is no room is waited for by other threads for minutes.
      async_options=ocp.AsyncOptions(
        create_directories_asynchronously=False, post_finalization_callback=self._seal
      ),
    )

  def _close_writer(self) -> None:
    if self._writer is not None:
      with contextlib.suppress(Exception):  # what failed has been told, maybe not by all threads that noticed
        self._writer.close()
      self._writer = None

  def _seal(self) -> None:
    """Runs in the background when the arrays are complete, before the folder gets its final name."""
    if jax.process_index() != 0 or self._saving is None:
      return
    step, header = self._saving
    (folder,) = [p for p in [*self.folder.glob(f"{step}{_TMP}*"), self.folder / str(step)] if p.is_dir()][:1]
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    sums = {name: [p.stat().st_size, _checksum(p)] for name, p in files.items() if p.name not in _UNSEALED}
    body = header | {"files": sums}
    seal = json.dumps({"format_version": FORMAT_VERSION, "crc32": _body_checksum(body), "body": body})
    if len(seal) > _MAX_HEADER:
      raise ValueError(f"{HEADER} would have {len(seal)} bytes, at most {_MAX_HEADER} are read")
    write_whole(folder / HEADER, lambda file: file.write(seal.encode()))

  def _sweep(self) -> bool:
    """Deletes what a run that was killed, or a full disk, left half-written or half-deleted; whether there was any."""
    found = False
    with contextlib.suppress(OSError):
      for leftover in self.folder.iterdir():
        if leftover.is_dir() and re.fullmatch(rf"[0-9]+({_TMP}.*|{_REMOVED})", leftover.name):
          _delete(leftover)
          found = True
    return found

  def _remove(self, step: int) -> None:
    """Never leaves half a checkpoint under its number."""
    removed = self.folder / f"{step}{_REMOVED}"
    (self.folder / str(step)).rename(removed)
    _delete(removed)
    self._damaged.discard(step)

  def _not_written(self, error: Exception) -> UserError:
    """The error of a save that failed, once nothing half-written is left; the next one begins afresh."""
    self._close_writer()
    for _ in range(10 if jax.process_index() == 0 else 0):
      if not self._sweep():
        break
      time.sleep(0.1)  # arrays that were under way may make the folder anew
    path = self.folder / str(self._saving[0]) if self._saving else self.folder
    good = [s for s in self.steps() if s not in self._damaged]
    last = f"the last whole checkpoint is of step {good[-1]}" if good else "there is none yet"
    return UserError(
      f"checkpoint {path} was not written ({_one_line(error)}); make room, or choose another workdir; {last}"
    )

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
        with contextlib.suppress(OSError):  # one too many harms nobody
          self._remove(step)


def _delete(folder: Path) -> None:
  """As far as it can be; what a link leads to stays."""
  if folder.is_symlink():
    folder.unlink()
  shutil.rmtree(folder, ignore_errors=True)


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
  """The body of `checkpoint.json` and its format version; each part is of the type that it should have."""
  try:
    size = _size(path / HEADER)
    if size > _MAX_HEADER:
      raise _Damaged(f"{HEADER} has {size} bytes")
    seal = json.loads((path / HEADER).read_bytes())
    version, body = seal["format_version"], seal["body"]
    intact = _body_checksum(body) == seal["crc32"]
  except FileNotFoundError:
    raise _Damaged(f"{HEADER} is missing") from None
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    raise _Damaged(f"{HEADER} cannot be read") from None
  if type(version) is int and FORMAT_VERSION < version < 1000:
    raise UserError(
      f"checkpoint {path} has format {version}, this vae_jax reads up to {FORMAT_VERSION}; update vae_jax"
    )
  if type(version) is not int or version != FORMAT_VERSION or not intact:
    raise _Damaged(f"{HEADER} does not match its checksum")
  if wrong := _wrong_part(body):
    raise _Damaged(f"{HEADER}: {wrong!r} is not what it should be")
  if str(body["step"]) != path.name:
    raise _Damaged(f"{HEADER} is of step {body['step']}")
  return body | {"format_version": version}


def _wrong_part(body: Any) -> str | None:
  """The first entry of a header that is of another type than `save` writes."""
  if not isinstance(body, dict):
    return "body"
  score, arrays, files = body.get("score"), body.get("arrays", 0), body.get("files", 0)
  checks = {
    "step": _natural(body.get("step")),
    "score": score is None or (type(score) in (int, float) and math.isfinite(score)),
    "meta": isinstance(body.get("meta"), dict),
    "arrays": _pairs(arrays, lambda shape, dtype: _shape(shape) and _dtype(dtype)) and _is_tree(list(arrays)),
    "files": _pairs(files, lambda size, crc: _natural(size) and _natural(crc)) and all(map(_inside, files)),
  }
  return next((name for name, right in checks.items() if not right), None)


def _natural(value: Any) -> bool:
  return type(value) is int and 0 <= value < 2**63


def _pairs(table: Any, right: Callable[[Any, Any], bool]) -> bool:
  """Whether `table` is a dict of pairs that are `right`."""
  return isinstance(table, dict) and all(
    isinstance(pair, list) and len(pair) == 2 and right(*pair) for pair in table.values()
  )


def _inside(file: str) -> bool:
  """Whether a name cannot lead out of the folder."""
  return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)*", file)) and ".." not in file.split("/")


def _is_tree(names: list[str]) -> bool:
  """Whether the names can be those of nested dicts: none is also a folder of another one."""
  if any(not all(name.split("/")) or name.count("/") > 99 or len(name) > 9999 for name in names):
    return False
  parents = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
  return not parents & set(names)


def _shape(value: Any) -> bool:
  return isinstance(value, list) and len(value) <= 32 and all(map(_natural, value))


def _dtype(value: Any) -> bool:
  """Whether `value` names a type of numbers; another one, such as "object", may hold anything."""
  if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]{,30}", value):
    return False
  try:
    dtype = jax.numpy.dtype(value)
  except TypeError:
    return False
  return dtype.name == value and (value == "bool" or jax.numpy.issubdtype(dtype, np.number))


def _size(file: Path) -> int:
  """Bytes of a regular file: to open a pipe or a device might wait for ever."""
  found = file.stat()
  if not stat.S_ISREG(found.st_mode):
    raise OSError(0, "is no file")
  return found.st_size


def _verify(path: Path) -> dict:
  """The header, once every file has the size and the checksum that it had when it was written."""
  header = _read_header(path)
  for name, (size, crc) in header["files"].items():
    file = path / name
    try:
      if (found := _size(file)) != size:
        raise _Damaged(f"{name} has {found} bytes instead of {size}")
      if _checksum(file) != crc:
        raise _Damaged(f"{name} does not match its checksum")
    except FileNotFoundError:
      raise _Damaged(f"{name} is missing") from None
    except OSError as error:
      raise _Damaged(f"{name}: {error.strerror}") from None
  stored = sum(size for size, _ in header["files"].values())
  claimed = sum(
    math.prod(shape) * jax.numpy.dtype(dtype).itemsize for shape, dtype in header["arrays"].values()
  )
  if claimed > max(_FREE_BYTES, _MAX_RATIO * stored):
    raise _Damaged(f"{HEADER} tells of {claimed} bytes of arrays, its files have {stored}")
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
  import tensorstore as ts  # the library by which Orbax stores arrays

  like = {n: (tuple(shape), jax.numpy.dtype(dtype)) for n, (shape, dtype) in record.items()}
  kvstore = {
    "driver": "ocdbt",
    "base": {"driver": "file", "path": f"{path}/"},
    "cache_pool": "cache_pool#index",
  }
  context = ts.Context({"cache_pool#index": {"total_bytes_limit": 10**8}})

  def open_array(name: str) -> Any:
    spec = {"driver": "zarr", "kvstore": kvstore | {"path": name.replace("/", ".") + "/"}}
    return ts.open(spec | {"fill_missing_data_reads": False}, read=True, context=context)

  try:
    opened = {n: open_array(n) for n, (shape, _) in like.items() if math.prod(shape)}
    stores = {n: store.result() for n, store in opened.items()}
    for n, store in stores.items():
      shape, dtype = like[n]
      # A chunk is decompressed whole, so that one which is larger than its array could fill the memory.
      chunk = store.chunk_layout.read_chunk.shape or ()
      if store.shape != shape or store.dtype.numpy_dtype != dtype or any(map(int.__gt__, chunk, shape)):
        raise _Damaged(f"{n} is stored as {store.dtype.name}{list(store.shape)}, in chunks of {list(chunk)}")
    reads = {n: store.read() for n, store in stores.items()}
    arrays = {n: read.result() for n, read in reads.items()}
  except _Damaged:
    raise
  except Exception as error:
    raise _Damaged(_one_line(error)) from error
  return {n: arrays[n] if n in arrays else np.empty(shape, dtype) for n, (shape, dtype) in like.items()}


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


def _check_room(folder: Path, arrays: dict[str, Any]) -> None:
  """Raises OSError where there is no room for the arrays: better than to find out with half of them written."""
  if not hasattr(os, "statvfs"):
    return
  disk = os.statvfs(folder)
  free, need = disk.f_bavail * disk.f_frsize, sum(x.nbytes + 1000 for x in arrays.values()) + 2**16
  if disk.f_blocks and free < need:
    detail = f"it takes {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {detail}")
  if disk.f_files and disk.f_favail < _FILES:  # some file systems do not count them
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {disk.f_favail} more files can be made")


def _no_traceback(record: logging.LogRecord) -> bool:
  return not (record.exc_info and "orbax" in record.pathname + record.getMessage())


class _Unraisable:
  """A `sys.unraisablehook` that passes over what the arrays of a failed save report to a loop that has ended."""

  def __init__(self, before: Callable[[Any], object]):
    self._before = before

  def __call__(self, what: Any) -> None:
    if what.object is not None or str(what.exc_value) != "Event loop is closed":
      self._before(what)


def _tell_failures_once() -> None:
  """Of a save that failed, which is raised as one line, Orbax and its threads print tracebacks, some of them late."""
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_no_traceback)
  if not isinstance(sys.unraisablehook, _Unraisable):
    sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _one_line(error: BaseException) -> str:
  """The reason of the system, where it is in the error or in its text; else the first line of the text."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = str(error).strip() or type(error).__name__
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
    if os.strerror(number) in text:
      return os.strerror(number)
  return text.splitlines()[0][:200]


def _listed(steps: list[int]) -> str:
  return ", ".join(map(str, steps))
