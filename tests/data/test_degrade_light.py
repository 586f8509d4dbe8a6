"""Curves against closed forms; camera noise against its stated variance and the filters of demosaicking."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from vae_jax.data import degrade
from vae_jax.data.degrade import noise

# The filters of Malvar, He and Cutler (2004), figure 2, in sixteenths; `own`: for a pixel of the colour itself.
GREEN = [[0, 0, -2, 0, 0], [0, 0, 4, 0, 0], [-2, 4, 8, 4, -2], [0, 0, 4, 0, 0], [0, 0, -2, 0, 0]]
IN_ROW = [[0, 0, 1, 0, 0], [0, -2, 0, -2, 0], [-2, 8, 10, 8, -2], [0, -2, 0, -2, 0], [0, 0, 1, 0, 0]]
ACROSS = [[0, 0, -3, 0, 0], [0, 4, 0, 4, 0], [-3, 0, 12, 0, -3], [0, 4, 0, 4, 0], [0, 0, -3, 0, 0]]
OWN = [[0] * 5, [0] * 5, [0, 0, 16, 0, 0], [0] * 5, [0] * 5]
CORNERS = list(itertools.product((False, True), repeat=2))


def colour_at(y, x, corner):
  """Which colour, 0, 1 or 2, a pixel of an RGGB mosaic has."""
  y, x = (y + corner[0]) % 2, (x + corner[1]) % 2
  return y + x


def weights_at(y, x, channel, corner):
  """The 5 x 5 weights that make a channel at a pixel."""
  here = colour_at(y, x, corner)
  if here == channel:
    table = OWN
  elif channel == 1:
    table = GREEN
  elif here == 1:
    in_row = colour_at(y, x + 1, corner) == channel
    table = IN_ROW if in_row else np.transpose(IN_ROW)
  else:
    table = ACROSS
  return np.array(table) / 16


@pytest.mark.parametrize("corner", CORNERS)
def test_demosaicking_pixel_by_pixel(corner):
  values = np.random.default_rng(0).random((11, 10), dtype=np.float32)
  expected = np.zeros((7, 6, 3))
  for y, x, c in np.ndindex(expected.shape):
    expected[y, x, c] = np.sum(weights_at(y, x, c, corner) * values[y : y + 5, x : x + 5])
  np.testing.assert_allclose(jax.jit(noise.demosaic)(values, *corner), expected, rtol=0, atol=1e-6)
  image = np.random.default_rng(1).random((5, 6, 3), dtype=np.float32)
  seen = [[image[y, x, colour_at(y, x, corner)] for x in range(6)] for y in range(5)]
  np.testing.assert_array_equal(noise.mosaic(image, *corner), seen)


def covariance(variances, a, b, lag):
  """Covariance of channel `a` at a pixel and `b` at `lag` to its right, for independent noise: mean over the mosaic.

  variances: of the three colours.
  """
  total = 0.0
  for y, x in np.ndindex(2, 2):
    one, other = np.zeros((5, 9)), np.zeros((5, 9))
    one[:, :5] = weights_at(y, x, a, (False, False))
    other[:, lag : lag + 5] = weights_at(y, x + lag, b, (False, False))
    of = [[variances[colour_at(y + i - 2, x + j - 2, (0, 0))] for j in range(9)] for i in range(5)]
    total += np.sum(one * other * of) / 4
  return total


@pytest.fixture(scope="module")
def camera_noise():
  """Noise in linear light on one colour, and the variance of each of its channels on the sensor."""
  light, shot, read = np.array([0.6, 0.2, 0.05], np.float32), 0.05, 0.01
  image = np.broadcast_to(np.asarray(degrade.linear_to_srgb(light)), (240, 240, 3))
  run = jax.jit(jax.vmap(lambda key: degrade.srgb_to_linear(degrade.camera_noise(key, image, shot, read))))
  noisy = np.asarray(run(jax.random.split(jax.random.key(3), 4)), np.float64)
  return noisy - light, shot**2 * light + read**2


def test_camera_noise_has_its_variance_in_linear_light(camera_noise):
  found, variances = camera_noise
  for c in range(3):
    # 230,400 values, correlated: a standard error of about 0.5%, and 3e-5 of the mean.
    np.testing.assert_allclose(found[..., c].var(), covariance(variances, c, c, 0), rtol=0.03)
    assert abs(found[..., c].mean()) < 2e-4


@pytest.mark.parametrize(
  ("a", "b", "lag"), [(0, 0, 1), (0, 0, 2), (1, 1, 1), (2, 2, 1), (0, 1, 0), (0, 2, 0)]
)
def test_camera_noise_is_correlated_as_demosaicking_makes_it(camera_noise, a, b, lag):
  found, variances = camera_noise
  left, right = found[:, :, : 240 - lag, a], found[:, :, lag:, b]
  scale = math.sqrt(covariance(variances, a, a, 0) * covariance(variances, b, b, 0))
  expected = covariance(variances, a, b, lag) / scale
  np.testing.assert_allclose((left * right).mean() / scale, expected, rtol=0, atol=0.015)
  if lag == 1:
    assert expected > 0.1  # coarser than white noise


def test_camera_noise_of_grey_images_is_white(key):
  image = np.full((200, 200, 1), degrade.linear_to_srgb(0.5), np.float32)
  found = np.asarray(degrade.srgb_to_linear(degrade.camera_noise(key, image, 0.04, 0.02)), np.float64) - 0.5
  np.testing.assert_allclose(found.var(), 0.04**2 * 0.5 + 0.02**2, rtol=0.04)
  assert abs((found[:, 1:] * found[:, :-1]).mean() / found.var()) < 5 / 200


def test_camera_noise_can_be_blurred(key):
  image = np.random.default_rng(0).uniform(0.2, 0.9, (20, 24, 3)).astype(np.float32)
  light = np.asarray(degrade.srgb_to_linear(image), np.float64)
  run = jax.jit(
    jax.vmap(lambda blur: degrade.srgb_to_linear(degrade.camera_noise(key, image, 0.03, 0.01, blur, 1.0)))
  )
  fine, coarse = np.asarray(run(jnp.asarray([0.0, 0.8])), np.float64) - light
  expected = scipy.ndimage.gaussian_filter(fine, 0.8, mode="reflect", radius=4, axes=(0, 1))
  np.testing.assert_allclose(coarse, expected, rtol=0, atol=2e-5)


def test_camera_corners_are_drawn():
  """Red light alone: its noise gets into blue where the pixel is red, by the filter across, and nowhere else."""
  image = np.zeros((1, 1, 3), np.float32)
  image[..., 0] = 1
  run = jax.jit(jax.vmap(lambda key: degrade.camera_noise(key, image, 0.1, 0.0)))
  found = np.asarray(run(jax.random.split(jax.random.key(0), 2000)))[:, 0, 0]

  assert abs((found[:, 2] != 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)


# Curves.


def test_srgb_by_its_standard():
  """IEC 61966-2-1, in float64; 0.5 is 0.21404 of light."""
  stored = np.linspace(0, 1.2, 200)
  light = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
  np.testing.assert_allclose(degrade.srgb_to_linear(stored.astype(np.float32)), light, rtol=2e-6, atol=1e-7)
  np.testing.assert_allclose(degrade.linear_to_srgb(light.astype(np.float32)), stored, rtol=2e-6, atol=1e-6)
  np.testing.assert_allclose(degrade.srgb_to_linear(np.float32(0.5)), 0.21404114, rtol=1e-6)
  np.testing.assert_array_equal(degrade.srgb_to_linear(-stored), -degrade.srgb_to_linear(stored))
  np.testing.assert_array_equal(degrade.linear_to_srgb(-stored), -degrade.linear_to_srgb(stored))


@pytest.mark.parametrize("power", [0.45, 1.0, 2.2])
def test_gamma_is_a_power_with_a_straight_toe(power):
  values = np.linspace(0.001, 1.3, 50)
  np.testing.assert_allclose(degrade.gamma(values.astype(np.float32), power), values**power, rtol=1e-5)
  np.testing.assert_allclose(degrade.gamma(np.float32(-0.5), power), -(0.5**power), rtol=1e-6)
  toe = degrade.gamma(jnp.asarray([0.0, 0.0005, 0.001]), power)
  np.testing.assert_allclose(toe, [0, 0.5 * 0.001**power, 0.001**power], rtol=1e-5)


@pytest.mark.parametrize(
  "curve", [degrade.srgb_to_linear, degrade.linear_to_srgb, lambda x: degrade.gamma(x, 0.4)]
)
def test_slopes_are_finite_and_right(curve):
  slope = jax.jit(jax.vmap(jax.grad(curve)))
  assert np.isfinite(slope(jnp.asarray([0.0, -0.0, 1e-30, -2.0, 0.04045, 0.0031308]))).all()
  x, step = np.array([-0.7, 0.002, 0.02, 0.3, 0.9], np.float32), 1e-4
  middle = (np.asarray(curve(x + step), np.float64) - np.asarray(curve(x - step), np.float64)) / (2 * step)
  np.testing.assert_allclose(slope(jnp.asarray(x)), middle, rtol=0.01)


def test_rounding_to_8_bits():
  values = np.array([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 1.0, 1.7], np.float32)
  np.testing.assert_allclose(degrade.round_to_8_bits(values) * 255, [0, 0, 0, 1, 100, 255, 255], atol=1e-5)
  np.testing.assert_array_equal(jax.grad(lambda x: degrade.round_to_8_bits(x).sum())(values), 1)
