"""The folder of a run: who may train in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax.configuration import MEMBERS, differences, from_json, member_folders, show
from vae_jax.configuration.members import KEYS as MEMBER_KEYS
from vae_jax.errors import UserError, printable
from vae_jax.progress import tell
from vae_jax.runs import fill_texts
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training.state import make_learning_rate

LOCK = ".lock"
WRITTEN = (
  LOCK,
  "config.json",
  "metrics.jsonl",
  "nonfinite.json",
  "checkpoints",
  "images",
  "tensorboard",
  "metrics.csv",
  "wandb",
  MEMBERS,
)
SHOWN = 5  # keys that differ, in a message

# What may differ between two starts of one run: where and how it runs, not what it computes.
FREE_KEYS = (
  "data.dir",
  "data.resident_mb",
  "data.workers",
  "data.max_bad",
  "training.steps_per_call",
  "training.log_every",
  "training.csv",
  "training.wandb",
  "training.eval_every",
  "training.checkpoint_every",
  "training.keep",
  "training.parallel",
  "training.fsdp",
  "training.accumulate",
  "training.extended_at",  # filled in
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
  checkpoint.

  More `training.steps` than the run has are accepted, and reported: its steps so far are kept as they are. Sets what a
  run keeps from its beginning: `training.extended_at`, and `training.decayed` of older runs.
  """
  if members := member_folders(workdir):
    raise UserError(
      f"{workdir} holds {len(members)} runs that were trained together; go on with one of them by --workdir "
      f"{members[0]}, or give another --workdir"
    )
  t = config.training
  t.extended_at = ""
  latest = checkpoints.latest()
  if latest is None:
    return
  there = _config_there(workdir, checkpoints)
  config.data.classes = config.data.classes or there.data.classes  # filled in at the first start
  if config.data.byte_pairs == there.data.byte_pairs:
    config.data.pairs = config.data.pairs or there.data.pairs
    fill_texts(config)
  t.extended_at = there.training.extended_at
  if there.training.decayed == "all":
    t.decayed = "all"
  keys = [key for key in differences(there, config) if key not in FREE_KEYS]
  if "training.first_stage_digest" in keys:
    raise UserError(f"{workdir} {_first_stages(there.training, t)}, or another --workdir")
  if keys == ["training.steps"] and t.steps > there.training.steps:
    _extend(config, there, workdir, checkpoints.restore(only="step")[1]["step"])
  elif keys:
    raise UserError(
      f"{workdir} holds a run with another config: {_compare(there, config, keys)}; give the values of the run to "
      "continue it, or another --workdir"
    )
  if latest >= t.steps and there.data.dir != config.data.dir:
    raise UserError(
      f"{workdir} holds a finished run of data.dir={there.data.dir}, not of {config.data.dir}; give another --workdir"
    )
  if there.data.dir != config.data.dir and jax.process_index() == 0:
    tell(
      f"note: {printable(str(workdir))} was trained on data.dir={there.data.dir} and continues on {config.data.dir}; "
      "if these are other images, give another --workdir"
    )


def check_together(config: ConfigDict, workdir: Path) -> None:
  """Refuses a workdir of one run, or of other members, for a config of several; `check` looks at each member."""
  if Checkpoints(workdir / "checkpoints").latest() is not None:
    raise UserError(f"{workdir} holds one run, and this config is of several; give another --workdir")
  path = workdir / "config.json"
  if not member_folders(workdir) or not path.is_file():
    return
  there = from_json(path.read_text(errors="replace"), str(path))
  if keys := [key for key in differences(there, config) if key in MEMBER_KEYS]:
    raise UserError(
      f"{workdir} holds runs with another config: {_compare(there, config, keys)}; give the values of these runs to "
      "continue them, or another --workdir"
    )


def _config_there(workdir: Path, checkpoints: Checkpoints) -> ConfigDict:
  path = workdir / "config.json"
  if path.exists():
    return from_json(path.read_text(errors="replace"), str(path))
  found = checkpoints.restore(only="step")[1]
  return from_json(json.dumps(found.get("config")), str(checkpoints.folder))


def _compare(there: ConfigDict, given: ConfigDict, keys: list[str]) -> str:
  """Both values of each key, of some keys: "training.seed is 0 there and 1 here"."""

  def value(config: ConfigDict, key: str) -> str:
    for name in key.split("."):
      config = config.get(name, "not there")
    return show(config)

  keys = ["model.name"] if "model.name" in keys else keys
  shown = [f"{key} is {value(there, key)} there and {value(given, key)} here" for key in keys[:SHOWN]]
  return ", ".join(shown + [f"and {len(keys) - SHOWN} more differ"] * (len(keys) > SHOWN))


def _extend(config: ConfigDict, there: ConfigDict, workdir: Path, step: int) -> None:
  """Records, and says, that a run goes on to more steps, and what that makes of its learning rate."""
  t, old = config.training, there.training
  t.extended_at = f"{old.extended_at},{step}".strip(",")
  if jax.process_index() == 0:
    rates = [
      float(make_learning_rate(c)(jnp.asarray(at))) for c, at in ((old, step), (t, step), (t, t.steps))
    ]
    tell(
      f"{printable(str(workdir))}: a run of {old.steps} steps is extended to {t.steps} from step {step} on; parameters "
      f"and optimiser are kept, and the learning rate follows the schedule of {t.steps} steps: here it rises from "
      f"{rates[0]:.3g} to {rates[1]:.3g}, and falls to {rates[2]:.3g} at the end"
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
def all_alone(workdirs: Iterable[Path]) -> Iterator[None]:
  """As `alone`, of several folders, those that hold others first."""
  with contextlib.ExitStack() as held:
    for workdir in workdirs:
      held.enter_context(alone(workdir))
    yield


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
