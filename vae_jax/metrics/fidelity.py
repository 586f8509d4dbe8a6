"""How close a picture is to its reference, per image: [..., h, w, c] in [0, 1]. Arithmetic is float32."""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax.checks import float_image
from vae_jax.distributions import at_least
from vae_jax.metrics.colour import luma
from vae_jax.types import Array, ArrayLike

MSE_FLOOR = 1e-10  # 100 dB


def mse(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Mean squared error over h, w, c: [..., h, w, c] -> [...]. Raises ValueError where the shapes differ."""
  return jnp.mean(jnp.square(_difference(prediction, target)), axis=(-3, -2, -1))


def mae(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Mean absolute error over h, w, c: [..., h, w, c] -> [...]. Raises ValueError where the shapes differ."""
  return jnp.mean(jnp.abs(_difference(prediction, target)), axis=(-3, -2, -1))


def psnr_rgb(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Peak signal-to-noise ratio, dB per image: -10 log10(mse over h, w, c); [..., h, w, c] -> [...].

  Protocol: data range 1, nothing cropped, clipped or rounded to grey levels, no luma conversion. The error is floored
  at 1e-10, so identical images score 100 dB, with gradient 0, in place of infinity.
  """
  return -10.0 * jnp.log10(at_least(mse(prediction, target), MSE_FLOOR))


def psnr_y(prediction: ArrayLike, target: ArrayLike, crop: int = 0) -> Array:
  """PSNR of luma, dB per image, as in papers on super-resolution: [..., h, w, 3 or 1] -> [...].

  Protocol: Y of MATLAB's `rgb2ycbcr` (`colour.rgb_to_y`; a grey image is its own luma), `crop` pixels shaved off
  each border (papers: the scale factor), data range 1, floor as in `psnr_rgb`. Y spans 219 of the 255 levels, so a
  colour image with equal errors in R, G and B scores 1.32 dB above `psnr_rgb`.

  Papers score 8-bit files. Nothing is rounded here: the caller passes `jnp.round(255 * jnp.clip(x, 0, 1)) / 255`.
  MATLAB rounds the Y of uint8 images too; for that, pass `jnp.round(255 * rgb_to_y(x)) / 255`, one channel.

  Raises ValueError where the shapes differ, for channels other than 3 or 1, and where `crop` leaves nothing.
  """
  prediction, target = image_pair(prediction, target)
  return psnr_rgb(luma(shave(prediction, crop)), luma(shave(target, crop)))


def image_pair(prediction: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
  """Both in float32. Raises ValueError unless they are images of floats, [..., h, w, c], of one shape, with pixels."""
  if jnp.ndim(target) < 3 or jnp.shape(prediction) != jnp.shape(target):
    raise ValueError(
      f"prediction of shape {jnp.shape(prediction)} and target of shape {jnp.shape(target)} "
      "must be equal, [..., h, w, c]"
    )
  if 0 in jnp.shape(target)[-3:]:
    raise ValueError(f"images of shape {jnp.shape(target)} have no pixels")
  return float_image(prediction), float_image(target)


def shave(image: Array, crop: int, least: int = 1) -> Array:
  """Without a border of `crop` pixels: [..., h, w, c] -> [..., h - 2 crop, w - 2 crop, c].

  Raises ValueError where `crop` is negative or leaves a side below `least`.
  """
  h, w = image.shape[-3:-1]
  if crop < 0 or min(h, w) - 2 * crop < least:
    raise ValueError(
      f"crop={crop} of images of {h} x {w} pixels: it must be 0 or more and leave at least {least} x {least}"
    )
  return image[..., crop : h - crop, crop : w - crop, :]


def _difference(prediction: ArrayLike, target: ArrayLike) -> Array:
  prediction, target = image_pair(prediction, target)
  return prediction - target
