"""Structural similarity, per image: [..., h, w, c] in [0, 1] -> [...]. Arithmetic is float32, data range 1.

With s = x + y and d = x - y, the factors of SSIM (Wang et al. 2004, eqs. 6, 13) are

  luminance = (mean(s)^2 - mean(d)^2 + 2 C1) / (mean(s)^2 + mean(d)^2 + 2 C1)
  contrast  = (var(s) - var(d) + 2 C2) / (var(s) + var(d) + 2 C2)

In this form they are exactly symmetric, and exactly 1 where the images are equal; SSIM, their mean over positions, is
then 1 to the rounding of float32 (1 - 6e-8 is met). Gradients are those of reverse mode (`jax.grad`, `jax.vjp`);
`jax.jvp` applies to them, not to the metrics.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from vae_jax.metrics.colour import luma
from vae_jax.metrics.fidelity import image_pair, shave
from vae_jax.types import Array, ArrayLike

C1, C2 = 0.01**2, 0.03**2
WINDOW = 11
TAPS = [math.exp(-0.5 * ((k - WINDOW // 2) / 1.5) ** 2) for k in range(WINDOW)]
TAPS = [tap / sum(TAPS) for tap in TAPS]
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST_SIDE = WINDOW << len(SCALE_WEIGHTS) - 1  # the window fits into the coarsest scale
POWER_FLOOR = 1e-6


@functools.partial(jax.jit, static_argnames="crop")
def ssim(prediction: ArrayLike, target: ArrayLike, crop: int = 0) -> Array:
  """Structural similarity (Wang et al. 2004), in [-1, 1] per image: [..., h, w, c] -> [...].

  Protocol: 11 x 11 Gaussian window of sigma 1.5, only where it lies inside the image; K1 = 0.01, K2 = 0.03;
  population covariance; no down-sampling; the mean over positions of each channel, then over channels. `crop` pixels
  are shaved off each border first. It is scikit-image's `structural_similarity` with gaussian_weights=True,
  sigma=1.5, use_sample_covariance=False, data_range=1. torchmetrics averages its map over the whole image, with
  reflected borders; without 5 pixels at each border that map is this one.

  Raises ValueError where the shapes differ or a side is below 11 after the crop.
  """
  prediction, target = image_pair(prediction, target)
  return _mean(_ssim_map(shave(prediction, crop, WINDOW), shave(target, crop, WINDOW)))


@functools.partial(jax.jit, static_argnames="crop")
def ssim_y(prediction: ArrayLike, target: ArrayLike, crop: int = 0) -> Array:
  """`ssim` of luma as in papers on super-resolution: [..., h, w, 3 or 1] -> [...].

  Luma, crop and rounding are those of `fidelity.psnr_y`. Raises ValueError as `ssim`, and for other channels.
  """
  prediction, target = image_pair(prediction, target)
  return ssim(luma(prediction), luma(target), crop)


@jax.jit
def ms_ssim(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Multi-scale structural similarity (Wang et al. 2003, eq. 7), in [0, 1] per image: [..., h, w, c] -> [...].

  Protocol: that of torchmetrics with its default normalize="relu". Five scales of weights 0.0448, 0.2856, 0.3001,
  0.2363, 0.1333, each half the one before by 2 x 2 averages (an odd last row or column is dropped). A scale's term
  is the mean contrast over positions and channels, windows inside the image; that of the coarsest is the mean SSIM,
  its map extended to the borders by reflection. (Wang's own code has no such extension; it scores grey images.)

  A negative term counts as 0, so the whole is 0. The gradient is 0 there, and for terms up to 1e-6, in place of the
  infinite slope of the power.

  Raises ValueError where the shapes differ or a side is below 176: there the window exceeds the coarsest scale.
  """
  prediction, target = image_pair(prediction, target)
  h, w = target.shape[-3:-1]
  if min(h, w) < LEAST_SIDE:
    raise ValueError(f"images of {h} x {w} pixels are too small for ms_ssim: it needs sides of {LEAST_SIDE}")
  both = _sum_and_difference(prediction, target)
  result = jnp.float32(1.0)
  for weight in SCALE_WEIGHTS[:-1]:
    result *= _power(_mean(_luminance_and_contrast(both)[1]), weight)
    both = _halve(both)
  border = (WINDOW // 2, WINDOW // 2)
  both = jnp.pad(both, [(0, 0)] * (both.ndim - 3) + [border, border, (0, 0)], mode="reflect")
  luminance, contrast = _luminance_and_contrast(both)
  return result * _power(_mean(luminance * contrast), SCALE_WEIGHTS[-1])


def _ssim_map(prediction: Array, target: Array) -> Array:
  """SSIM at every position of the window: [..., h, w, c] -> [..., h - 10, w - 10, c]."""
  luminance, contrast = _luminance_and_contrast(_sum_and_difference(prediction, target))
  return luminance * contrast


def _sum_and_difference(prediction: Array, target: Array) -> Array:
  return jnp.stack([prediction + target, prediction - target])


@jax.jit  # outside a compiled step too: dozens of small operations
def _luminance_and_contrast(both: Array) -> tuple[Array, Array]:
  """Maps of the two factors from sum and difference [2, ..., h, w, c]: [..., h - 10, w - 10, c] each."""
  *lead, h, w, c = both.shape
  mean, variance = _moments(both.reshape(*lead, h, w * c), c)

  def similarity(moment: Array, constant: float) -> Array:
    of_sum, of_difference = moment.reshape(*lead, h - WINDOW + 1, w - WINDOW + 1, c)
    return (of_sum - of_difference + 2.0 * constant) / (of_sum + of_difference + 2.0 * constant)

  return similarity(jnp.square(mean), C1), similarity(variance, C2)


def _window_moments(rows: Array, c: int) -> tuple[Array, Array]:
  """Mean and variance under the window: [..., h, w * c] -> [..., h - 10, (w - 10) * c] each.

  Both passes are centred (law of total variance), as E[x^2] - E[x]^2 cancels in float32 where an image is bright
  and flat. Shifted slices fuse into loops over one contiguous axis of w and c; XLA's depthwise convolutions are
  slow on CPUs, and so is the automatic transpose of the slices, hence the rule below.
  """
  mean = _slide(rows, -2, 1)
  variance = _slide(rows, -2, 1, mean)
  total = _slide(mean, -1, c)
  return total, _slide(variance, -1, c) + _slide(mean, -1, c, total)


_moments = jax.custom_vjp(_window_moments, nondiff_argnums=(1,))


def _moments_forward(rows: Array, c: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  mean, variance = _window_moments(rows, c)
  return (mean, variance), (rows, mean)


def _moments_backward(c: int, kept: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple[Array]:
  """d mean_p / d x_q = w_(q-p) and d variance_p / d x_q = 2 w_(q-p) (x_q - mean_p), summed over positions p."""
  rows, mean = kept
  of_mean, of_variance = cotangents
  return (_spread(of_mean - 2.0 * mean * of_variance, c) + 2.0 * rows * _spread(of_variance, c),)


_moments.defvjp(_moments_forward, _moments_backward)


def _spread(maps: Array, c: int) -> Array:
  """The transpose of the window's mean, a symmetric window: [..., h, w * c] -> [..., h + 10, (w + 10) * c]."""
  border = WINDOW - 1
  widths = [(0, 0)] * (maps.ndim - 2) + [(border, border), (border * c, border * c)]
  return _slide(_slide(jnp.pad(maps, widths), -2, 1), -1, c)


def _slide(x: Array, axis: int, step: int, centre: Array | None = None) -> Array:
  """The window's mean of x along an axis, taps `step` apart; of (x - centre)^2 where a centre is given."""
  n = x.shape[axis] - (WINDOW - 1) * step
  parts = [jax.lax.slice_in_dim(x, k * step, k * step + n, axis=axis) for k in range(WINDOW)]
  if centre is not None:
    parts = [jnp.square(part - centre) for part in parts]
  return functools.reduce(jnp.add, [tap * part for tap, part in zip(TAPS, parts, strict=True)])


def _halve(image: Array) -> Array:
  """2 x 2 averages: [..., h, w, c] -> [..., h // 2, w // 2, c]."""
  *lead, h, w, c = image.shape
  even = image[..., : h // 2 * 2, : w // 2 * 2, :]
  return jnp.mean(even.reshape(*lead, h // 2, 2, w // 2, 2, c), axis=(-4, -2))


def _mean(maps: Array) -> Array:
  return jnp.mean(maps, axis=(-3, -2, -1))


def _power(x: Array, exponent: float) -> Array:
  # Compared so that a nan stays one; bounded before the power so that the branch not taken has a finite slope.
  return jnp.where(x <= POWER_FLOOR, 0.0, jnp.maximum(x, POWER_FLOOR) ** exponent)
