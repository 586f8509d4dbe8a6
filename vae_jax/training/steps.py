"""The step: written once, for one global batch. Wrappers in `parallel` place it on devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vae_jax import metrics
from vae_jax.distributions import (
  streaming_logsumexp_init,
  streaming_logsumexp_update,
  streaming_logsumexp_value,
)
from vae_jax.metrics.structure import WINDOW
from vae_jax.models import Model
from vae_jax.models.blocks import in_loop
from vae_jax.objectives import Objective, Perceptual
from vae_jax.perceptual import LPIPS
from vae_jax.training.adversarial import Adversarial, DiscriminatorState
from vae_jax.training.state import TrainState
from vae_jax.types import Array, ArrayLike, Batch, Key, Params, VAEOutput

Prepare = Callable[[Key, Batch], Batch]
Metrics = dict[str, Array]

PREPARE_STREAM, MODEL_STREAM = 0, 1


class Frozen(NamedTuple):
  """Networks that are never trained: arguments of a step, not part of the state, a checkpoint or the compiled program.

  perceptual: of the objective; lpips: of the scores.
  """

  perceptual: Perceptual = None
  lpips: LPIPS | None = None


NOTHING = Frozen()


def example_keys(key: Key, stream: int, ids: Array) -> Key:
  """One key per example: what is drawn for it depends on `key`, the stream and its id, not on its neighbours."""
  key = jax.random.fold_in(key, stream)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def _if(condition: Array, new: Callable[[], Any], old: Any) -> Any:
  """new() where the condition holds, else old.

  A branch on CPUs, where it also keeps XLA from fusing gradients into the update (measured on an MLP: 1.4 times the
  steps a second); a selection elsewhere, because a branch makes a GPU wait for the host.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.cond(condition, new, lambda: old)
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new(), old)


def make_train_step(
  model: Model,
  objective: Objective,
  prepare: Prepare,
  tx: optax.GradientTransformation,
  learning_rate: Callable[[ArrayLike], Array],
  *,
  samples: int,
  ema_decay: float,
  root: Key,
  adversarial: Adversarial | None = None,
  accumulate: int = 1,
  axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """`train_step(state, batch, frozen=Frozen()) -> (state, metrics)`, pure. The batch is uint8 as from the pipeline.

  Loss and gradients are means over the batch, which goes through the model in `accumulate` parts, one after the other.
  With an axis_name (pmap) the batch is this device's part of the global one, and means are over all parts. A step whose
  loss or gradient norm is not finite changes nothing but `step` and the counters. metrics: float32 scalars: loss, the
  objective's parts, gradient_norm, learning_rate, skipped. With an adversarial term the state's discriminator is
  trained in the same step, and skipped with the model.
  """

  def gradients(
    state: TrainState, batch: Batch, keys: Key, frozen: Frozen
  ) -> tuple[Array, Metrics, Params, Params]:
    """loss, parts, the gradients of the model, and those of the discriminator, if there is one."""

    def forward(params: Params) -> Any:
      return model.apply({"params": params}, batch["image"], keys, batch.get("degraded"), samples)

    def score(output: VAEOutput) -> tuple[Array, Metrics]:
      loss, parts = objective(output, state.step, batch["image"], frozen.perceptual)
      return loss.mean(), {name: part.mean() for name, part in parts.items()}

    if adversarial is None:
      descent = jax.value_and_grad(lambda params: score(forward(params)), has_aux=True)
      (loss, parts), grads = descent(state.params)
      return loss, parts, grads, None
    assert state.discriminator is not None  # as from init_state(..., adversarial=adversarial)
    judge = state.discriminator.params
    return adversarial.gradients(forward, score, state.params, judge, batch["image"], state.step, mean)

  def mean(tree: Any) -> Any:
    """Over the devices, which all have equally many examples."""
    return jax.lax.pmean(tree, axis_name) if axis_name else tree

  def in_parts(state: TrainState, batch: Batch, keys: Key, frozen: Frozen) -> Any:
    """`gradients`, a part of the batch at a time. Part i has every accumulate-th example, so that each has an equal
    share of every device's."""
    parts = jax.tree.map(
      lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), (dict(batch), keys)
    )

    def of(part: tuple[Batch, Key]) -> Any:
      return gradients(state, part[0], part[1], frozen)

    def add(total: Any, part: tuple[Batch, Key]) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, of(part)), None

    one = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    with in_loop():
      total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda x: x / accumulate, total)

  def train_step(state: TrainState, batch: Batch, frozen: Frozen = NOTHING) -> tuple[TrainState, Metrics]:
    key, count = jax.random.fold_in(root, state.step), batch["image"].shape[0]
    first = jax.lax.axis_index(axis_name) * count if axis_name else 0
    places = first + jnp.arange(count)  # in the global batch
    batch = prepare(example_keys(key, PREPARE_STREAM, places), batch)
    keys = example_keys(key, MODEL_STREAM, places)
    descent = in_parts if accumulate > 1 else gradients
    loss, parts, grads, judge_grads = mean(descent(state, batch, keys, frozen))
    # Keeps XLA from fusing gradients and update into one another: 6 % of an MLP's step on CPUs.
    loss, grads, judge_grads = jax.lax.optimization_barrier((loss, grads, judge_grads))
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(judge_grads))

    rate = learning_rate(state.step)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))  # a young average follows faster

    has_ema = state.ema is not None

    def update() -> tuple[Params, Params | None, optax.OptState, DiscriminatorState | None]:
      direction, opt_state = tx.update(grads, state.opt_state, state.params)
      params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
      ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params) if has_ema else None
      judge = state.discriminator
      if adversarial is not None and judge is not None:
        judge = adversarial.update(judge, judge_grads)
      return params, ema, opt_state, judge

    before = (state.params, state.ema, state.opt_state, state.discriminator)
    params, ema, opt_state, judge = _if(finite, update, before)
    bad = jnp.where(finite, 0, 1)
    state = TrainState(
      step=state.step + 1,
      params=params,
      ema=ema,
      opt_state=opt_state,
      skipped=state.skipped + bad,
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
      discriminator=judge,
    )
    logged = {"loss": loss, **parts, "gradient_norm": norm, "learning_rate": rate, "skipped": state.skipped}
    return state, {name: jnp.asarray(value, jnp.float32) for name, value in logged.items()}

  return train_step


