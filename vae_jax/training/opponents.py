"""Discriminators that are trained beside a model, and what their verdicts add to the model's gradients.

The model's loss becomes loss + the sum over opponents of w * taken. `taken` is an opponent's verdict on the fakes that
it sees (pixels, latents, features), and w its weight. With `max_weight`, w is multiplied by the adaptive weight of
Esser et al. 2021 (VQGAN, eq. 7): the ratio of the norms of both terms' gradients at the kernel of the model's last
layer. All sides are updated in one step, from one pass through the model: each by what the others were before the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.models.contract import Family, Mode, Output, Whole, one_record
from vae_jax.models.discriminator import PatchDiscriminator
from vae_jax.types import Array, ArrayLike, Batch, Key, Params, Spec, Variables

Parts = dict[str, Array]
Sees = Callable[[Output, Batch, Key, Whole], tuple[Array, Array]]  # -> (real, fake), of equal shapes


@flax.struct.dataclass
class OpponentState:
  """What is trained of a discriminator, and its optimiser's state."""

  params: Params
  opt_state: optax.OptState


def alone(x: Any) -> Any:
  """`whole` where a step sees the global batch already."""
  return x


class Opponent(NamedTuple):
  """A discriminator and its part in the loss.

  module: what it sees [b, ...] -> logits [b, ...], > 0 for real.
  sees: (output, batch, key, whole) -> (real, fake); the model is trained through `fake`. What permutes examples gathers
    those of all devices by `whole`, and gives back those at batch["place"].
  tx: its optimiser's direction, scaled by learning_rate.
  weight: of its verdict in the model's loss; counts from step `start` on.
  max_weight: most that the adaptive weight may be; None: no adaptive weight.
  loss, taken: (real logits, fake logits) -> [b], what it is trained by; fake logits -> [b], what the model is.
  """

  module: nn.Module
  sees: Sees
  tx: optax.GradientTransformation
  learning_rate: float
  weight: float
  start: int = 0
  max_weight: float | None = None
  loss: Callable[[Array, Array], Array] = losses.discriminator_hinge_loss
  taken: Callable[[Array], Array] = losses.generator_hinge_loss

  def init(self, model: Family, variables: Variables, spec: Spec, key: Key) -> OpponentState:
    """Fresh, for what it sees of records of `spec`."""

    def look() -> Array:
      batch, mode = one_record(spec), Mode(jnp.zeros((), jnp.int32), key)
      output: Any = model.apply(variables, batch, jax.random.split(key, 1), mode)
      return self.sees(output, batch, key, alone)[0]

    shape = jax.eval_shape(look)
    params = self.module.init(key, jnp.zeros(shape.shape, shape.dtype))["params"]
    return OpponentState(params, self.tx.init(params))

  def update(self, state: OpponentState, grads: Params) -> OpponentState:
    """The state after a step along its gradients."""
    direction, opt_state = self.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - self.learning_rate * d, state.params, direction)
    return OpponentState(params, opt_state)

  def logits(self, params: Params, x: ArrayLike) -> Any:
    """The verdict on what it sees."""
    return self.module.apply({"params": params}, x)

  def told_apart(self, params: Params, real: Array, fake: Array) -> tuple[Float[Array, ""], Parts]:
    """Its own loss, and the shares of logits that take real and fake for what they are."""
    real_logits, fake_logits = self.logits(params, real), self.logits(params, fake)
    value = self.loss(real_logits, fake_logits).mean()
    accuracies = {"real_accuracy": (real_logits > 0).mean(), "fake_accuracy": (fake_logits < 0).mean()}
    return value, {"discriminator_loss": value} | accuracies


