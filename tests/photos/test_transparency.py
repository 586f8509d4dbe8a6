"""Cut-outs: what nobody sees has no influence, and rims stay clean."""

import numpy as np
import pytest
from PIL import Image

from vae_jax.photos.transparency import cut_out, enlarged, filled


def test_enlarged():
  alpha = np.random.default_rng(0).random((6, 9, 1), np.float32)
  np.testing.assert_array_equal(enlarged(alpha, 1), alpha)
  flat = enlarged(np.full((6, 9, 1), 0.25, np.float32), 3)
  assert flat.shape == (18, 27, 1) and flat.dtype == np.float32
  np.testing.assert_allclose(flat, 0.25, atol=1e-6)
  edge = np.zeros((8, 8, 1), np.float32)
  edge[:, 4:] = 1
  large = enlarged(edge, 4)
  assert large.min() == 0 and large.max() == 1  # the overshoot is clipped
  np.testing.assert_allclose(large + large[:, ::-1], 1, atol=1e-6)  # pixel centres are kept
  # Keys' cubic with a = -1/2, away from the border, at the two phases of factor 2.
  weights = {0: [-3 / 128, 29 / 128, 111 / 128, -9 / 128], 1: [-9 / 128, 111 / 128, 29 / 128, -3 / 128]}
  smooth = 0.3 + 0.4 * alpha
  got = enlarged(smooth, 2)[..., 0]
  row = sum(
    w * smooth[:, 3 + i, 0] for i, w in enumerate(weights[1])
  )  # between columns 4 and 5, a quarter on
  want = sum(w * row[1 + i] for i, w in enumerate(weights[1]))
  np.testing.assert_allclose(got[5, 9], want, atol=1e-5)


def disc(colour=(250, 220, 60), hidden=(0, 0, 0), size=48, radius=17.3):
  """An antialiased disc: (colours [size, size, 3], alpha [size, size, 1])."""
  y, x = np.mgrid[: 8 * size, : 8 * size] + 0.5 - 4 * size
  alpha = (np.hypot(x, y) < 8 * radius).reshape(size, 8, size, 8).mean((1, 3))[..., None].astype(np.float32)
  colours = np.where(alpha > 0, np.float32(colour) / 255, np.float32(hidden) / 255)
  return colours.astype(np.float32), alpha


def test_what_is_hidden_has_no_influence():
  colours, alpha = disc()
  for hidden in ((0, 0, 0), (255, 0, 255)):
    other, _ = disc(hidden=hidden)
    np.testing.assert_array_equal(filled(other, alpha), np.broadcast_to(colours[24, 24], colours.shape))
  nothing = np.zeros_like(alpha)
  assert filled(colours, nothing) is colours and filled(colours, nothing + 1) is colours


def layer(colours, alpha, factor):
  return cut_out(colours, alpha, factor).layer(0, factor * len(alpha))


def sharpened(image, factor):
  """Nearest neighbours with overshoot, as unlike bicubic as a network can be."""
  large = image.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.clip(0.5 + 1.5 * (large - 0.5), 0, 1)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_rim_of_a_cut_out_keeps_its_colour(factor):
  """Over white and black, against the premultiplied picture enlarged by Pillow's bicubic filter."""
  colours, alpha = disc()
  colours, cut = filled(colours, alpha), layer(colours, alpha, factor)
  flat = cut.join(colours.repeat(factor, axis=0).repeat(factor, axis=1))
  size = (factor * 48, factor * 48)
  planes = [Image.fromarray(plane) for plane in np.moveaxis(np.dstack([colours * alpha, alpha]), 2, 0)]
  expected = np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in planes], axis=2).clip(
    0, 1
  )
  for behind in (0, 1):
    seen = flat * cut.alpha + behind * (1 - cut.alpha)
    reference = expected[..., :3] + behind * (1 - expected[..., 3:])
    np.testing.assert_allclose(seen * 255, np.minimum(reference, 1) * 255, atol=0.5)


def test_a_light_object_has_no_dark_rim_in_its_shadow():
  colours, alpha = disc((255, 255, 255))
  shadow = np.float32(0.05)
  both = alpha + (1 - alpha) * shadow
  colours = np.where(alpha > 0, alpha / both, 0) * np.ones(3, np.float32)  # white over black of 5 %
  cut = layer(colours, both, 2)
  colours = filled(colours, both)
  result = cut.join(sharpened(colours, 2))
  over_white = result * cut.alpha + 1 - cut.alpha
  assert over_white.min() > 0.9  # 0.95 is the shadow
  straight = sharpened(colours, 2) * cut.alpha + 1 - cut.alpha
  assert straight.min() < 0.8  # without joining


def test_opaque_areas_and_denoisers_are_the_networks_output():
  colours, alpha = disc()
  cut = layer(colours, alpha, 2)
  restored = np.random.default_rng(0).random((96, 96, 3), np.float32)
  np.testing.assert_allclose(cut.join(restored)[40:56, 40:56], restored[40:56, 40:56], atol=1e-6)
  assert (cut.gain <= cut.alpha).all() and (cut.gain[40:56, 40:56] > 1 - 1e-6).all()
  opaque = layer(colours, np.ones_like(alpha), 2)
  np.testing.assert_array_equal(opaque.join(restored), restored)
  same = layer(colours, alpha, 1)
  np.testing.assert_allclose(same.join(restored[::2, ::2]), restored[::2, ::2], atol=1e-6)
  np.testing.assert_array_equal(same.alpha, alpha)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_rows_of_a_layer_are_those_of_the_whole(factor):
  """Bit for bit, also from a row in the middle of an enlarged pixel, and where the filter reaches over the border."""
  colours, alpha = disc(size=24)
  alpha[0], colours[:] = 0.5, np.random.default_rng(0).random(colours.shape, np.float32)
  cut, height = cut_out(colours, alpha, factor), factor * 24
  for first, last in ((0, 1), (0, 8), (3, 17), (10, 11), (height - 5, height), (height - 1, height)):
    for part, whole in zip(cut.layer(first, last), cut.layer(0, height), strict=True):
      np.testing.assert_array_equal(part, whole[first:last])
