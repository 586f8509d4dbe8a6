"""How noisy a picture is, estimated from the picture, for networks that are told the level of the noise.

A level is u = log(255 sigma + 1/2), with sigma the standard deviation of the noise for white = 1: linear in sigma below
half a grey level, logarithmic above. The estimator gives u and its precision at each position; flat parts of a picture
tell more than texture does.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.models.blocks import ACTIVATIONS, pixel_unshuffle
from vae_jax.models.ladder import Convolutions
from vae_jax.types import Array

MODES = ("none", "uniform", "local")


def to_level(sigma: Array) -> Array:
  """Returns u = log(255 sigma + 1/2)."""
  return jnp.log(255.0 * sigma + 0.5)


def to_sigma(level: Array) -> Array:
  """Returns the sigma >= 0 of a level; the inverse of `to_level`."""
  return jnp.maximum(jnp.exp(level) - 0.5, 0.0) / 255.0


class NoiseEstimator(Convolutions):
  """Estimates levels from local differences.

  __call__: an image [b, h, w, c], h and w multiples of `stride`. Returns float32 [b, h / stride, w / stride, 2]: the
  level, and the logarithm of its precision (1 / variance).
  """

  stride: int = 4
  LAYERS: ClassVar[int] = 4

  @nn.compact
  def __call__(self, image: Array) -> Array:
    act = ACTIVATIONS[self.activation]
    x = act(self.conv(pixel_unshuffle(image.astype(self.dtype), self.stride), self.channels[0], "stem"))
    for i in range(self.LAYERS - 1):
      x = act(self.conv(x, self.channels[0], f"conv{i}"))
    return self.mix(x, 2, "out", zero=True).astype(jnp.float32) + jnp.float32([2.0, 0.0]).reshape(1, 1, 1, 2)


def pooled(estimates: Array) -> Array:
  """Returns one level for each picture, float32 [b]: the mean of [b, h, w, 2], weighted by precision."""
  level, log_precision = estimates[..., 0], jnp.clip(estimates[..., 1], -4.0, 8.0)
  weight = jnp.exp(log_precision)
  return (weight * level).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))


def spread_out(level: Array, stride: int) -> Array:
  """Enlarges levels [b, h, w] to [b, stride * h, stride * w], linearly between positions."""
  b, h, w = level.shape
  return jax.image.resize(level, (b, stride * h, stride * w), "linear")


def local_sigma(difference: Array, stride: int) -> Array:
  """Measures the noise that is there: [b, h, w, c] -> [b, h / stride, w / stride].

  The root mean square of the difference over all channels and windows of 5 x 5 positions.
  """
  b, h, w, _ = difference.shape
  squares = jnp.square(difference).mean(axis=-1)
  squares = squares.reshape(b, h // stride, stride, w // stride, stride).mean(axis=(2, 4))

  def total(x: Array) -> Array:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 5, 5), (1, 1, 1), "SAME")

  return jnp.sqrt(total(squares) / total(jnp.ones_like(squares)))


def surprise(estimates: Array, level: Array) -> Array:
  """Returns -log N(level; estimate, 1 / precision), in nats [b], summed over positions."""
  log_precision = jnp.clip(estimates[..., 1], -4.0, 8.0)
  square = jnp.square(estimates[..., 0] - level) * jnp.exp(log_precision)
  return 0.5 * (square - log_precision).sum(axis=(1, 2))
