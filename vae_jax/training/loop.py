"""The loop: config and workdir in, a trained state, logs, pictures and checkpoints out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import metrics, pictures
from vae_jax.config import to_json, validate
from vae_jax.data import pipeline
from vae_jax.data.degrade import degraded_shape
from vae_jax.data.prepare import check_first_batch, make_prepare
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.models import Model, Shape, build
from vae_jax.objectives import load_perceptual, load_scoring_network, make_objective
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.files import write_whole
from vae_jax.training import parallel, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.adversarial import make_adversarial
from vae_jax.training.stopping import Request, Stopped
from vae_jax.training.writers import Writers
from vae_jax.types import Batch, Params

SLOW_DATA = 0.05  # share of a run's time above which it says so
COLLAPSED = 0.1  # share of the latent units that must be active for a run not to be warned


class Split(NamedTuple):
  """A split ready to be iterated: its source, and its arrays if they fit on the device (else None)."""

  source: pipeline.Source
  arrays: dict[str, np.ndarray] | None


def open_split(data: ConfigDict, name: str) -> Split:
  """Opens a split and decodes it whole if it is small enough to stay on the device."""
  source = open_source(data, name)
  return Split(source, pipeline.resident(data, source))


def input_shape(data: ConfigDict, shape: Shape, batch: Batch) -> Shape:
  """The (h, w, c) that the encoder sees for clean images of `shape`."""
  if "degraded" in batch:
    return batch["degraded"].shape[1:]  # type: ignore[return-value]
  return degraded_shape(data.degrade, shape)


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
  for size in sizes:
    group = list(itertools.islice(stream, size))
    yield placement.put_batch(jax.tree.map(lambda *x: np.stack(x), *group), axis=1)


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


def _unpacked(stored: Any) -> list[Any]:
  try:
    return [{name: np.asarray(values, np.float32) for name, values in stored.items()}] if stored else []
  except (AttributeError, TypeError, ValueError):
    raise UserError("the newest checkpoint's 'window' holds no numbers; delete that checkpoint") from None


def score(
  eval_step: Any,
  params: Params,
  batches: Iterator[Batch],
  placement: parallel.Placement,
  frozen: steps.Frozen = steps.NOTHING,
) -> dict[str, float]:
  """Means of the per-example metrics over all examples of a split, in float64, and the number of active units."""
  means: dict[str, metrics.Mean] = {}
  active = metrics.ActiveUnits()
  for batch in batches:
    out = jax.device_get(eval_step(params, placement.put_batch(batch), frozen))
    mask = out.pop("mask")
    active = active.update(out.pop("posterior_mean"), mask)
    for name, values in out.items():
      means[name] = means.get(name, metrics.Mean()).update(values, mask)
  return {name: mean.value for name, mean in means.items()} | {"active_units": active.active()}


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
    """Of the time since the last call."""
    now = time.monotonic()
    share = self.waited / max(now - self.since, 1e-9)
    self.waited, self.since = 0.0, now
    return share


def _collapse(active: float, model: Model, step: int, objective: ConfigDict) -> str | None:
  """The warning of posterior collapse: that too few units of a latent vector tell of the image, once the KL counts."""
  units = model.units
  if not (model.unconditional and active < COLLAPSED * units and step >= objective.beta_steps):
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


def draw_pictures(
  model: Model, config: ConfigDict, prepare: steps.Prepare, first: Batch, placement: parallel.Placement
):
  """Compiled (params) -> rows by label, and samples: fixed images and fixed noise, to compare over time.

  Rows: input, reconstruction, and clean where the input is degraded. Samples: of the prior; of a model that needs a
  degraded image, what the inputs may have been.
  """
  root, n = jax.random.key(config.training.seed), config.evaluation.pictures
  real = min(n, int(np.sum(first["mask"])))  # without the padding of a short batch
  first = jax.tree.map(lambda values: values[:real], first)

  @functools.partial(jax.jit, out_shardings=placement.replicated if placement.fsdp else None)
  def draw(params: Params, batch: Batch):
    variables, ids = {"params": params}, jnp.arange(batch["image"].shape[0])
    batch = prepare(steps.example_keys(root, steps.PREPARE_STREAM, ids), batch)
    seen = batch.get("degraded", batch["image"])
    h, w = batch["image"].shape[1:3]  # a degraded image may stand for a larger one, of whole multiples
    restored: Any = model.apply(variables, seen, method="restore")
    rows = {"input": seen, "reconstruction": restored[:, :h, :w]}
    if "degraded" in batch:
      rows["clean"] = batch["image"]
    if model.unconditional:
      keys = steps.example_keys(root, steps.MODEL_STREAM, jnp.arange(n))
      latents = model.apply(variables, keys, method="prior_sample")
      return rows, model.apply(variables, latents, method="decode_mean")
    keys = steps.example_keys(root, steps.MODEL_STREAM, ids)
    size = (seen.shape[1], seen.shape[2])
    eps = jax.vmap(lambda key: model.noise(key, size))(keys)
    return rows, model.apply(variables, seen, eps, method="restore")

  return lambda params: jax.device_get(draw(params, first))


def train(config: ConfigDict, workdir: str | Path) -> state.TrainState:
  """Trains `config` in `workdir`, continuing from its newest good checkpoint if there is one.

  Writes config.json, metrics.jsonl, tensorboard/, images/ and checkpoints/. Raises UserError for a bad config, bad
  data, a workdir of another config or in use, and when `training.max_skipped` steps in a row were not finite: which
  images they had is in nonfinite.json then. Raises Stopped when Ctrl-C or SIGTERM asked for it, once all is saved.
  """
  validate(config)
  with workdirs.alone(Path(workdir)) if jax.process_index() == 0 else contextlib.nullcontext():
    return _train(config, Path(workdir))


def _train(config: ConfigDict, workdir: Path) -> state.TrainState:
  t, data = config.training, config.data

  # Data.
  placement = parallel.make_placement(t.batch_size, way=t.parallel, fsdp=t.fsdp)
  eval_size = -(-config.evaluation.batch_size // placement.mesh.size) * placement.mesh.size
  with parallel.first_alone():
    split, held_out = open_split(data, data.train), open_split(data, data.validation)
  shape = pipeline.image_shape(data, split.source)
  first = next(pipeline.batches(data, held_out.source, batch_size=eval_size, training=False))
  check_first_batch(first, data, shape)
  checkpoints = Checkpoints(workdir / "checkpoints", keep=t.keep)
  workdirs.check(config, workdir, checkpoints)

  # Model, optimiser, state.
  init_key, train_key, eval_key = jax.random.split(jax.random.key(t.seed), 3)
  encoder_shape = input_shape(data, shape, first)
  model = build(config.model, shape, t.dtype, input_shape=encoder_shape)
  tx = state.make_optimizer(t)
  adversarial = make_adversarial(config.objective.adversarial, t.dtype)

  def init() -> state.TrainState:
    return state.init_state(
      model, tx, shape, encoder_shape, init_key, ema=t.ema_decay > 0, adversarial=adversarial
    )

  like = jax.eval_shape(init)
  where = placement.state(like)
  like = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), like, where)
  window: list[Any] = []  # of steps.Metrics
  if checkpoints.latest() is None:
    train_state = jax.jit(init, out_shardings=where)()
    if t.init_from:
      source = Checkpoints(Path(t.init_from) / "checkpoints")
      train_state = jax.device_put(state.start_from(train_state, source), where)
  else:
    train_state, restored = checkpoints.restore(like=like)
    window = _unpacked(restored.get("window", {}))
  step = int(train_state.step)

  # Compiled functions.
  objective = make_objective(config.objective)
  frozen = placement.put(
    steps.Frozen(load_perceptual(config.objective), load_scoring_network(config.evaluation))
  )
  train_step = steps.make_train_step(
    model,
    objective,
    make_prepare(data, training=True),
    tx,
    state.make_learning_rate(t),
    samples=config.objective.samples,
    ema_decay=t.ema_decay,
    root=train_key,
    adversarial=adversarial,
    accumulate=t.accumulate,
    axis_name=placement.axis_name,
  )
  train_call = parallel.compile_train_call(steps.make_train_call(train_step), placement, like)
  eval_prepare = make_prepare(data, training=False)
  samples = config.objective.samples if config.objective.name == "iwae" else 0
  final = config.objective.copy_and_resolve_references()
  final.beta_schedule = (
    "constant"  # validation losses of all steps compare: at the weights of the schedule's end
  )
  eval_step = parallel.compile_eval_step(
    steps.make_eval_step(
      model, eval_prepare, root=eval_key, iwae_samples=samples, objective=make_objective(final)
    ),
    placement,
    like.averaged,
  )
  draw = draw_pictures(model, config, eval_prepare, first, placement)
  meta = {"config": config.to_dict(), "image_shape": list(shape), "input_shape": list(encoder_shape)}

  def evaluate(writers: Writers, step: int, params: Params, started: float) -> tuple[float, float]:
    stream = pipeline.batches(
      data, held_out.source, batch_size=eval_size, training=False, shard=placement.shard
    )
    scores = score(eval_step, params, stream, placement, frozen)
    writers.scalars(step, "validation", scores, time.monotonic() - started)
    rows, generated = draw(params)
    rows["input"] = pictures.beside(rows["input"], shape)
    writers.image(step, "reconstructions", pictures.compare(*rows.values(), labels=tuple(rows)))
    writers.image(step, "samples", pictures.grid(generated))
    return scores["iwae_nll" if samples else "loss"], scores["active_units"]

  # All that could refuse the config has been built.
  main = jax.process_index() == 0
  if main:
    write_whole(workdir / "config.json", lambda file: file.write(to_json(config).encode()))
  if main and step:
    print(f"{workdir}: {'finished already' if step >= t.steps else 'continuing'} at step {step} of {t.steps}")

  # The loop: steps, then log, then evaluate, then save.
  stored = placement.put(split.arrays if split.arrays is not None else {})
  sizes = calls(step, t.steps, t.steps_per_call, t.log_every, t.eval_every, t.checkpoint_every)
  started = time.monotonic()
  several = jax.process_count() > 1
  with checkpoints, Writers(workdir, step, t.steps, t.batch_size) as writers, Request(several) as request:
    clock, skipped, collapsed = _Clock(), int(train_state.skipped), False
    for batches in clock.waits(train_batches(config, split, step, sizes, placement)):
      train_state, got = train_call(train_state, stored, batches, frozen)
      if window:  # one call ahead of the device, no more: speed and memory stay known
        jax.block_until_ready(window[-1])
      window.append(got)
      step += len(got["loss"])
      last = step == t.steps
      if step % t.log_every == 0 or last:
        row = window_means(window)
        row["skipped"] = float(train_state.skipped)
        window = []
        writers.scalars(step, "train", row, time.monotonic() - started, clock.share())
        writers.progress(step, loss=row["loss"])
        if row["skipped"] > skipped:
          skipped = int(row["skipped"])
          writers.warn(
            f"loss or gradients were not finite: {skipped} steps skipped so far, up to step {step}"
          )
        if (bad := int(train_state.skipped_in_a_row)) >= t.max_skipped:
          if main:
            steps_ = range(step - bad, step)
            with contextlib.suppress(UserError):  # a full disk is not what ends this run
              _keep_bad_batches(workdir / "nonfinite.json", config, len(split.source), steps_)
          raise UserError(
            f"loss or gradients were not finite for {bad} steps in a row, up to step {step}; the last checkpoint: "
            f"{checkpoints.latest() or 'none'}; their images are listed in {workdir / 'nonfinite.json'}; lower "
            "training.learning_rate, set training.clip_norm=1, or check the data"
          )
      else:
        writers.progress(step - len(got["loss"]))  # what is done, not what was sent off
      value = None
      if step % t.eval_every == 0 or last:
        value, active = evaluate(writers, step, train_state.averaged, started)
        if not collapsed and (warning := _collapse(active, model, step, config.objective)):
          collapsed = True
          writers.warn(warning)
      stop = None if last else request.stops()
      if step % t.checkpoint_every == 0 or last or stop:
        if _finite(train_state.params):
          checkpoints.save(step, train_state, meta=meta | {"window": _packed(window)}, score=value)
        else:
          writers.warn(f"step {step} is not saved: its parameters are not finite")
      if value is not None:
        clock.share()  # the next row tells of training alone
      if stop:
        checkpoints.wait()
        saved = "which" if (latest := checkpoints.latest()) == step else f"step {latest}"
        raise Stopped(
          f"stopped at step {step} of {t.steps}, {saved} is saved in {workdir}; the same command continues",
          128 + stop,
        )
  waited = clock.total / (time.monotonic() - started)
  if main and waited > SLOW_DATA:
    print(
      f"{waited:.0%} of the time went by waiting for data; raise data.workers, or data.resident_mb to hold all of it"
    )
  return train_state
