"""The losses of a discriminator and of what it judges. One value per image.

Hinge losses: Lim & Ye 2017, arXiv:1705.02894. Cross-entropy: Goodfellow et al. 2014, arXiv:1406.2661.

Logits are a discriminator's, [b, ...], > 0 for real; where it judges patches, losses are means over them.
"""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax.distributions import at_least
from vae_jax.distributions.stable import magnitude
from vae_jax.types import Array, ArrayLike


def discriminator_hinge_loss(real: ArrayLike, fake: ArrayLike) -> Array:
  """mean max(0, 1 - real) + mean max(0, 1 + fake): logits [b, ...] of real images and of others -> float32 [b].

  0 where all are separated with a margin of 1; 2 at logits of 0. Raises ValueError where the shapes differ.
  """
  if jnp.shape(real) != jnp.shape(fake):
    raise ValueError(f"logits of shapes {jnp.shape(real)} and {jnp.shape(fake)} differ")
  return _mean(at_least(1.0 - _float32(real), 0.0)) + _mean(at_least(1.0 + _float32(fake), 0.0))


def generator_hinge_loss(fake: ArrayLike) -> Array:
  """-mean fake: logits [b, ...] of images that are to be taken for real -> float32 [b]. Not bounded below."""
  return -_mean(_float32(fake))


def verdict_cross_entropy(logits: ArrayLike, real: bool) -> Array:
  """-log D, where what is judged is real, else -log (1 - D), in nats; D = sigmoid(logit): [b, ...] -> float32 [b].

  log 2 at a logit of 0. Finite for any logit.
  """
  wrong = -_float32(logits) if real else _float32(logits)
  positive = jnp.where(wrong < 0.0, 0.0, wrong)  # with `magnitude`, the slopes at a logit of 0 are right too
  return _mean(positive + jnp.log1p(jnp.exp(-magnitude(wrong))))


def _float32(logits: ArrayLike) -> Array:
  return jnp.asarray(logits, jnp.float32)


def _mean(values: Array) -> Array:
  if not values.ndim or 0 in values.shape[1:]:
    raise ValueError(f"logits of shape {values.shape}; expected [b, ...], with a logit for each image")
  return values.mean(axis=tuple(range(1, values.ndim)))
