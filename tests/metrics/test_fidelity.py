"""Image metrics against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import metrics
from vae_jax.metrics.colour import rgb_to_y
from vae_jax.metrics.fidelity import psnr_y

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


def luma64(image):
  return (16 + image.astype(np.float64) @ [65.481, 128.553, 24.966]) / 255


@pytest.mark.parametrize("crop", [0, 1, 2])
def test_psnr_of_luma_against_float64(crop):
  inside = np.s_[:, crop : 6 - crop, crop : 5 - crop]
  squared = (luma64(PREDICTION) - luma64(TARGET))[inside] ** 2
  expected = -10 * np.log10(squared.mean((1, 2)))
  np.testing.assert_allclose(psnr_y(PREDICTION, TARGET, crop), expected, rtol=1e-5)
  reference = pytest.importorskip("skimage.metrics").peak_signal_noise_ratio
  for score, p, t in zip(psnr_y(PREDICTION, TARGET, crop), luma64(PREDICTION), luma64(TARGET), strict=True):
    p, t = (x[crop : 6 - crop, crop : 5 - crop] for x in (p, t))
    np.testing.assert_allclose(score, reference(t, p, data_range=1.0), rtol=1e-5)


def test_psnr_of_luma_sees_neither_the_border_nor_the_range_of_grey():
  image = np.full((6, 6, 3), 0.5, np.float32)
  bordered = np.pad(image[2:-2, 2:-2] + np.float32(0.1), ((2, 2), (2, 2), (0, 0)), constant_values=1.0)
  gain = 20 * np.log10(255 / 219)  # Y spans 219 levels
  np.testing.assert_allclose(psnr_y(bordered, image, crop=2), 20.0 + gain, rtol=1e-5)
  np.testing.assert_allclose(
    psnr_y(image + 0.1, image), metrics.psnr_rgb(image + 0.1, image) + gain, rtol=1e-5
  )
  grey = image[..., :1]
  np.testing.assert_allclose(psnr_y(grey + 0.1, grey), 20.0, rtol=1e-5)
  np.testing.assert_allclose(psnr_y(image, image), 100.0, rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(lambda p: psnr_y(p, image))(jnp.asarray(image)), 0.0)


def test_psnr_of_luma_in_the_grey_levels_of_matlab():
  levels = [np.round(255 * image) for image in (PREDICTION, TARGET)]
  integers = [np.round(255 * luma64(level / 255)) for level in levels]
  expected = 20 * np.log10(255) - 10 * np.log10(((integers[0] - integers[1]) ** 2).mean((1, 2)))
  rounded = [jnp.round(255 * rgb_to_y(np.float32(level / 255))) / 255 for level in levels]
  np.testing.assert_allclose(psnr_y(*rounded), expected, rtol=1e-5)


@pytest.mark.parametrize("crop", [-1, 3])
def test_a_crop_that_leaves_nothing_is_refused(crop):
  with pytest.raises(ValueError, match=rf"crop={crop} of images of 6 x 5 pixels"):
    psnr_y(PREDICTION, TARGET, crop)


def test_luma_needs_one_or_three_channels():
  with pytest.raises(ValueError, match="has no luma"):
    psnr_y(PREDICTION[..., :2], TARGET[..., :2])


@pytest.mark.parametrize("metric", [metrics.mse, metrics.mae, metrics.psnr_rgb, psnr_y])
def test_types_and_shapes(metric):
  value = jax.jit(metric)(jnp.asarray(PREDICTION, jnp.bfloat16), jnp.asarray(TARGET, jnp.bfloat16))
  assert value.dtype == jnp.float32 and value.shape == (3,)
  for shape in ((1, 6, 5, 3), (6, 5, 3), (3, 6, 5, 1)):
    with pytest.raises(ValueError) as caught:
      metric(PREDICTION, np.zeros(shape, np.float32))
    assert str(PREDICTION.shape) in str(caught.value) and str(shape) in str(caught.value)
