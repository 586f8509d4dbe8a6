"""Terms on a batch of latents: against loops in float64, closed forms and finite differences."""

import itertools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vae_jax import losses
from vae_jax.errors import UserError
from vae_jax.losses import batch as module

N = 50
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def normal(seed, *shape, scale=1.0):
  return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def posteriors(seed, b=6, d=3):
  mean, logvar = normal(seed, b, d), normal(seed + 1, b, d, scale=0.7) - 1
  return mean + np.exp(0.5 * logvar) * normal(seed + 2, b, d), mean, logvar


def decompose64(z, mean, logvar, examples):
  """Minibatch-weighted sampling as the paper writes it: sums of densities, row by row."""
  b, d = z.shape
  density = scipy.stats.norm(mean, np.exp(0.5 * logvar)).pdf
  information = correlation = dimensions = 0.0
  for i in range(b):
    each = density(z[i])  # of z_i under every posterior, [b, d]
    log_qz = math.log(sum(math.prod(row) for row in each) / (examples * b))
    log_product = sum(math.log(sum(each[:, k]) / (examples * b)) for k in range(d))
    information += (math.log(math.prod(each[i])) - log_qz) / b
    correlation += (log_qz - log_product) / b
    dimensions += (log_product - scipy.stats.norm.logpdf(z[i]).sum()) / b
  return information, correlation, dimensions


def dip64(mean, logvar, off_diagonal, diagonal, kind):
  covariance = np.cov(mean, rowvar=False, bias=True)
  if kind == "ii":
    covariance = covariance + np.diag(np.exp(logvar).mean(0))
  total = 0.0
  for i, row in enumerate(covariance):
    for j, value in enumerate(row):
      total += diagonal * (value - 1) ** 2 if i == j else off_diagonal * value**2
  return total


def mmd64(z, prior, kernel, scale):
  b, d = z.shape
  c = 2 * d * scale**2

  def k(x, y):
    square = float(np.sum((x - y) ** 2))
    return math.exp(-square / c) if kernel == "rbf" else sum(s * c / (s * c + square) for s in IMQ_SCALES)

  within = sum(k(x[i], x[j]) for x in (z, prior) for i in range(b) for j in range(b) if i != j)
  return within / (b * (b - 1)) - 2 * sum(k(x, y) for x in z for y in prior) / b**2


# name: (function of arrays, the same in float64, arrays)
TERMS = {
  "mutual_information": (
    lambda *a: losses.decompose_kl(*a, N).mutual_information,
    lambda *a: decompose64(*a, N)[0],
    posteriors(0),
  ),
  "total_correlation": (
    lambda *a: losses.total_correlation(*a, N),
    lambda *a: decompose64(*a, N)[1],
    posteriors(0),
  ),
  "dimension_wise_kl": (
    lambda *a: losses.decompose_kl(*a, N).dimension_wise_kl,
    lambda *a: decompose64(*a, N)[2],
    posteriors(0),
  ),
  "dip i": (
    lambda *a: losses.dip_penalty(*a, 3.0, 0.5),
    lambda *a: dip64(*a, 3.0, 0.5, "i"),
    posteriors(10)[1:],
  ),
  "dip ii": (
    lambda *a: losses.dip_penalty(*a, 3.0, 0.5, kind="ii"),
    lambda *a: dip64(*a, 3.0, 0.5, "ii"),
    posteriors(10)[1:],
  ),
  "mmd imq": (
    lambda *a: losses.mmd(*a, scale=1.5),
    lambda *a: mmd64(*a, "imq", 1.5),
    (normal(20, 5, 3, scale=2), normal(21, 5, 3)),
  ),
  "mmd rbf": (
    lambda *a: losses.mmd(*a, kernel="rbf", scale=0.5),
    lambda *a: mmd64(*a, "rbf", 0.5),
    (normal(20, 5, 3, scale=2), normal(21, 5, 3)),
  ),
}
each_term = pytest.mark.parametrize("term, truth, arrays", TERMS.values(), ids=TERMS)


