"""Clusters of features by k-means, and how well clusters agree with labels.

Features are [n, d], labels and clusters [n] whole numbers. All raise ValueError for other shapes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax.errors import UserError
from vae_jax.generator import standard
from vae_jax.metrics.counts import entropy, information
from vae_jax.progress import followed
from vae_jax.types import Array, ArrayLike

RESTARTS, MOST_ITERATIONS = 10, 300  # of k-means, and of Lloyd's algorithm in each


class KMeans(NamedTuple):
  """centres: float32 [k, d]. inertia: the sum of squared distances of examples from their nearest centre.
  iterations: of the best start. converged: whether its last iteration moved no example."""

  centres: Float[np.ndarray, "k d"]
  inertia: float
  iterations: int
  converged: bool

  def nearest(self, features: ArrayLike) -> Int[np.ndarray, " n"]:
    """The cluster of each of features [n, d]: the number of its nearest centre."""
    middle = self.centres.mean(axis=0)
    x = jnp.asarray(np.asarray(features, np.float32) - middle)
    return np.asarray(_nearest(x, jnp.asarray(self.centres - middle)))


@standard()
def kmeans(
  features: ArrayLike, k: int, *, seed: int = 0, restarts: int = RESTARTS, what: str = "features"
) -> KMeans:
  """k centres of features [n, d] with a small sum of squared distances, by Lloyd's algorithm (Lloyd 1982).

  Protocol: the best of 10 starts by k-means++ (Arthur & Vassilvitskii 2007), with at most 300 iterations each. A
  centre that has lost all examples stays where it is. Features are taken as they are, not standardised.

  Args:
    seed: of the starts.
    what: the features in words, for errors and the progress on standard error.

  Raises UserError: fewer examples than k, or fewer different ones; features that are not finite.
  """
  x = np.asarray(features, np.float32)
  if x.ndim != 2 or 0 in x.shape or k < 1 or restarts < 1:
    raise ValueError(
      f"features {list(x.shape)}, k = {k}, restarts = {restarts}; give [n, d], n > 0, and 1 or more"
    )
  if bad := int(np.sum(~np.isfinite(x).all(axis=1))):
    raise UserError(f"the {what} of {bad} of {len(x)} examples are not finite (nan or inf)")
  if len(x) < k:
    raise UserError(f"{len(x)} examples are fewer than the {k} clusters; give more examples")
  # Squares of large numbers would lose their digits.
  middle = x.mean(axis=0, dtype=np.float64).astype(np.float32)
  data, random = jnp.asarray(x - middle), np.random.default_rng(seed)
  best: KMeans | None = None
  for _ in followed(range(restarts), restarts, f"clustering {what}"):
    found = _lloyd(data, _start(data, k, random, what))
    if best is None or found.inertia < best.inertia:
      best = found
  assert best is not None, "there is a start"
  return best._replace(centres=best.centres + middle)


def clustering_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
  """The share of examples whose label is that of their cluster, by the best one-to-one assignment of labels to clusters
  (Xie et al. 2016, arXiv:1511.06335, eq. 10), in (0, 1].

  Clusters beyond the number of labels get none, so their examples count as wrong. The assignment is chosen on the
  examples that are scored, so that clusters by chance score more than 1 / k on few examples.
  """
  from scipy.optimize import linear_sum_assignment  # takes long to import

  a, b = _numbered(clusters, labels)
  counts = np.zeros((a.max() + 1, b.max() + 1), np.int64)
  np.add.at(counts, (a, b), 1)
  return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(a))


def normalized_mutual_information(clusters: ArrayLike, labels: ArrayLike) -> float:
  """The mutual information of clusters and labels over the mean of their entropies, by counts, in [0, 1].

  The normalisation is the arithmetic mean (Vinh et al. 2010, JMLR 11, table 2, NMI_sum). 1 where both have one value
  alone, as scikit-learn has it.
  """
  a, b = _numbered(clusters, labels)
  mean = (entropy(np.bincount(a) / len(a)) + entropy(np.bincount(b) / len(b))) / 2
  return min(information(a, b) / mean, 1.0) if mean else 1.0


def _numbered(clusters: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Both as places among their values."""
  a, b = np.asarray(clusters), np.asarray(labels)
  if a.ndim != 1 or a.shape != b.shape or not len(a):
    raise ValueError(f"clusters {list(a.shape)} and labels {list(b.shape)}; give [n] of both, n > 0")
  return np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]


# Lloyd's algorithm


def _start(x: Array, k: int, random: np.random.Generator, what: str) -> Float[Array, "k d"]:
  """Each further centre is an example drawn in proportion to its squared distance from the nearest centre so far."""
  chosen = [int(random.integers(len(x)))]
  least = np.full(len(x), np.inf)
  while len(chosen) < k:
    least = np.minimum(least, np.asarray(_squares(x, x[chosen[-1]][None]), np.float64))
    if not least.any():
      raise UserError(
        f"the {what} of {len(x)} examples have {len(chosen)} different values, fewer than {k} clusters"
      )
    chosen.append(int(random.choice(len(x), p=least / least.sum())))
  return x[jnp.asarray(chosen)]


def _lloyd(x: Array, centres: Array) -> KMeans:
  """From centres to the nearest optimum."""
  centres, assigned, iterations, moved = _iterated(x, centres)
  inertia = float(np.sum(np.asarray(_squares(x, centres[assigned]), np.float64)))
  return KMeans(np.asarray(centres), inertia, int(iterations), not bool(moved))


@jax.jit
def _iterated(x: Array, centres: Array) -> tuple[Array, Array, Array, Array]:
  """Centres, the cluster of each example, the number of iterations, and whether the last one moved an example."""

  def goes_on(state: tuple[Array, Array, Array, Array]) -> Array:
    return state[3] & (state[2] < MOST_ITERATIONS)

  def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    centres, before, done, _ = state
    members = jax.nn.one_hot(before, len(centres), dtype=x.dtype)
    counts = members.sum(axis=0)[:, None]
    sums = jnp.matmul(members.T, x, precision="highest")
    centres = jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), centres)
    assigned = _nearest(x, centres)
    return centres, assigned, done + 1, jnp.any(assigned != before)

  return jax.lax.while_loop(goes_on, step, (centres, _nearest(x, centres), jnp.int32(0), jnp.bool_(True)))


@jax.jit
def _nearest(x: Array, centres: Array) -> Int[Array, " n"]:
  """The number of the nearest centre of each example; of equal distances the first."""
  products = jnp.matmul(x, centres.T, precision="highest")
  return jnp.argmin(jnp.sum(jnp.square(centres), axis=1)[None] - 2 * products, axis=1).astype(jnp.int32)


@jax.jit
def _squares(x: Array, centres: Array) -> Float[Array, " n"]:
  """Squared distances of examples [n, d] from a centre each, or from one, [1, d]."""
  return jnp.sum(jnp.square(x - centres), axis=1)
