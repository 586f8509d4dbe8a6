"""From images in a stated range to what a network was trained on; the one place where features are normalised."""

from __future__ import annotations

import math

import jax.numpy as jnp

from vae_jax.checks import extent
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
SLACK = 0.25  # overshoot passes; images in [-1, 1] or 0..255 do not


def _rgb(values: tuple[float, float, float]) -> Array:
  return jnp.array(values).reshape(1, 1, 1, 3)


PREPROCESSING = {
  "imagenet": lambda x: (x - _rgb(IMAGENET_MEAN)) / _rgb(IMAGENET_STD),
  "caffe": lambda x: 255.0 * x[..., ::-1] - _rgb(CAFFE_MEAN),
  "signed": lambda x: 2.0 * x - 1.0,
}


def check(images: ArrayLike, value_range: tuple[float, float]) -> None:
  """Raises UserError unless images are [b, h, w, 1 or 3], floating, and about in `value_range`.

  Values are not looked at where a transformation (jit, grad, vmap, ...) traces the images.
  """
  shape, (low, high) = jnp.shape(images), value_range
  if len(shape) != 4 or shape[-1] not in (1, 3):
    raise UserError(f"images of shape {shape}: feature networks take [b, h, w, 3], or one grey channel")
  if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
    raise UserError(f"images of type {jnp.result_type(images)}: give floats in {value_range}, as uint8 / 255")
  if not high > low:
    raise UserError(f"value_range = {value_range} is empty; give (lowest, highest), as in (0.0, 1.0)")
  found = extent(images)
  if found is None:
    return
  if math.isnan(found.mean):
    raise UserError("images have values that are not finite (nan or inf)")
  slack = SLACK * (high - low)
  if not (found.low > low - slack and found.high < high + slack):
    raise UserError(
      f"images with values from {found.low:g} to {found.high:g} are not in {value_range}; say their value_range"
    )


def preprocess(images: ArrayLike, value_range: tuple[float, float], how: str) -> Array:
  """Images [b, h, w, 1 or 3] in `value_range` -> float32 [b, h, w, 3], normalised as `how` says.

  imagenet: minus the mean and over the standard deviation of ImageNet's RGB values (torchvision; LPIPS, whose
  constants for [-1, 1] are the same map). caffe: BGR in 0..255 minus the mean (Keras's VGG and ResNet-50). signed:
  [-1, 1] (Inception). One grey channel is repeated. Raises UserError as `check`, and for an unknown name.
  """
  check(images, value_range)
  if how not in PREPROCESSING:
    raise UserError(f"preprocessing {how!r} is unknown{nearest(how, PREPROCESSING, what='ways')}")
  low, high = value_range
  x = (jnp.asarray(images, jnp.float32) - low) / (high - low)
  return PREPROCESSING[how](jnp.broadcast_to(x, (*x.shape[:-1], 3)))