def doubles(arrays):
  return [a.astype(np.float64) for a in arrays]


@each_term
def test_values_and_types(term, truth, arrays):
  expected = truth(*doubles(arrays))
  for value in (term(*arrays), jax.jit(term)(*arrays)):
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)
  half = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
  value = term(*half)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, truth(*(np.asarray(a, np.float64) for a in half)), rtol=2e-5, atol=2e-6)


@each_term
def test_gradients_against_finite_differences(term, truth, arrays):
  gradients = jax.jit(jax.grad(term, argnums=tuple(range(len(arrays)))))(*arrays)
  arrays = doubles(arrays)
  for which, gradient in enumerate(gradients):
    expected = np.zeros_like(arrays[which])
    for at in np.ndindex(*expected.shape):
      ends = []
      for step in (1e-5, -1e-5):
        moved = [a.copy() for a in arrays]
        moved[which][at] += step
        ends.append(truth(*moved))
      expected[at] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-6)


@each_term
def test_vmap_is_a_loop(term, truth, arrays):
  stacked = [np.stack([a, 0.5 * a, a[::-1] - 0.1]) for a in arrays]
  np.testing.assert_allclose(
    jax.vmap(term)(*stacked), [term(*row) for row in zip(*stacked, strict=True)], rtol=1e-5, atol=1e-6
  )


@each_term
def test_the_order_of_rows_and_latents_plays_no_part(term, truth, arrays):
  rows, latents = np.random.default_rng(0).permutation(len(arrays[0])), [2, 0, 1]
  for moved in ([a[rows] for a in arrays], [a[:, latents] for a in arrays]):
    np.testing.assert_allclose(term(*moved), term(*arrays), rtol=1e-5, atol=1e-6)


@each_term
def test_nan_is_not_swallowed(term, truth, arrays):
  for which in range(len(arrays)):
    spoilt = [a.copy() for a in arrays]
    spoilt[which][2, 1] = np.nan
    value = jax.jit(term)(*spoilt)
    if term is TERMS["dip i"][0] and which == 1:
      np.testing.assert_allclose(value, term(*arrays), rtol=1e-6)  # has no use for logvar
    else:
      assert np.isnan(value)


@each_term
def test_unfit_arrays_are_refused(term, truth, arrays):
  count = len(arrays)
  for which in range(count):
    for other in ((7, 3), (6, 1), (1, 3), (6,), ()):
      with pytest.raises(ValueError, match="differ"):
        term(*(np.zeros(other if i == which else (6, 3), np.float32) for i in range(count)))
    for kind in (np.int32, np.uint8, bool):
      with pytest.raises(ValueError, match="give floats"):
        term(*(a.astype(kind) if i == which else a for i, a in enumerate(arrays)))
  for shape in ((1, 3), (0, 3), (4, 0), (4,), (2, 4, 3), ()):
    with pytest.raises(ValueError, match="at least 2 examples"):
      term(*[np.zeros(shape, np.float32)] * count)


# --- the decomposition of KL ---


@pytest.mark.parametrize("examples", [1, 6, 60_000])
def test_terms_sum_to_the_monte_carlo_kl(examples):
  z, mean, logvar = posteriors(3)
  terms = losses.decompose_kl(z, mean, logvar, examples)
  z, mean, logvar = doubles((z, mean, logvar))
  log_ratio = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * logvar)) - scipy.stats.norm.logpdf(z)
  np.testing.assert_allclose(sum(terms), log_ratio.sum(-1).mean(), rtol=1e-5)
  np.testing.assert_array_equal(terms.total_correlation, losses.total_correlation(*posteriors(3), examples))


