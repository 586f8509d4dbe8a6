"""Decoders: latents [n, latent_dim] -> likelihood parameters [n, h, w, channels], float32."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax.keys import Key, Keys, one_of
from vae_jax.models.blocks import ACTIVATIONS, Conv, Norm, ResidualBlock, Upsample, convolution, halved
from vae_jax.types import Array

# Config keys of the families with a `ConvDecoder`.
BLUR_KEYS: Keys = {
  "model.blur": Key(
    False,
    "the decoder blurs what it has up-sampled: no lattice, whatever it is trained by (discriminators, features)",
  )
}
HEAD_KEYS: Keys = {
  "model.head_kernel": Key(
    3, "side of the last convolution, at full size; 1 leaves a lattice, as older runs", one_of(1, 3)
  ),
  **BLUR_KEYS,
}


class MLPDecoder(nn.Module):
  """One dense layer per entry of `hidden`, then one to all parameters of all pixels."""

  hidden: tuple[int, ...]
  size: tuple[int, int]
  out_channels: int
  activation: str = "relu"
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @property
  def last(self) -> str:
    """Name of the layer that makes the pixels."""
    return f"Dense_{len(self.hidden)}"

  @nn.compact
  def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = z.astype(self.dtype)
    for width in self.hidden:
      x = ACTIVATIONS[self.activation](nn.Dense(width, **dtypes)(x))
    x = nn.Dense(self.size[0] * self.size[1] * self.out_channels, **dtypes)(x)
    return x.reshape(z.shape[0], *self.size, self.out_channels).astype(jnp.float32)


class ConvDecoder(nn.Module):
  """The mirror of `ConvEncoder`: dense layers, then residual blocks and sub-pixel convolutions to the image's size.

  `dense` = 0: the latents are a map of the size of the encoder's last one. `head_kernel`: side of the convolution that
  makes the pixels; with 1, each pixel of a block of the last up-sampling is made by itself. blur: see `Upsample`.
  """

  channels: tuple[int, ...]
  blocks: int
  dense: int
  size: tuple[int, int]
  out_channels: int
  head_kernel: int = 3
  blur: bool = False
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @property
  def last(self) -> str:
    """Name of the layer that makes the pixels."""
    if self.head_kernel > 1:
      return "head"
    return "Dense_2" if self.dense else "Dense_0"

  @nn.compact
  def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
    act, dtypes = ACTIVATIONS[self.activation], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    height, width = halved(self.size, len(self.channels))
    z = z.astype(self.dtype)
    if self.dense:
      x = act(nn.Dense(self.dense, **dtypes)(z))
      x = nn.Dense(height * width * self.channels[-1], **dtypes)(x)
      x = x.reshape(z.shape[0], height, width, self.channels[-1])
    else:
      x = Conv(self.channels[-1], **dtypes)(z.reshape(z.shape[0], height, width, -1))
    for level in range(len(self.channels) - 1, -1, -1):
      for _ in range(self.blocks):
        x = ResidualBlock(self.activation, self.remat, **dtypes)(x)
      x = act(Norm(**dtypes)(x))
      features = self.channels[level - 1] if level else max(self.channels[0] // 2, 8)
      x = Upsample(features, halved(self.size, level), self.blur, **dtypes)(x)
    x, exact = act(x).astype(jnp.float32), {"dtype": jnp.float32, "param_dtype": self.param_dtype}
    if self.head_kernel == 1:
      return nn.Dense(self.out_channels, **exact)(x)
    sides = (self.head_kernel, self.head_kernel)
    return nn.Conv(self.out_channels, sides, conv_general_dilated=convolution(), name="head", **exact)(x)
