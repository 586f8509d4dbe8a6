"""Image metrics against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import metrics

PREDICTION, TARGET = (np.random.default_rng(s).random((3, 6, 5, 3)).astype(np.float32) for s in (0, 1))


def test_against_float64():
  error = PREDICTION.astype(np.float64) - TARGET
  squared = (error**2).mean((1, 2, 3))
  np.testing.assert_allclose(metrics.mse(PREDICTION, TARGET), squared, rtol=1e-5)
  np.testing.assert_allclose(metrics.mae(PREDICTION, TARGET), np.abs(error).mean((1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(metrics.psnr_rgb(PREDICTION, TARGET), 10 * np.log10(1 / squared), rtol=1e-5)
  assert metrics.psnr_rgb(PREDICTION[None], TARGET[None]).shape == (1, 3)


def test_psnr_of_known_offsets():
  for offset, decibels in ((1.0, 0.0), (0.1, 20.0), (0.01, 40.0)):
    image = jnp.zeros((4, 4, 1))
    np.testing.assert_allclose(metrics.psnr_rgb(image + offset, image), decibels, atol=1e-4)


def test_psnr_of_identical_images_is_100_with_a_finite_gradient():
  image = jnp.asarray(TARGET)
  np.testing.assert_allclose(metrics.psnr_rgb(image, image), 100.0, rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(lambda p: metrics.psnr_rgb(p, image).sum())(image), 0.0)
  assert jnp.isfinite(jax.grad(lambda p: metrics.psnr_rgb(p, image).sum())(image + 1e-4)).all()


def test_psnr_agrees_with_scikit_image():
  reference = pytest.importorskip("skimage.metrics")
  expected = [
    reference.peak_signal_noise_ratio(t, p, data_range=1.0) for p, t in zip(PREDICTION, TARGET, strict=True)
  ]
  np.testing.assert_allclose(metrics.psnr_rgb(PREDICTION, TARGET), expected, rtol=1e-5)


@pytest.mark.parametrize("metric", [metrics.mse, metrics.mae, metrics.psnr_rgb])
def test_types_and_shapes(metric):
  value = jax.jit(metric)(jnp.asarray(PREDICTION, jnp.bfloat16), jnp.asarray(TARGET, jnp.bfloat16))
  assert value.dtype == jnp.float32 and value.shape == (3,)
  for shape in ((1, 6, 5, 3), (6, 5, 3), (3, 6, 5, 1)):
    with pytest.raises(ValueError) as caught:
      metric(PREDICTION, np.zeros(shape, np.float32))
    assert str(PREDICTION.shape) in str(caught.value) and str(shape) in str(caught.value)