def test_examples_shift_the_terms_and_no_gradient():
  arrays = posteriors(4, d=4)
  one, many = losses.decompose_kl(*arrays, 1), losses.decompose_kl(*arrays, np.int64(1000))
  shift = math.log(1000)
  np.testing.assert_allclose(np.subtract(many, one), [shift, 3 * shift, -4 * shift], rtol=1e-5)
  slopes = [
    jax.grad(lambda z, n=n: losses.total_correlation(z, *arrays[1:], n))(arrays[0]) for n in (1, 1000)
  ]
  np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_stratified_densities_are_unbiased():
  """Over all batches that hold an example, with the others in any order: the mean over the data set, exactly."""
  f, b = np.random.default_rng(0).normal(size=5), 3
  weights = module.stratified_weights(b, len(f))
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
  for row in range(b):  # the place of the example in the batch
    for own in range(len(f)):
      found = []
      for others in itertools.permutations([i for i in range(len(f)) if i != own], b - 1):
        batch = [*others[:row], own, *others[row:]]
        found.append(weights[row] @ f[batch])
      np.testing.assert_allclose(np.mean(found), f.mean(), rtol=1e-6)


def test_stratified_terms_are_those_of_the_weighted_densities():
  z, mean, logvar = doubles(posteriors(5))
  b, n = len(z), N
  weights = [
    [1 / n if j == i else (n - b + 1) / (n * (b - 1)) if j == (i + 1) % b else 1 / (b - 1) for j in range(b)]
    for i in range(b)
  ]
  density = np.array([scipy.stats.norm(mean, np.exp(0.5 * logvar)).pdf(row) for row in z])  # [i, j, d]
  joint = np.log((weights * density.prod(-1)).sum(1))
  product = np.log((np.array(weights)[..., None] * density).sum(1)).sum(1)
  own = np.log(density.prod(-1).diagonal())
  expected = [
    (own - joint).mean(),
    (joint - product).mean(),
    (product - scipy.stats.norm.logpdf(z).sum(1)).mean(),
  ]
  terms = losses.decompose_kl(*posteriors(5), n, "stratified")
  np.testing.assert_allclose(terms, expected, rtol=1e-5)
  slopes = jax.grad(lambda z: losses.total_correlation(z, *posteriors(5)[1:], n, "stratified"))(
    posteriors(5)[0]
  )
  assert np.isfinite(slopes).all() and np.abs(slopes).max() > 0
  with pytest.raises(
    UserError, match="5 examples by batches of 6: give batches of at most 5, or the estimate"
  ):
    losses.decompose_kl(*posteriors(5), 5, "stratified")
  with pytest.raises(UserError, match="estimate 'statified' is unknown; did you mean 'stratified'"):
    losses.total_correlation(*posteriors(5), n, "statified")


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.95])
def test_total_correlation_of_a_correlated_gaussian(correlation):
  # Narrow posteriors at draws of a Gaussian: q(z) is nearly N(0, covariance + width^2), of known total correlation.
  random = np.random.default_rng(0)
  width, b = 0.25, 2000
  mean = random.multivariate_normal(np.zeros(2), [[1, correlation], [correlation, 1]], size=b)
  z = mean + width * random.normal(size=(b, 2))
  value = losses.total_correlation(z, mean, np.full((b, 2), 2 * math.log(width)), 1)
  smoothed = np.array([[1, correlation], [correlation, 1]]) + width**2 * np.eye(2)
  exact = -0.5 * np.linalg.slogdet(smoothed / smoothed[0, 0])[1]
  np.testing.assert_allclose(value, exact, atol=0.02)