def make_train_call(
  train_step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Many steps in one dispatch: `call(state, stored, batches, frozen=Frozen())` scans over axis 0 of `batches`.

  stored: the whole split on the device ("image" [n, h, w, c], ...), from which each step gathers its batch by
  `batches["index"]` [steps, b]; or an empty dict, where `batches` holds the images themselves [steps, b, h, w, c].
  metrics have a leading axis of steps.
  """

  def call(
    state: TrainState, stored: Batch, batches: Batch, frozen: Frozen = NOTHING
  ) -> tuple[TrainState, Metrics]:
    def body(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
      gathered: Any = jax.tree.map(lambda values: values[batch["index"]], stored)
      return train_step(state, {**gathered, **batch}, frozen)

    with in_loop():
      return jax.lax.scan(body, state, batches)

  return call


def make_eval_step(
  model: Model,
  prepare: Prepare,
  *,
  root: Key,
  iwae_samples: int = 0,
  chunk: int = 10,
  objective: Objective | None = None,
) -> Callable[..., Metrics]:
  """`eval_step(params, batch, frozen=Frozen())` -> per-example metrics, float32 [b], and the batch's mask, if it has
  one, by which the caller averages.

  Always: distortion and rate (one posterior sample), neg_elbo, mse, psnr (dB) and ssim (from 11 x 11 pixels) of the
  reconstruction, and posterior_mean [b, d]. lpips, where `frozen` has its network.
  With an objective also its loss and all its parts. With iwae_samples = K > 0 also iwae_nll, -log (1/K) sum_k w_k, in
  memory independent of K: `chunk` samples at a time.
  What is drawn for an example depends on the root key and its index alone, not on batch size or devices.
  """
  full, rest = divmod(iwae_samples, chunk)

  def eval_step(params: Params, batch: Batch, frozen: Frozen = NOTHING) -> Metrics:
    ids = jnp.asarray(batch["index"])
    batch = prepare(example_keys(root, PREPARE_STREAM, ids), batch)
    keys = example_keys(root, MODEL_STREAM, ids)

    def score(draw: int | Array, samples: int) -> Any:
      drawn = jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys)
      return model.apply({"params": params}, batch["image"], drawn, batch.get("degraded"), samples)

    output = score(0, 1)
    rate = output.rate.sum(axis=-1)
    scores = {
      "distortion": output.distortion[0],
      "rate": rate,
      "neg_elbo": output.distortion[0] + rate,
      "mse": metrics.mse(output.reconstruction, batch["image"]),
      "psnr": metrics.psnr_rgb(output.reconstruction, batch["image"]),
      "posterior_mean": output.posterior_mean,
    }
    if "mask" in batch:
      scores["mask"] = jnp.asarray(batch["mask"])
    if min(output.reconstruction.shape[1:3]) >= WINDOW:
      scores["ssim"] = metrics.ssim(output.reconstruction, batch["image"])
    if frozen.lpips is not None:
      scores["lpips"] = frozen.lpips(output.reconstruction, jnp.asarray(batch["image"]))
    if objective is not None:
      loss, parts = objective(output, jnp.zeros(()), batch["image"], frozen.perceptual)
      scores |= {"loss": loss} | {name: part for name, part in parts.items() if name not in ("beta", *scores)}
    if iwae_samples:

      def add(state, draw, samples):
        return streaming_logsumexp_update(state, jax.nn.logsumexp(score(draw, samples).log_weight, axis=0))

      state = streaming_logsumexp_init(ids.shape)
      if full:
        with in_loop():
          state, _ = jax.lax.scan(lambda s, d: (add(s, d, chunk), None), state, 1 + jnp.arange(full))
      if rest:
        state = add(state, 1 + full, rest)
      scores["iwae_nll"] = jnp.log(iwae_samples) - streaming_logsumexp_value(state)
    return scores

  return eval_step
