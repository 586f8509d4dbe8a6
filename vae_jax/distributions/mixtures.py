"""Mixtures of diagonal Gaussians: densities and draws, in nats."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from vae_jax.distributions.latents import LOG_2PI
from vae_jax.distributions.stable import as_float32
from vae_jax.types import Array, ArrayLike


class Mixture(NamedTuple):
  """sum_k weight_k N(mean_k, diag exp(logvar_k)): log_weights [k], exponentials sum to 1; means and logvars [k, d]."""

  log_weights: Array
  means: Array
  logvars: Array


def mixture_log_prob(mixture: Mixture, z: ArrayLike) -> Float[Array, " *n"]:
  """log sum_k weight_k N(z; mean_k, diag exp(logvar_k)) in nats: [..., d] -> [...]. ValueError where shapes differ.

  The squares are written out, so that they are two products of matrices: [..., k, d] is never held. Rounding is that of
  the sum of (z - centre)^2 / variance, with the centre of all means.
  """
  weights, means, logvars = (as_float32(x) for x in mixture)
  z = as_float32(z)
  if means.ndim != 2 or means.shape != logvars.shape or weights.shape != means.shape[:1] or not z.ndim:
    raise ValueError(f"a mixture of weights {weights.shape}, means {means.shape}, logvars {logvars.shape}")
  if z.shape[-1] != means.shape[1]:
    raise ValueError(f"a mixture of means {means.shape} does not fit values {z.shape}")
  centre = jax.lax.stop_gradient(means.mean(axis=0))  # any centre gives the same density
  rows = z.reshape(-1, z.shape[-1]) - centre[None]
  means, precision = means - centre[None], jnp.exp(-logvars)
  squares = jnp.matmul(jnp.square(rows), precision.T, precision="highest")
  squares -= 2.0 * jnp.matmul(rows, (means * precision).T, precision="highest")
  rest = (jnp.square(means) * precision + logvars + LOG_2PI).sum(axis=-1)
  joint = weights[None] - 0.5 * (squares + rest[None])
  return jax.nn.logsumexp(joint, axis=-1).reshape(z.shape[:-1])


def component(log_weights: Float[Array, " k"], choice: Float[Array, "*n"]) -> Int[Array, "*n"]:
  """The component that a number in [0, 1) chooses, by the weights in their order: k numbers -> 0 to k - 1."""
  return jnp.searchsorted(jnp.cumsum(jnp.exp(log_weights))[:-1], choice, side="right")


def mixture_sample(
  mixture: Mixture, choice: Float[Array, " n"], eps: Float[Array, "n d"], temperature: ArrayLike | float = 1.0
) -> Float[Array, "n d"]:
  """Draws: a component by its weight, then mean + temperature * sigma * eps. So at temperature 0 these are means.

  choice: uniform in [0, 1), chooses the component. eps: standard normal.
  """
  weights, choice = as_float32(mixture.log_weights), as_float32(choice)
  chosen = component(weights, choice)
  lost = jnp.isnan(choice + weights.sum())  # a search would make a component of NaN
  sigma = jnp.exp(0.5 * as_float32(mixture.logvars)[chosen])
  drawn = as_float32(mixture.means)[chosen] + temperature * sigma * as_float32(eps)
  return jnp.where(lost[:, None], jnp.nan, drawn)
