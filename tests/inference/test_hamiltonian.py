"""Chains against a posterior that is known: probabilistic PCA, some of its values observed; and R-hat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax.inference import hamiltonian
from vae_jax.inference.hamiltonian import phases, potential_scale, run_chains

N = 4000
RANDOM = np.random.default_rng(1)
W, X, SIGMA = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=3), 0.3
PRIOR = np.array([0.5, 2.0])  # deviations of z
COVARIANCE = np.linalg.inv(np.diag(PRIOR**-2) + W.T @ W / SIGMA**2)
MEAN = COVARIANCE @ W.T @ X / SIGMA**2


def log_density(z):
  w, x, deviations = (jnp.asarray(a, jnp.float32) for a in (W, X, PRIOR))
  error = x[None] - z @ w.T
  return -0.5 * jnp.square(z / deviations[None]).sum(-1), -0.5 * jnp.square(error / SIGMA).sum(-1)


def chains(key, steps, density=log_density, n=N, scale=PRIOR):
  scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32)[None], (n, 2))
  start = scale * jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
  return jax.jit(lambda keys: run_chains(density, start, scale, keys, steps))(jax.random.split(key, n))


@pytest.fixture(scope="module")
def found():
  return chains(jax.random.key(0), 60)


def test_ends_of_chains_have_the_mean_and_covariance_of_the_posterior(found):
  """Chains are independent, so the errors of moments over them are those of independent draws."""
  z = np.asarray(found.z, np.float64)
  errors = (z.mean(axis=0) - MEAN) / np.sqrt(np.diag(COVARIANCE) / N)
  assert np.abs(errors).max() < 4.5
  variances = np.diag(COVARIANCE)
  spread = np.sqrt((np.outer(variances, variances) + COVARIANCE**2) / N)  # of an entry of the covariance
  assert np.abs((np.cov(z.T) - COVARIANCE) / spread).max() < 4.5
  whitened = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (z - MEAN).T)
  for direction in whitened:  # a Gaussian, not only one of these moments
    assert scipy.stats.kstest(direction, "norm").pvalue > 1e-4


def test_what_is_said_of_a_chain_is_true(found):
  expected = log_density(found.z)[1]
  np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-4, atol=1e-4)
  assert 0.6 < found.acceptance.mean() <= 1
  means = np.asarray(found.means)
  np.testing.assert_allclose(means.mean(axis=1), [MEAN, MEAN], atol=0.1)
  rhat = potential_scale(found.means[:, :, None], found.variances[:, :, None], 60)
  assert rhat.shape == (1,) and 1 <= rhat[0] < 1.5


def test_the_kept_moves_leave_the_posterior_as_it_is_with_leaps_of_any_size(monkeypatch):
  """Leaps far too long: most moves are refused, and the density is the same. Without the test it would be another."""
  monkeypatch.setattr(hamiltonian, "GAIN", 0.0)
  monkeypatch.setattr(hamiltonian, "FIRST", 0.19)
  monkeypatch.setattr(hamiltonian, "LEAPS", 2)
  result = chains(jax.random.key(3), 400, n=1500)
  z = np.asarray(result.z, np.float64)
  assert 0.1 < result.acceptance.mean() < 0.97
  assert np.abs((z.mean(axis=0) - MEAN) / np.sqrt(np.diag(COVARIANCE) / 1500)).max() < 4.5
  ratios = z.var(axis=0) / np.diag(COVARIANCE)
  assert np.abs(ratios - 1).max() < 4.5 * np.sqrt(2 / 1500)


def test_kept_moves_are_accepted_as_often_as_they_should_be():
  """Sizes become those of the target, from far below and from far above it."""
  for scale in (0.05, 20.0):
    found = chains(jax.random.key(4), 300, n=100, scale=scale * PRIOR)
    assert abs(float(found.acceptance.mean()) - hamiltonian.TARGET) < 0.1


def test_a_chain_depends_on_its_own_key_alone():
  keys = jax.random.split(jax.random.key(2), 3)
  scale = jnp.ones((3, 2))
  start = jax.random.normal(jax.random.key(5), (3, 2))
  whole = run_chains(log_density, start, scale, keys, 20)
  alone = run_chains(log_density, start[1:2], scale[:1], keys[1:2], 20)
  np.testing.assert_allclose(alone.z[0], whole.z[1], rtol=1e-4, atol=1e-5)


def test_a_density_that_is_nowhere_finite_moves_nothing():
  """The likelihood is reported as it is, and acceptance is 0."""

  def density(z):
    return z[:, 0], z[:, 0] * jnp.nan

  found = chains(jax.random.key(0), 20, density, n=2)
  assert (found.acceptance == 0).all() and np.isnan(found.log_likelihood).all()


def test_phases_are_all_moves():
  for steps in (20, 21, 33, 300):
    assert sum(phases(steps)) == steps and phases(steps)[2] % 2 == 0 and min(phases(steps)) >= 3


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_potential_scale_is_the_formula_of_gelman_et_al(shift):
  """Section 11.4: of 3 chains of 40 values of one target, in halves; one chain is elsewhere."""
  values = RANDOM.normal(size=(3, 40, 1, 2))
  values[0] += shift
  halves = np.stack([values[:, :20], values[:, 20:]])  # [2, chains, 20, targets, d]
  means, variances = halves.mean(axis=2), halves.var(axis=2)
  flat = halves.reshape(6, 20, 2)
  within = flat.var(axis=1, ddof=1).mean(axis=0)
  between = 20 * flat.mean(axis=1).var(axis=0, ddof=1)
  expected = np.sqrt((19 / 20 * within + between / 20) / within).max()
  assert phases(100)[2] == 40
  found = potential_scale(jnp.asarray(means), jnp.asarray(variances), 100)
  np.testing.assert_allclose(found, [expected], rtol=1e-4)
  assert (expected > 1.5) == bool(shift)
