"""Checks of what callers pass in. They also work while JAX traces a program, where arrays have no values to look at."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.types import Array, ArrayLike


class Extent(NamedTuple):
  """The values of an array at a glance; all three are NaN where a value is not finite."""

  low: float
  high: float
  mean: float


def concrete(*values: object) -> bool:
  """Whether these have values that can be looked at: False for what jit, grad, vmap or scan are tracing."""
  return not any(isinstance(value, jax.core.Tracer) for value in values)


def extent(values: ArrayLike | float) -> Extent | None:
  """Least, greatest and mean value. None where there is nothing to look at: a traced array, or an empty one.

  A constant inside a traced program is looked at, as outside. Finiteness is tested by itself: on CPUs, jaxlib 0.10
  loses NaN in max and min.
  """
  if not concrete(values) or 0 in np.shape(values):
    return None
  if not isinstance(values, jax.Array):
    return _as_extent(_summary(np, np.asarray(values)))
  with jax.ensure_compile_time_eval():
    return _as_extent(_summarised(values))


def float_image(image: ArrayLike) -> Array:
  """float32. Raises ValueError for integers, as 0..255 would be scored as if white were 1, and for complex numbers."""
  kind = jnp.result_type(image)
  if not jnp.issubdtype(kind, jnp.floating) and kind != jnp.bool_:
    raise ValueError(
      f"image of type {kind} and shape {jnp.shape(image)}: give float in [0, 1]; divide uint8 by 255"
    )
  return jnp.asarray(image, jnp.float32)


def _summary(numpy, values):
  return numpy.isfinite(values).all(), values.min(), values.max(), values.mean(dtype=numpy.float32)


_summarised = jax.jit(lambda values: _summary(jnp, values))


def _as_extent(summary) -> Extent:
  finite, *values = summary
  return Extent(*map(float, values)) if finite else Extent(*[float("nan")] * 3)
