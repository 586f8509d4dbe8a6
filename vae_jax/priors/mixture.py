"""A mixture of Gaussians of full covariance, fitted by EM (Dempster, Laird & Rubin 1977).

The start is that of k-means++ (Arthur & Vassilvitskii 2007): each further centre is a latent drawn in proportion to its
squared distance from the nearest centre so far. Each latent then belongs to its nearest centre.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Float

from vae_jax.distributions.mixtures import component
from vae_jax.errors import UserError
from vae_jax.priors import MOST_COMPONENTS
from vae_jax.priors.base import Fit, floor
from vae_jax.priors.gaussian import GaussianPrior
from vae_jax.types import Array, ArrayLike, Key

MOST_ITERATIONS, LEAST_GAIN = 200, 1e-4  # EM ends when an iteration gains less, in nats a latent vector


@flax.struct.dataclass
class MixturePrior:
  """sum_k weight_k N(mean_k, cholesky_k cholesky_k^T).

  log_weights: float32 [k], exponentials sum to 1. means: [k, d]. choleskys: [k, d, d], as in `GaussianPrior`.
  """

  log_weights: Array
  means: Array
  choleskys: Array

  @property
  def kind(self) -> str:
    return "mixture"

  @property
  def words(self) -> str:
    return f"mixture of {len(self.log_weights)} component{'s' * (len(self.log_weights) > 1)}"

  @property
  def units(self) -> int:
    return self.means.shape[-1]

  def noise(self, key: Key) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    """Uniform noise that chooses the component, and standard normal noise, for one example."""
    choice, normal = jax.random.split(key)
    return (
      jax.random.uniform(choice, (), jnp.float32),
      jax.random.normal(normal, (self.units,), jnp.float32),
    )

  def transform(
    self, noise: tuple[Float[Array, " n"], Float[Array, "n d"]], temperature: Any = 1.0
  ) -> Float[Array, "n d"]:
    """A component by its weight, then a draw from it. The temperature scales the deviation from the component's mean;
    the weights stay, so at 0 these are means of components."""
    choice, normal = noise
    chosen = component(self.log_weights, choice)
    deviation = jnp.einsum("nij,nj->ni", self.choleskys[chosen], normal, precision="highest")
    return self.means[chosen] + temperature * deviation

  def log_prob(self, z: ArrayLike) -> Float[Array, " n"]:
    """Log density in nats, [n, d] -> [n]."""
    each = jax.vmap(lambda mean, cholesky: GaussianPrior(mean, cholesky).log_prob(z))
    joint = each(self.means, self.choleskys) + self.log_weights[:, None]
    return jax.nn.logsumexp(joint, axis=0)


class Moments(NamedTuple):
  """A mixture in float64: weights [k], means [k, d], covariances [k, d, d]."""

  weights: np.ndarray
  means: np.ndarray
  covariances: np.ndarray


def start(z: Float[np.ndarray, "n d"], components: int, seed: int) -> Float[np.ndarray, "n k"]:
  """Which component each latent belongs to at first, as ones and zeros. Raises UserError for too few different ones."""
  random = np.random.default_rng(seed)
  chosen = [int(random.integers(len(z)))]
  distances = [np.square(z - z[chosen[0]]).sum(axis=1)]
  while len(chosen) < components:
    nearest = np.min(distances, axis=0)
    if not nearest.any():
      raise UserError(
        f"components = {components}: the latents have {len(chosen)} different values; give at most as many components"
      )
    chosen.append(int(random.choice(len(z), p=nearest / nearest.sum())))
    distances.append(np.square(z - z[chosen[-1]]).sum(axis=1))
  return np.eye(components)[np.argmin(distances, axis=0)]


def maximise(
  z: Float[np.ndarray, "n d"], responsibilities: Float[np.ndarray, "n k"], least: float
) -> Moments:
  """The M step: the moments of each component's share of the latents. least: is added to each variance."""
  shares = responsibilities.sum(axis=0) + 10 * np.finfo(np.float64).eps  # a component may have lost all
  means = responsibilities.T @ z / shares[:, None]
  covariances = np.empty((len(shares), z.shape[1], z.shape[1]))
  for k, mean in enumerate(means):
    centred = z - mean
    covariances[k] = (responsibilities[:, k, None] * centred).T @ centred / shares[k]
    covariances[k].flat[:: z.shape[1] + 1] += least
  return Moments(shares / shares.sum(), means, covariances)


def expect(z: Float[np.ndarray, "n d"], moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  """The E step: the log density of each latent vector [n], and each component's share in it [n, k]."""
  joint = np.empty((len(z), len(moments.weights)))
  for k, (weight, mean, covariance) in enumerate(zip(*moments, strict=True)):
    cholesky = np.linalg.cholesky(covariance)
    normal = scipy.linalg.solve_triangular(cholesky, (z - mean).T, lower=True)
    volume = np.log(np.diagonal(cholesky)).sum() + 0.5 * z.shape[1] * np.log(2 * np.pi)
    joint[:, k] = np.log(weight) - 0.5 * np.square(normal).sum(axis=0) - volume
  total = scipy.special.logsumexp(joint, axis=1)
  return total, np.exp(joint - total[:, None])


def fit_mixture(
  z: Float[np.ndarray, "n d"], components: int, seed: int, progress: Callable[[int, int], object]
) -> Fit:
  """EM until an iteration gains less than `LEAST_GAIN` nats a latent vector, at most `MOST_ITERATIONS` times.

  facts: components, iterations, converged, gain (of the last iteration, in nats), smallest (latents that the smallest
  component stands for). Raises UserError for more components than latents.
  """
  if (
    isinstance(components, bool) or not isinstance(components, int) or not 1 <= components <= MOST_COMPONENTS
  ):
    raise UserError(f"components = {str(components)[:80]}: must be an integer from 1 to {MOST_COMPONENTS}")
  if components > len(z):
    raise UserError(
      f"components = {components} for the latents of {len(z)} images; give at most as many components as images"
    )
  least, before, gain = floor(z), -np.inf, np.inf
  moments = maximise(z, start(z, components, seed), least)
  for done in range(1, MOST_ITERATIONS + 1):
    progress(done - 1, MOST_ITERATIONS)
    total, responsibilities = expect(z, moments)
    gain, before = float(total.mean() - before), float(total.mean())
    if gain < LEAST_GAIN:
      break
    moments = maximise(z, responsibilities, least)
  progress(MOST_ITERATIONS, MOST_ITERATIONS)
  converged, smallest = gain < LEAST_GAIN, float(moments.weights.min() * len(z))
  return Fit(
    _in_float32(moments),
    {
      "components": components,
      "iterations": done,
      "converged": converged,
      "gain": gain if np.isfinite(gain) else None,
      "smallest": smallest,
    },
    tuple(_remarks(converged, gain, smallest, z.shape[1])),
  )


def _remarks(converged: bool, gain: float, smallest: float, units: int) -> list[str]:
  remarks = []
  if not converged:
    remarks.append(
      f"EM stopped after {MOST_ITERATIONS} iterations, the last of which gained {gain:.2g} nats: it has not converged"
    )
  if smallest <= units:
    remarks.append(
      f"the smallest component stands for {smallest:.1f} images, too few for a covariance of {units} latents; "
      "fewer components may fit better"
    )
  return remarks


def _in_float32(moments: Moments) -> MixturePrior:
  return MixturePrior(
    jnp.asarray(np.log(moments.weights), jnp.float32),
    jnp.asarray(moments.means, jnp.float32),
    jnp.asarray(np.linalg.cholesky(moments.covariances), jnp.float32),
  )
