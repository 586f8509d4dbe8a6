"""Encoder and decoder of VQGAN (Esser et al. 2021, arXiv:2012.09841, appendix B) for images of any channels.

Residual blocks of GroupNorm, swish and 3x3 convolutions at each resolution, self-attention at some of them and at the
lowest. Modules and parameters have the names of the published weights (`vq_names` maps them), and compute the same:
down-sampling by a convolution of stride 2 with one row and one column of zeros at the end, up-sampling by nearest
neighbours and a convolution, GroupNorm with epsilon 1e-6.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax.models.blocks import convolution, maybe_remat
from vae_jax.types import Array

# As PyTorch's layers begin: U(-s, s), s = fan_in^-1/2.
INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Not zeros: codes are zeros before their first update, and of maps of zeros each GroupNorm would have the slope 1,000.
BIAS = nn.initializers.normal(0.02)


def enlarging(
  x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], *unused: Any, **others: Any
) -> Float[Array, "b h2 w2 d"]:
  """The 3x3 convolution, zeros around, of an image enlarged twice by nearest neighbours; for `nn.Conv`.

  Computed at the size of `x`: as neighbours are equal, each pixel is a sum over 2x2 ones, which is 16 products for 36.
  Even and odd rows and columns have a convolution each: XLA on CPUs takes 100 times as long over the kernel's gradient
  of one convolution with all four.
  """
  (b, h, w, _), d = x.shape, kernel.shape[-1]
  conv: Any = convolution() or jax.lax.conv_general_dilated
  rows = []
  for row, kernels in enumerate(_halves(kernel, 0)):
    pixels = [
      conv(
        x, each, (1, 1), ((1 - row, row), (1 - column, column)), dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      for column, each in enumerate(_halves(kernels, 1))
    ]
    rows.append(jnp.concatenate(pixels, axis=-1).reshape(b, h, 2 * w, d))
  return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, d)


def _halves(kernel: Array, axis: int) -> tuple[Array, Array]:
  """Kernels of 2 for one of 3, at even and at odd places of an image that is twice as large."""
  first, second, third = jnp.split(kernel, 3, axis=axis)
  return jnp.concatenate([first, second + third], axis=axis), jnp.concatenate(
    [first + second, third], axis=axis
  )


class Blocks(nn.Module):
  """What encoder and decoder share. For use in compact methods.

  groups: of GroupNorm. remat: inner values of residual blocks are computed again in the backward pass.
  """

  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  attention: tuple[int, ...]
  groups: int = 32
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def conv(self, features: int, name: str, **how: Any) -> nn.Conv:
    """A 3x3 convolution; `how` are its other attributes."""
    how = {"dtype": self.dtype, "conv_general_dilated": convolution(), **how}
    return nn.Conv(
      features, (3, 3), kernel_init=INIT, bias_init=BIAS, param_dtype=self.param_dtype, name=name, **how
    )

  def block(self, features: int, name: str) -> Residual:
    """A residual block of that width."""
    return Residual(features, **self._common(name))

  def attend(self, name: str) -> Attention:
    """Attention over all positions."""
    return Attention(**self._common(name))

  def middle(self, x: Array) -> Array:
    """What both networks do at the lowest resolution: a block, attention, a block."""
    x = self.block(x.shape[-1], "mid_block_1")(x)
    x = self.attend("mid_attn_1")(x)
    return self.block(x.shape[-1], "mid_block_2")(x)

  def end(self, x: Array, features: int) -> Array:
    """The last convolution, float32 whatever the compute type."""
    x = jax.nn.silu(norm(self.groups, "norm_out", self.dtype, self.param_dtype)(x))
    return self.conv(features, "conv_out", dtype=jnp.float32)(x.astype(jnp.float32))

  def _common(self, name: str) -> dict[str, Any]:
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    return {"groups": self.groups, "remat": self.remat, "name": name, **dtypes}


def norm(groups: int, name: str, dtype: Any, param_dtype: Any) -> nn.GroupNorm:
  """GroupNorm with the published epsilon."""
  return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, param_dtype=param_dtype, name=name)


class Residual(nn.Module):
  """shortcut(x) + conv2(swish(norm2(conv1(swish(norm1(x)))))); the shortcut is 1x1 where the width changes."""

  features: int
  groups: int
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    return maybe_remat(Residual._sum, self.remat)(self, x)

  def _sum(self, x: Array) -> Array:
    y = x
    for number in ("1", "2"):
      y = jax.nn.silu(norm(self.groups, f"norm{number}", self.dtype, self.param_dtype)(y))
      y = nn.Conv(
        self.features,
        (3, 3),
        kernel_init=INIT,
        bias_init=BIAS,
        conv_general_dilated=convolution(),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f"conv{number}",
      )(y)
    if x.shape[-1] != self.features:
      x = pointwise(self.features, "nin_shortcut", self.dtype, self.param_dtype)(x)
    return x + y


class Attention(nn.Module):
  """x + proj_out(softmax(q k / c^1/2) v) over all positions of an image, one head; q, k, v of norm(x)."""

  groups: int
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return maybe_remat(Attention._sum, self.remat)(self, x)

  def _sum(self, x: Array) -> Array:
    b, h, w, c = x.shape
    y = norm(self.groups, "norm", self.dtype, self.param_dtype)(x).reshape(b, h * w, c)
    q, k, v = (pointwise(c, name, self.dtype, self.param_dtype)(y) for name in "qkv")
    likeness = jnp.einsum("bic,bjc->bij", q, k).astype(jnp.float32) / math.sqrt(c)
    found = jnp.einsum("bij,bjc->bic", jax.nn.softmax(likeness).astype(self.dtype), v)
    return x + pointwise(c, "proj_out", self.dtype, self.param_dtype)(found).reshape(b, h, w, c)


def pointwise(features: int, name: str | None, dtype: Any, param_dtype: Any) -> nn.Dense:
  """A 1x1 convolution."""
  return nn.Dense(features, kernel_init=INIT, bias_init=BIAS, dtype=dtype, param_dtype=param_dtype, name=name)


class Encoder(Blocks):
  """Images [b, h, w, c] in [0, 1] -> float32 [b, h / f, w / f, z_channels], f = 2^(len(ch_mult) - 1).

  Attributes: ch, width of the first convolution; ch_mult, widths at 1, 1/2, ... of the size, as multiples of ch;
  num_res_blocks, at each; attention, the numbers of the levels with attention after each block.
  """

  z_channels: int = 256

  @nn.compact
  def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 z"]:
    x = self.conv(self.ch, "conv_in")((2 * image - 1).astype(self.dtype))
    for level, multiple in enumerate(self.ch_mult):
      for i in range(self.num_res_blocks):
        x = self.block(self.ch * multiple, f"down_{level}_block_{i}")(x)
        x = self.attend(f"down_{level}_attn_{i}")(x) if level in self.attention else x
      if level < len(self.ch_mult) - 1:
        ends = ((0, 1), (0, 1))
        x = self.conv(x.shape[-1], f"down_{level}_downsample", strides=(2, 2), padding=ends)(x)
    return self.end(self.middle(x), self.z_channels)


class Decoder(Blocks):
  """Maps [n, h, w, z] -> float32 [n, f h, f w, out_channels], with num_res_blocks + 1 blocks at each resolution.

  Levels are counted as in the encoder: 0 is the image's size.
  """

  out_channels: int = 3
  last: str = "conv_out"

  @nn.compact
  def __call__(self, z: Float[Array, "n h w z"]) -> Float[Array, "n h2 w2 q"]:
    x = self.middle(self.conv(self.ch * self.ch_mult[-1], "conv_in")(z.astype(self.dtype)))
    for level in range(len(self.ch_mult) - 1, -1, -1):
      for i in range(self.num_res_blocks + 1):
        x = self.block(self.ch * self.ch_mult[level], f"up_{level}_block_{i}")(x)
        x = self.attend(f"up_{level}_attn_{i}")(x) if level in self.attention else x
      if level:
        x = self.conv(x.shape[-1], f"up_{level}_upsample", conv_general_dilated=enlarging)(x)
    return self.end(x, self.out_channels)
