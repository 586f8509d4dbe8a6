"""The kernel distance against loops over pairs."""

import itertools

import numpy as np
import pytest
from feature_sets import POOL, VGG, divisions, feature_set, gathered, legacy_sets
from hypothesis import given, settings

from vae_jax.metrics import FeatureSet, kernel_distance, kernel_distance_subsets
from vae_jax.metrics import kernel as module


def by_loops(x, y):
  """Equation 3 of Gretton et al. 2012, one pair at a time."""

  def k(a, b):
    return (float(np.dot(a, b)) / len(a) + 1) ** 3

  def within(z):
    n = len(z)
    return sum(k(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

  return within(x) + within(y) - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])


@pytest.mark.parametrize("block", [1, 4, 7, 1024])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (12, 19), (14, 14)])
def test_kernel_distance_is_that_of_loops(monkeypatch, block, m, n):
  monkeypatch.setattr(module, "BLOCK", block)
  rng = np.random.default_rng(m)
  x, y = rng.normal(size=(m, 6)).astype(np.float32), rng.gamma(2.0, size=(n, 6)).astype(np.float32)
  expected = by_loops(x.astype(np.float64), y.astype(np.float64))
  np.testing.assert_allclose(kernel_distance(feature_set(x), feature_set(y)), expected, rtol=1e-11)


@pytest.mark.parametrize(
  ("sizes", "expected"), [((0, 60, 50, 8), 0.2867758843582662), ((1, 200, 300, 32), 0.3190365921266678)]
)
def test_kernel_distance_is_that_of_torch_fidelity_and_clean_fid(sizes, expected):
  """kid_features_to_metric of torch-fidelity 0.4.0, and kernel_distance of clean-fid 0.1.35, on one subset of all.

  Both take subsets of equal size: here the first examples of the larger set.
  """
  count = min(sizes[1:3])
  real, fake = (feature_set(values[:count]) for values in legacy_sets(*sizes))
  np.testing.assert_allclose(kernel_distance(real, fake), expected, rtol=1e-9)


def test_subsets_of_many_pairs_are_those_of_few(monkeypatch):
  """Weights over all pairs, and one subset after the other; where there are more pairs in all, or fewer."""
  a, b = (feature_set(values) for values in legacy_sets(0, 60, 50, 8))
  weighted = kernel_distance_subsets(a, b, subsets=40, size=20)
  monkeypatch.setattr(module, "_weighted_mmd", lambda *args: pytest.fail("all pairs are taken"))
  first = kernel_distance_subsets(a, b, subsets=7, size=20)

  draws = np.random.default_rng(0)
  each = [[part.features[draws.choice(part.count, 20, replace=False)] for part in (a, b)] for _ in range(40)]
  by_hand = [kernel_distance(*map(feature_set, pair)) for pair in each]
  np.testing.assert_allclose(weighted, (np.mean(by_hand), np.std(by_hand)), rtol=1e-10)
  np.testing.assert_allclose(first, (np.mean(by_hand[:7]), np.std(by_hand[:7])), rtol=1e-12)


def test_kernel_distance_is_unbiased():
  """Ten examples of each, averaged over many draws, give the closed form for two Gaussians in one dimension."""
  rng = np.random.default_rng(0)
  shift = 0.5
  values = [
    kernel_distance(
      feature_set(rng.normal(size=(10, 1)), POOL), feature_set(rng.normal(size=(10, 1)) + shift, POOL)
    )
    for _ in range(3000)
  ]
  # E (xy + 1)^3 = E x^3 E y^3 + 3 E x^2 E y^2 + 3 E x E y + 1 for independent x and y; moments of N(mean, 1).
  moments = {mean: np.array([1, mean, 1 + mean**2, mean**3 + 3 * mean]) for mean in (0.0, shift)}
  difference = moments[0.0] - moments[shift]
  expected = (np.array([1, 3, 3, 1]) * difference**2).sum()
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values) - expected) < 4 * error and error < 0.2
  assert min(values) < 0  # and so it may be negative


@given(divisions(24), divisions(24))
@settings(max_examples=40, deadline=None)
def test_kernel_distances_do_not_depend_on_batches_padding_and_order(division, other):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=(24, 3)).astype(np.float32)
  a = gathered(FeatureSet(VGG), x, **division, indexed=True)
  b = gathered(FeatureSet(VGG), y, **other, indexed=True)
  assert a.count == 24
  np.testing.assert_array_equal(a.features, x)
  assert kernel_distance(a, b) == kernel_distance(feature_set(x), feature_set(y))
  found = kernel_distance_subsets(a, b, subsets=3, size=7)
  assert found == kernel_distance_subsets(feature_set(x), feature_set(y), subsets=3, size=7)


def test_subsets():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) * 1.5
  a, b = feature_set(x), feature_set(y)
  exact = kernel_distance(a, b)
  mean, deviation = kernel_distance_subsets(a, b, subsets=2000, size=15)
  assert deviation > 0
  assert abs(mean - exact) < 4 * deviation / np.sqrt(2000)
  assert kernel_distance_subsets(a, b, subsets=5, size=15) == kernel_distance_subsets(
    a, b, subsets=5, size=15
  )
  other = kernel_distance_subsets(a, b, subsets=5, size=15, seed=1)
  assert other != kernel_distance_subsets(a, b, subsets=5, size=15)
  # Subsets of all examples differ in their order only, and one subset does not deviate from itself.
  whole = kernel_distance_subsets(a, feature_set(y.repeat(2, 0)[:40]), subsets=4, size=40)
  np.testing.assert_allclose(whole, (kernel_distance(a, feature_set(y.repeat(2, 0)[:40])), 0), atol=1e-12)
  assert kernel_distance_subsets(a, b, subsets=1, size=15)[1] == 0


def test_deviation_is_that_of_the_subsets():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 20, 3)).astype(np.float32).astype(np.float64)
  draws = np.random.default_rng(7)
  values = []
  for _ in range(6):
    first = draws.choice(20, 5, replace=False)
    values.append(by_loops(x[first], y[draws.choice(20, 5, replace=False)]))
  found = kernel_distance_subsets(feature_set(x), feature_set(y), subsets=6, size=5, seed=7)
  np.testing.assert_allclose(found, (np.mean(values), np.std(values)), rtol=1e-10)
