"""A trunk that sees an image at several scales, and a ladder of latent maps on it, coarse to fine (Child 2021)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax.models.blocks import (
  ACTIVATIONS,
  convolution,
  equal_kernels,
  maybe_remat,
  pixel_shuffle,
  pixel_unshuffle,
)
from vae_jax.types import Array

HE_NORMAL = nn.initializers.he_normal()
Eps = tuple[Array, ...]  # standard normal noise, one array a scale, coarse first


class Convolutions(nn.Module):
  """What the parts below share: widths and types, and a convolution, 3x3 by default."""

  channels: tuple[int, ...]
  blocks: int
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def conv(
    self,
    x: Array,
    features: int,
    name: str,
    zero: bool = False,
    size: int = 3,
    stride: int = 1,
    init: Any = HE_NORMAL,
  ) -> Array:
    """A "SAME" convolution of size x size pixels; `zero`: its kernel starts at zero."""
    init = nn.initializers.zeros_init() if zero else init
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    window, strides = (size, size), (stride, stride)
    general = convolution()
    return nn.Conv(
      features, window, strides, kernel_init=init, name=name, conv_general_dilated=general, **dtypes
    )(x)

  def mix(self, x: Array, features: int, name: str, zero: bool = False, init: Any = HE_NORMAL) -> Array:
    """A convolution of one pixel, as a matrix product: three times as fast on CPUs."""
    init = nn.initializers.zeros_init() if zero else init
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    return nn.Dense(features, kernel_init=init, name=name, **dtypes)(x)

  def residual(self, x: Array, name: str) -> Array:
    """x + conv(act(conv(x))), the residual block of EDSR (Lim et al. 2017)."""

    def add(self: Convolutions, x: Array) -> Array:
      act, features = ACTIVATIONS[self.activation], x.shape[-1]
      return x + self.conv(act(self.conv(x, features, f"{name}_a")), features, f"{name}_b", zero=True)

    return maybe_remat(add, self.remat)(self, x)

  def down(self, x: Array, features: int, name: str) -> Array:
    """Half the height and width."""
    return self.mix(pixel_unshuffle(x, 2), features, name)

  def up(self, x: Array, features: int, name: str) -> Array:
    """Twice the height and width."""
    return pixel_shuffle(self.conv(x, 4 * features, name, init=equal_kernels(HE_NORMAL, 2)), 2)


class PixelHead(Convolutions):
  """Pixels from features: enlarged `factor` times to channels[0], two convolutions there, the image of channels[1]."""

  factor: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    act, (width, out) = ACTIVATIONS[self.activation], self.channels
    x = self.mix(x, self.factor**2 * width, "up", init=equal_kernels(HE_NORMAL, self.factor))
    x = act(pixel_shuffle(x, self.factor))
    return self.conv(act(self.conv(x, width, "conv")), out, "out", zero=True)


class Trunk(Convolutions):
  """Features of the degraded image at every scale, coarse to fine: a U-Net with residual blocks both ways."""

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    x = self.conv(x, self.channels[0], "stem")
    skips = []
    for level, features in enumerate(self.channels):
      x = self.down(x, features, f"down{level}") if level else x
      for i in range(self.blocks):
        x = self.residual(x, f"down{level}_block{i}")
      skips.append(x)
    scales = [x]
    for level in range(len(self.channels) - 2, -1, -1):
      x = self.up(x, self.channels[level], f"up{level}") + skips[level]
      for i in range(self.blocks):
        x = self.residual(x, f"up{level}_block{i}")
      scales.append(x)
    return scales


class TargetEncoder(Convolutions):
  """Features of the clean image at every scale, coarse to fine: what the posterior sees beside the degraded image."""

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    act = ACTIVATIONS[self.activation]
    scales = []
    for level, features in enumerate(self.channels):
      x = self.down(act(x), features, f"down{level}") if level else self.conv(x, features, "stem")
      x = self.conv(act(x), features, f"conv{level}")
      scales.append(x)
    return scales[::-1]


class Layer(NamedTuple):
  """One layer of latents: prior, posterior (the prior where the clean image is unknown), the draw; [b, h, w, d]."""

  prior: dist.Gaussian
  posterior: dist.Gaussian
  z: Array


class Ladder(Convolutions):
  """The latents: `latent_dim` channels at each scale, coarse to fine.

  __call__(scales, targets, eps): features of the trunk; those of the clean image, or None for draws from the prior;
  standard normal noise a scale, or None for the means. Returns the layers and the features to make pixels from.
  """

  latent_dim: int = 8

  @nn.compact
  def __call__(
    self, scales: list[Array], targets: list[Array] | None, eps: Eps | None
  ) -> tuple[list[Layer], Array]:
    act = ACTIVATIONS[self.activation]
    x: Array | None = None
    layers = []
    for i, scale in enumerate(scales):
      level = len(scales) - 1 - i
      features = self.channels[level]
      seen = self.mix(act(scale), features, f"seen{level}")
      x = seen if x is None else self.up(act(x), features, f"up{level}") + seen
      prior = _gaussian(self.mix(act(x), 2 * self.latent_dim, f"prior{level}", zero=True))
      posterior = prior
      if targets is not None:
        both = act(jnp.concatenate([x, targets[i]], axis=-1))
        shift = _gaussian(self.conv(both, 2 * self.latent_dim, f"posterior{level}"))
        posterior = dist.Gaussian(prior.mean + shift.mean, dist.bound_logvar(prior.logvar + shift.logvar))
      z = posterior.mean if eps is None else dist.sample(posterior, eps[i])
      layers.append(Layer(prior, posterior, z))
      x = self.residual(x + self.mix(z.astype(self.dtype), features, f"z{level}"), f"block{level}")
    assert x is not None
    return layers, act(x)


def _gaussian(x: Array) -> dist.Gaussian:
  mean, raw = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return dist.Gaussian(mean, dist.bound_logvar(raw))
