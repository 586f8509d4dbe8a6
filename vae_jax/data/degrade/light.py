"""Curves between stored values and light, and rounding to 8 bits. Arrays of any shape, float32 out.

Curves go on below 0 as they are above it, with the other sign, so that noise is not cut off; no slope is infinite.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vae_jax.types import Array, ArrayLike

TOE = 1e-3  # a quarter of a grey level: below it, `gamma` is a straight line


def gamma(values: ArrayLike, power: float | Array) -> Array:
  """values ** power; a straight line within 0.001 of 0, where the slope of a root has no limit."""
  values = jnp.asarray(values, jnp.float32)
  size = jnp.abs(values)
  curve = jnp.sign(values) * jnp.maximum(size, TOE) ** power
  return jnp.where(size < TOE, values * jnp.float32(TOE) ** (power - 1.0), curve)


def srgb_to_linear(values: ArrayLike) -> Array:
  """Light, for white = 1, of sRGB values (IEC 61966-2-1)."""
  values = jnp.asarray(values, jnp.float32)
  size = jnp.abs(values)
  curve = jnp.sign(values) * ((jnp.maximum(size, 0.04045) + 0.055) / 1.055) ** 2.4
  return jnp.where(size <= 0.04045, values / 12.92, curve)


def linear_to_srgb(values: ArrayLike) -> Array:
  """The sRGB values (IEC 61966-2-1) of light, for white = 1; the inverse of `srgb_to_linear`."""
  values = jnp.asarray(values, jnp.float32)
  size = jnp.abs(values)
  curve = jnp.sign(values) * (1.055 * jnp.maximum(size, 0.0031308) ** (1 / 2.4) - 0.055)
  return jnp.where(size <= 0.0031308, values * 12.92, curve)


def round_to_8_bits(values: ArrayLike) -> Array:
  """Clips to [0, 1] and rounds to multiples of 1/255. The gradient is 1 everywhere (straight through)."""
  values = jnp.asarray(values, jnp.float32)
  return straight_through(values, jnp.round(255 * jnp.clip(values, 0, 1)) / 255)


def straight_through(values: Array, changed: Array) -> Array:
  """`changed`, with the gradient of `values`."""
  return jax.lax.stop_gradient(changed) + (values - jax.lax.stop_gradient(values))
