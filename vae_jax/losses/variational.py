"""The terms of variational bounds, per example."""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax import distributions as dist
from vae_jax.types import Array, ArrayLike


def negative_elbo(
  distortion: ArrayLike, rate: ArrayLike, alpha: ArrayLike | float = 1.0, beta: ArrayLike | float = 1.0
) -> Array:
  """alpha * distortion + beta * rate, in nats: [...] and [...] -> [...].

  At alpha = beta = 1 it is the negative evidence bound; at another beta, the loss of the beta-VAE (Higgins et
  al. 2017), which is not a bound where beta < 1. alpha and beta are scalars.
  """
  if jnp.shape(distortion) != jnp.shape(rate):
    raise ValueError(
      f"distortion of shape {jnp.shape(distortion)} and rate of shape {jnp.shape(rate)} differ"
    )
  if jnp.ndim(alpha) or jnp.ndim(beta):
    raise ValueError(f"alpha of shape {jnp.shape(alpha)} and beta of shape {jnp.shape(beta)} must be scalars")
  alpha, beta, distortion, rate = (jnp.asarray(x, jnp.float32) for x in (alpha, beta, distortion, rate))
  return alpha * distortion + beta * rate


def kl_gaussian(mean: ArrayLike, logvar: ArrayLike) -> Array:
  """KL(N(mean, exp(logvar)) || N(0, 1)) summed over latents, in nats: [..., d] each -> [...]."""
  if jnp.shape(mean) != jnp.shape(logvar):
    raise ValueError(f"mean of shape {jnp.shape(mean)} and logvar of shape {jnp.shape(logvar)} differ")
  return jnp.sum(dist.kl_standard_normal(dist.Gaussian(jnp.asarray(mean), jnp.asarray(logvar))), axis=-1)


def free_bits(kl_units: ArrayLike, nats: ArrayLike | float) -> Array:
  """sum_j max(nats, kl_j) of each example, in nats: [..., d] -> [...]. A unit below `nats` is pressed no further.

  Kingma et al. 2016 (eq. 15) compare the threshold with KLs averaged over the minibatch (`free_bits_of_batch`); here it
  is compared for each example, so that the loss stays a mean of per-example terms and does not depend on how a batch is
  divided. Its mean is never below theirs, and equal where all examples of a unit are on one side of the threshold.
  `nats` is a scalar; at 0 the result is the plain rate. The gradient is 0 at the threshold.
  """
  if jnp.ndim(nats):
    raise ValueError(f"nats must be a scalar; got shape {jnp.shape(nats)} for kl_units {jnp.shape(kl_units)}")
  return jnp.sum(dist.at_least(jnp.asarray(kl_units, jnp.float32), jnp.asarray(nats, jnp.float32)), axis=-1)


def iwae_loss(log_weight: ArrayLike) -> Array:
  """Negative importance-weighted bound over axis 0, in nats: [s, ...] -> [...] (Burda et al. 2016, eq. 8)."""
  return -dist.iwae_bound(_sampled(log_weight), axis=0)


def miwae_loss(log_weight: ArrayLike, groups: int) -> Array:
  """Negative mean bound of `groups` groups of samples, in nats: [s, ...] -> [...] (MIWAE, Rainforth et al. 2018).

  ValueError where the number of groups does not divide the samples.
  """
  return -dist.miwae_bound(_sampled(log_weight), groups)


def ciwae_loss(log_weight: ArrayLike, elbo_share: float) -> Array:
  """Negative mix of the evidence bound, with the weight `elbo_share`, and the importance-weighted one, in nats:
  [s, ...] -> [...] (CIWAE, Rainforth et al. 2018). ValueError for a share outside [0, 1], and for no samples."""
  return -dist.ciwae_bound(_sampled(log_weight), elbo_share)


def _sampled(log_weight: ArrayLike) -> ArrayLike:
  """The log weights. Raises ValueError where they have no samples."""
  if jnp.ndim(log_weight) < 1 or jnp.shape(log_weight)[0] < 1:
    raise ValueError(f"log_weight of shape {jnp.shape(log_weight)} has no samples on axis 0")
  return log_weight
