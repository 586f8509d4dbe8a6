"""A discriminator that is trained beside a model, as data: a part of a family. `training.opponents` is its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Bool, Float

from vae_jax import losses
from vae_jax.models.contract import Family, Mode, Output, Whole, one_record
from vae_jax.types import Array, ArrayLike, Batch, Key, Params, Spec, Variables

Parts = dict[str, Array]
# -> (real, fake), alike in all but their number.
Sees = Callable[[Output, Batch, Key, Whole], tuple[Array, Array]]
Look = Callable[[Any], Any]  # what a discriminator sees [b, ...] -> its features [b, ...]
Compare = Callable[[Look, Output, Batch], Float[Array, " b"]]


@flax.struct.dataclass
class OpponentState:
  """What is trained of a discriminator, and its optimiser's state."""

  params: Params
  opt_state: optax.OptState


class Guard(NamedTuple):
  """Which side of an unequal game stands still, by the discriminator's mean cross-entropies on real and on fake.

  low: where one of both is below, the discriminator is far ahead, and is not moved.
  high: where one of both is above, it is far behind, and the model's parts are not moved.
  parts: the names, in `params`, of what makes the fakes.
  Where both would stand still, both move (Larsen et al. 2016, the authors' code).
  """

  low: float
  high: float
  parts: tuple[str, ...]

  def moves(self, real: Array, fake: Array) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the discriminator moves, and whether the parts do. real, fake: means over the whole batch."""
    ahead = (real < self.low) | (fake < self.low)
    behind = (real > self.high) | (fake > self.high)
    both = ahead & behind
    return ~ahead | both, ~behind | both


def alone(x: Any) -> Any:
  """`whole` where a step sees the global batch already."""
  return x


class Opponent(NamedTuple):
  """A discriminator and its part in the loss.

  module: what it sees [b, ...] -> logits [b, ...], > 0 for real.
  sees: (output, batch, key, whole) -> (real, fake); the model is trained through `fake`, of which there may be more.
    What permutes examples gathers those of all devices by `whole`, and gives back those at batch["place"].
  tx: its optimiser's direction, scaled by learning_rate.
  weight: of its verdict in the model's loss; counts from step `start` on.
  max_weight: most that the adaptive weight may be; None: no adaptive weight.
  loss, taken: (real logits, fake logits) -> [b], what it is trained by; fake logits -> [b], what the model is.
  compared: further terms of the model's loss by name, each with its weight: (look, output, batch) -> [b], where `look`
    gives the discriminator's features, by the module's method `features`. It is not trained by them.
  guard: which side stands still where one is far ahead; None: both always move.
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
  compared: dict[str, tuple[float, Compare]] = {}  # noqa: RUF012  (never changed)
  guard: Guard | None = None

  def init(self, model: Family, variables: Variables, spec: Spec, key: Key) -> OpponentState:
    """Fresh, for what it sees of records of `spec`."""

    def look() -> Array:
      batch, mode = one_record(spec), Mode(jnp.zeros((), jnp.int32), key, training=True, batch_size=1)
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
    """Its own loss, and the shares of logits that take real and fake for what they are.

    With a guard also the mean cross-entropies on both, `real_cross_entropy` and `fake_cross_entropy`.
    """
    real_logits, fake_logits = self.logits(params, real), self.logits(params, fake)
    value = self.loss(real_logits, fake_logits).mean()
    parts = {
      "discriminator_loss": value,
      "real_accuracy": (real_logits > 0).mean(),
      "fake_accuracy": (fake_logits < 0).mean(),
    }
    if self.guard is not None:
      parts["real_cross_entropy"] = losses.verdict_cross_entropy(real_logits, True).mean()
      parts["fake_cross_entropy"] = losses.verdict_cross_entropy(fake_logits, False).mean()
    return value, parts

  def compare(self, params: Params, output: Output, batch: Batch) -> tuple[Array, Parts]:
    """The sum of the terms `compared` as they enter the model's loss, and their parts: raw and weighted means."""

    def look(x: Any) -> Any:
      return self.module.apply({"params": params}, x, method="features")

    total, parts = jnp.zeros((), jnp.float32), Parts()
    for name, (weight, term) in self.compared.items():
      value = term(look, output, batch).mean()
      parts |= {name: value, f"weighted_{name}": weight * value}
      total = total + weight * value
    return total, parts
