"""The losses of discriminators against their formulas in float64, and against scipy."""

import jax
import numpy as np
import pytest
from scipy import special

from vae_jax.losses import discriminator_hinge_loss, generator_hinge_loss, verdict_cross_entropy

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


@pytest.mark.parametrize("real", [True, False])
def test_the_cross_entropy_of_a_verdict_is_that_of_scipy(real):
  logits = np.concatenate(
    [REAL, np.array([0.0, -200.0, 200.0, 1e-3, 30.0]).reshape(1, 1, 5, 1) + 0 * REAL], axis=1
  )
  sign = 1.0 if real else -1.0
  each = -special.log_expit(sign * logits.astype(np.float64))
  np.testing.assert_allclose(verdict_cross_entropy(logits, real), each.mean((1, 2, 3)), rtol=1e-6)
  slope = jax.grad(lambda x: verdict_cross_entropy(x, real).sum())(logits.astype(np.float32))
  expected = -sign * special.expit(-sign * logits.astype(np.float64)) / each[0].size
  np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)


def test_half_precision_is_summed_in_float32():
  real, fake = REAL.astype(np.float16), FAKE.astype(np.float16)
  assert discriminator_hinge_loss(real, fake).dtype == generator_hinge_loss(fake).dtype == np.float32


def test_shapes_that_differ_are_refused():
  with pytest.raises(ValueError, match="differ"):
    discriminator_hinge_loss(REAL, FAKE[:1])
