"""Discriminators: of patches of images, of whole images, with its features to look at, and of latents."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax.models.blocks import Conv, Norm
from vae_jax.types import Array


class PatchDiscriminator(nn.Module):
  """Images [b, h, w, c] in [0, 1] of any size -> logits [b, h', w', 1], one a patch: > 0 for real.

  The PatchGAN of Isola et al. 2017, arXiv:1611.07004. 4x4 convolutions of stride 2, one for each of `channels`, with
  leaky ReLU of slope 0.2, and one of stride 1 to the logit; h' = h / 2^len(channels), rounded up. `last` > 0: before
  the logit one more of stride 1, of that width. Three channels and `last` are the paper's network, with patches of 70 x
  70 pixels; without `last` they have 46 x 46. GroupNorm after all convolutions between the first and the logit, where
  the paper has batch normalisation, which would mix examples. Initialised from N(0, 0.02^2), as the paper's.
  """

  channels: tuple[int, ...]
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  last: int = 0

  @nn.compact
  def __call__(self, image: Array) -> Array:
    dtypes, init = {"dtype": self.dtype, "param_dtype": self.param_dtype}, nn.initializers.normal(0.02)
    x = 2 * image.astype(self.dtype) - 1
    for i, features in enumerate(self.channels):
      x = Conv(features, 4, 2, kernel_init=init, **dtypes)(x)
      x = Norm(**dtypes)(x) if i else x
      x = jax.nn.leaky_relu(x, 0.2)
    if self.last:
      x = Conv(self.last, 4, kernel_init=init, **dtypes)(x)
      x = jax.nn.leaky_relu(Norm(**dtypes)(x), 0.2)
    dtypes["dtype"] = jnp.float32
    return Conv(1, 4, kernel_init=init, **dtypes)(x.astype(jnp.float32))


class ImageDiscriminator(nn.Module):
  """Images [b, h, w, c] in [0, 1] of one size -> logits [b, 1]: > 0 for real. `features` shows what it looks at.

  4x4 convolutions of stride 2, one for each of `channels`, a dense layer of width `dense` and one to the logit, with
  leaky ReLU of slope 0.2 between. GroupNorm after all convolutions but the first. Layers keep the variance of what they
  see at the start, so that features have a size of 1, whatever the widths; logits start small.
  """

  channels: tuple[int, ...]
  dense: int
  layer: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def features(self, image: Array) -> Array:
    """The output of convolution number `layer`, before what follows it: float32 [b, h', w', channels[layer - 1]]."""
    return self(image, features=True)

  @nn.compact
  def __call__(self, image: Array, features: bool = False) -> Array:
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = 2 * image.astype(self.dtype) - 1
    for i, width in enumerate(self.channels):
      x = Conv(width, 4, 2, **dtypes)(x)
      if features and i + 1 == self.layer:
        return x.astype(jnp.float32)
      x = Norm(**dtypes)(x) if i else x
      x = jax.nn.leaky_relu(x, 0.2)
    x = jax.nn.leaky_relu(nn.Dense(self.dense, **dtypes)(x.reshape(x.shape[0], -1)), 0.2)
    dtypes["dtype"] = jnp.float32
    return nn.Dense(1, kernel_init=nn.initializers.normal(0.02), **dtypes)(x.astype(jnp.float32))


class LatentDiscriminator(nn.Module):
  """Latents [b, d] -> logits [b, 1], > 0 for real: a dense layer with leaky ReLU of `slope` for each of `hidden`."""

  hidden: tuple[int, ...]
  slope: float = 0.0

  @nn.compact
  def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b 1"]:
    for width in self.hidden:
      z = nn.Dense(width)(z)
      z = jax.nn.leaky_relu(z, self.slope) if self.slope else jax.nn.relu(z)
    return nn.Dense(1)(z)
