"""A discriminator that is trained beside a model, and what its verdict adds to the model's gradients.

The model's loss becomes loss + w * adversarial, where `adversarial` is the hinge loss of output.reconstruction (see
VAEOutput) and w is objective.adversarial.weight times the adaptive weight of Esser et al. 2021 (VQGAN, eq. 7): the
ratio of the norms of the two terms' gradients at the kernel of the last layer. Both sides are updated in one step, from
one pass through the model: each by what the other was before the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.models import Shape, last_kernel
from vae_jax.models.discriminator import PatchDiscriminator
from vae_jax.types import Array, ArrayLike, Key, Params, VAEOutput

Parts = dict[str, Array]


@flax.struct.dataclass
class DiscriminatorState:
  """What is trained of a discriminator, and its optimiser's state."""

  params: Params
  opt_state: optax.OptState


class Adversarial(NamedTuple):
  """The adversarial term of a step; the fields are those of `objective.adversarial`. See `make_adversarial`."""

  discriminator: PatchDiscriminator
  tx: optax.GradientTransformation
  learning_rate: float
  weight: float
  start: int
  max_weight: float

  def init(self, shape: Shape, key: Key) -> DiscriminatorState:
    """Fresh, for images of `shape` (h, w, c)."""
    params = self.discriminator.init(key, jnp.zeros((1, *shape)))["params"]
    return DiscriminatorState(params, self.tx.init(params))

  def update(self, state: DiscriminatorState, grads: Params) -> DiscriminatorState:
    direction, opt_state = self.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - self.learning_rate * d, state.params, direction)
    return DiscriminatorState(params, opt_state)

  def gradients(
    self,
    forward: Callable[[Params], VAEOutput],
    score: Callable[[VAEOutput], tuple[Array, Parts]],
    params: Params,
    judge: Params,
    image: ArrayLike,
    step: Array,
    mean: Callable[[Any], Any] = lambda tree: tree,
  ) -> tuple[Array, Parts, Params, Params]:
    """loss, parts and the gradients of both sides, for a model `forward`, scored by `score`, and a discriminator.

    All are this device's; `mean` is the mean over devices, of which the adaptive weight is made.

    Parts: those of `score`; adversarial, raw, and weighted_adversarial; adversarial_weight; discriminator_loss; the
    shares of patches that it takes for what they are, real_accuracy and fake_accuracy.
    """
    output, pull = jax.vjp(forward, params)
    (loss, parts), slope = jax.value_and_grad(score, has_aux=True)(output)
    fake = output.reconstruction

    def logits(judge: Params, image: ArrayLike) -> Any:
      return self.discriminator.apply({"params": judge}, image)

    def told_apart(judge: Params) -> tuple[Array, Parts]:
      real_logits, fake_logits = logits(judge, image), logits(judge, fake)
      value = losses.discriminator_hinge_loss(real_logits, fake_logits).mean()
      accuracies = {"real_accuracy": (real_logits > 0).mean(), "fake_accuracy": (fake_logits < 0).mean()}
      return value, {"discriminator_loss": value} | accuracies

    def taken(fake: Array) -> Array:
      return losses.generator_hinge_loss(logits(judge, fake)).mean()

    adversarial, away = jax.value_and_grad(taken)(fake)
    (_, verdict), judge_grads = jax.value_and_grad(told_apart, has_aux=True)(judge)
    # All that is pulled back for the weight is the last layer's gradient: XLA drops the rest as unused.
    towards: Any = jax.tree.map(jnp.zeros_like, slope)._replace(reconstruction=away)
    norm, adversarial_norm = (
      optax.tree.norm(mean(last_kernel(pull(along)[0]))) for along in (slope, towards)
    )
    adaptive = adaptive_weight(norm, adversarial_norm, self.max_weight)
    weight = jnp.where(step >= self.start, self.weight * adaptive, 0.0)
    (grads,) = pull(jax.tree.map(lambda a, b: a + weight * b, slope, towards))
    parts = parts | verdict | {"adversarial": adversarial, "adversarial_weight": weight}
    parts["weighted_adversarial"] = weight * adversarial
    return loss + weight * adversarial, parts, grads, judge_grads


def adaptive_weight(norm: ArrayLike, adversarial_norm: ArrayLike, max_weight: float) -> Array:
  """norm / (adversarial_norm + 1e-6), at most `max_weight`: it makes the two gradients equally long."""
  return jnp.minimum(norm / (adversarial_norm + 1e-6), max_weight)


def make_adversarial(config: ConfigDict, dtype: str = "float32") -> Adversarial | None:
  """The adversarial term that `config` = `objective.adversarial` asks for; None where its weight is 0.

  The discriminator is trained by Adam with beta1 = 0.5 (Isola et al. 2017), at one learning rate, from step 0 on; its
  verdict counts from step `start` on.
  """
  if not config.weight:
    return None
  discriminator = PatchDiscriminator(tuple(config.channels), jnp.dtype(dtype))
  tx = optax.scale_by_adam(b1=0.5)
  return Adversarial(discriminator, tx, config.learning_rate, config.weight, config.start, config.max_weight)
