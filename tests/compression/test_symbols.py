"""Discretised distributions: masses against SciPy's, their sum, their least, and what owns a number."""

import numpy as np
import pytest
from scipy import stats

from vae_jax import distributions as dist
from vae_jax.compression import Bernoulli, LatentGrid, LogisticMixture, Posterior
from vae_jax.compression.symbols import PRECISION, find, intervals
from vae_jax.distributions.likelihoods import mixture_parts
from vae_jax.errors import UserError

TOTAL = 2**PRECISION


def masses(symbols, j, n):
  """The numbers of all symbols of place j, [size, n]."""
  below = np.stack([symbols.below(j, np.full(n, k)) for k in range(symbols.size + 1)])
  assert (below[0] == 0).all() and (below[-1] == TOTAL).all()
  found = np.diff(below, axis=0)
  assert (found >= 1).all()
  return found


def mixture(random, n, c, m, spread=1.0):
  """Parameters of the likelihood for images [n, 2, 3, c], and as `LogisticMixture` takes them."""
  params = random.normal(size=(n, 2, 3, m * (1 + 2 * c + c * (c - 1) // 2))).astype(np.float32)
  params[..., m * (1 + c) : m * (1 + 2 * c)] *= spread  # log-scales
  logits, means, scales, coefficients = mixture_parts(params, c, m)
  pairs = np.zeros((n, 2, 3, c, c, m), np.float32)
  for (i, j), x in coefficients.items():
    pairs[..., i, j, :] = x
  stacked = (np.stack(x, axis=-2) for x in (means, scales))
  return params, (np.asarray(logits), *stacked, pairs)


def test_buckets_have_equal_mass_under_the_prior():
  grid = LatentGrid(10)
  np.testing.assert_allclose(np.diff(stats.norm.cdf(grid.edges)), 2**-10, rtol=1e-9)
  np.testing.assert_allclose(stats.norm.cdf(grid.centres), (np.arange(1024) + 0.5) / 1024, atol=1e-6)


def test_masses_of_a_posterior_are_those_of_a_normal():
  random, grid = np.random.default_rng(0), LatentGrid(8)
  mean, logvar = random.normal(size=(5, 3)), random.normal(size=(5, 3)) - 3
  posterior = Posterior(grid, mean, logvar)
  assert posterior.count == 3 and posterior.size == 256
  for j in range(3):
    expected = np.diff(stats.norm.cdf(grid.edges[:, None], mean[:, j], np.exp(0.5 * logvar[:, j])), axis=0)
    np.testing.assert_allclose(masses(posterior, j, 5) / TOTAL, expected, rtol=1e-4, atol=3 / TOTAL)


def test_masses_of_bits_are_those_of_a_bernoulli():
  logits = np.array([[-300.0, -3.0, 0.0, 1.0, 20.0, 300.0]])
  bits = Bernoulli(logits.reshape(1, 2, 3, 1))
  found = np.concatenate([masses(bits, j, 1) for j in range(6)], axis=1)
  expected = stats.bernoulli.pmf(np.array([[0], [1]]), 1 / (1 + np.exp(-logits[0])))
  np.testing.assert_allclose(found / TOTAL, expected, atol=1.5 / TOTAL)


def test_masses_of_grey_levels_are_those_of_a_mixture_of_logistics():
  random = np.random.default_rng(1)
  _, (logits, means, scales, pairs) = mixture(random, 4, 1, 3)
  pixels = LogisticMixture(logits, means, scales, pairs)
  edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
  for j in range(pixels.count):
    at = (slice(None), j // 3, j % 3)
    cdf = stats.logistic.cdf(edges[:, None, None], means[at][:, 0], np.exp(scales[at][:, 0]))
    weights = np.exp(logits[at]) / np.exp(logits[at]).sum(axis=-1, keepdims=True)
    expected = np.diff((weights * cdf).sum(axis=-1), axis=0)
    np.testing.assert_allclose(masses(pixels, j, 4) / TOTAL, expected, rtol=1e-4, atol=4 / TOTAL)
    pixels.known(j, np.zeros(4, np.int64))


@pytest.mark.parametrize(("c", "spread"), [(1, 1.0), (2, 1.0), (3, 1.0), (3, 3.0)])
def test_the_bits_of_images_are_those_of_the_likelihood(c, spread):
  """The channels' conditional masses multiply to the joint one of `distributions.logistic_mixture`."""
  random = np.random.default_rng(c)
  params, parts = mixture(random, 6, c, 4, spread)
  levels = random.integers(0, 256, (6, 2, 3, c))
  levels[:2] = [[[[0]]], [[[255]]]]
  _, frequency = intervals(LogisticMixture(*parts), levels.reshape(6, -1).T)
  likelihood = dist.logistic_mixture(c, 4)
  expected = np.asarray(likelihood.log_prob(params, (levels / 255).astype(np.float32), 0.0))
  rare = (frequency < 1000).any(axis=0)  # rounding to whole numbers changes these
  found = np.log(frequency / TOTAL).sum(axis=0)
  assert (~rare).sum() >= 2
  np.testing.assert_allclose(found[~rare], expected[~rare], rtol=2e-3)


def extreme(random):
  """Distributions at the edges of what networks give, with the number of their lanes."""
  _, parts = mixture(random, 3, 3, 2, spread=20.0)  # log-scales at the clamps -7 and 40
  parts[1][0], parts[0][1] = 1e6, [300.0, -300.0]
  mean, logvar = np.array([[-30.0, 0.0, 40.0]] * 3), np.array([[-20.0, -20.0, 10.0], [0, 0, 0], [5, 30, -60]])
  yield LogisticMixture(*parts)
  yield Posterior(LatentGrid(16), mean, logvar)
  yield Posterior(LatentGrid(1), mean, logvar)
  yield Bernoulli(1e30 * random.normal(size=(3, 2, 2, 1)))


def test_every_number_has_one_owner_whatever_the_parameters():
  random = np.random.default_rng(2)
  for symbols in extreme(random):
    for j in range(symbols.count):
      if symbols.size <= 256:
        masses(symbols, j, 3)
      for k in random.integers(0, TOTAL, (20, 3)) if j % 5 == 0 else [np.array([0, TOTAL // 2, TOTAL - 1])]:
        known, symbols.known = symbols.known, lambda *_: None
        value, start, frequency = find(symbols, j, k)
        symbols.known = known
        assert (start <= k).all() and (k < start + frequency).all()
        np.testing.assert_array_equal(start, symbols.below(j, value))
      symbols.known(j, value)


def test_the_decoder_sees_what_the_encoder_saw():
  """In order, channels that depend on earlier ones."""
  random = np.random.default_rng(3)
  _, parts = mixture(random, 5, 3, 4)
  values = random.integers(0, 256, (18, 5))
  start, frequency = intervals(LogisticMixture(*parts), values)
  decoder = LogisticMixture(*parts)
  for j in range(18):
    number = start[j] + random.integers(0, frequency[j])
    for found, wanted in zip(find(decoder, j, number), (values[j], start[j], frequency[j]), strict=True):
      np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
  x, grid = np.full((1, 2, 2, 1), bad), LatentGrid(4)
  with pytest.raises(UserError, match="not finite"):
    Bernoulli(x)
  with pytest.raises(UserError, match="not finite"):
    Posterior(grid, np.zeros((1, 1)), np.full((1, 1), bad))
  _, parts = mixture(np.random.default_rng(0), 1, 1, 2)
  parts[2][0, 0, 0, 0, 0] = bad
  with pytest.raises(UserError, match="not finite"):
    LogisticMixture(*parts)
