"""The kernel distance between two sets of features, and the KID: that distance on the Inception network.

It is unbiased at any number of examples, and so can be negative.
"""

from __future__ import annotations

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import FID_LAYER, FeatureSet, check_dimensions, check_inception, check_same
from vae_jax.progress import followed

BLOCK = 1024  # examples a side of one tile of the kernel matrix


def kernel_distance(a: FeatureSet, b: FeatureSet) -> float:
  """The squared maximum mean discrepancy over all pairs, kernel (x.y / d + 1)^3 (Gretton et al. 2012, equation 3).

  The unbiased estimate: right on average at any number of examples, and so negative about as often as not where the
  two distributions agree. Time grows as the square of the counts; memory does not.

  Returns:
    nan where a feature is not finite.

  Raises:
    UserError: protocols or dimensions differ; fewer than two examples; an example added twice.
  """
  return _mmd(*_pair(a, b, at_least=2))


def kernel_distance_subsets(
  a: FeatureSet, b: FeatureSet, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
  """(mean, standard deviation) of `kernel_distance` over `subsets` pairs of random subsets of `size` examples each.

  A subset is drawn without replacement, and independently of the others. The mean is unbiased as `kernel_distance`
  is. The deviation (over `subsets`, as numpy.std) is that of one subset's value: it says how much a value from
  `size` examples varies, not how far the mean is from the truth.

  Raises:
    UserError: as `kernel_distance`; fewer than `size` examples; size < 2 or subsets < 1.
  """
  if size < 2 or subsets < 1:
    raise UserError(f"{subsets} subsets of {size} examples: give at least 1 subset of 2")
  x, y = _pair(a, b, at_least=size)
  rng = np.random.default_rng(seed)
  drawn = [tuple(rng.choice(len(part), size, replace=False) for part in (x, y)) for _ in range(subsets)]
  # Many subsets of few examples have their pairs in common.
  if len(x) ** 2 + len(y) ** 2 < 2 * subsets * size**2:
    weights = np.zeros((len(x), subsets)), np.zeros((len(y), subsets))
    for s, chosen in enumerate(drawn):
      for weight, rows in zip(weights, chosen, strict=True):
        weight[rows, s] = 1.0
    values = _weighted_mmd(x, y, *weights)
  else:
    values = np.array([_mmd(x[i], y[j]) for i, j in drawn])
  with np.errstate(invalid="ignore"):
    return float(np.mean(values)), float(np.std(values))


def kernel_distances_without(
  a: FeatureSet, b: FeatureSet, groups: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
  """Computes `kernel_distance` of all examples, and of what is left without each group of them, in one pass.

  groups: for each example of a and of b, in the order of their indices, the number of its group in 0 .. g - 1.

  Returns:
    float64 [1 + g], the first of all examples, the others without group 0, 1, ...; nan without two examples of each.

  Raises:
    UserError: as `kernel_distance`.
  """
  x, y = _pair(a, b, at_least=2)
  g = int(max(part.max() for part in groups)) + 1
  return _weighted_mmd(x, y, *((part[:, None] != np.arange(-1, g)).astype(np.float64) for part in groups))


def kid(a: FeatureSet, b: FeatureSet, *, seed: int = 0) -> tuple[float, float]:
  """The kernel inception distance (Binkowski et al. 2018): (mean, deviation) over 100 subsets of 1000 examples.

  `kernel_distance_subsets` on the Inception pool features only. Raises as it does; UserError for any other network
  or layer.
  """
  check_inception(a.protocol, FID_LAYER, "kid", "call kernel_distance, and do not call the result KID")
  return kernel_distance_subsets(a, b, subsets=100, size=1000, seed=seed)


def _pair(a: FeatureSet, b: FeatureSet, at_least: int) -> tuple[np.ndarray, np.ndarray]:
  check_same(a, b)
  fewest = min(a.count, b.count)
  if fewest < at_least:
    raise UserError(
      f"a set of {fewest} examples, but {at_least} are needed; add some, or draw smaller subsets"
    )
  x, y = a.features, b.features
  check_dimensions(x.shape[1], y.shape[1])
  return x, y


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  m, n = len(x), len(y)
  with np.errstate(invalid="ignore", over="ignore"):
    return float(
      _kernel_within(x) / (m * (m - 1))
      + _kernel_within(y) / (n * (n - 1))
      - 2 * _kernel_between(x, y) / (m * n)
    )


def _weighted_mmd(x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """The estimate [s] of the rows of x and y with weight 1 in each column of u [m, s] and v [n, s]; others have 0."""
  m, n = u.sum(axis=0), v.sum(axis=0)
  rows = list(zip(_blocks(x), _blocks(u), strict=True))
  with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
    between = np.zeros(len(m))
    for block, weights in followed(rows, len(rows), "kernel distance, between the sets"):
      between += _weighted_between(block, y, weights, v)
    return (
      _weighted_within(x, u) / (m * (m - 1)) + _weighted_within(y, v) / (n * (n - 1)) - 2 * between / (m * n)
    )


def _weighted_between(x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Sums the kernel, times both weights, over all pairs of x [m, d] and y [n, d]: [s]."""
  total = np.zeros(u.shape[1])
  for left, weights in zip(_blocks(x), _blocks(u), strict=True):
    left = left.astype(np.float64)
    for right, others in zip(_blocks(y), _blocks(v), strict=True):
      total += np.einsum("bs,bs->s", weights, _kernel(left, right.astype(np.float64)) @ others)
  return total


def _weighted_within(x: np.ndarray, u: np.ndarray) -> np.ndarray:
  """Sums the kernel, times both weights, over all ordered pairs of different rows of x [m, d]: [s]."""
  total, rows = np.zeros(u.shape[1]), list(zip(_blocks(x), _blocks(u), strict=True))
  for i, (block, weights) in enumerate(followed(rows, len(rows), "kernel distance, within a set")):
    left, after = block.astype(np.float64), (i + 1) * BLOCK
    own = _kernel(left, left)
    np.fill_diagonal(own, 0.0)
    total += np.einsum("bs,bs->s", weights, own @ weights)
    total += 2 * _weighted_between(block, x[after:], weights, u[after:])
  return total


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  k = x @ y.T
  k /= x.shape[1]
  k += 1
  return k * k * k


def _blocks(x: np.ndarray) -> list[np.ndarray]:
  return [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]


def _kernel_between(x: np.ndarray, y: np.ndarray) -> float:
  """The sum of the kernel over all pairs of x [m, d] and y [n, d], in float64."""
  total = 0.0
  for left in _blocks(x):
    left = left.astype(np.float64)
    total += sum(float(_kernel(left, right.astype(np.float64)).sum()) for right in _blocks(y))
  return total


def _kernel_within(x: np.ndarray) -> float:
  """The sum of the kernel over all ordered pairs of different rows of x [m, d], in float64."""
  total = 0.0
  for i, block in enumerate(_blocks(x)):
    left = block.astype(np.float64)
    own = _kernel(left, left)
    np.fill_diagonal(own, 0.0)
    total += float(own.sum()) + 2 * _kernel_between(left, x[(i + 1) * BLOCK :])
  return total
