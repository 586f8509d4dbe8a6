"""The Frechet distance against scipy's matrix root and cases with a known value."""

import numpy as np
import pytest
import scipy.linalg
from feature_sets import gaussian, legacy_sets, random_covariance, statistics
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.errors import UserError
from vae_jax.metrics import frechet_distance


def by_sqrtm(mean_a, cov_a, mean_b, cov_b):
  root = scipy.linalg.sqrtm(cov_a @ cov_b)
  return np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * np.real(root))


@pytest.mark.parametrize("d", [1, 2, 7, 40])
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_frechet_is_that_of_sqrtm(d, condition):
  rng = np.random.default_rng(d)
  for scale in (1e-6, 1.0, 1e6):
    mean_a, mean_b = rng.normal(size=(2, d)) * np.sqrt(scale)
    cov_a, cov_b = (scale * random_covariance(rng, d, condition) for _ in range(2))
    expected = by_sqrtm(mean_a, cov_a, mean_b, cov_b)
    found = frechet_distance(gaussian(mean_a, cov_a), gaussian(mean_b, cov_b))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_frechet_of_features_is_that_of_sqrtm():
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(2, 20, 20))
  a, b = (np.abs(rng.normal(size=(n, 20)) @ m) for n, m in zip((300, 500), mix, strict=True))
  expected = by_sqrtm(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
  np.testing.assert_allclose(frechet_distance(statistics(a), statistics(b)), expected, rtol=1e-9)


@pytest.mark.parametrize(
  ("sizes", "expected"), [((0, 60, 50, 8), 1.875827863506002), ((1, 200, 300, 32), 7.348598890136067)]
)
def test_frechet_is_that_of_torch_fidelity_and_clean_fid(sizes, expected):
  """fid_statistics_to_metric of torch-fidelity 0.4.0 and frechet_distance of clean-fid 0.1.35, equal to 1e-14."""
  real, fake = legacy_sets(*sizes)
  np.testing.assert_allclose(frechet_distance(statistics(real), statistics(fake)), expected, rtol=1e-9)


def test_frechet_of_diagonal_covariances():
  rng = np.random.default_rng(1)
  sigma_a, sigma_b = rng.uniform(0, 3, size=(2, 16))
  sigma_a[:4], sigma_b[2:6] = 0.0, 0.0  # degenerate directions: of one, of both, of the other
  mean = rng.normal(size=16)
  found = frechet_distance(gaussian(mean, np.diag(sigma_a**2)), gaussian(0 * mean, np.diag(sigma_b**2)))
  np.testing.assert_allclose(found, (mean**2).sum() + ((sigma_a - sigma_b) ** 2).sum(), rtol=1e-12)


def test_frechet_of_commuting_covariances():
  rng = np.random.default_rng(2)
  axes = np.linalg.qr(rng.normal(size=(30, 30)))[0]
  a, b = rng.uniform(0.1, 5, size=(2, 30))
  found = frechet_distance(
    gaussian(np.zeros(30), axes * a @ axes.T), gaussian(np.zeros(30), axes * b @ axes.T)
  )
  np.testing.assert_allclose(found, ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rtol=1e-11)


def test_frechet_counts_small_variances():
  # Each small variance of one side lies in a large one of the other: without it the result is 2 * 1e-5 * 8 higher.
  axes = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0]
  a = np.repeat([1.0, 1e-10], 8)
  found = frechet_distance(
    gaussian(np.zeros(16), axes * a @ axes.T), gaussian(np.zeros(16), axes * a[::-1] @ axes.T)
  )
  np.testing.assert_allclose(found, 16 * (1 - 1e-5) ** 2, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 63, 200])
def test_frechet_of_few_examples(n):
  """S_b = 4 S_a, of rank n - 1 < d = 64: the distance is |difference of means|^2 + Tr S_a."""
  values = np.random.default_rng(n).normal(size=(n, 64)) + 5
  a, b = statistics(values), statistics(2 * values)
  expected = np.square(values.mean(0)).sum() + np.cov(values, rowvar=False).trace()
  np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)
  np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-10)
  again = statistics(values[:1]).update(values[1:])
  assert 0 <= frechet_distance(a, again) < 1e-10 * expected


def test_frechet_of_singular_covariances_with_orthogonal_ranges():
  # sqrtm of a product that is zero up to rounding has no digits; here the answer is exact: both traces.
  axes = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
  a, b = axes[:, :100] @ axes[:, :100].T, axes[:, 100:] @ axes[:, 100:].T
  found = frechet_distance(gaussian(np.zeros(200), a), gaussian(np.zeros(200), 3 * b))
  np.testing.assert_allclose(found, 400, rtol=1e-11)


@given(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6), st.integers(-30, 30))
@settings(max_examples=80, deadline=None)
def test_frechet_is_finite_symmetric_and_never_negative(d, n, m, seed, exponent):
  rng = np.random.default_rng(seed)
  a = (rng.integers(-2, 3, size=(n, d)) * 10.0**exponent).astype(np.float32)  # often of low rank, or constant
  b = (rng.integers(-2, 3, size=(m, d)) * 10.0**exponent).astype(np.float32)
  there = frechet_distance(statistics(a), statistics(b))
  back = frechet_distance(statistics(b), statistics(a))
  scale = float(np.square(a.astype(np.float64)).sum() + np.square(b.astype(np.float64)).sum())
  assert np.isfinite(there) and there >= 0
  assert abs(there - back) <= 1e-6 * scale
  assert frechet_distance(statistics(a), statistics(a)) <= 1e-12 * scale


@pytest.mark.slow
def test_frechet_of_few_examples_in_2048_dimensions():
  values = np.random.default_rng(0).exponential(size=(300, 2048)).astype(np.float32)
  expected = (
    np.square(values.astype(np.float64).mean(0)).sum() + values.astype(np.float64).var(0, ddof=1).sum()
  )
  np.testing.assert_allclose(
    frechet_distance(statistics(values), statistics(2 * values)), expected, rtol=1e-9
  )


def test_frechet_of_numbers_that_overflow_is_not_zero():
  """inf - inf is nan, of which Python's max(0.0, nan) makes 0: equal sets."""
  wide = gaussian(np.zeros(200), 1e306 * np.eye(200))
  assert np.isnan(frechet_distance(wide, wide))


def test_frechet_refuses():
  rng = np.random.default_rng(0)
  a = statistics(rng.normal(size=(9, 3)))
  with pytest.raises(UserError, match="features of 3 and of 2 dimensions"):
    frechet_distance(a, statistics(rng.normal(size=(9, 2))))
  with pytest.raises(UserError, match="1 examples have no covariance"):
    frechet_distance(a, statistics(rng.normal(size=(1, 3))))
  with pytest.raises(UserError, match="variances from -1 to 1 is none"):
    frechet_distance(a, gaussian(np.zeros(3), np.diag([1.0, -1.0, 1.0])))
