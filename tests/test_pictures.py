"""Pictures: every pixel is where it should be, and bad input is named."""

import os

import numpy as np
import pytest
from PIL import Image

from vae_jax.pictures import BACKGROUND, compare, grid, save_png


def test_grid_places_every_image():
  images = np.linspace(0, 1, 5 * 60 * 70, dtype=np.float64).reshape(5, 60, 70, 1)
  picture = grid(images, columns=3, pad=4, scale=1)
  assert picture.dtype == np.uint8 and picture.shape == (2 * 60 + 3 * 4, 3 * 70 + 4 * 4, 1)
  covered = np.zeros(picture.shape, bool)
  for i in range(5):
    y, x = 4 + (i // 3) * 64, 4 + (i % 3) * 74
    cell = np.s_[y : y + 60, x : x + 70]
    np.testing.assert_array_equal(picture[cell], np.rint(images[i] * 255))
    covered[cell] = True
  assert (picture[~covered] == BACKGROUND).all()


def test_rounding_and_clipping():
  values = np.array([-1, 0, 0.4999 / 255, 0.5 / 255, 127.49 / 255, 1, 7, np.inf, -np.inf, np.nan], np.float32)
  picture = grid(values.reshape(1, 1, -1, 1), pad=0, scale=1)
  np.testing.assert_array_equal(picture.ravel(), [0, 0, 0, 1, 127, 255, 255, 255, 0, 0])


def test_uint8_is_shown_as_it_is():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  np.testing.assert_array_equal(grid(images, pad=0, scale=1), images[0])


@pytest.mark.parametrize(
  ("n", "size", "scale"),
  [
    (64, (28, 28), 2),  # cells of 56
    (64, (56, 56), 1),
    (12, (8, 8), 13),  # 4 x 3 of them; 12 would give 384
    (2, (32, 20), 10),  # 2 x 1, so 400 wide
    (1, (28, 28), 15),
    (1, (401, 2), 1),
  ],
)
def test_small_images_are_enlarged(n, size, scale):
  images = np.random.default_rng(0).random((n, *size, 3))
  picture, plain = grid(images, pad=0), grid(images, pad=0, scale=1)
  assert max(picture.shape) >= 400
  np.testing.assert_array_equal(picture, np.kron(plain, np.ones((scale, scale, 1), int)))


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (7, 3), (8, 4), (10, 5), (64, 8)])
def test_default_columns(n, columns):
  assert grid(np.zeros((n, 56, 56, 1)), pad=0, scale=1).shape[1] == 56 * columns


def test_channels():
  rgb = np.random.default_rng(0).random((2, 60, 60, 3))
  opaque, clear = np.ones((2, 60, 60, 1)), np.zeros((2, 60, 60, 1))
  np.testing.assert_array_equal(grid(np.concatenate([rgb, opaque], -1)), grid(rgb))
  assert (grid(np.concatenate([rgb, clear], -1)) == BACKGROUND).all()  # of hidden colours nothing is seen
  for channels in (2, 5):
    with pytest.raises(ValueError, match=f"{channels} channels"):
      grid(np.zeros((1, 8, 8, channels)))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: grid(np.zeros((0, 8, 8, 1))), "n > 0"),
    (lambda: grid(np.zeros((8, 8, 1))), "n, h, w, c"),
    (lambda: grid(np.zeros((1, 8, 8, 1), np.int32)), "int32"),
    (lambda: grid(np.zeros((1, 8, 8, 1)), scale=0), "scale is 0"),
    (lambda: grid(np.zeros((1, 8, 8, 1)), columns=0), "columns is 0"),
    (lambda: compare(np.zeros((1, 8, 8, 1)), columns=0), "columns is 0"),
    (lambda: compare(np.zeros((1, 8, 8, 1)), np.zeros((2, 8, 8, 1))), "different length"),
    (lambda: compare(np.zeros((1, 8, 8, 1)), np.zeros((1, 12, 12, 1))), "integer factor"),
    (lambda: compare(np.zeros((1, 8, 8, 1)), np.zeros((1, 16, 8, 1))), "integer factor"),
    (lambda: compare(np.zeros((1, 8, 8, 1)), labels=["a", "b"]), "2 labels for 1 rows"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_compare_puts_the_original_above_its_reconstruction():
  rng = np.random.default_rng(0)
  originals, reconstructions = rng.random((2, 5, 60, 60, 1))
  picture = compare(originals, reconstructions, columns=3, pad=2, scale=1)
  band = 2 * 62 + 2
  assert picture.shape == (2 * band + 8, 3 * 62 + 2, 1)
  np.testing.assert_array_equal(
    picture[:band], grid(np.concatenate([originals[:3], reconstructions[:3]]), columns=3, scale=1)
  )
  left = 2 * 62 + 2  # two images and their frame; the third place of the second band stays empty
  np.testing.assert_array_equal(
    picture[band + 8 :, :left], grid(np.concatenate([originals[3:], reconstructions[3:]]), columns=2, scale=1)
  )
  assert (picture[band : band + 8] == BACKGROUND).all() and (picture[band:, left:] == BACKGROUND).all()


def test_compare_low_resolution_and_grey_with_large_colour():
  low, high = np.random.default_rng(0).random((2, 30, 30, 1)), np.zeros((2, 60, 60, 3))
  picture = compare(low, high, pad=0, scale=1)
  assert picture.shape == (120, 120, 3)
  grey = grid(low, columns=2, pad=0, scale=2)
  np.testing.assert_array_equal(picture[:60], np.concatenate([grey] * 3, axis=-1))
  assert not picture[60:].any()


def test_compare_stays_within_a_screen_by_default():
  assert compare(np.zeros((20, 56, 56, 1)), pad=0).shape == (2 * 56, 16 * 56, 1)
  assert compare(np.zeros((20, 512, 512, 1), np.uint8), pad=0).shape == (5 * 512, 2048, 1)


def test_labels_stand_beside_their_rows():
  images = np.zeros((3, 56, 56, 3))
  plain = compare(images, images, images)
  labelled = compare(images, images, images, labels=["input", "", "target"])
  margin = labelled.shape[1] - plain.shape[1]
  assert margin > 0 and labelled.shape[0] == plain.shape[0]
  np.testing.assert_array_equal(labelled[:, margin:], plain)
  height = plain.shape[0] // 3
  strip = labelled[:, :margin].astype(int)
  ink = [(strip[i * height : (i + 1) * height] > BACKGROUND).sum() for i in range(3)]
  assert ink[0] > 20 and ink[1] == 0 and ink[2] > 20
  assert (strip[:, :4] == BACKGROUND).all()  # nothing is cut off


@pytest.mark.parametrize("channels", [1, 3])
def test_save_png(tmp_path, channels):
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
  path = tmp_path / "new" / "deeper" / "p.png"
  save_png(path, np.zeros_like(picture))
  save_png(path, picture)
  with Image.open(path) as image:
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
  assert os.listdir(path.parent) == ["p.png"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
  path = tmp_path / "p.png"
  save_png(path, np.zeros((4, 4, 1), np.uint8))
  before = path.read_bytes()
  with pytest.raises(TypeError):
    save_png(path, np.zeros((4, 4, 5)))
  assert path.read_bytes() == before and os.listdir(tmp_path) == ["p.png"]
