"""Likelihood losses and pixel errors against scipy and formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax import losses
from vae_jax.errors import UserError


def images(seed, *shape):
  return np.random.default_rng(seed).random(shape).astype(np.float32)


PREDICTION, TARGET = images(0, 3, 4, 4, 2), images(1, 3, 4, 4, 2)


def test_errors_are_sums_over_pixels_per_example():
  error = PREDICTION.astype(np.float64) - TARGET
  squared, absolute = losses.squared_error(PREDICTION, TARGET), losses.absolute_error(PREDICTION, TARGET)
  np.testing.assert_allclose(squared, (error**2).sum((1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(absolute, np.abs(error).sum((1, 2, 3)), rtol=1e-5)
  assert squared.shape == absolute.shape == (3,)
  assert losses.squared_error(PREDICTION[0], TARGET[0]).shape == ()


def test_gradients_of_the_errors_vanish_at_equality():
  for loss in (losses.squared_error, losses.absolute_error):
    np.testing.assert_array_equal(jax.grad(lambda p, f=loss: f(p, TARGET).sum())(jnp.asarray(TARGET)), 0.0)


def test_likelihood_losses_against_scipy():
  params, log_scale = PREDICTION - 0.5, -1.0
  scale = 1e-3 + np.exp(log_scale)
  normal = -scipy.stats.norm.logpdf(TARGET, PREDICTION, scale).sum((1, 2, 3))
  laplace = -scipy.stats.laplace.logpdf(TARGET, PREDICTION, scale).sum((1, 2, 3))
  np.testing.assert_allclose(losses.gaussian_nll(params, TARGET, log_scale), normal, rtol=1e-4)
  np.testing.assert_allclose(losses.gaussian_nll(params, TARGET, log_scale, "optimal"), normal, rtol=1e-4)
  np.testing.assert_allclose(losses.gaussian_nll(params, TARGET, 9.0, scale), normal, rtol=1e-4)
  np.testing.assert_allclose(losses.laplace_nll(params, TARGET, log_scale), laplace, rtol=1e-4)
  binary = np.float32(TARGET > 0.5)
  probability = 1 / (1 + np.exp(-params.astype(np.float64)))
  expected = -scipy.stats.bernoulli.logpmf(binary, probability).sum((1, 2, 3))
  np.testing.assert_allclose(losses.bernoulli_nll(params, binary), expected, rtol=1e-5)


def test_logistic_mixture_nll_of_one_component_against_scipy():
  # One broad component in one channel: the mass of level k is a difference of logistic cdfs.
  level = np.array([0, 7, 128, 255])
  params = np.broadcast_to(np.array([0.3, 0.1, -0.5], np.float32), (4, 1, 1, 3))
  edges = (np.arange(257) - 0.5) / 127.5 - 1
  edges[0], edges[-1] = -np.inf, np.inf
  mass = np.diff(scipy.stats.logistic.cdf(edges, 0.1, np.exp(-0.5)))
  value = losses.logistic_mixture_nll(params, np.float32(level / 255).reshape(4, 1, 1, 1), mixtures=1)
  np.testing.assert_allclose(value, -np.log(mass[level]), rtol=1e-5)


TWO_IMAGES = [
  losses.squared_error,
  losses.absolute_error,
  losses.bernoulli_nll,
  lambda p, x: losses.gaussian_nll(p, x, 0.0),
  lambda p, x: losses.laplace_nll(p, x, 0.0),
]


@pytest.mark.parametrize("loss", TWO_IMAGES)
def test_results_are_float32_under_jit(loss):
  value = jax.jit(loss)(jnp.asarray(PREDICTION, jnp.bfloat16), jnp.asarray(TARGET, jnp.bfloat16))
  assert value.dtype == jnp.float32 and value.shape == (3,)
  assert jnp.isfinite(value).all()


@pytest.mark.parametrize("loss", TWO_IMAGES)
@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (4, 4, 2), (3, 4, 4, 1), (2, 3, 4, 4, 2), (3,)])
def test_shapes_that_differ_are_refused(loss, shape):
  with pytest.raises(ValueError) as caught:
    loss(PREDICTION, np.zeros(shape, np.float32))
  assert str(PREDICTION.shape) in str(caught.value) and str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 0, 4, 1), (2, 4, 4, 0)])
def test_images_without_pixels_are_refused(shape):
  for loss in TWO_IMAGES:
    with pytest.raises(ValueError, match="no pixels"):
      loss(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def test_bad_parameters_are_refused():
  with pytest.raises(ValueError, match=r"log_scale must be a scalar; got shape \(3, 1\)"):
    losses.gaussian_nll(PREDICTION, TARGET, np.zeros((3, 1), np.float32))
  with pytest.raises(ValueError, match=r"expected \[\.\.\., h, w, 12\]"):
    losses.logistic_mixture_nll(np.zeros((3, 4, 4, 20), np.float32), TARGET, mixtures=2)
  with pytest.raises(UserError, match=r"model\.sigma"):
    losses.gaussian_nll(PREDICTION, TARGET, 0.0, sigma="best")