def test_equal_posteriors_and_posteriors_apart():
  b, d = 5, 3
  z, zeros = normal(0, b, d), np.zeros((b, d), np.float32)
  terms = losses.decompose_kl(z, zeros, zeros, N)  # q(z | x) is the prior: only N is left
  np.testing.assert_allclose(
    terms, [math.log(N), (d - 1) * math.log(N), -d * math.log(N)], rtol=1e-5, atol=1e-5
  )
  apart = np.broadcast_to(np.arange(b, dtype=np.float32)[:, None], (b, d))
  terms = losses.decompose_kl(apart, apart, zeros - 12, N)  # none reaches another: the largest values
  np.testing.assert_allclose(terms[:2], [math.log(N * b), (d - 1) * math.log(N * b)], rtol=1e-5)
  for seed in range(20):
    terms = losses.decompose_kl(*posteriors(seed), N)
    assert terms.mutual_information <= math.log(N * 6) and terms.total_correlation <= 2 * math.log(N * 6)
  np.testing.assert_allclose(losses.total_correlation(*posteriors(0, d=1), N), 0, atol=1e-6)


@pytest.mark.parametrize("logvar", [-170.0, -100.0, -12.0, 8.0, 60.0])
def test_extreme_variances_stay_finite(logvar):
  mean = normal(0, 6, 3)
  value, slopes = jax.value_and_grad(losses.total_correlation, argnums=(0, 1, 2))(
    mean, mean, np.full((6, 3), logvar, np.float32), N
  )
  assert np.isfinite(value) and all(np.isfinite(s).all() for s in slopes)


@pytest.mark.parametrize("examples", [0, -1, 1.0, True, None, np.float32(3)])
def test_examples_are_counted(examples):
  with pytest.raises(ValueError, match="examples must be"):
    losses.total_correlation(*posteriors(0), examples)


# --- DIP ---


def test_dip_of_whitened_means_is_zero():
  mean = normal(0, 40, 3).astype(np.float64)
  mean -= mean.mean(0)
  mean = mean @ np.linalg.inv(np.linalg.cholesky(np.cov(mean, rowvar=False, bias=True))).T
  logvar = np.full_like(mean, math.log(0.25))
  np.testing.assert_allclose(losses.dip_penalty(mean + 7, logvar, 10.0, 5.0), 0, atol=1e-9)
  # "ii" counts the posterior's variance, too: 3 latents of 1 + 1/4, and 3 of 3/4 + 1/4.
  np.testing.assert_allclose(losses.dip_penalty(mean, logvar, 10.0, 5.0, "ii"), 5 * 3 / 16, rtol=1e-5)
  narrow = mean * math.sqrt(0.75)
  np.testing.assert_allclose(losses.dip_penalty(narrow, logvar, 10.0, 5.0, "ii"), 0, atol=1e-9)


def test_dip_weights():
  mean, logvar = posteriors(5)[1:]
  one, other = losses.dip_penalty(mean, logvar, 1.0, 0.0), losses.dip_penalty(mean, logvar, 0.0, 1.0)
  assert one > 0 and other > 0
  weighted = jax.jit(losses.dip_penalty)(mean, logvar, jnp.float32(2.0), np.float64(3.0))
  np.testing.assert_allclose(weighted, 2 * one + 3 * other, rtol=1e-6)
  assert not jax.grad(losses.dip_penalty, argnums=1)(mean, logvar, 1.0, 1.0).any()
  for weights in ((np.ones(3), 1.0), (1.0, np.ones(3))):
    with pytest.raises(ValueError, match=r"of shape \(3,\).* must be scalars"):
      losses.dip_penalty(mean, logvar, *weights)
  with pytest.raises(UserError, match="kind 'iii' is unknown; did you mean 'ii'"):
    losses.dip_penalty(mean, logvar, 1.0, 1.0, kind="iii")


# --- MMD ---


def gaussian_mmd(shift, sigma, d, c):
  """MMD^2 under exp(-r^2 / c) of N(shift, sigma^2) and N(0, 1), all [d]: the integral of a Gaussian by a Gaussian."""

  def kernel(variance, distance=0.0):  # the mean over differences from N(distance, variance)
    return (1 + 2 * variance / c) ** (-d / 2) * math.exp(-distance / (c + 2 * variance))

  return kernel(2 * sigma**2) + kernel(2) - 2 * kernel(sigma**2 + 1, d * shift**2)


