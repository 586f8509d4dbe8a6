"""The loop: config and workdir in, a trained state, logs, pictures and checkpoints out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax.configuration import MEMBERS, member_configs, member_folder, several, to_json, validate
from vae_jax.errors import UserError, printable
from vae_jax.generator import standard
from vae_jax.progress import tell
from vae_jax.storage.files import write_bytes
from vae_jax.storage.plain_paths import local_folder
from vae_jax.training import announce, state
from vae_jax.training import workdir as workdirs
from vae_jax.training.batches import batches_together, calls, train_batches
from vae_jax.training.member import Members
from vae_jax.training.stopping import Request, Stopped
from vae_jax.training.together import Team, assemble_team, start
from vae_jax.types import Batch

SLOW_DATA, LEAST_SECONDS = 0.05, 60  # share of a run's time above which it says so, if it ran so long
EARLY, SOON = 0.05, 100  # a first checkpoint at this share of a run, unless one comes within so many steps


def train(config: ConfigDict, workdir: str | Path) -> state.TrainState:
  """Trains `config` in `workdir`, continuing from its newest good checkpoint if there is one.

  Writes config.json, metrics.jsonl, tensorboard/, images/ and checkpoints/. Where several runs share a program
  (`training.vmap_seeds`, `training.vmap_values`) each writes them into its own folder, workdir/members/0, ...; workdir
  has the config of all, and metrics.jsonl with means over the runs and, as NAME_std, sample deviations. The state
  then has the members on a first axis.

  Raises UserError for a bad config, bad data, a workdir of another config or in use, and when `training.max_skipped`
  steps in a row were not finite: which images they had is in nonfinite.json then. Raises Stopped when Ctrl-C or SIGTERM
  asked for it, once all is saved.
  """
  validate(config)
  config = config.copy_and_resolve_references()  # the digest of a first stage is filled in
  workdir = local_folder(workdir)
  if several(config) and jax.process_count() > 1:
    raise UserError(
      f"training.vmap_seeds and vmap_values need one process, not {jax.process_count()}; start one"
    )
  with standard(), workdirs.all_alone(_places(config, workdir)):
    return run(assemble_team(config, workdir))


def _places(config: ConfigDict, workdir: Path) -> list[Path]:
  """The folders that a run writes, for the first process."""
  if jax.process_index() != 0:
    return []
  if not several(config):
    return [workdir]
  numbers = range(len(member_configs(config)))
  return [workdir, workdir / MEMBERS, *(member_folder(workdir, number) for number in numbers)]


def _announce(team: Team, step: int) -> None:
  """Keeps the configs, now that all that could refuse them has been built, and says where a run continues."""
  if jax.process_index() != 0:
    return
  configs = {team.workdir: team.config}
  configs |= {folder: parts.config for folder, parts in zip(team.folders, team.parts, strict=True)}
  for folder, config in configs.items():
    write_bytes(folder / "config.json", to_json(config).encode())
  steps_, where = team.config.training.steps, printable(str(team.workdir))
  if step:
    tell(f"{where}: {'finished already' if step >= steps_ else 'continuing'} at step {step} of {steps_}")


def run(team: Team) -> state.TrainState:
  """Steps, then log, then evaluate, then save, until the last step. Raises as `train` does."""
  with Request(jax.process_count() > 1) as request:
    return _run(team, request)


def _batches(team: Team, step: int) -> Iterator[Batch]:
  """Per dispatch, the batches of all runs."""
  first, t = team.parts[0], team.config.training
  sizes = list(calls(step, t.steps, t.steps_per_call, t.log_every, t.eval_every, t.checkpoint_every))
  if team.same_batches:
    return train_batches(first.config, first.train, step, sizes, first.placement)
  return batches_together([p.config for p in team.parts], first.train, step, sizes, first.placement)


def _run(team: Team, request: Request) -> state.TrainState:
  first, t = team.parts[0], team.config.training
  announce.begin(team)
  train_state, window = start(team)
  step = int(np.max(jax.device_get(train_state.step)))
  if step < t.steps:
    first.checkpoints.try_out(team.like)
  _announce(team, step)
  stored = first.placement.put(first.train.arrays if first.train.arrays is not None else {})
  early = _early(t) if not step else None
  started, begun = time.monotonic(), step
  with contextlib.ExitStack() as held:
    members = Members(team, train_state, step, window, held)
    for batches in members.clock.waits(_batches(team, step)):
      if step == begun:
        with members.writers.between("compilation"):
          announce.compilation(team, members.writers.say, (train_state, stored, batches, first.frozen))
      train_state, got = team.call(train_state, stored, batches, first.frozen)
      members.add(got)
      step += len(got["loss"])
      last = step == t.steps
      if step % t.log_every == 0 or last:
        members.write_rows(step, train_state, started)
      else:
        members.writers.progress(step - len(got["loss"]))  # what is done, not what was sent off
      scores = members.evaluate(step, train_state, started) if step % t.eval_every == 0 or last else None
      stop = None if last else request.stops()
      if step % t.checkpoint_every == 0 or last or stop or (early is not None and step >= early):
        early = None
        members.save(step, train_state, scores)
      if scores is not None:
        members.clock.share()  # the next row is about training alone
      if stop:
        saved = "which" if (latest := members.saved()) == step else f"step {latest}"
        where = printable(str(team.workdir))
        raise Stopped(
          f"stopped at step {step} of {t.steps}, {saved} is saved in {where}; the same command continues",
          128 + stop,
        )
    members.saved()
  _tell_waiting(members.clock.total, time.monotonic() - started)
  return train_state


def _early(training: ConfigDict) -> int | None:
  """The step from which on a first checkpoint is worth a look; None where one comes soon anyway."""
  step = math.ceil(EARLY * training.steps)
  return step if step < min(training.checkpoint_every, training.steps) > SOON else None


def _tell_waiting(waited: float, seconds: float) -> None:
  """Says that data were slow, of runs that are long enough to know."""
  if jax.process_index() == 0 and seconds >= LEAST_SECONDS and waited > SLOW_DATA * seconds:
    tell(
      f"{waited / seconds:.0%} of the time went by waiting for data; raise data.workers, or data.resident_mb to hold "
      "all of it"
    )
