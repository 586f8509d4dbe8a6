"""What a photograph looks like: on public-domain photographs of scikit-image that were noised, compressed, sharpened
and blurred by known amounts. Pillow and SciPy make them; thresholds come from other photographs.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from skimage import data

from vae_jax.data.jpeg_tables import LUMA
from vae_jax.photos import compression, samples
from vae_jax.photos.condition import GOOD_QUALITY, Condition, inspect_image, of_file
from vae_jax.photos.edges import Edges, edges
from vae_jax.photos.noise_level import noise_sigma


@pytest.fixture(scope="module")
def photo():
  """uint8 [256, 320, 3]."""
  return data.coffee()[:256, 100:420]


@pytest.fixture(scope="module")
def grey():
  return data.camera()[128:384, 128:448, None]


def noisy(image, sigma, seed=0):
  """float, not clipped."""
  return image / 255 + np.random.default_rng(seed).normal(scale=sigma / 255, size=image.shape)


def rounded(image):
  return np.uint8(np.clip(np.rint(255 * image), 0, 255))


def as_jpeg(image, quality, **options):
  """The file, as bytes."""
  out = io.BytesIO()
  Image.fromarray(image.squeeze()).save(out, "JPEG", quality=quality, **options)
  return out.getvalue()


def decoded(content):
  return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content))))


def sharpened(image, radius, percent):
  return np.asarray(
    Image.fromarray(image.squeeze()).filter(ImageFilter.UnsharpMask(radius, percent, 0))
  ).reshape(image.shape)


# JPEG


def test_quality_of_a_file_is_that_which_it_was_saved_with():
  """All qualities of Pillow's libjpeg; 1 and 2 clip to other tables than each other."""
  image = np.zeros((16, 16, 3), np.uint8)
  for quality in range(1, 101):
    found = compression.of_file(Image.open(io.BytesIO(as_jpeg(image, quality))))
    assert found == (quality, True, "4:2:0")


@pytest.mark.parametrize(
  ("mode", "options", "expected"),
  [
    ("L", {"quality": 70}, (70, True, "")),
    ("RGB", {"quality": 70, "subsampling": 0}, (70, True, "4:4:4")),
    ("RGB", {"quality": 70, "subsampling": 1}, (70, True, "4:2:2")),
    ("RGB", {"quality": "web_low"}, (None, False, "4:2:0")),  # tables of Photoshop's kind
    ("RGB", {"qtables": [[7] * 64, [9] * 64]}, (None, False, "4:2:0")),
  ],
)
def test_subsampling_and_foreign_tables(tmp_path, mode, options, expected):
  Image.new(mode, (32, 32)).save(tmp_path / "a.jpg", **options)
  found = of_file(tmp_path / "a.jpg")
  assert found._replace(quality=expected[0] and found.quality) == expected
  assert 1 <= found.quality <= 100
  Image.new(mode, (32, 32)).save(tmp_path / "a.png")
  assert of_file(tmp_path / "a.png") is None


def test_the_nearest_quality_of_foreign_tables():
  """Libjpeg's table of quality 60 with one step changed is about 60."""
  table = compression.scaled(LUMA, 60)
  table[3, 3] += 1
  assert compression.quality_of([table]) == (60, False)


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 95])
def test_quality_from_pixels(photo, grey, quality):
  """As of a PNG that was saved from a JPEG, also cropped off its grid."""
  for image, place in (photo, (0, 0)), (grey, (3, 5)):
    pixels = decoded(as_jpeg(image, quality))[place[0] :, place[1] :]
    found = compression.of_pixels(pixels)
    assert found is not None and abs(found.quality - quality) <= 1 and not found.exact


