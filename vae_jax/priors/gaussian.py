"""One Gaussian of full covariance."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.priors.base import Fit, few, floor
from vae_jax.types import Array, ArrayLike, Key


@flax.struct.dataclass
class GaussianPrior:
  """N(mean, cholesky cholesky^T).

  mean: float32 [d]. cholesky: float32 [d, d], lower triangular, its diagonal above 0.
  """

  mean: Array
  cholesky: Array

  @property
  def kind(self) -> str:
    return "gaussian"

  @property
  def words(self) -> str:
    return "gaussian"

  @property
  def units(self) -> int:
    return self.mean.shape[-1]

  def noise(self, key: Key) -> Float[Array, " d"]:
    """Standard normal noise for one example."""
    return jax.random.normal(key, (self.units,), jnp.float32)

  def transform(self, noise: Float[Array, "n d"], temperature: Any = 1.0) -> Float[Array, "n d"]:
    """mean + temperature * cholesky noise: the temperature scales all deviations from the mean."""
    return self.mean[None] + temperature * jnp.matmul(noise, self.cholesky.T, precision="highest")

  def standardised(self, z: ArrayLike) -> Float[Array, "n d"]:
    """The noise that `transform` makes z of: cholesky^-1 (z - mean)."""
    centred = jnp.asarray(z, jnp.float32) - self.mean[None]
    return solve_triangular(self.cholesky, centred.T, lower=True).T

  @property
  def log_volume(self) -> Array:
    """log |det cholesky|, by which `transform` at temperature 1 enlarges volumes."""
    return jnp.log(jnp.diagonal(self.cholesky)).sum()

  def log_prob(self, z: ArrayLike) -> Float[Array, " n"]:
    """Log density in nats, [n, d] -> [n]."""
    return standard_normal_log_prob(self.standardised(z)) - self.log_volume


def gaussian_of(mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]) -> GaussianPrior:
  """The Gaussian of these moments, which are float64; the covariance is regular."""
  cholesky = np.linalg.cholesky(covariance)
  return GaussianPrior(jnp.asarray(mean, jnp.float32), jnp.asarray(cholesky, jnp.float32))


def fit_gaussian(z: Float[np.ndarray, "n d"]) -> Fit:
  """The Gaussian of the latents' mean and covariance (maximum likelihood), its variances a millionth larger."""
  centred = z - z.mean(axis=0)
  covariance = centred.T @ centred / len(z) + floor(z) * np.eye(z.shape[1])
  return Fit(gaussian_of(z.mean(axis=0), covariance), {}, few(z))