@pytest.mark.parametrize("shift, sigma", [(0.0, 1.0), (0.8, 1.0), (0.3, 0.4)])
@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_of_gaussians_is_unbiased(kernel, shift, sigma):
  b, d, times = 4, 3, 20_000  # few rows, so that a biased statistic would be far off
  c = 2 * d
  if kernel == "rbf":
    expected = gaussian_mmd(shift, sigma, d, c)
  else:  # C / (C + r^2) is the integral of exp(-t) exp(-t r^2 / C) over t
    expected = sum(
      scipy.integrate.quad(lambda t, s=s: math.exp(-t) * gaussian_mmd(shift, sigma, d, s * c / t), 0, np.inf)[
        0
      ]
      for s in IMQ_SCALES
    )
  z, prior = shift + sigma * normal(1, times, b, d), normal(2, times, b, d)
  values = np.asarray(jax.jit(jax.vmap(lambda z, p: losses.mmd(z, p, kernel)))(z, prior), np.float64)
  error = values.std() / math.sqrt(times)
  assert abs(values.mean() - expected) < 4 * error
  assert error < 0.01
  if shift == 0.0 and sigma == 1.0:
    assert 0.4 < (values < 0).mean() < 0.8  # negative values are common, as documented


@pytest.mark.parametrize("kernel, peak", [("rbf", 1.0), ("imq", 7.0)])
def test_mmd_of_equal_and_of_distant_rows(kernel, peak):
  slope = jax.jit(jax.value_and_grad(lambda z, p: losses.mmd(z, p, kernel), argnums=(0, 1)))
  ones = np.ones((4, 3), np.float32)
  apart = np.arange(12, dtype=np.float32).reshape(4, 3) * 1e10
  for z, prior, expected in (
    (ones, ones, 0.0),
    (ones, -1e10 * ones, 2 * peak),
    (ones, 1e30 * ones, 2 * peak),
    (apart, apart, -2 * peak / 4),  # the same sample twice: only a row and its copy are near
  ):
    value, slopes = slope(z, prior)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(s).all() for s in slopes)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_of_infinite_rows_is_not_finite(kernel):
  z = normal(0, 4, 3)
  spoilt = z.copy()
  spoilt[1, 2] = np.inf
  assert np.isnan(losses.mmd(spoilt, z, kernel)) and np.isnan(losses.mmd(z, spoilt, kernel))


def test_mmd_is_symmetric_and_free_in_the_order_of_each_sample():
  z, prior = normal(0, 6, 2), normal(1, 6, 2)
  value = losses.mmd(z, prior)
  np.testing.assert_allclose(losses.mmd(prior, z), value, rtol=1e-5)
  np.testing.assert_allclose(losses.mmd(z[::-1], np.roll(prior, 2, axis=0)), value, rtol=1e-5)
  np.testing.assert_allclose(losses.mmd(3 * z, 3 * prior, scale=3.0), value, rtol=1e-5)
  # Near rows far from 0: a distance from dot products would be rounding.
  np.testing.assert_allclose(losses.mmd(z + 1024, prior + 1024), value, atol=2e-4)


def test_mmd_refuses_what_it_does_not_know():
  z = normal(0, 4, 2)
  for scale in (0.0, -1.0, math.nan, math.inf, np.ones(2)):
    with pytest.raises(ValueError, match="scale must be"):
      losses.mmd(z, z, scale=scale)
  with pytest.raises(UserError, match="kernel 'imk' is unknown; did you mean 'imq'"):
    losses.mmd(z, z, kernel="imk")


@pytest.mark.parametrize("name", ["decompose_kl", "total_correlation", "dip_penalty", "mmd"])
def test_annotations_resolve(name):
  hints = typing.get_type_hints(getattr(module, name))
  assert "return" in hints and len(hints) > 3