def test_patterns_of_eight_pixels_are_no_jpeg(photo, grey):
  tiles = photo // 2 * (np.add.outer(np.arange(256) % 8 > 0, np.arange(320) % 8 > 0) > 0)[..., None]
  board = (np.add.outer(np.arange(256) // 8, np.arange(256) // 8) % 2 * np.uint8(255))[..., None]
  pixel_art = [photo[:64, :80].repeat(k, 0).repeat(k, 1) for k in (2, 4, 8)]
  stripes = np.tile(np.uint8(127 + 100 * np.sin(np.pi / 4 * np.arange(256))), (256, 1))[..., None]
  blank = np.full((64, 64, 1), 200, np.uint8)
  for image in (photo, grey, tiles.astype(np.uint8), board, stripes, blank, *pixel_art, blank[:20]):
    assert compression.of_pixels(image) is None


def test_a_jpeg_that_was_resized_or_is_noisy_shows_no_quality(photo):
  pixels = decoded(as_jpeg(photo, 50))
  small = np.asarray(Image.fromarray(pixels).resize((240, 192), Image.Resampling.BICUBIC))
  assert compression.of_pixels(small) is None
  found = compression.of_pixels(rounded(noisy(pixels, 2)))
  assert found is None or found.quality is None


# Noise


@pytest.mark.parametrize("sigma", [5, 15, 25])
def test_noise(photo, grey, sigma):
  """Within 8% where the photographs' own noise (0.6 and 1.1) is added in squares."""
  for image in photo, grey:
    own = noise_sigma(image)
    expected = np.hypot(own, sigma)
    assert noise_sigma(noisy(image, sigma)) == pytest.approx(expected, rel=0.08)
    assert noise_sigma(rounded(noisy(image, sigma))) == pytest.approx(expected, rel=0.08)
    assert noise_sigma(noisy(image, sigma), scale=2) == pytest.approx(expected, rel=0.2)


def test_noise_is_not_biased_by_clipping():
  """A ramp from black to white: most patches near its ends are clipped. Deviation 40."""
  ramp = np.tile(np.linspace(0, 255, 512), (256, 1))[..., None]
  assert noise_sigma(rounded(noisy(ramp, 40))) == pytest.approx(40, rel=0.05)


def test_no_noise_where_there_is_none():
  blank, text = np.full((64, 64, 3), 255, np.uint8), np.full((64, 64, 1), 255, np.uint8)
  text[10:20:2, 5:60] = 0
  for image in (blank, text, blank[:3, :3], np.tile(np.linspace(0, 1, 64), (64, 1))[..., None]):
    assert noise_sigma(image) == pytest.approx(0, abs=1e-3)


def test_noise_under_jpeg_is_seen_in_means_of_four_pixels(grey):
  """The fine part of it is gone: of 10 grey levels less than half is seen at full size."""
  pixels = decoded(as_jpeg(rounded(noisy(grey, 10)), 50))
  assert noise_sigma(pixels) < 5 < noise_sigma(pixels, scale=2) < 13
  assert inspect_image(pixels).noise == noise_sigma(pixels, scale=2)


# Edges


def test_halo_and_width_of_a_known_edge():
  """A step under a Gaussian blur of deviation s is 2.507 s wide (step over slope); the overshoot is built in."""
  across = np.arange(64) - 31.7
  for deviation in 1.0, 1.5, 2.0:
    step = (
      gaussian_filter(np.where(np.arange(640) > 317, 180.0, 70.0), 10 * deviation).reshape(64, 10).mean(1)
    )
    found = edges(np.tile(step, (40, 1))[..., None] / 255)
    assert found.width == pytest.approx(2.507 * deviation, rel=0.12)
    assert abs(found.halo) < 0.02
  for overshoot in 0.1, 0.3:
    bump = overshoot * np.exp(-((np.abs(across) - 2) ** 2) / 0.7) * np.sign(across)
    values = 125 + 80 * (np.sign(across) / 2 + bump)
    found = edges(np.tile(values, (40, 1))[..., None] / 255)
    assert found.halo == pytest.approx(overshoot, rel=0.15)


def test_halo_and_width_grow_with_sharpening_and_blur(photo):
  halos = [edges(photo).halo, *(edges(sharpened(photo, 2, p)).halo for p in (50, 100, 150))]
  assert halos[0] < 0.08 and np.all(np.diff(halos) > 0.02)
  blurred = (np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(s))) for s in (1, 2, 3))
  widths = [edges(photo).width, *(edges(image).width for image in blurred)]
  assert np.all(np.diff(widths) > 0.5)


def test_no_edges_no_estimate():
  for image in np.zeros((64, 64, 1)), np.zeros((2, 2, 3)), np.zeros((1, 300, 3)):
    assert edges(image) == Edges(None, None, 0)


# All of it


def test_the_parts_of_a_large_photograph():
  """16 tiles at most, on multiples of 8, all over it; a small one is looked at whole."""
  for shape in (3000, 4000, 3), (20_000, 300, 1), (257, 20_000, 3):
    image = np.broadcast_to(np.zeros(shape[2], np.uint8), shape)
    parts = samples.tiles(image)
    assert 4 <= len(parts) <= 16 and {p.shape for p in parts} == {(256, 256, shape[2])}
  count = np.add.outer(100_000 * np.arange(3000), np.arange(4000))
  starts = [divmod(int(part[0, 0]), 100_000) for part in samples.tiles(count)]
  assert all(i % 8 == 0 and j % 8 == 0 for i, j in starts) and len(set(starts)) == len(starts)
  assert max(starts) > (2000, 3000) and min(starts) < (500, 500)
  assert [part.shape for part in samples.tiles(count[:900, :900])] == [(900, 900)]


def test_remarks():
  def said(known, noise=0.0, halo=None, width=None):
    return Condition(known, noise, Edges(halo, width, 99)).remarks()

  assert (
    said(None) == said(compression.Compression(GOOD_QUALITY)) == said(compression.Compression(None)) == []
  )
  assert said(compression.Compression(72, True, "4:2:0"), 3.2) == [
    "JPEG quality 72 (4:2:0)",
    "noise about 3 grey levels",
  ]
  assert said(compression.Compression(60)) == ["JPEG quality about 60"]
  assert said(None, halo=0.2, width=4.6) == [
    "edges sharpened",
    "edges 5 pixels wide (blurred or enlarged)",
  ]


def test_a_photograph_is_put_into_its_class(photo):
  """Clean, noisy, compressed, sharpened, enlarged: each of one kind alone."""
  jpeg = decoded(as_jpeg(photo, 60))
  large = np.asarray(Image.fromarray(photo).resize((640, 512), Image.Resampling.BICUBIC))
  for image, expected in (
    (photo, (False, False, False, False)),
    (rounded(noisy(photo, 8)), (False, True, False, False)),
    (jpeg, (True, False, False, False)),
    (sharpened(photo, 2, 150), (False, False, True, False)),
    (np.asarray(Image.fromarray(large).filter(ImageFilter.GaussianBlur(1))), (False, False, False, True)),
  ):
    found = inspect_image(image)
    seen = found.compressed, found.noisy, found.sharpened, found.wide
    assert seen == expected, found
