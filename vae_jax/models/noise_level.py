"""How noisy a picture is, estimated from the picture, for networks that are told the level of the noise.

A level is u = log(255 sigma + 1/2), with sigma the standard deviation of the noise for white = 1: linear in sigma below
half a grey level, logarithmic above. The estimator gives u and its precision at each position; flat parts of a picture
tell more than texture does.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.models.blocks import ACTIVATIONS, pixel_unshuffle
from vae_jax.models.ladder import Convolutions
from vae_jax.types import Array

MODES = ("none", "uniform", "local")
SCALE_EXPONENT = 0.7  # the error of a good denoiser grows about as this power of the noise


def to_level(sigma: Array) -> Array:
  """Returns u = log(255 sigma + 1/2)."""
  return jnp.log(255.0 * sigma + 0.5)


def to_sigma(level: Array) -> Array:
  """Returns the sigma >= 0 of a level; the inverse of `to_level`."""
  return jnp.maximum(jnp.exp(level) - 0.5, 0.0) / 255.0


class NoiseEstimator(Convolutions):
  """Estimates levels from the energies of learned filters.

  Filters of 3 x 3 blocks of `stride` pixels see what departs from the local mean; the logarithms of their mean squares
  over 3 x 3 blocks are levels themselves, of noise and of texture, which two layers tell apart. The mean and the share
  of black and white pixels are given too: noise is clipped there.

  __call__: an image [b, h, w, c], h and w multiples of `stride`. Returns float32 [b, h / stride, w / stride, 2]: the
  level, and the logarithm of its precision (1 / variance).
  """

  stride: int = 4
  REACH: ClassVar[int] = 4  # blocks

  @nn.compact
  def __call__(self, image: Array) -> Array:
    act, (filters, width) = ACTIVATIONS[self.activation], self.channels
    x = pixel_unshuffle(image.astype(self.dtype), self.stride)
    mean = mean_around(x.mean(axis=-1, keepdims=True))
    clipped = mean_around(((x <= 0) | (x >= 1)).mean(axis=-1, keepdims=True, dtype=x.dtype))
    energy = mean_around(jnp.square(255 * self.conv(x - mean, filters, "filters")))
    x = jnp.concatenate([jnp.log(energy + 0.25) / 4, mean, clipped], axis=-1)
    for i in range(2):
      x = act(self.mix(x, width, f"mix{i}"))
    return self.mix(x, 2, "out", zero=True).astype(jnp.float32) + jnp.float32([2.0, 0.0]).reshape(1, 1, 1, 2)


def mean_around(x: Array, size: int = 3) -> Array:
  """Means over windows of size x size positions, within the image: [b, h, w, c] -> the same shape."""
  return nn.avg_pool(x, (size, size), padding="SAME", count_include_pad=False)


def pooled(estimates: Array) -> Array:
  """Returns one level for each picture, float32 [b]: the mean of [b, h, w, 2], weighted by precision."""
  level, log_precision = estimates[..., 0], jnp.clip(estimates[..., 1], -4.0, 8.0)
  weight = jnp.exp(log_precision)
  return (weight * level).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))


def spread_out(level: Array, stride: int) -> Array:
  """Enlarges levels [b, h, w] to [b, stride * h, stride * w], linearly between positions."""
  b, h, w = level.shape
  return jax.image.resize(level, (b, stride * h, stride * w), "linear")


def bounded_spread(log_spread: Array, level: Array, local: bool) -> Array:
  """Bounds the logarithm of an error's scale, softly, by what noise of a level leaves in the hardest parts.

  The bound is 1.3 grey levels of 255 times (sigma + 1/2)^0.7, as measured: 12.6 levels for sigma 25. Where the noise
  differs from place to place (local), such as JPEG's, twice as much is left. Without a bound a network, whose logarithm
  of the scale is linear in its features, says up to five times too much there.
  """
  most = SCALE_EXPONENT * level + math.log((2.6 if local else 1.3) / 255)
  return most - jax.nn.softplus(2 * (most - log_spread)) / 2


def local_sigma(difference: Array, stride: int) -> Array:
  """Measures the noise that is there: [b, h, w, c] -> [b, h / stride, w / stride].

  The root mean square of the difference over all channels and windows of 5 x 5 positions.
  """
  b, h, w, _ = difference.shape
  squares = jnp.square(difference).mean(axis=-1)
  squares = squares.reshape(b, h // stride, stride, w // stride, stride).mean(axis=(2, 4))
  return jnp.sqrt(mean_around(squares[..., None], 5)[..., 0])


def surprise(estimates: Array, level: Array) -> Array:
  """Returns -log N(level; estimate, 1 / precision), in nats [b], summed over positions."""
  log_precision = jnp.clip(estimates[..., 1], -4.0, 8.0)
  square = jnp.square(estimates[..., 0] - level) * jnp.exp(log_precision)
  return 0.5 * (square - log_precision).sum(axis=(1, 2))


def surprise_of_pooled(estimates: Array, level: Array) -> Array:
  """Returns -log of a Laplace density of scale 0.1 (a tenth of the sigma) at `level`, less its constant; nats [b].

  Trains the precisions to weigh positions so that the picture's level is right, which positions that are right one by
  one do not make it: each leans towards levels that are frequent. The absolute error, as with the square of it the few
  pictures that tell nothing (all white, all black) would bias all others.
  """
  return jnp.abs(pooled(estimates) - level) / 0.1
