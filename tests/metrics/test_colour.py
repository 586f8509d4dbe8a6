"""Luma against MATLAB's integers and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.metrics.colour import luma, rgb_to_y

IMAGE = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)


def test_the_corners_of_the_cube_in_grey_levels():
  # What rgb2ycbcr gives for uint8 black, white, red, green, blue, yellow; rounding is the caller's.
  colours = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], np.float32)
  y = 255 * rgb_to_y(colours)
  np.testing.assert_array_equal(jnp.round(y)[:, 0], [16, 235, 81, 145, 41, 210])
  np.testing.assert_allclose(y[2:, 0], [81.481, 144.553, 40.966, 210.034], rtol=1e-6)


def test_against_scikit_image():
  colour = pytest.importorskip("skimage.color")
  expected = colour.rgb2ycbcr(IMAGE.astype(np.float64))[..., :1] / 255
  np.testing.assert_allclose(rgb_to_y(IMAGE), expected, atol=1e-6)


def test_nothing_is_clipped():
  outside = np.full((1, 1, 3), 2.0, np.float32)
  np.testing.assert_allclose(rgb_to_y(outside), (16 + 2 * 219) / 255, rtol=1e-6)


def test_luma_of_grey_is_grey():
  np.testing.assert_array_equal(luma(IMAGE[..., :1]), IMAGE[..., :1])
  np.testing.assert_array_equal(luma(IMAGE), rgb_to_y(IMAGE))


def test_types_and_shapes():
  for function in (rgb_to_y, luma):
    y = jax.jit(function)(jnp.asarray(IMAGE, jnp.bfloat16))
    assert y.dtype == jnp.float32 and y.shape == (2, 5, 4, 1)
    for shape in ((5, 4, 2), (5, 4, 4), ()):
      with pytest.raises(ValueError, match=r"has no luma") as caught:
        function(np.zeros(shape, np.float32))
      assert str(shape) in str(caught.value)
