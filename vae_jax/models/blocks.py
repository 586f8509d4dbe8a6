"""Layers shared by encoders and decoders. NHWC; no layer mixes examples, so a batch can be divided anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax.types import Array

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "silu": jax.nn.silu, "gelu": jax.nn.gelu}


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
  """Height and width after `times` convolutions of stride 2 with "SAME" padding: each rounds up."""
  height, width = size
  for _ in range(times):
    height, width = -(-height // 2), -(-width // 2)
  return height, width


def pixel_shuffle(x: Array, factor: int = 2) -> Array:
  """[b, h, w, f * f * c] -> [b, f * h, f * w, c] (Shi et al. 2016): up-sampling that costs no arithmetic."""
  if factor == 1:
    return x
  b, h, w, channels = x.shape
  c = channels // factor**2
  x = x.reshape(b, h, w, factor, factor, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c)


def pixel_unshuffle(x: Array, factor: int = 2) -> Array:
  """[b, f * h, f * w, c] -> [b, h, w, f * f * c], the inverse of `pixel_shuffle`."""
  if factor == 1:
    return x
  b, h, w, c = x.shape
  x = x.reshape(b, h // factor, factor, w // factor, factor, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


_IN_LOOP = ContextVar("in_loop", default=False)


@contextmanager
def in_loop() -> Iterator[None]:
  """What is traced within is the body of a loop, where XLA on CPUs wants convolutions as matrix products."""
  token = _IN_LOOP.set(True)
  try:
    yield
  finally:
    _IN_LOOP.reset(token)


def convolution() -> Callable[..., Array] | None:
  """For `nn.Conv(conv_general_dilated=...)`: `im2col_conv` in loops on CPUs, XLA's own convolution elsewhere."""
  return im2col_conv if _IN_LOOP.get() and jax.default_backend() == "cpu" else None


def im2col_conv(
  x: Array, kernel: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **unused: Any
) -> Array:
  """A 2-d convolution as shifted slices and one matrix product; NHWC, kernel [kh, kw, c, d].

  Has the signature that `nn.Conv` calls, for the cases used here (no dilation, no groups). XLA on CPUs runs a
  convolution within `lax.scan` 16 to 30 times slower than outside (jax-ml/jax#12868); matrix
  products are as fast in a loop as outside.
  """
  kh, kw, c, d = kernel.shape
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (kh, kw), strides, padding)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True))
  spans = [(height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1]
  columns = [
    x[:, i : i + spans[0] : strides[0], j : j + spans[1] : strides[1]] for i in range(kh) for j in range(kw)
  ]
  return jnp.concatenate(columns, axis=-1) @ kernel.reshape(kh * kw * c, d)


class Conv(nn.Module):
  """A "SAME" convolution with square kernel, in the form that suits the place: see `convolution`."""

  features: int
  kernel: int = 3
  stride: int = 1
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      strides=(self.stride, self.stride),
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      conv_general_dilated=convolution(),
    )(x)


class Norm(nn.Module):
  """GroupNorm with up to 8 groups: statistics in float32, per example, alike in training and evaluation."""

  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    groups = math.gcd(x.shape[-1], 8)
    return nn.GroupNorm(num_groups=groups, dtype=self.dtype, param_dtype=self.param_dtype)(x)


def maybe_remat(method: Callable[..., Array], remat: bool) -> Callable[..., Array]:
  """The method, or one whose inner values are not kept for the backward pass but computed again (Chen et al. 2016)."""
  return nn.remat(method) if remat else method


class ResidualBlock(nn.Module):
  """x + conv(act(norm(conv(act(norm(x)))))), pre-activation (He et al. 2016); the last kernel starts at zero."""

  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return maybe_remat(ResidualBlock._sum, self.remat)(self, x)

  def _sum(self, x: Array) -> Array:
    act, kinds = ACTIVATIONS[self.activation], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    channels = x.shape[-1]
    y = Conv(channels, **kinds)(act(Norm(**kinds)(x)))
    y = act(Norm(**kinds)(y))
    return x + Conv(channels, kernel_init=nn.initializers.zeros_init(), **kinds)(y)


class Upsample(nn.Module):
  """3x3 convolution to 4c channels, then pixel shuffle, cropped to `size` (odd sizes lose the last row or column)."""

  channels: int
  size: tuple[int, int]
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = Conv(4 * self.channels, dtype=self.dtype, param_dtype=self.param_dtype)(x)
    return pixel_shuffle(x)[:, : self.size[0], : self.size[1]]
