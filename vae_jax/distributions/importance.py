"""The importance-weighted bound of Burda et al. 2016, of all samples at once or in constant memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.distributions.stable import as_float32
from vae_jax.types import Array, ArrayLike


def iwae_bound(log_weights: ArrayLike, axis: int = 0) -> Array:
  """log (1/K) sum_k exp(log_weights_k) over `axis`, in nats (Burda et al. 2016, eq. 8). ValueError for K = 0."""
  log_weights = as_float32(log_weights)
  if not log_weights.shape[axis]:
    raise ValueError(f"log_weights of shape {log_weights.shape} have no samples on axis {axis}")
  return jax.nn.logsumexp(log_weights, axis=axis) - math.log(log_weights.shape[axis])


class StreamingLogSumExp(NamedTuple):
  """A log-sum-exp over terms that come one by one, in constant memory. Both parts have equal shape.

  `total` is the sum of exp(term - maximum). The state of no terms is (-inf, 0), with value -inf.
  """

  maximum: Array
  total: Array


def streaming_logsumexp_init(shape: tuple[int, ...]) -> StreamingLogSumExp:
  """The state before any term."""
  return StreamingLogSumExp(jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.float32))


def streaming_logsumexp_update(state: StreamingLogSumExp, term: ArrayLike) -> StreamingLogSumExp:
  """The state with one more `term` of the state's shape; terms of -inf add nothing."""
  term = as_float32(term)
  if term.shape != state.maximum.shape:
    raise ValueError(f"term of shape {term.shape} does not fit a state of shape {state.maximum.shape}")
  maximum = jax.lax.stop_gradient(jnp.maximum(state.maximum, term))
  shift = jnp.where(jnp.isinf(maximum), 0.0, maximum)
  return StreamingLogSumExp(maximum, state.total * jnp.exp(state.maximum - shift) + jnp.exp(term - shift))


def streaming_logsumexp_value(state: StreamingLogSumExp) -> Array:
  """The log-sum-exp so far. Subtract log K for the IWAE bound of K terms."""
  shift = jnp.where(jnp.isinf(state.maximum), 0.0, state.maximum)
  return shift + jnp.log(state.total)
