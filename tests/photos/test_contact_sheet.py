"""The details on the contact sheet, pixel by pixel."""

import numpy as np
import pytest
from scored_folders import BICUBIC, NOISE, Recorder, enlarge, photo, save, soften

from vae_jax.photos.classical import lanczos
from vae_jax.photos.contact_sheet import find_detail
from vae_jax.photos.score_folder import benchmark
from vae_jax.pictures import BACKGROUND

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_sheet_shows_the_detail_of_each(tmp_path):
  """128 pixels of the original in the last column, the small image with square pixels in the first."""
  flat = np.full((150, 170, 3), 90, np.uint8)
  flat[14:, 36:] = photo(136, 134)  # the telling part
  ours = Recorder(enlarge)
  scores, picture = benchmark(ours, save(tmp_path, {"a.png": flat}), BICUBIC, channels=3)
  assert picture.dtype == np.uint8 and picture.shape == (36 + 298 + 34, 12 + 4 * 268, 3)
  top, left, height, width = find_detail(flat / np.float32(255), 2)
  assert top and left and (height, width) == (128, 128) and top % 2 == left % 2 == 0
  shown = [picture[36 : 36 + 256, 12 + j * 268 : 12 + j * 268 + 256] for j in range(4)]
  detail = np.s_[top : top + 128, left : left + 128]
  np.testing.assert_array_equal(shown[3], flat[detail].repeat(2, 0).repeat(2, 1))
  large = np.uint8(np.rint(np.clip(enlarge(ours.seen[0]), 0, 1) * np.float32(255))[detail])
  np.testing.assert_array_equal(shown[2], large.repeat(2, 0).repeat(2, 1))
  assert scores["mean"]["lanczos"]["psnr_y"] > max(  # so it is the one that is shown
    scores["mean"][other]["psnr_y"] for other in ("bicubic", "bicubic_pillow", "unsharp")
  )
  large = np.uint8(np.rint(lanczos(ours.seen[0], 2) * np.float32(255))[detail])
  np.testing.assert_array_equal(shown[1], large.repeat(2, 0).repeat(2, 1))
  low = np.uint8(np.rint(255 * ours.seen[0][top // 2 : top // 2 + 64, left // 2 : left // 2 + 64]))
  np.testing.assert_array_equal(shown[0], low.repeat(4, 0).repeat(4, 1))
  # Words stand above and below each, and between the cells there is nothing.
  for j in range(4):
    column = np.s_[12 + j * 268 : 12 + j * 268 + 256]
    assert (picture[:36, column] > 150).any() and (picture[36 + 256 : 36 + 286, column] > 150).any()
    assert (picture[:, 12 + j * 268 - 12 : 12 + j * 268][: 36 + 298] == BACKGROUND).all()


def test_sheet_of_different_sizes(tmp_path, no_packages):
  images = {"a" * 120 + ".png": photo(24, 40, 1), "b.png": photo(200, 16, 1), "c.png": photo(24, 24, 1)}
  scores, picture = benchmark(soften, save(tmp_path, images), NOISE, channels=1, sheet=2)
  assert scores["count"] == 3 and picture.shape == (36 + 144 + 42 + 256 + 42 + 34, 12 + 4 * 268, 3)
  assert (picture[..., 0] == picture[..., 2]).all()  # grey
  last = picture[36:, 12 + 3 * 268 : 12 + 4 * 268, 0]
  first, second = (image[..., 0] for image in list(images.values())[:2])
  np.testing.assert_array_equal(last[:144, 8 : 8 + 240], first.repeat(6, 0).repeat(6, 1))  # in the middle
  top, *_ = find_detail(second[..., None] / np.float32(255), 1)
  second = second[top : top + 128].repeat(2, 0).repeat(2, 1)
  np.testing.assert_array_equal(last[186 : 186 + 256, 112 : 112 + 32], second)
  assert (last[144 : 144 + 30, -12:] == BACKGROUND).all()  # a long name ends within its column


@pytest.mark.parametrize(("h", "w", "factor"), [(16, 300, 3), (129, 128, 2), (128, 128, 1), (331, 17, 4)])
def test_detail_lies_inside_at_multiples_of_the_factor(h, w, factor):
  h, w = h // factor * factor, w // factor * factor
  clean = photo(h, w).astype(np.float32) / 255
  top, left, height, width = find_detail(clean, factor)
  assert (height, width) == (min(h, 128) // factor * factor, min(w, 128) // factor * factor)
  assert not any(n % factor for n in (top, left, height, width))
  assert 0 <= top <= h - height and 0 <= left <= w - width


def test_detail_has_the_highest_local_variance():
  clean = np.full((140, 300, 3), 0.4, np.float32)
  clean[:, 5:95] += 0.03 * np.random.default_rng(0).standard_normal((140, 90, 1)).astype(np.float32)
  clean[:, 250:] = 0.9  # a hard edge: more variance, of fewer patches
  grey = clean.astype(np.float64).mean(-1)
  patches = np.lib.stride_tricks.sliding_window_view(grey, (7, 7)).std(axis=(2, 3))
  windows = np.lib.stride_tricks.sliding_window_view(patches, (122, 122)).mean(axis=(2, 3))
  expected = np.unravel_index(np.argmax(windows), windows.shape)
  assert find_detail(clean, 1)[:2] == tuple(expected) and expected[1] < 20
