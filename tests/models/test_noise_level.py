"""Levels of noise against SciPy and NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from vae_jax.models.noise_level import (
  bounded_spread,
  local_sigma,
  mean_around,
  pooled,
  spread_out,
  surprise,
  surprise_of_pooled,
  to_level,
  to_sigma,
)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_level_stands_for_one_sigma():
  sigma = np.float32([0, 0.5, 1, 25, 75]) / 255
  level = to_level(sigma)
  np.testing.assert_allclose(level, np.log([0.5, 1, 1.5, 25.5, 75.5]), rtol=1e-6)
  np.testing.assert_allclose(to_sigma(level), sigma, rtol=1e-5, atol=1e-9)
  assert to_sigma(jnp.float32(-9)) == 0


def test_pooled_weighs_by_precision():
  """The estimate of least variance of one number from several, and one position that is certain decides."""
  estimates = normal(2, 3, 4, 2)
  variance = np.exp(-estimates[..., 1].astype(np.float64))
  expected = (estimates[..., 0] / variance).sum((1, 2)) / (1 / variance).sum((1, 2))
  np.testing.assert_allclose(pooled(estimates), expected, rtol=1e-5)
  estimates[0, 1, 1] = 3, 8
  estimates[0, ..., 1] = np.where(estimates[0, ..., 1] == 8, 8, -4)
  assert abs(pooled(estimates)[0] - 3) < 0.001


@pytest.mark.parametrize("stride", [2, 4])
def test_local_sigma_is_the_root_mean_square_of_its_window(stride):
  difference = normal(1, 8 * stride, 7 * stride, 3)
  found = local_sigma(jnp.asarray(difference), stride)
  squares = np.square(difference[0], dtype=np.float64).mean(-1).reshape(8, stride, 7, stride).mean((1, 3))
  total = scipy.ndimage.uniform_filter(squares, 5, mode="constant")
  inside = scipy.ndimage.uniform_filter(np.ones_like(squares), 5, mode="constant")
  np.testing.assert_allclose(found[0], np.sqrt(total / inside), rtol=1e-5)


def test_levels_between_positions_are_linear():
  level = np.float32([[[0, 1, 2, 3]] * 2])
  wide = spread_out(level, 4)
  np.testing.assert_allclose(wide[0, 0, 2:14], np.arange(12) / 4 + 0.125, atol=1e-6)
  assert wide.shape == (1, 8, 16) and np.all(wide[0, :, 0] == 0) and np.all(wide[0, :, -1] == 3)


def test_surprise_is_the_negative_log_density():
  """But for the constant of the normal density, which has no gradient."""
  estimates, level = normal(2, 3, 4, 2), normal(2, 3, 4, seed=1)
  scale = np.exp(-0.5 * estimates[..., 1].astype(np.float64))
  density = scipy.stats.norm.logpdf(level, estimates[..., 0], scale) + 0.5 * np.log(2 * np.pi)
  np.testing.assert_allclose(surprise(estimates, level), -density.sum((1, 2)), rtol=1e-5)


def test_surprise_of_pooled_is_the_negative_log_density_of_a_tenth():
  estimates, level = normal(2, 3, 4, 2), normal(2, seed=1)
  density = scipy.stats.laplace.logpdf(level, pooled(estimates), 0.1) - scipy.stats.laplace.logpdf(0, 0, 0.1)
  np.testing.assert_allclose(surprise_of_pooled(estimates, level), -density, rtol=1e-4)


def test_means_around_a_position_count_what_is_in_the_image():
  x = normal(1, 5, 6, 1)
  total = scipy.ndimage.uniform_filter(np.float64(x[0, ..., 0]), 3, mode="constant")
  inside = scipy.ndimage.uniform_filter(np.ones((5, 6)), 3, mode="constant")
  np.testing.assert_allclose(mean_around(jnp.asarray(x))[0, ..., 0], total / inside, atol=1e-6)


@pytest.mark.parametrize(("local", "levels_of_255"), [(False, 1.3), (True, 2.6)])
def test_the_spread_is_bounded_by_the_noise(local, levels_of_255):
  """Far below the bound it is as it was; far above, the bound: (sigma + 1/2)^0.7 grey levels, times a constant."""
  sigma = np.float32([0, 5, 25, 75])
  most = np.log(levels_of_255 * (sigma + 0.5) ** 0.7 / 255)
  level = to_level(jnp.asarray(sigma / 255))
  np.testing.assert_allclose(bounded_spread(most + 8, level, local), most, atol=1e-4)
  np.testing.assert_allclose(bounded_spread(most - 6, level, local), most - 6, atol=1e-4)
  np.testing.assert_allclose(bounded_spread(most, level, local), most - np.log(2) / 2, atol=1e-5)
