"""The picture of standard deviations: lightness is linear in it, whatever the size and the range."""

import numpy as np
import pytest

from vae_jax.photos.uncertainty import uncertainty_picture


def lightness(rgb):
  """CIELAB L* of sRGB uint8, from the standards' formulas."""
  v = np.asarray(rgb, np.float64) / 255
  linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
  y = linear @ (0.2126729, 0.7151522, 0.0721750)
  return 116 * np.where(y > (6 / 29) ** 3, np.cbrt(y), y / (3 * (6 / 29) ** 2) + 4 / 29) - 16


def test_uncertainty_lightness_is_linear():
  deviation = np.tile(np.linspace(0, 20 / 255, 300), (300, 1))
  picture = uncertainty_picture(deviation)
  assert picture.dtype == np.uint8 and picture.shape[2] == 3
  size = 14  # the margin, which is the height of the text
  shown = lightness(picture[size : size + 300, size : size + 300])
  np.testing.assert_allclose(shown, 3 + 93 * deviation * 255 / 20, atol=0.8)
  # The bar at the right has the same colours, the greatest on top.
  bar = lightness(picture[size : size + 300, size + 300 + size + 3])
  np.testing.assert_allclose(bar, np.linspace(96, 3, 300), atol=0.8)
  for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
    assert (edge == 255).all()  # nothing is cut off


@pytest.mark.parametrize(
  "largest, top", [(0.7, 1), (1, 1), (1.2, 2), (4, 5), (6, 10), (2.5, 3), (0.03, 0.03), (120, 200)]
)
def test_uncertainty_scale(largest, top):
  deviation = np.full((300, 300), largest / 255)
  shown = lightness(uncertainty_picture(deviation)[100, 100])
  np.testing.assert_allclose(shown, 3 + 93 * largest / top, atol=0.8)


def test_uncertainty_of_odd_maps():
  for deviation in (np.zeros((4, 4)), np.zeros((1, 1)), np.full((1, 2000), 0.1), np.full((2000, 1), 0.1)):
    picture = uncertainty_picture(deviation)
    assert picture.shape[0] > 100 and picture.shape[1] > 250
  speck = np.full((100, 100), 1 / 255)
  speck[3, 3] = 1  # one pixel does not darken the rest
  assert lightness(uncertainty_picture(speck)[14 + 150, 14 + 150]) > 90
