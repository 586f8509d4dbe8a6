"""The loop: config and workdir in, a trained state, logs, pictures and checkpoints out."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import models, pictures
from vae_jax.configuration import to_json, validate
from vae_jax.data import pipeline
from vae_jax.errors import UserError, printable
from vae_jax.generator import standard
from vae_jax.models.contract import Family, codebooks
from vae_jax.progress import tell
from vae_jax.storage.files import write_whole
from vae_jax.storage.plain_paths import local_folder
from vae_jax.training import announce, parallel, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.assemble import Parts, Split, assemble, start
from vae_jax.training.scoring import score
from vae_jax.training.stopping import Request, Stopped
from vae_jax.training.writers import Writers
from vae_jax.types import Batch, Variables, image_shape

SLOW_DATA, LEAST_SECONDS = 0.05, 60  # share of a run's time above which it says so, if it ran so long
EARLY, SOON = 0.05, 100  # a first checkpoint at this share of a run, unless one comes within so many steps
COLLAPSED = 0.1  # share of the latent units that must be active for a run not to be warned


def calls(step: int, total: int, longest: int, *intervals: int) -> Iterator[int]:
  """Lengths of the dispatches from `step` to `total`: one length that ends at every multiple of the intervals.

  It is the largest divisor of all intervals that is at most `longest`, so that the scan compiles once; a shorter call
  comes first where a resumed run stands between multiples, and last where `total` is none.
  """
  common = math.gcd(*intervals)
  length = max(d for d in range(1, min(longest, common) + 1) if common % d == 0)
  while step < total:
    size = min(length - step % length, total - step)
    yield size
    step += size


def train_batches(
  config: ConfigDict, split: Split, step: int, sizes: Iterable[int], placement: parallel.Placement
) -> Iterator[Batch]:
  """Per dispatch, its batches with a leading axis of steps, on the devices. Resident splits send indices alone."""
  t = config.training
  if split.arrays is not None:
    for size in sizes:
      places = pipeline.positions(step, size, t.batch_size)
      index = pipeline.order(t.seed, len(split.source), places)
      process, processes = placement.shard
      local = t.batch_size // processes
      yield placement.put_batch({"index": index[:, process * local : (process + 1) * local]}, axis=1)
      step += size
    return
  stream = pipeline.batches(
    config.data,
    split.source,
    batch_size=t.batch_size,
    training=True,
    seed=t.seed,
    start=step,
    steps=t.steps - step,
    shard=placement.shard,
  )
  stream = with_known_labels(config, stream)
  for size in sizes:
    group = list(itertools.islice(stream, size))
    yield placement.put_batch(jax.tree.map(lambda *x: np.stack(x), *group), axis=1)


def with_known_labels(config: ConfigDict, stream: Iterator[Batch]) -> Iterator[Batch]:
  """The same batches. Raises UserError where one has a label that the model has no place for."""
  for batch in stream:
    if classes := models.classes(config.model):
      pipeline.check_labels(np.asarray(batch["label"]), classes, config.data.name)
    yield batch


def window_values(window: list[steps.Metrics]) -> dict[str, np.ndarray]:
  """The metrics of each step of some dispatches, on the host."""
  host = jax.device_get(window)
  return {name: np.concatenate([m[name] for m in host]) for name in (host[0] if host else ())}


def window_means(window: list[steps.Metrics]) -> dict[str, float]:
  """Means over all steps of some dispatches, in float64 on the host."""
  return {name: float(values.mean(dtype=np.float64)) for name, values in window_values(window).items()}


def _packed(window: list[steps.Metrics]) -> dict[str, list[str]]:
  """The steps since the last row of training, for a checkpoint between two rows. As text: JSON has no NaN."""
  return {name: [str(v) for v in values.tolist()] for name, values in window_values(window).items()}


class _Clock:
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


def _collapse(active: float, model: Family, step: int, objective: ConfigDict) -> str | None:
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


@jax.jit
def _finite(tree: Any) -> jax.Array:
  return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def _keep_bad_batches(path: Path, config: ConfigDict, count: int, steps_: range) -> None:
  """Writes which images were in the batches of some steps, to look at them: {"split", "steps", "index"}."""
  t = config.training
  index = pipeline.order(t.seed, count, pipeline.positions(steps_.start, len(steps_), t.batch_size))
  bad = {"split": config.data.train, "steps": list(steps_), "index": index.tolist()}
  write_whole(path, lambda file: file.write(json.dumps(bad).encode()))


def train(config: ConfigDict, workdir: str | Path) -> state.TrainState:
  """Trains `config` in `workdir`, continuing from its newest good checkpoint if there is one.

  Writes config.json, metrics.jsonl, tensorboard/, images/ and checkpoints/. Raises UserError for a bad config, bad
  data, a workdir of another config or in use, and when `training.max_skipped` steps in a row were not finite: which
  images they had is in nonfinite.json then. Raises Stopped when Ctrl-C or SIGTERM asked for it, once all is saved.
  """
  validate(config)
  config = config.copy_and_resolve_references()  # the digest of a first stage is filled in
  workdir = local_folder(workdir)
  with standard(), workdirs.alone(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
    return run(assemble(config, workdir), workdir)


def evaluate(
  parts: Parts, writers: Writers, step: int, variables: Variables, started: float
) -> dict[str, float]:
  """Scores the held-out split and draws pictures, into the logs; returns the scores."""
  stream = pipeline.batches(
    parts.config.data,
    parts.held_out.source,
    batch_size=parts.eval_batch_size,
    training=False,
    shard=parts.placement.shard,
  )
  stream = with_known_labels(parts.config, stream)
  model = parts.model
  codes, books = model.codes, codebooks(model.layout)
  scores = score(parts.eval_step, variables, stream, parts.placement, parts.frozen, codes, books)
  writers.scalars(step, "validation", scores, time.monotonic() - started)
  rows, generated = parts.draw(variables, parts.frozen)
  if rows:
    rows["input"] = pictures.beside(rows["input"], image_shape(parts.spec))
    writers.image(step, "reconstructions", pictures.compare(*rows.values(), labels=tuple(rows)))
  if generated is not None:
    writers.image(step, "samples", pictures.grid(generated))
  return scores


class _Rows:
  """Rows of training: the steps since the last one, how long they waited for data, and what they say of trouble."""

  def __init__(self, parts: Parts, workdir: Path, writers: Writers, window: list[Any], skipped: int):
    self.parts, self.workdir, self.writers, self.window, self.skipped = (
      parts,
      workdir,
      writers,
      window,
      skipped,
    )
    self.clock = _Clock()

  def add(self, got: steps.Metrics) -> None:
    """Another dispatch; waits for the one before."""
    if self.window:  # one call ahead of the device, no more: speed and memory stay known
      jax.block_until_ready(self.window[-1])
    self.window.append(got)

  def write(self, step: int, train_state: state.TrainState, started: float) -> None:
    """Writes the row that ends at `step`. Raises UserError when too many steps in a row were not finite."""
    row = window_means(self.window)
    row["skipped"] = float(train_state.skipped)
    self.window = []
    self.writers.scalars(step, "train", row, time.monotonic() - started, self.clock.share())
    self.writers.progress(step, loss=row["loss"])
    if row["skipped"] > self.skipped:
      self.skipped = int(row["skipped"])
      self.writers.warn(
        f"loss or gradients were not finite: {self.skipped} steps skipped so far, up to step {step}"
      )
    if (bad := int(train_state.skipped_in_a_row)) >= self.parts.config.training.max_skipped:
      self._give_up(step, bad)

  def _give_up(self, step: int, bad: int) -> None:
    path, parts = self.workdir / "nonfinite.json", self.parts
    if jax.process_index() == 0:
      with contextlib.suppress(UserError):  # a full disk is not what ends this run
        _keep_bad_batches(path, parts.config, len(parts.train.source), range(step - bad, step))
    raise UserError(
      f"loss or gradients were not finite for {bad} steps in a row, up to step {step}; the last checkpoint: "
      f"{parts.checkpoints.latest() or 'none'}; their images are listed in {path}; lower "
      "training.learning_rate, set training.clip_norm=1, or check the data"
    )


def _announce(parts: Parts, workdir: Path, step: int) -> None:
  """Keeps the config, now that all that could refuse it has been built, and says where a run continues."""
  if jax.process_index() != 0:
    return
  steps_ = parts.config.training.steps
  write_whole(workdir / "config.json", lambda file: file.write(to_json(parts.config).encode()))
  if step:
    tell(
      f"{printable(str(workdir))}: {'finished already' if step >= steps_ else 'continuing'} at step {step} of {steps_}"
    )


def run(parts: Parts, workdir: Path) -> state.TrainState:
  """Steps, then log, then evaluate, then save, until the last step. Raises as `train` does."""
  with Request(jax.process_count() > 1) as request:
    return _run(parts, workdir, request)


def _run(parts: Parts, workdir: Path, request: Request) -> state.TrainState:
  t, placement = parts.config.training, parts.placement
  announce.begin(parts, workdir)
  train_state, window = start(parts)
  step = int(train_state.step)
  if step < t.steps:
    parts.checkpoints.try_out(parts.like)
  _announce(parts, workdir, step)
  stored = placement.put(parts.train.arrays if parts.train.arrays is not None else {})
  sizes = calls(step, t.steps, t.steps_per_call, t.log_every, t.eval_every, t.checkpoint_every)
  early = _early(t) if not step else None
  started, collapsed = time.monotonic(), False
  begun, facts = step, {"config": parts.config, "parameters": announce.count_parameters(parts.like)}
  with parts.checkpoints as checkpoints, Writers(workdir, step, t.steps, t.batch_size, **facts) as writers:
    rows = _Rows(parts, workdir, writers, window, int(train_state.skipped))
    for batches in rows.clock.waits(train_batches(parts.config, parts.train, step, sizes, placement)):
      if step == begun:
        with writers.between("compilation"):
          announce.compilation(parts, writers.say, (train_state, stored, batches, parts.frozen))
      train_state, got = parts.train_call(train_state, stored, batches, parts.frozen)
      rows.add(got)
      step += len(got["loss"])
      last = step == t.steps
      if step % t.log_every == 0 or last:
        rows.write(step, train_state, started)
      else:
        writers.progress(step - len(got["loss"]))  # what is done, not what was sent off
      value = None
      if step % t.eval_every == 0 or last:
        with writers.between("evaluation", t.eval_every, "compiling the evaluation ..."):
          scores = evaluate(parts, writers, step, train_state.averaged, started)
        value, active = scores[parts.rated], scores.get("active_units", math.inf)
        if not collapsed and (warning := _collapse(active, parts.model, step, parts.config.objective)):
          collapsed = True
          writers.warn(warning)
      stop = None if last else request.stops()
      if step % t.checkpoint_every == 0 or last or stop or (early is not None and step >= early):
        early = None
        if _finite(train_state.params):
          meta = parts.meta | {"window": _packed(rows.window)}
          with writers.between("checkpoint", t.checkpoint_every):
            checkpoints.save(step, train_state, meta=meta, score=value)
        else:
          writers.warn(f"step {step} is not saved: its parameters are not finite")
      if value is not None:
        rows.clock.share()  # the next row is about training alone
      if stop:
        checkpoints.wait()
        saved = "which" if (latest := checkpoints.latest()) == step else f"step {latest}"
        where = printable(str(workdir))
        raise Stopped(
          f"stopped at step {step} of {t.steps}, {saved} is saved in {where}; the same command continues",
          128 + stop,
        )
  _tell_waiting(rows.clock.total, time.monotonic() - started)
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
