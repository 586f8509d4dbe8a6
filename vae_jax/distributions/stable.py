"""Small functions that the densities share: float32 arithmetic whose gradients are finite."""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax.types import Array, ArrayLike


def as_float32(x: ArrayLike | float) -> Array:
  """`x` as float32."""
  return jnp.asarray(x, jnp.float32)


def absolute(x: Array) -> Array:
  """|x| with gradient 0 at 0, where that of `jnp.abs` is 1. Zero is common: the logit of a fresh decoder."""
  return x * jnp.sign(x)


def safe_sqrt(x: Array) -> Array:
  """Square root of x >= 0 with gradient 0 at 0; what is below float32's least normal number counts as 0."""
  zero = (
    x < jnp.finfo(jnp.float32).tiny
  )  # so that no slope overflows, whether or not a device knows subnormals
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))
