"""Blurs whose widths are drawn, against SciPy and kernels summed directly in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vae_jax.data import degrade


def random_image(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, dtype=np.float32)


def filtered(image, kernel):
  """Each channel with a kernel [k, k], by direct sums in float64, mirrored at the border."""
  image = image.astype(np.float64)
  planes = [scipy.ndimage.convolve(image[..., c], kernel, mode="reflect") for c in range(image.shape[-1])]
  return np.stack(planes, -1)


@pytest.mark.parametrize("shape", [(16, 21, 3), (3, 5, 1)])
def test_a_traced_width_blurs_as_scipy_does(shape):
  """Also where the kernel reaches beyond the image several times."""
  image, sigmas = random_image(*shape), (0.0, 0.3, 1.3, 4.9)
  run = jax.jit(jax.vmap(lambda s: degrade.gaussian_blur(image, s, most=5.0)))
  for sigma, result in zip(sigmas, run(jnp.asarray(sigmas, jnp.float32)), strict=True):
    expected = scipy.ndimage.gaussian_filter(
      image.astype(np.float64), sigma, mode="reflect", radius=math.ceil(4 * sigma), axes=(0, 1)
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("sigma", "sigma2", "angle"), [(2.0, 0.7, 0.6), (0.6, 2.4, 0.0), (1.5, 1.1, 2.5)])
def test_anisotropic_blur_is_a_rotated_kernel(sigma, sigma2, angle):
  turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # columns: x, y
  inverse = np.linalg.inv(turn @ np.diag([sigma**2, sigma2**2]) @ turn.T)
  radius = math.ceil(4 * max(sigma, sigma2))
  kernel = np.zeros((2 * radius + 1,) * 2)
  for y in range(-radius, radius + 1):
    for x in range(-radius, radius + 1):
      distance = np.array([x, y]) @ inverse @ np.array([x, y])
      kernel[y + radius, x + radius] = math.exp(-distance / 2) if distance <= 16 else 0
  image = random_image(23, 30, 3)
  expected = filtered(image, kernel / kernel.sum())
  np.testing.assert_allclose(
    degrade.anisotropic_blur(image, sigma, sigma2, angle), expected, rtol=0, atol=2e-6
  )
  traced = jax.jit(lambda s: degrade.anisotropic_blur(image, s, sigma2, angle, most=3.0))(jnp.float32(sigma))
  np.testing.assert_allclose(traced, expected, rtol=0, atol=2e-6)


def test_a_line_of_three_pixels_by_hand():
  """A point that moves 3 pixels: the box of width 3 and the triangle of bilinear weights, one over the other."""
  image = np.zeros((9, 9, 1), np.float32)
  image[4, 4] = 1
  expected = np.array([0, 0, 1, 7, 8, 7, 1, 0, 0]) / 24
  run = jax.jit(lambda angle: degrade.motion_blur(image, 3.0, angle))
  flat = np.asarray(run(0.0))
  np.testing.assert_allclose(flat[4, :, 0], expected, atol=1e-3)
  np.testing.assert_allclose(flat.sum(), 1, atol=1e-5)
  np.testing.assert_allclose(run(math.pi / 2)[:, 4, 0], expected, atol=1e-3)


@pytest.mark.parametrize(("length", "angle"), [(7.3, 0.4), (4.0, 2.0)])
def test_motion_is_the_mean_of_shifted_images(length, angle):
  """SciPy shifts by bilinear interpolation; 200 places along the line stand for all."""
  image = random_image(20, 26, 2)
  places = length * ((np.arange(200) + 0.5) / 200 - 0.5)
  shifts = [(t * math.sin(angle), t * math.cos(angle), 0) for t in places]
  expected = np.mean(
    [scipy.ndimage.shift(image.astype(np.float64), s, order=1, mode="reflect") for s in shifts], 0
  )
  run = jax.jit(lambda n: degrade.motion_blur(image, n, angle, most=9.0))
  np.testing.assert_allclose(run(jnp.float32(length)), expected, rtol=0, atol=3e-3)
  np.testing.assert_allclose(run(jnp.float32(0)), image, rtol=0, atol=1e-6)


def test_sharpening_adds_what_a_blur_takes_away():
  image = random_image(17, 12, 3)
  blurred = scipy.ndimage.gaussian_filter(
    image.astype(np.float64), 1.2, mode="reflect", radius=5, axes=(0, 1)
  )
  expected = image + 0.8 * (image - blurred)
  np.testing.assert_allclose(degrade.sharpen(image, 0.8, 1.2), expected, rtol=0, atol=2e-6)


def test_leading_axes_and_constant_images():
  images, flat = random_image(2, 3, 9, 8, 3), np.full((9, 8, 3), 0.7, np.float32)
  for blur in (degrade.anisotropic_blur, lambda x, *_: degrade.motion_blur(x, 3.0, 1.0)):
    one = jax.jit(lambda x, blur=blur: blur(x, 1.0, 2.0, 0.3))
    np.testing.assert_allclose(one(images)[1, 2], one(images[1, 2]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(one(flat), 0.7, rtol=0, atol=1e-6)
