"""Bits per dimension."""

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import distributions as dist
from vae_jax import metrics


def test_a_uniform_distribution_over_256_levels_has_8_bits():
  dims = 12
  np.testing.assert_allclose(metrics.bits_per_dim(dims * np.log(256.0), dims, continuous=False), 8.0)
  # The uniform density over [0, 1] is 1: 0 nats, and as much.
  assert metrics.bits_per_dim(0.0, dims, continuous=True) == 8.0


def test_a_density_and_its_discretisation_agree_where_it_is_smooth():
  # A broad Gaussian density, and the mass of each grey level: density * 1/256 in effect.
  image = np.full((2, 2, 1), 0.3, np.float32)
  nats = -float(dist.gaussian(1, 0.5).log_prob(np.zeros((2, 2, 1), np.float32), image, 0.0))
  mass = np.exp(-nats / 4) / 256
  np.testing.assert_allclose(metrics.bits_per_dim(nats, 4, continuous=True), -np.log2(mass), rtol=1e-6)


def test_arrays_and_bad_input():
  nats = jnp.array([1.0, 2.0])
  np.testing.assert_allclose(
    metrics.bits_per_dim(nats, 2, False), np.array([1.0, 2.0]) / (2 * np.log(2)), rtol=1e-6
  )
  with pytest.raises(ValueError, match="got 0"):
    metrics.bits_per_dim(1.0, 0, False)
