"""The energy distance between two sets of vectors: how far two distributions are apart, from draws of both."""

from __future__ import annotations

import numpy as np

from vae_jax.types import ArrayLike

BLOCK = 512  # rows of the matrix of distances at a time


def energy_distance(a: ArrayLike, b: ArrayLike) -> float:
  """2 E|x - y| - E|x - x'| - E|y - y'| of Euclidean distances (Szekely & Rizzo 2013), 0 only for equal distributions.

  The unbiased estimate: pairs of a row with itself do not count, so it is negative about as often as not where the
  distributions agree. In the unit of the vectors. `scipy.stats.energy_distance` is the square root of the biased
  estimate, for numbers.

  Args:
    a, b: [n, d] and [m, d], n and m at least 2; on the host, in float64.

  Returns:
    nan where a value is not finite.

  Raises:
    ValueError: other shapes.
  """
  x, y = (np.asarray(rows).astype(np.float64) for rows in (a, b))
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
    raise ValueError(f"sets of shape {x.shape} and {y.shape}; give [n, d] and [m, d] with n, m >= 2")
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    return float("nan")
  n, m = len(x), len(y)
  within = _sum(x, x) / (n * (n - 1)) + _sum(y, y) / (m * (m - 1))
  return float(2.0 * _sum(x, y) / (n * m) - within)


def _sum(x: np.ndarray, y: np.ndarray) -> float:
  """The sum of the distances of all pairs of rows."""
  from scipy.spatial.distance import cdist

  return sum(float(cdist(x[i : i + BLOCK], y).sum()) for i in range(0, len(x), BLOCK))
