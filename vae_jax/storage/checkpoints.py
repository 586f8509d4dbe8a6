"""Checkpoints: the state of a run on disk. The only module that knows Orbax.

A folder holds one folder a step, named by the plain number:

    checkpoints/2000/checkpoint.json   format version, score, `meta`, shapes and types, checksums of the files
    checkpoints/2000/...               the arrays, as Orbax (OCDBT) writes them

A step appears under its number only when all of it is on disk: Orbax writes to `<step>.orbax-checkpoint-tmp`
and renames. Just before that renaming the arrays are read back and compared, and `checkpoint.json` is written. The
arrays by themselves would be read with flipped bits without a complaint; the checksums turn them into an error
(`verification.py`).

Arrays are stored under the path of their names ("params/encoder/kernel", "opt_state/0/mu/..."), so reading
needs neither the optimiser nor the devices that wrote them, nor Orbax (`checkpoint_arrays.py`).
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
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.errors import UserError, printable
from vae_jax.storage.checkpoint_arrays import (
  choose_part,
  compare_stored,
  flat,
  modern,
  nest,
  one_line,
  read_stored,
  select,
  shape_as,
)
from vae_jax.storage.files import write_bytes
from vae_jax.storage.plain_paths import plain_path
from vae_jax.storage.verification import (
  FORMAT_VERSION,
  HEADER,
  MAX_HEADER,
  UNSEALED,
  Damaged,
  body_checksum,
  checksum,
  is_good,
  read_header,
  verify,
  wrong_part,
)

_TMP = ".orbax-checkpoint-tmp"
_REMOVED = ".removed"
_TRIAL = "trial"
_LEFTOVER = rf"[0-9]+({_TMP}.*|{_REMOVED})|{_TRIAL}({_TMP}.*)?"
_FILES = 32  # more than one checkpoint has, folders included


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
    self._open = contextlib.ExitStack()  # what is open for as long as the writer is
    self._path = self.folder  # as the writer is given it
    self._saving: tuple[int, dict, dict[str, Any]] | None = None
    self._damaged: set[int] = set()

  def steps(self) -> list[int]:
    """Returns the complete steps, ascending. A step that is still being written is not among them."""
    try:
      names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise UserError(f"{self.folder}: cannot be read ({error.strerror}); change its permissions") from None
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))

  def latest(self) -> int | None:
    """Returns the newest complete step, or None."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """Returns the step with the lowest finite score; of equal ones the newest. None if no step has a score."""
    scores: list[tuple[float, int]] = []
    for step in set(self.steps()) - self._damaged:
      try:
        score = read_header(self.folder / str(step))["score"]
      except (Damaged, UserError):
        continue
      if score is not None:
        scores.append((score, -step))
    return -min(scores)[1] if scores else None

  def has(self, step: int, part: str) -> bool:
    """Whether a complete, readable step has a part of the state, such as "rest"."""
    try:
      return any(name.split("/")[0] == part for name in read_header(self.folder / str(step))["arrays"])
    except Damaged:
      return False

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
    if wrong := wrong_part(header | {"files": {}}):
      raise ValueError(f"{wrong!r} cannot be saved: it could not be read again")
    self.wait()
    if is_good(path):
      return
    if self._writer is None:
      self._open_writer()
    self._saving = (step, header, arrays if jax.process_index() == 0 else {})
    stored = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty arrays
    try:
      if jax.process_index() == 0:
        if path.is_dir():
          self._remove(step)
        _check_space(self.folder, arrays)
      self._writer.save(self._path / str(step), args=ocp.args.PyTreeSave(nest(stored)), force=True)
    except Exception as error:
      raise self._not_written(error) from error
    self._damaged.discard(step)

  def try_out(self, like: Any) -> None:
    """Saves a few numbers, reads them back and deletes them, and looks whether there is space for a state.

    For the start of a run, which then does not find out at its first checkpoint. like: the state, or its shapes.

    Raises:
      UserError: checkpoints cannot be written here, or not read again.
    """
    import orbax.checkpoint as ocp

    trial, path = {"numbers": np.arange(4, dtype=np.float32)}, self.folder / _TRIAL
    self._saving = None
    if self._writer is None:
      self._open_writer()
    try:
      if jax.process_index() == 0:
        _check_space(self.folder, flat(like))
      self._writer.save(self._path / _TRIAL, args=ocp.args.PyTreeSave(trial), force=True)
      self._writer.wait_until_finished()
      if jax.process_index() == 0:
        compare_stored(path, trial)
        shutil.rmtree(path)
    except Exception as error:
      failure = self._not_written(error)
      with contextlib.suppress(OSError):  # a run that was refused before its first step leaves no folder
        self.folder.rmdir()
      raise failure from error

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
        header = verify(path)
        part = choose_part(header["arrays"], only, path)
        arrays = modern(read_stored(path, select(header["arrays"], part)))
      except Damaged as reason:
        reasons.append(f"checkpoint {path} is damaged ({reason})")
        self._damaged.add(candidate)
        continue
      for line in reasons:
        self._warn(f"{line}; falling back to step {candidate}")
      meta = header["meta"] | {k: header[k] for k in ("step", "score", "format_version")}
      return shape_as(arrays, like, part, path), meta
    if step is not None:
      others = [s for s in steps if s != step]
      remedy = f"use another step: {_listed(others)}" if others else "restore a backup, or train again"
    else:
      remedy = "no other can be read; restore a backup, or train again in another workdir and keep this one"
    raise UserError(f"{reasons[0]}; {remedy}")

  def finish(self) -> None:
    """Returns when everything that was saved is on disk; superseded steps are still there."""
    if self._writer is None:
      return
    try:
      self._writer.wait_until_finished()
    except Exception as error:
      raise self._not_written(error) from error

  def wait(self) -> None:
    """Returns when everything that was saved is on disk and superseded steps are gone."""
    if self._writer is not None:
      self.finish()
      self._prune()

  def close(self, tidy: bool = True) -> None:
    """Waits, then frees the threads. Harmless if called twice. tidy: deletes superseded steps, as `wait` does."""
    try:
      (self.wait if tidy else self.finish)()
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
    self._path = self._open.enter_context(plain_path(self.folder))
    self._writer = ocp.AsyncCheckpointer(
      ocp.PyTreeCheckpointHandler(),
      # Made in the background, a folder for which there is no space is waited for by other threads for minutes.
      async_options=ocp.AsyncOptions(
        create_directories_asynchronously=False, post_finalization_callback=self._seal
      ),
    )

  def _close_writer(self) -> None:
    if self._writer is not None:
      with contextlib.suppress(
        Exception
      ):  # the failure has been reported, maybe not by all threads that noticed
        self._writer.close()
      self._writer = None
      self._open.close()

  def _seal(self) -> None:
    """Runs in the background when the arrays are complete, before the folder gets its final name."""
    if jax.process_index() != 0 or self._saving is None:
      return
    step, header, arrays = self._saving
    (folder,) = [p for p in [*self.folder.glob(f"{step}{_TMP}*"), self.folder / str(step)] if p.is_dir()][:1]
    compare_stored(folder, arrays)
    self._saving = (step, header, {})  # they are not needed any more
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    sums = {name: [p.stat().st_size, checksum(p)] for name, p in files.items() if p.name not in UNSEALED}
    body = header | {"files": sums}
    seal = json.dumps({"format_version": FORMAT_VERSION, "crc32": body_checksum(body), "body": body})
    if len(seal) > MAX_HEADER:
      raise ValueError(f"{HEADER} would have {len(seal)} bytes, at most {MAX_HEADER} are read")
    write_bytes(folder / HEADER, seal.encode())

  def _sweep(self) -> bool:
    """Deletes what a run that was killed, or a full disk, left half-written or half-deleted; whether there was any."""
    found = False
    with contextlib.suppress(OSError):
      for leftover in self.folder.iterdir():
        if leftover.is_dir() and re.fullmatch(_LEFTOVER, leftover.name):
          _delete(leftover)
          found = True
    return found

  def _remove(self, step: int) -> None:
    """Deletes a step; half a checkpoint is never left under its number."""
    removed = self.folder / f"{step}{_REMOVED}"
    (self.folder / str(step)).rename(removed)
    _delete(removed)
    self._damaged.discard(step)

  def _not_written(self, error: Exception) -> UserError:
    """Returns the error of a save that failed, once nothing half-written is left; the next one begins afresh."""
    self._close_writer()
    for _ in range(10 if jax.process_index() == 0 else 0):
      if not self._sweep():
        break
      time.sleep(0.1)  # arrays that were under way may make the folder anew
    what = f"checkpoints cannot be written to {printable(str(self.folder))}"
    if self._saving:
      what = f"checkpoint {printable(str(self.folder / str(self._saving[0])))} was not written"
    good = [s for s in self.steps() if s not in self._damaged]
    last = f"the last whole checkpoint is of step {good[-1]}" if good else "there is none yet"
    return UserError(f"{what} ({one_line(error)}); free some space, or choose another workdir; {last}")

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
  """Deletes as much of a folder as can be; what a link leads to stays."""
  if folder.is_symlink():
    folder.unlink()
  shutil.rmtree(folder, ignore_errors=True)


def _to_host(state: Any) -> dict[str, Any]:
  """Name -> numpy copy; a view would see what the caller does to its arrays while they are being written."""
  leaves = flat(state)
  for x in leaves.values():
    if isinstance(x, jax.Array):
      x.copy_to_host_async()  # all transfers at once

  def copy(x):
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
      return x  # in parts on several hosts; Orbax gathers it
    return np.array(x)

  return {name: copy(x) for name, x in leaves.items()}


def _check_space(folder: Path, arrays: dict[str, Any]) -> None:
  """Raises OSError where there is no space for the arrays: better than to find out with half of them written."""
  if not hasattr(os, "statvfs"):
    return
  disk = os.statvfs(folder)
  free, need = disk.f_bavail * disk.f_frsize, sum(map(_space, arrays.values())) + 2**16
  if disk.f_blocks and free < need:
    detail = f"it takes {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {detail}")
  if disk.f_files and disk.f_favail < _FILES:  # some file systems do not count them
    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {disk.f_favail} more files can be made")


def _space(x: Any) -> int:
  return math.prod(x.shape) * x.dtype.itemsize + 1000


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
  """Silences the tracebacks of Orbax and its threads after a failed save, which is raised as one line instead."""
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_no_traceback)
  if not isinstance(sys.unraisablehook, _Unraisable):
    sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _listed(steps: list[int]) -> str:
  return ", ".join(map(str, steps))
