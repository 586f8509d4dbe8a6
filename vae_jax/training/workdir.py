"""The folder of a run: who may train in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import differences, from_json
from vae_jax.errors import UserError
from vae_jax.storage.checkpoints import Checkpoints

LOCK = ".lock"
WRITTEN = (LOCK, "config.json", "metrics.jsonl", "nonfinite.json", "checkpoints", "images", "tensorboard")

# What may differ between two starts of one run: where and how it runs, not what it computes.
FREE_KEYS = (
  "data.dir",
  "data.resident_mb",
  "data.workers",
  "data.max_bad",
  "training.steps_per_call",
  "training.log_every",
  "training.eval_every",
  "training.checkpoint_every",
  "training.keep",
  "training.parallel",
  "training.fsdp",
  "training.accumulate",
  "training.first_stage",  # where it lies; its digest says which one it is
  "evaluation.batch_size",
  "evaluation.samples",
  "evaluation.pictures",
  "evaluation.lpips",
  "evaluation.lpips_weights",
  "evaluation.lpips_heads",
)


def check(config: ConfigDict, workdir: Path, checkpoints: Checkpoints) -> None:
  """Refuses a workdir where a run that computes something else has begun, by its config.json or else its newest
  checkpoint."""
  path, latest = workdir / "config.json", checkpoints.latest()
  if latest is not None:
    if path.exists():
      there = from_json(path.read_text(errors="replace"), str(path))
    else:
      found = checkpoints.restore(only="step")[1]
      there = from_json(json.dumps(found.get("config")), str(checkpoints.folder))
    config.data.classes = config.data.classes or there.data.classes  # filled in at the first start
    keys = [key for key in differences(there, config) if key not in FREE_KEYS]
    if "training.first_stage_digest" in keys:
      raise UserError(f"{workdir} {_first_stages(there.training, config.training)}, or another --workdir")
    if keys:
      raise UserError(
        f"{workdir} holds a run with another config ({', '.join(keys)} differ); "
        "give the same config to continue it, or another --workdir"
      )
    if latest >= config.training.steps and there.data.dir != config.data.dir:
      raise UserError(
        f"{workdir} holds a finished run of data.dir={there.data.dir}, not of {config.data.dir}; give another --workdir"
      )


def _first_stages(there: ConfigDict, given: ConfigDict) -> str:
  """In what the first stages of two starts of a run differ, and what to give."""
  if not there.first_stage_digest:
    return (
      f"holds a run without a first stage, and training.first_stage={given.first_stage} is one; leave it out"
    )
  holds = f"holds a run on the first stage {there.first_stage} of digest {there.first_stage_digest[:12]}"
  if not given.first_stage_digest:
    return f"{holds}, and training.first_stage is not set; give that one"
  return (
    f"{holds}, and training.first_stage={given.first_stage} has the digest {given.first_stage_digest[:12]}; give the "
    "one that it was trained on, wherever it lies now"
  )


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
  """Holds the workdir, which is made if need be, until the end, however this process ends.

  Where the file system knows no locks (some network ones) and on Windows nothing is held.

  Raises:
    UserError: another process trains in it, it cannot be made, or something in it is a link: a stranger's run could
      have a file elsewhere overwritten.
  """
  for name in WRITTEN:
    if (workdir / name).is_symlink():
      raise UserError(
        f"{workdir / name} is a link; put what it leads to in its place, or link the whole workdir"
      )
  made = not workdir.exists()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    handle = _hold(workdir / LOCK)
  except OSError as error:
    raise UserError(f"{workdir} cannot be written ({error.strerror}); choose another --workdir") from None
  try:
    yield
  finally:
    if handle is not None:
      with contextlib.suppress(OSError):
        (workdir / LOCK).unlink()
      os.close(handle)
    if made:  # a run that was refused before its first file leaves no folder
      with contextlib.suppress(OSError):
        workdir.rmdir()


def _hold(path: Path) -> int | None:
  """A handle that holds the lock; None where there are no locks."""
  try:
    import fcntl
  except ImportError:
    return None
  while True:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(handle)):
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return handle
      os.close(handle)  # its holder ended, and took the file away, between our two steps
    except OSError as error:
      who = os.read(handle, 200).decode(errors="replace") or "another process"
      os.close(handle)
      if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        raise UserError(
          f"{path.parent} is in use: {who} trains in it; wait for it, or give another --workdir"
        ) from None
      if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        return None
      with contextlib.suppress(OSError):
        path.unlink()
      raise
