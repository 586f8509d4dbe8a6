"""The importance-weighted bound of Burda et al. 2016, its relatives, and a gradient of it that is less noisy.

All bounds are of log weights log p(x, z_k) - log q(z_k | x), in nats, over axis 0 unless said otherwise. Rainforth et
al. 2018 is "Tighter variational bounds are not necessarily better", arXiv:1802.04537.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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


def dreg_bound(log_weights: ArrayLike, axis: int = 0) -> Array:
  """`iwae_bound`, whose gradient has the squares of the normalised weights: sum_k w_k^2 grad log w_k.

  Where the log weights depend on the encoder through z_k alone, this is its doubly reparameterised gradient (Tucker et
  al. 2019, arXiv:1810.04152): unbiased, and its signal-to-noise ratio grows with K. Other parameters need `iwae_bound`.
  """
  log_weights = as_float32(log_weights)
  iwae_bound(log_weights, axis)  # ValueError for K = 0
  return _squared(axis, log_weights)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _squared(axis: int, log_weights: Array) -> Array:
  return iwae_bound(log_weights, axis)


@_squared.defjvp
def _squared_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
  weights = jax.nn.softmax(primals[0], axis=axis)
  return _squared(axis, *primals), (jnp.square(weights) * tangents[0]).sum(axis=axis)


Bound = Callable[..., Array]  # (log_weights, axis) -> the bound


def miwae_bound(log_weights: ArrayLike, groups: int, bound: Bound = iwae_bound) -> Array:
  """The mean of the bounds of M groups of K samples: [M K, ...] -> [...] (MIWAE, Rainforth et al. 2018).

  groups: M; with 1 it is IWAE, with as many as samples the evidence bound. bound: of a group. ValueError where M does
  not divide the samples.
  """
  log_weights = as_float32(log_weights)
  count = log_weights.shape[0]
  if groups < 1 or count % groups:
    raise ValueError(f"{groups} groups of {count} samples: the number of groups must divide the samples")
  return bound(log_weights.reshape(groups, count // groups, *log_weights.shape[1:]), axis=1).mean(axis=0)


def ciwae_bound(log_weights: ArrayLike, elbo_share: float, bound: Bound = iwae_bound) -> Array:
  """share * evidence bound + (1 - share) * importance-weighted bound: [K, ...] -> [...] (CIWAE, Rainforth et al. 2018).

  bound: the importance-weighted one. ValueError for a share that is not in [0, 1].
  """
  if not 0 <= elbo_share <= 1:
    raise ValueError(f"elbo_share = {elbo_share} must be from 0 to 1")
  log_weights = as_float32(log_weights)
  return elbo_share * log_weights.mean(axis=0) + (1 - elbo_share) * bound(log_weights, axis=0)


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
