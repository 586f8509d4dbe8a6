"""Blur: Gaussian, anisotropic, of motion, and its opposite, sharpening. Widths may be traced values."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

from vae_jax.data.degrade.base import Border, checked, float_image, scatter, separable
from vae_jax.types import Array, ArrayLike

Number = float | Array

REACH = 4.0  # standard deviations at which Gaussian kernels end
NARROWEST = 1e-3  # pixels: a Gaussian of this width or less is one pixel


def gaussian_blur(
  image: ArrayLike, sigma: Number, border: Border = "mirror", most: float | None = None
) -> Array:
  """Gaussian blur of standard deviation `sigma` pixels, cut off at radius ceil(4 * sigma) and normalised.

  border: beyond the edge a b c lies c b a for "mirror" (SciPy calls it 'reflect'), c c c for "replicate" ('nearest').
  most: for a traced `sigma`, an upper limit of it; then the border is "mirror".
  image: [..., h, w, c]; same shape out.
  """
  image = float_image(image)
  h, w = image.shape[-3:-1]
  if most is None:
    rows, columns = (gaussian_weights(n, sigma, border).astype(np.float32) for n in (h, w))  # type: ignore[arg-type]
    return separable(image, rows, columns)
  return separable(image, _traced_weights(h, sigma, most), _traced_weights(w, sigma, most))


@functools.lru_cache(maxsize=256)
def gaussian_weights(n: int, sigma: float, border: Border = "mirror") -> np.ndarray:
  """The matrix [n, n], float64, of `gaussian_blur` along one axis; the identity for sigma 0."""
  radius = math.ceil(REACH * checked("blur", sigma))
  offsets = np.arange(-radius, radius + 1)
  with np.errstate(over="ignore"):  # a sigma of 1e-270 has weights of exp(-inf)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
  taps = np.arange(n)[:, None] + offsets
  return scatter(taps, np.tile(weights / weights.sum(), (n, 1)), n, border)


def _traced_weights(n: int, sigma: Number, most: float) -> Array:
  """`gaussian_weights` with the mirror, float32, of a `sigma` up to `most` that is known when the program runs."""
  i, j = np.arange(n, dtype=np.float32)[:, None], np.arange(n, dtype=np.float32)
  radius = math.ceil(REACH * most)
  periods = range(-(radius // (2 * n) + 1), radius // (2 * n) + 2)
  # Column j is seen again at 2 n k + j and, mirrored, at 2 n k - 1 - j.
  distances = [d for k in periods for d in (i - j - 2 * n * k, i + j + 1 - 2 * n * k)]
  near = [d for d in distances if np.abs(d).min() <= radius]
  sigma = jnp.maximum(sigma, NARROWEST)
  reach = jnp.ceil(REACH * sigma)
  weights = sum(jnp.where(np.abs(d) <= reach, jnp.exp(-0.5 * (d / sigma) ** 2), 0.0) for d in near)
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def anisotropic_blur(
  image: ArrayLike, sigma: Number, sigma2: Number, angle: Number, most: float | None = None
) -> Array:
  """Gaussian blur of `sigma` pixels along a direction and `sigma2` across it; mirrored at the border.

  angle: of that direction, in radians from the x axis towards the y axis, which points down. The kernel is sampled at
  pixels, ends at the ellipse of 4 standard deviations and is normalised. Widths below about 0.4 pixels come between the
  pixels: such a blur is weaker than its numbers. most: the upper limit of both widths where they are traced.
  image: [..., h, w, c]; same shape out.
  """
  image = float_image(image)
  radius = math.ceil(REACH * (max(float(sigma), float(sigma2)) if most is None else most))
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  along = (cos * x + sin * y) / jnp.maximum(sigma, NARROWEST)
  across = (cos * y - sin * x) / jnp.maximum(sigma2, NARROWEST)
  squared = along**2 + across**2
  kernel = jnp.where(squared <= REACH**2, jnp.exp(-0.5 * squared), 0.0)
  return convolve(image, kernel / jnp.sum(kernel))


def motion_blur(image: ArrayLike, length: Number, angle: Number, most: float | None = None) -> Array:
  """The mean of an image that moves `length` pixels along a straight line, at `angle` radians from the x axis.

  The line is drawn with bilinear weights, so that length and angle need not fit the pixels; the picture's centre stays
  where it is, and length 0 changes nothing. Mirrored at the border. most: the upper limit of `length` where it is
  traced. image: [..., h, w, c]; same shape out.
  """
  image = float_image(image)
  most = float(length) if most is None else most
  radius, samples = math.ceil(most / 2) + 1, 16 * math.ceil(most) + 1
  along = length * ((np.arange(samples, dtype=np.float32) + 0.5) / samples - 0.5)
  pixels = np.arange(-radius, radius + 1, dtype=np.float32)

  def weights(position: ArrayLike) -> Array:
    return jnp.maximum(1 - jnp.abs(pixels[None] - position[:, None]), 0.0)

  kernel = jnp.einsum(
    "ny,nx->yx",
    weights(along * jnp.sin(angle)),
    weights(along * jnp.cos(angle)),
    precision=jax.lax.Precision.HIGHEST,
  )
  return convolve(image, kernel / samples)


def sharpen(image: ArrayLike, amount: Number, radius: Number = 1.0, most: float | None = None) -> Array:
  """Unsharp mask: image + amount * (image - blurred), with a Gaussian of `radius` pixels; not clipped.

  most: the upper limit of `radius` where it is traced. image: [..., h, w, c]; same shape out.
  """
  image = float_image(image)
  return image + amount * (image - gaussian_blur(image, radius, most=most))


def convolve(image: Array, kernel: Array) -> Array:
  """An image [..., h, w, c] with a kernel [k, k], k odd, by FFT; mirrored at the border, float32, same shape out.

  Its cost does not depend on the kernel.
  """
  radius = kernel.shape[0] // 2
  sides = image.shape[-3:-1]
  padded = mirrored(jnp.moveaxis(image, -1, -3), radius)
  size = [next_fast_len(n + 2 * radius, real=True) for n in sides]
  kernel = kernel.reshape((1,) * (image.ndim - 2) + kernel.shape)
  spectrum = jnp.fft.rfft2(padded, size) * jnp.fft.rfft2(kernel, size)
  h, w = (slice(2 * radius, 2 * radius + n) for n in sides)
  return jnp.moveaxis(jnp.fft.irfft2(spectrum, size)[..., h, w], -3, -1)


def mirrored(planes: Array, radius: int) -> Array:
  """Planes [..., h, w] continued by `radius` pixels: an edge a b c by c b a."""
  return jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(radius, radius)] * 2, mode="symmetric")
