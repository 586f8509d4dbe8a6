"""Luma as the super-resolution literature scores it."""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax.checks import float_image
from vae_jax.types import Array, ArrayLike


def rgb_to_y(image: ArrayLike) -> Array:
  """Y of MATLAB's `rgb2ycbcr` (ITU-R BT.601, studio swing): [..., 3] in [0, 1] -> [..., 1].

  Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255, so black is 16 / 255 and white 235 / 255. Float32; nothing is
  rounded or clipped, where MATLAB rounds the Y of a uint8 image to a whole grey level. Raises ValueError where the
  last axis is not 3, and for integers.
  """
  if jnp.shape(image)[-1:] != (3,):
    raise ValueError(f"image of shape {jnp.shape(image)} has no luma; expected RGB, [..., 3]")
  red, green, blue = jnp.split(float_image(image), 3, axis=-1)
  return (16.0 + 65.481 * red + 128.553 * green + 24.966 * blue) / 255.0


def luma(image: ArrayLike) -> Array:
  """`rgb_to_y` of a colour image; a grey image is its own luma, as in MATLAB scripts: [..., 1 or 3] -> [..., 1].

  A grey image keeps its range, [0, 1]. Raises ValueError for another number of channels, and for integers.
  """
  return float_image(image) if jnp.shape(image)[-1:] == (1,) else rgb_to_y(image)
