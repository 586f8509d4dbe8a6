"""Layers shared by encoders and decoders. NHWC; no layer mixes examples, so a batch can be divided anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax.keys import Key, Keys, one_of
from vae_jax.types import Array

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "silu": jax.nn.silu, "gelu": jax.nn.gelu}

# Config keys of every family that is built from these layers.
ACTIVATION_KEYS: Keys = {"model.activation": Key("relu", "activation function", one_of(*ACTIVATIONS))}
REMAT_KEYS: Keys = {
  "model.remat": Key(False, "residual blocks are computed again in the backward pass: less memory, more time")
}


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
  return _blocks(x, factor, factor).reshape(b, h // factor, w // factor, factor**2 * c)


def equal_kernels(init: Any, factor: int) -> Any:
  """Initialises a convolution before `pixel_shuffle(..., factor)` by `init`, so that the pixels of a block start alike.

  Unrelated kernels leave a lattice of `factor` pixels on images, which training does not take away (ICNR, Aitken et
  al. 2017, arXiv:1707.02937).
  """

  def equal(key: Any, shape: Any, dtype: Any = jnp.float32) -> Array:
    kernel = init(key, (*shape[:-1], shape[-1] // factor**2), dtype)
    return jnp.tile(kernel, (1,) * (len(shape) - 1) + (factor**2,))

  return equal


_IN_LOOP = ContextVar("in_loop", default=False)


@contextmanager
def in_loop() -> Iterator[None]:
  """What is traced within may be the body of a loop, where XLA on CPUs is slow at most convolutions."""
  token = _IN_LOOP.set(True)
  try:
    yield
  finally:
    _IN_LOOP.reset(token)


def convolution() -> Callable[..., Array] | None:
  """For `nn.Conv(conv_general_dilated=...)`: `loop_conv` in loops on CPUs, XLA's own convolution elsewhere."""
  return loop_conv if _IN_LOOP.get() and jax.default_backend() == "cpu" else None


def loop_conv(
  x: Array, kernel: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **unused: Any
) -> Array:
  """A 2-d convolution whose gradients are fast in loops on CPUs too; NHWC, kernel [kh, kw, c, d].

  In a loop XLA runs there only those as matrix products whose axes are in one order, and the others, which its own
  gradients are, some 60 times slower (jax-ml/jax#12868). Here the gradients are convolutions of that order, and
  strides become channels, so that none is dilated. Has the signature that `nn.Conv` calls, for the cases used here (no
  dilation, no groups); differentiable in reverse mode alone.
  """
  (sh, sw), (kh, kw, c, d) = strides, kernel.shape
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (kh, kw), strides, padding)
  pads = [(low, high) for low, high in padding]
  if (sh, sw) != (1, 1):
    kernel = jnp.pad(kernel, ((0, -kh % sh), (0, -kw % sw), (0, 0), (0, 0)))
    sizes = zip(x.shape[1:3], pads, strides, (kh, kw), kernel.shape[:2], strict=True)
    # The last window, with the kernel's own padding, ends where the image does.
    wanted = [(low, (low + n + high - k) // s * s + wide - low - n) for n, (low, high), s, k, wide in sizes]
    x = jax.lax.pad(
      x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in wanted), (0, 0, 0)]
    )
    x = _blocks(x, sh, sw).reshape(x.shape[0], x.shape[1] // sh, x.shape[2] // sw, sh * sw * c)
    kernel = _blocks(kernel.transpose(2, 0, 1, 3), sh, sw)
    kernel = kernel.transpose(1, 2, 3, 4, 0, 5).reshape(-(-kh // sh), -(-kw // sw), sh * sw * c, d)
    pads = [(0, 0), (0, 0)]
  return _conv(x, kernel, tuple(pads))


def _blocks(x: Array, height: int, width: int) -> Array:
  """[b, h, w, c] -> [b, h / height, w / width, height, width, c]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // height, height, w // width, width, c).swapaxes(2, 3)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, pads: tuple[tuple[int, int], ...]) -> Array:
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_fwd(
  x: Array, kernel: Array, pads: tuple[tuple[int, int], ...]
) -> tuple[Array, tuple[Array, Array]]:
  return _conv(x, kernel, pads), (x, kernel)


def _conv_bwd(pads: tuple[tuple[int, int], ...], saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = saved
  around = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape[:2], pads, strict=True))
  to_x = _conv(g, kernel[::-1, ::-1].swapaxes(2, 3), around)
  # For the kernel, channels take the place of examples, and examples that of channels.
  to_kernel = _conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), pads)
  return to_x, to_kernel.transpose(1, 2, 0, 3)


_conv.defvjp(_conv_fwd, _conv_bwd)


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
    act, dtypes = ACTIVATIONS[self.activation], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    channels = x.shape[-1]
    y = Conv(channels, **dtypes)(act(Norm(**dtypes)(x)))
    y = act(Norm(**dtypes)(y))
    return x + Conv(channels, kernel_init=nn.initializers.zeros_init(), **dtypes)(y)


def blurred(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  """The mean of neighbours with the weights 1, 2, 1 along rows and columns, as if borders went on.

  A pattern of two pixels becomes its mean, so after a pixel shuffle of factor 2 no lattice is left.
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
  return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 16


class Upsample(nn.Module):
  """3x3 convolution to 4c channels, then pixel shuffle, cropped to `size` (odd sizes lose the last row or column).

  The four pixels of a block start alike: see `equal_kernels`. blur: what is shuffled is `blurred`, so that no training
  can have them differ everywhere in the same way.
  """

  channels: int
  size: tuple[int, int]
  blur: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = equal_kernels(nn.initializers.lecun_normal(), 2)
    x = Conv(4 * self.channels, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype)(x)
    x = pixel_shuffle(x)
    return (blurred(x) if self.blur else x)[:, : self.size[0], : self.size[1]]
