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


def magnitude(x: Array) -> Array:
  """|x| with slope 1 at 0: for even functions of x that are smooth there, whose every derivative it then gets right."""
  return jnp.where(x < 0.0, -x, x)


def at_least(x: Array, low: ArrayLike | float) -> Array:
  """The larger of x and `low`, with gradient 0 where they are equal. NaN in either stays NaN.

  `jnp.maximum` does not promise that: on CPUs, jaxlib 0.10 loses NaN in it where a sum or mean follows.
  """
  return jnp.where((x <= low) | jnp.isnan(low), low, x)


def safe_sqrt(x: Array) -> Array:
  """Square root of x >= 0 with gradient 0 at 0; what is below float32's least normal number counts as 0."""
  zero = (
    x < jnp.finfo(jnp.float32).tiny
  )  # so that no slope overflows, whether or not a device knows subnormals
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))
