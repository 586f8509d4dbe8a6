"""The hinge and the logistic losses against their formulas in float64."""

import jax
import numpy as np
import pytest

from vae_jax.losses import (
  discriminator_hinge_loss,
  discriminator_logistic_loss,
  generator_hinge_loss,
  generator_logistic_loss,
)

RANDOM = np.random.default_rng(0)
REAL, FAKE = (RANDOM.normal(size=(3, 4, 5, 1), scale=2).astype(np.float32) for _ in range(2))


def test_losses_are_means_over_the_patches_of_each_image():
  real, fake = REAL.astype(np.float64), FAKE.astype(np.float64)
  expected = np.clip(1 - real, 0, None).mean((1, 2, 3)) + np.clip(1 + fake, 0, None).mean((1, 2, 3))
  np.testing.assert_allclose(discriminator_hinge_loss(REAL, FAKE), expected, rtol=1e-5)
  np.testing.assert_allclose(generator_hinge_loss(FAKE), -fake.mean((1, 2, 3)), rtol=1e-5)


def test_one_logit_an_image_will_do():
  np.testing.assert_allclose(
    discriminator_hinge_loss(np.array([3.0, 0.5]), np.array([-2.0, 0.25])), [0, 1.75]
  )
  np.testing.assert_allclose(generator_hinge_loss(np.array([3.0, -0.5])), [-3, 0.5])


def test_only_logits_within_the_margin_have_a_gradient():
  slope = jax.grad(lambda real, fake: discriminator_hinge_loss(real, fake).sum(), (0, 1))
  to_real, to_fake = slope(REAL, FAKE)
  np.testing.assert_allclose(to_real, np.where(REAL < 1, -1 / 20, 0), rtol=1e-6)
  np.testing.assert_allclose(to_fake, np.where(FAKE > -1, 1 / 20, 0), rtol=1e-6)
  for extreme in (np.full((1, 2), 1e30, np.float32), np.full((1, 2), -1e30, np.float32)):
    assert all(np.isfinite(g).all() for g in slope(extreme, -extreme))


def test_logistic_losses_are_minus_the_logarithms_of_probabilities():
  """Goodfellow et al. 2014, eq. 1 and section 3; slopes are differences of p and 0 or 1."""
  p_real, p_fake = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (REAL, FAKE))
  expected = -np.log(p_real).mean((1, 2, 3)) - np.log(1 - p_fake).mean((1, 2, 3))
  np.testing.assert_allclose(discriminator_logistic_loss(REAL, FAKE), expected, rtol=1e-5)
  np.testing.assert_allclose(generator_logistic_loss(FAKE), -np.log(p_fake).mean((1, 2, 3)), rtol=1e-5)
  slope = jax.grad(lambda real, fake: discriminator_logistic_loss(real, fake).sum(), (0, 1))
  for found, wanted in zip(slope(REAL, FAKE), (p_real - 1, p_fake), strict=True):
    np.testing.assert_allclose(found, wanted / 20, rtol=1e-4, atol=1e-7)
  extreme = np.array([[1e30], [-1e30]], np.float32)
  np.testing.assert_allclose(generator_logistic_loss(extreme), [0, 1e30])
  assert all(np.isfinite(g).all() for g in slope(extreme, -extreme))
  np.testing.assert_allclose(jax.grad(lambda x: generator_logistic_loss(x).sum())(extreme), [[0], [-1]])


def test_half_precision_is_summed_in_float32():
  real, fake = REAL.astype(np.float16), FAKE.astype(np.float16)
  assert discriminator_hinge_loss(real, fake).dtype == generator_hinge_loss(fake).dtype == np.float32
  assert discriminator_logistic_loss(real, fake).dtype == generator_logistic_loss(fake).dtype == np.float32


def test_shapes_that_differ_are_refused():
  with pytest.raises(ValueError, match="differ"):
    discriminator_hinge_loss(REAL, FAKE[:1])
