"""Encoders: images [b, h, w, c] in [0, 1] -> posterior parameters [b, ..., moments * d], float32.

Two moments are the mean and the raw logvar; one is the mean alone, of an encoder that is deterministic.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax.models.blocks import ACTIVATIONS, Conv, Norm, ResidualBlock
from vae_jax.types import Array


def _head(width: int, param_dtype: Any) -> nn.Dense:
  # Float32 whatever the compute type. At full scale: smaller weights hide the input from the decoder at the start,
  # and units that carry nothing then are pruned by the KL for good.
  return nn.Dense(width, dtype=jnp.float32, param_dtype=param_dtype, name="posterior")


class MLPEncoder(nn.Module):
  """Flattens the image; one dense layer per entry of `hidden`."""

  hidden: tuple[int, ...]
  latent_dim: int
  activation: str = "relu"
  moments: int = 2
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b d2"]:
    x = image.reshape(image.shape[0], -1).astype(self.dtype)
    for width in self.hidden:
      x = ACTIVATIONS[self.activation](nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype)(x))
    return _head(self.moments * self.latent_dim, self.param_dtype)(x.astype(jnp.float32))


def downsampled(
  x: Array, channels: tuple[int, ...], blocks: int, activation: str, remat: bool, dtypes: dict[str, Any]
) -> Array:
  """Features at 1/2, 1/4, ... of the size: strided convolutions and residual blocks. For use in a compact method."""
  for features in channels:
    x = Conv(features, kernel=4, stride=2, **dtypes)(x)
    for _ in range(blocks):
      x = ResidualBlock(activation, remat, **dtypes)(x)
  return ACTIVATIONS[activation](Norm(**dtypes)(x))


class ConvEncoder(nn.Module):
  """Strided convolutions and residual blocks at 1/2, 1/4, ... of the image's height and width, then dense layers.

  `dense` = 0 leaves the dense layers out: the posterior is a map, with `latent_dim` latents at each position.
  """

  channels: tuple[int, ...]
  blocks: int
  dense: int
  latent_dim: int
  activation: str = "relu"
  remat: bool = False
  moments: int = 2
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b *hw d2"]:
    act, dtypes = ACTIVATIONS[self.activation], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = downsampled(image.astype(self.dtype), self.channels, self.blocks, self.activation, self.remat, dtypes)
    if self.dense:
      x = act(nn.Dense(self.dense, **dtypes)(x.reshape(x.shape[0], -1)))
    return _head(self.moments * self.latent_dim, self.param_dtype)(x.astype(jnp.float32))