def gradients(
  opponents: dict[str, Opponent],
  states: dict[str, OpponentState],
  forward: Callable[[Params], Output],
  score: Callable[[Output], tuple[Array, Any]],
  params: Params,
  batch: Batch,
  key: Key,
  step: Array,
  last_kernel: tuple[str, ...],
  mean: Callable[[Any], Any],
  whole: Whole,
) -> tuple[Array, Parts, Any, Params, dict[str, Params]]:
  """loss, parts, score's auxiliary result, the gradients of the model and of each opponent.

  For a model `forward`, scored by `score` (output -> loss, (parts, anything)). All are this device's; `mean` is the
  mean over devices, of which adaptive weights are made, and `whole` gathers their examples. Parts, beside those of
  `score`, of an opponent NAME: NAME, weighted_NAME, NAME_weight, discriminator_loss, real_accuracy, fake_accuracy; the
  last three begin with NAME_ where there are several opponents.
  """
  (floats, others), pull = _through(forward, params)

  def scored(floats: list[Array]) -> tuple[Array, Any]:
    return score(_joined(others, floats))

  (loss, (parts, more)), slope = jax.value_and_grad(scored, has_aux=True)(floats)
  total, opponent_grads = slope, {}
  norm: Array | None = None
  for number, (name, opponent) in enumerate(opponents.items()):
    weights, own_key = states[name].params, jax.random.fold_in(key, number)

    def taken(floats: list[Array], opponent=opponent, weights=weights, own_key=own_key) -> Array:
      fake = opponent.sees(_joined(others, floats), batch, own_key, whole)[1]
      return opponent.taken(opponent.logits(weights, fake)).mean()

    value, away = jax.value_and_grad(taken)(floats)
    real, fake = opponent.sees(_joined(others, floats), batch, own_key, whole)
    (_, verdict), opponent_grads[name] = jax.value_and_grad(opponent.told_apart, has_aux=True)(
      weights, real, fake
    )
    weight: Any = opponent.weight
    if opponent.max_weight is not None:
      # All that is pulled back for the weight is the last layer's gradient: XLA drops the rest as unused.
      if norm is None:
        norm = _norm_at(last_kernel, mean, pull, slope)
      weight = weight * adaptive_weight(norm, _norm_at(last_kernel, mean, pull, away), opponent.max_weight)
    weight = jnp.where(step >= opponent.start, weight, 0.0)
    total = jax.tree.map(lambda a, b, weight=weight: a + weight * b, total, away)
    prefix = f"{name}_" if len(opponents) > 1 else ""
    parts = parts | {f"{prefix}{part}": x for part, x in verdict.items()}
    parts |= {name: value, f"{name}_weight": weight, f"weighted_{name}": weight * value}
    loss = loss + weight * value
  return loss, parts, more, pull(total), opponent_grads


def _through(forward: Callable[[Params], Output], params: Params) -> tuple[tuple[list[Array], Any], Callable]:
  """((floating leaves of the output, what `_joined` needs besides), pull: slopes of the leaves -> of the params)."""
  kept: list[Any] = []

  def floating(params: Params) -> tuple[list[Array], list[Array]]:
    leaves, tree = jax.tree.flatten(forward(params))
    is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
    kept[:] = [tree, is_float]
    split = [[x for x, f in zip(leaves, is_float, strict=True) if f is wanted] for wanted in (True, False)]
    return split[0], split[1]

  floats, pull, integers = jax.vjp(floating, params, has_aux=True)
  return (floats, (*kept, integers)), lambda slope: pull(slope)[0]


def _joined(others: Any, floats: list[Array]) -> Output:
  tree, is_float, integers = others
  left, right = iter(floats), iter(integers)
  return jax.tree.unflatten(tree, [next(left) if f else next(right) for f in is_float])


def _norm_at(path: tuple[str, ...], mean: Callable, pull: Callable, slope: Any) -> Array:
  found = pull(slope)
  for name in path:
    found = found[name]
  return optax.tree.norm(mean(found))


def adaptive_weight(norm: ArrayLike, adversarial_norm: ArrayLike, max_weight: float) -> Array:
  """norm / (adversarial_norm + 1e-6), at most `max_weight`: it makes the two gradients equally long."""
  return jnp.minimum(norm / (adversarial_norm + 1e-6), max_weight)


def _pixels(output: Output, batch: Batch, key: Key, whole: Whole) -> tuple[Array, Array]:
  assert output.reconstruction is not None
  return jnp.asarray(batch["image"]), output.reconstruction


def pixel_opponent(config: ConfigDict, dtype: str = "float32") -> dict[str, Opponent]:
  """The PatchGAN that `config` = `objective.adversarial` asks for, as {"adversarial": ...}; {} where its weight is 0.

  It is trained by Adam with beta1 = 0.5 (Isola et al. 2017), at one learning rate, from step 0 on; its verdict counts
  from step `start` on.
  """
  if not config.weight:
    return {}
  return {
    "adversarial": Opponent(
      module=PatchDiscriminator(tuple(config.channels), jnp.dtype(dtype)),
      sees=_pixels,
      tx=optax.scale_by_adam(b1=0.5),
      learning_rate=config.learning_rate,
      weight=config.weight,
      start=config.start,
      max_weight=config.max_weight,
    )
  }
