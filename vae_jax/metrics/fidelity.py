"""How close a picture is to its reference, per image: [..., h, w, c] in [0, 1]. Arithmetic is float32."""

from __future__ import annotations

import jax.numpy as jnp

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

  Protocol: data range 1, nothing cropped, clipped or rounded to grey levels, no luma conversion. The error is
    floored
  at 1e-10, so identical images score 100 dB, with gradient 0, in place of infinity.
  """
  return -10.0 * jnp.log10(jnp.maximum(mse(prediction, target), MSE_FLOOR))


def _difference(prediction: ArrayLike, target: ArrayLike) -> Array:
  if jnp.ndim(target) < 3 or jnp.shape(prediction) != jnp.shape(target):
    raise ValueError(
      f"prediction of shape {jnp.shape(prediction)} and target of shape {jnp.shape(target)} "
      "must be equal, [..., h, w, c]"
    )
  return jnp.asarray(prediction, jnp.float32) - jnp.asarray(target, jnp.float32)
