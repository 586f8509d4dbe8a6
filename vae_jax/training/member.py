"""What the runs of a loop leave, each in its own folder: rows, scores, pictures, checkpoints, warnings."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import pictures
from vae_jax.configuration import MEMBERS
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.models.contract import Family, codebooks
from vae_jax.progress import TrainingProgress
from vae_jax.storage.files import write_bytes
from vae_jax.training import announce, state, steps
from vae_jax.training.assemble import Parts
from vae_jax.training.batches import with_known_labels
from vae_jax.training.scoring import score
from vae_jax.training.together import Team
from vae_jax.training.writers import MetricsLog, Writers
from vae_jax.types import Batch, Variables, image_shape

COLLAPSED = 0.1  # share of the latent units that must be active for a run not to be warned

Values = dict[str, np.ndarray]


def window_values(window: Sequence[steps.Metrics]) -> Values:
  """The metrics of each step of some dispatches, on the host."""
  host = jax.device_get(list(window))
  return {name: np.concatenate([m[name] for m in host]) for name in (host[0] if host else ())}


def means(values: Values) -> dict[str, float]:
  """Means over steps, in float64."""
  return {name: float(x.mean(dtype=np.float64)) for name, x in values.items()}


def packed(values: Values) -> dict[str, list[str]]:
  """The steps since the last row of training, for a checkpoint between two rows. As text: JSON has no NaN."""
  return {name: [str(v) for v in x.tolist()] for name, x in values.items()}


def collapse(active: float, model: Family, step: int, objective: ConfigDict) -> str | None:
  """Returns the warning of posterior collapse: too few latent units depend on the image, once the KL counts."""
  if "encode" not in model.can or "beta_steps" not in objective:
    return None
  units = model.units
  if not (active < COLLAPSED * units and step >= objective.beta_steps):
    return None
  return (
    f"posterior collapse at step {step}: {active:.0f} of {units} latent units are active; warm the KL up "
    "(objective.beta_schedule=linear, objective.beta_steps=10000), set objective.free_bits=0.1, or lower objective.beta"
  )


def mean_and_deviation(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """NAME: the mean over runs of each number that all have; NAME_std: its sample deviation (of n - 1)."""
  found: dict[str, float] = {}
  for name in rows[0]:
    if all(name in row for row in rows):
      values = np.array([row[name] for row in rows], np.float64)
      with np.errstate(invalid="ignore"):  # of a member that diverged
        deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
      found |= {name: float(values.mean()), f"{name}_std": deviation}
  return found


@jax.jit
def _finite(tree: Any) -> jax.Array:
  return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def _keep_bad_batches(path: Path, config: ConfigDict, count: int, steps_: range) -> None:
  """Writes which images were in the batches of some steps, to look at them: {"split", "steps", "index"}."""
  t = config.training
  index = pipeline.order(t.seed, count, pipeline.positions(steps_.start, len(steps_), t.batch_size))
  bad = {"split": config.data.train, "steps": list(steps_), "index": index.tolist()}
  write_bytes(path, json.dumps(bad).encode())


class Clock:
  """Counts how long an iterator was waited for. The device may have been busy meanwhile: an upper bound of its wait."""

  def __init__(self) -> None:
    self.waited, self.since = 0.0, time.monotonic()
    self.total = 0.0

  def waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
      before = time.monotonic()
      batch = next(batches, None)
      self.waited += time.monotonic() - before
      self.total += time.monotonic() - before
      if batch is None:
        return
      yield batch

  def share(self) -> float:
    """Share of the time spent waiting since the last call."""
    now = time.monotonic()
    share = self.waited / max(now - self.since, 1e-9)
    self.waited, self.since = 0.0, now
    return share


class Member:
  """One run of a loop. name: begins its warnings; "" where it is the only one."""

  def __init__(self, parts: Parts, workdir: Path, writers: Writers, skipped: int, name: str = ""):
    self.parts, self.workdir, self.writers, self.skipped, self.name = parts, workdir, writers, skipped, name
    self.collapsed = False

  def check(self, step: int, skipped: int, in_a_row: int) -> None:
    """Warns of skipped steps. Raises UserError when too many in a row were not finite."""
    if skipped > self.skipped:
      self.skipped = skipped
      self.writers.warn(
        f"{self.name}loss or gradients were not finite: {skipped} steps skipped so far, up to step {step}"
      )
    if in_a_row < self.parts.config.training.max_skipped:
      return
    path, parts = self.workdir / "nonfinite.json", self.parts
    if jax.process_index() == 0:
      with contextlib.suppress(UserError):  # a full disk is not what ends this run
        _keep_bad_batches(path, parts.config, len(parts.train.source), range(step - in_a_row, step))
    raise UserError(
      f"{self.name}loss or gradients were not finite for {in_a_row} steps in a row, up to step {step}; the last "
      f"checkpoint: {parts.checkpoints.latest() or 'none'}; their images are listed in {path}; lower "
      "training.learning_rate, set training.clip_norm=1, or check the data"
    )

  def evaluate(self, step: int, variables: Variables, started: float) -> dict[str, float]:
    """Scores the held-out split and draws pictures, into the logs; returns the scores."""
    parts, model = self.parts, self.parts.model
    stream = pipeline.batches(
      parts.config.data,
      parts.held_out.source,
      batch_size=parts.eval_batch_size,
      training=False,
      shard=parts.placement.shard,
    )
    stream = with_known_labels(parts.config, stream)
    codes, books = model.codes, codebooks(model.layout)
    scores = score(parts.eval_step, variables, stream, parts.placement, parts.frozen, codes, books)
    self.writers.scalars(step, "validation", scores, time.monotonic() - started)
    rows, generated = parts.draw(variables, parts.frozen)
    if rows:
      rows["input"] = pictures.beside(rows["input"], image_shape(parts.spec))
      self.writers.image(step, "reconstructions", pictures.compare(*rows.values(), labels=tuple(rows)))
    if generated is not None:
      self.writers.image(step, "samples", pictures.grid(generated))
    return scores

  def warn_of_collapse(self, step: int, scores: Mapping[str, float]) -> None:
    """Says once that latent units do not depend on the image."""
    active = scores.get("active_units", math.inf)
    if not self.collapsed and (
      warning := collapse(active, self.parts.model, step, self.parts.config.objective)
    ):
      self.collapsed = True
      self.writers.warn(f"{self.name}{warning}")


class Members:
  """All runs of a loop: what each leaves, in turn, and of several the rows of all.

  Opens their logs, and holds their checkpoints, until `held` closes. window: metrics since the last row.
  """

  def __init__(
    self,
    team: Team,
    train_state: state.TrainState,
    step: int,
    window: list[Any],
    held: contextlib.ExitStack,
  ):
    t, count = team.config.training, len(team.parts)
    self.team, self.window = team, window
    self.members: list[Member] = []
    self.progress = TrainingProgress(step, t.steps, count * t.batch_size) if team.several else None
    for parts in team.parts:  # what ends a run of several must not delete the last step that all have
      held.callback(parts.checkpoints.close, tidy=not team.several)
    skipped = _counts(train_state.skipped)
    for number, (parts, folder) in enumerate(zip(team.parts, team.folders, strict=True)):
      facts = {"config": parts.config, "parameters": announce.count_parameters(parts.like)}
      writers = Writers(folder, step, t.steps, t.batch_size, progress=self.progress, **facts)
      name = f"{MEMBERS}/{number}: " if team.several else ""
      self.members.append(Member(parts, folder, held.enter_context(writers), skipped[number], name))
    self.log: MetricsLog | None = None
    if team.several:
      self.log = MetricsLog(team.workdir / "metrics.jsonl", step)
      held.callback(self.log.close)
    self.writers = self.members[0].writers  # for what is said of all
    self.clock = Clock()

  def add(self, got: steps.Metrics) -> None:
    """Another dispatch; waits for the one before."""
    if self.window:  # one call ahead of the device, no more: speed and memory stay known
      jax.block_until_ready(self.window[-1])
    self.window.append(got)

  def write_rows(self, step: int, train_state: state.TrainState, started: float) -> None:
    """Writes the rows that end at `step`. Raises UserError when too many steps in a row were not finite."""
    values, self.window = window_values(self.window), []
    skipped, in_a_row = _counts(train_state.skipped), _counts(train_state.skipped_in_a_row)
    seconds, waiting = time.monotonic() - started, self.clock.share()
    speed = None if self.progress is None else self.progress.images_per_second(step)
    rows: list[dict[str, float]] = []
    for number, member in enumerate(self.members):
      rows.append(means(self._own(values, number)) | {"skipped": float(skipped[number])})
      own = None if speed is None else speed / len(self.members)
      member.writers.scalars(step, "train", rows[-1], seconds, waiting, own)
    if self.log is not None:
      self.log.write(step, "train", mean_and_deviation(rows), seconds, waiting, speed)
    self.writers.progress(step, loss=float(np.mean([row["loss"] for row in rows])))
    for member, many, latest in zip(self.members, skipped, in_a_row, strict=True):
      member.check(step, many, latest)

  def evaluate(self, step: int, train_state: state.TrainState, started: float) -> list[dict[str, float]]:
    """Scores and draws each run; returns the scores of each."""
    with self.writers.between(
      "evaluation", self.team.config.training.eval_every, "compiling the evaluation ..."
    ):
      scores = [
        member.evaluate(step, self.team.member(train_state.averaged, number), started)
        for number, member in enumerate(self.members)
      ]
      if self.log is not None:
        self.log.write(step, "validation", mean_and_deviation(scores), time.monotonic() - started)
    for member, found in zip(self.members, scores, strict=True):
      member.warn_of_collapse(step, found)
    return scores

  def save(self, step: int, train_state: state.TrainState, scores: list[dict[str, float]] | None) -> None:
    """Saves each run, with its score where there are some; all of them, or none where one is not finite."""
    if not _finite(train_state.params):
      for number, member in enumerate(self.members):
        if not _finite(self.team.member(train_state.params, number)):
          member.writers.warn(f"{member.name}step {step} is not saved: its parameters are not finite")
      return
    with self.writers.between("checkpoint", self.team.config.training.checkpoint_every):
      self._finish()
      values = window_values(self.window)
      for number, member in enumerate(self.members):
        parts = member.parts
        parts.checkpoints.save(
          step,
          self.team.member(train_state, number),
          meta=parts.meta | {"window": packed(self._own(values, number))},
          score=None if scores is None else scores[number][parts.rated],
        )

  def _finish(self) -> None:
    """Returns when the saves of all are on disk. Until then none deletes the step before, which all have."""
    for member in self.members:
      member.parts.checkpoints.finish()

  def saved(self) -> int | None:
    """The newest step that is saved of all, once all is on disk."""
    self._finish()
    for member in self.members:
      member.parts.checkpoints.wait()
    steps_ = [member.parts.checkpoints.latest() for member in self.members]
    return None if None in steps_ else min(step for step in steps_ if step is not None)

  def _own(self, values: Values, number: int) -> Values:
    """A member's part of metrics by step."""
    return {name: x[:, number] for name, x in values.items()} if self.team.several else values


def _counts(counters: Any) -> list[int]:
  """A counter of each member."""
  return np.atleast_1d(jax.device_get(counters)).tolist()
