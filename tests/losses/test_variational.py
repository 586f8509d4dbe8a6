"""Terms of variational bounds against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vae_jax import distributions as dist
from vae_jax import losses


def normal(seed, *shape, scale=1.0):
  return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def test_negative_elbo_weights_its_terms():
  distortion, rate = normal(0, 5, scale=100), normal(1, 5, scale=10)
  np.testing.assert_allclose(losses.negative_elbo(distortion, rate), distortion + rate, rtol=1e-6)
  weighted = losses.negative_elbo(distortion, rate, alpha=0.5, beta=4.0)
  np.testing.assert_allclose(weighted, 0.5 * distortion + 4 * rate, rtol=1e-6)
  for bad in ((5, 1), (1,), ()):
    with pytest.raises(ValueError, match=r"\(5,\) and rate of shape"):
      losses.negative_elbo(distortion, np.zeros(bad, np.float32))
  with pytest.raises(ValueError, match=r"beta of shape \(5,\)"):
    losses.negative_elbo(distortion, rate, beta=rate)


def test_kl_gaussian_closed_form():
  mean, logvar = normal(0, 3, 4), normal(1, 3, 4)
  m, v = mean.astype(np.float64), np.exp(logvar.astype(np.float64))
  np.testing.assert_allclose(
    losses.kl_gaussian(mean, logvar), 0.5 * (m**2 + v - 1 - np.log(v)).sum(-1), rtol=1e-5
  )
  gradient = jax.grad(lambda m, lv: losses.kl_gaussian(m, lv).sum(), argnums=(0, 1))(mean, logvar)
  np.testing.assert_allclose(gradient[0], mean, rtol=1e-5)
  np.testing.assert_allclose(gradient[1], 0.5 * (v - 1), rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match=r"\(3, 4\) and logvar of shape \(1, 4\)"):
    losses.kl_gaussian(mean, logvar[:1])
  with pytest.raises(ValueError, match=r"\(3, 4\), \(3, 4\), \(1, 4\), \(1, 4\) differ"):
    dist.kl(dist.Gaussian(mean, logvar), dist.Gaussian(mean[:1], logvar[:1]))


def test_free_bits_per_example():
  units = np.array([[0.0, 0.2, 3.0], [1.0, 0.0, 0.1]], np.float32)
  np.testing.assert_allclose(losses.free_bits(units, 0.5), [0.5 + 0.5 + 3.0, 1.0 + 0.5 + 0.5])
  np.testing.assert_allclose(losses.free_bits(units, 0.0), units.sum(-1))
  gradient = jax.grad(lambda u: losses.free_bits(u, 0.5).sum())(units)
  np.testing.assert_array_equal(gradient, units > 0.5)
  # Never below the form that takes the minibatch mean first (Kingma et al. 2016, eq. 15); equal on one side.
  minibatch = np.maximum(0.5, units.mean(0)).sum()
  assert losses.free_bits(units, 0.5).mean() > minibatch
  same_side = np.array([[0.1, 2.0], [0.3, 1.0]], np.float32)
  np.testing.assert_allclose(
    losses.free_bits(same_side, 0.5).mean(), np.maximum(0.5, same_side.mean(0)).sum()
  )
  with pytest.raises(ValueError, match=r"scalar; got shape \(3,\)"):
    losses.free_bits(units, np.zeros(3, np.float32))


def test_free_bits_of_the_batch():
  """Kingma et al. 2016 (eq. 15) in float64: the mean over the batch is compared, of units or of groups."""
  units = np.random.default_rng(0).exponential(size=(6, 4)).astype(np.float32) * np.float32([0.1, 0.5, 1, 3])
  mean = units.astype(np.float64).mean(0)
  for nats in (0.0, 0.6, 100.0):
    np.testing.assert_allclose(
      losses.free_bits_of_batch(units, nats), np.maximum(nats, mean).sum(), rtol=1e-6
    )
    gradient = jax.grad(lambda u, nats=nats: losses.free_bits_of_batch(u, nats))(units)
    np.testing.assert_allclose(gradient, np.broadcast_to((mean > nats) / 6, units.shape), rtol=1e-6)
  groups = units.reshape(6, 2, 2).sum(-1)
  expected = np.maximum(0.6, groups.astype(np.float64).mean(0)).sum()
  np.testing.assert_allclose(losses.free_bits_of_batch(groups, 0.6), expected, rtol=1e-6)
  for bad in (units[0], units[:0], units[..., None], units.astype(np.int32)):
    with pytest.raises(ValueError, match=r"kl of (shape|type)"):
      losses.free_bits_of_batch(bad, 0.5)
  with pytest.raises(ValueError, match=r"scalar; got shape \(4,\)"):
    losses.free_bits_of_batch(units, np.zeros(4, np.float32))


def test_iwae_loss():
  weights = normal(0, 7, 3, scale=5) - 300
  expected = np.log(7) - scipy.special.logsumexp(weights.astype(np.float64), axis=0)
  np.testing.assert_allclose(losses.iwae_loss(weights), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.iwae_loss(weights[:1]), -weights[0], rtol=1e-6)
  gradient = jax.grad(lambda w: losses.iwae_loss(w).sum())(weights)
  np.testing.assert_allclose(
    gradient, -scipy.special.softmax(weights.astype(np.float64), axis=0), rtol=1e-4, atol=1e-9
  )
  for shape in ((), (0, 3)):
    with pytest.raises(ValueError, match="no samples"):
      losses.iwae_loss(np.zeros(shape, np.float32))


def test_miwae_and_ciwae_losses():
  """Means over groups of log-means, and a mix of both ends, in float64 (Rainforth et al. 2018)."""
  weights = normal(0, 6, 3, scale=5) - 300
  full = weights.astype(np.float64)
  groups = scipy.special.logsumexp(full.reshape(3, 2, 3), axis=1) - np.log(2)
  np.testing.assert_allclose(losses.miwae_loss(weights, 3), -groups.mean(0), rtol=1e-6)
  whole = scipy.special.logsumexp(full, axis=0) - np.log(6)
  np.testing.assert_allclose(
    losses.ciwae_loss(weights, 0.25), -(0.25 * full.mean(0) + 0.75 * whole), rtol=1e-6
  )
  for loss, argument in ((losses.miwae_loss, 1), (losses.ciwae_loss, 0.5)):
    for shape in ((), (0, 3)):
      with pytest.raises(ValueError, match="no samples"):
        loss(np.zeros(shape, np.float32), argument)


def test_results_are_float32():
  half = jnp.ones((2, 3), jnp.bfloat16)
  results = [
    losses.negative_elbo(half[:, 0], half[:, 0]),
    losses.kl_gaussian(half, half),
    losses.free_bits(half, 0.5),
    losses.iwae_loss(half),
  ]
  assert all(r.dtype == jnp.float32 for r in results)
