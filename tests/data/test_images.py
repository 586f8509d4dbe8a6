"""Every mode of image file against pixel values worked out by hand."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from vae_jax.data import images
from vae_jax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def saved(image, kind="PNG", **options):
  out = io.BytesIO()
  image.save(out, kind, **options)
  return out.getvalue()


@pytest.mark.parametrize(
  "image, expected",
  [
    (Image.fromarray(GREY), GREY[..., None]),
    (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(RGB[..., 1])]), GREY[..., None]),
    (Image.fromarray(RGB), RGB),
    (Image.fromarray(np.dstack([RGB, np.zeros((5, 7), np.uint8)])), RGB),  # invisible, and yet its colour
    (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)[..., None]),
  ],
  ids=["L", "LA", "RGB", "RGBA", "1"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_modes(image, expected, kind):
  got = images.decode(saved(image, kind))
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, expected)


def palette_image():
  image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
  image.putpalette([255, 0, 0, 0, 255, 0, 9, 8, 7])
  image.putdata([0, 1, 2, 1])
  return image


@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"transparency": b"\x00\x80\xff"}])
def test_palette_keeps_its_colours_also_with_transparency(options):
  expected = np.array([[[255, 0, 0], [0, 255, 0]], [[9, 8, 7], [0, 255, 0]]], np.uint8)
  np.testing.assert_array_equal(images.decode(saved(palette_image(), **options)), expected)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bits_are_scaled_and_never_clipped(dtype, tmp_path):
  values = np.array([[0, 128, 129, 255, 256], [385, 386, 32768, 65406, 65535]], np.uint16)
  expected = np.array([[0, 0, 1, 1, 1], [1, 2, 128, 254, 255]], np.uint8)[..., None]
  np.testing.assert_array_equal(expected[..., 0], np.rint(values / 257))
  mode = "I;16B" if dtype == ">u2" else "I;16"
  image = Image.frombytes(mode, (5, 2), values.astype(dtype).tobytes())
  np.testing.assert_array_equal(images.decode(saved(image, "TIFF")), expected)
  np.testing.assert_array_equal(images.decode(saved(Image.fromarray(values))), expected)


def test_32_bit_integers_and_floats():
  values = np.array([[0, 300, 65535]], np.int32)
  np.testing.assert_array_equal(images.decode(saved(Image.fromarray(values), "TIFF"))[0, :, 0], [0, 1, 255])
  floats = np.array([[0.0, 0.5, 1.0]], np.float32)
  np.testing.assert_array_equal(images.decode(saved(Image.fromarray(floats), "TIFF"))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("bad", [np.int32([[-1, 5]]), np.int32([[0, 65536]]), np.float32([[0, 3]]),
                                 np.float32([[np.nan, 0]])])  # fmt: skip
def test_values_out_of_range_are_refused(bad):
  with pytest.raises(UserError, match="outside"):
    images.decode(saved(Image.fromarray(bad), "TIFF"), name="x.tif")


def test_cmyk_jpeg():
  red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  got = images.decode(saved(red, "JPEG", quality=95)).astype(int)
  assert got.shape == (8, 8, 3)
  assert (abs(got - [255, 0, 0]) < 12).all()


def test_webp():
  np.testing.assert_array_equal(images.decode(saved(Image.fromarray(RGB), "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize(
  "orientation, expected",
  [(2, RGB[:, ::-1]), (3, RGB[::-1, ::-1]), (4, RGB[::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB))],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation(orientation, expected, kind):
  exif = Image.Exif()
  exif[0x0112] = orientation
  np.testing.assert_array_equal(images.decode(saved(Image.fromarray(RGB), kind, exif=exif)), expected)


def test_channels():
  png = saved(Image.fromarray(RGB))
  luma = np.floor(RGB.astype(np.float64) @ [0.299, 0.587, 0.114] + 0.5 + 1e-9)[..., None]
  np.testing.assert_array_equal(images.decode(png, 1), luma)
  grey = images.decode(saved(Image.fromarray(GREY)), 3)
  np.testing.assert_array_equal(grey, np.stack([GREY] * 3, -1))
  white = np.full((1, 1, 3), 255, np.uint8)
  assert images.to_channels(white, 1).item() == 255
  with pytest.raises(UserError, match=r"data.channels = 2"):
    images.decode(png, 2)
  with pytest.raises(UserError, match="2 channels"):
    images.to_channels(np.zeros((3, 3, 2), np.uint8), 1)


def halved(content):
  return content[: len(content) // 2]


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"hello, this is no image",
    *(
      halved(saved(Image.effect_noise((40, 40), 90).convert("RGB"), kind))
      for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    ),
  ],
  ids=["empty", "text", "png", "jpeg", "webp", "tiff"],
)
def test_damaged_files_are_named(content, tmp_path):
  path = tmp_path / "broken.png"
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"broken\.png: cannot be decoded") as error:
    images.decode(path)
  assert "\n" not in str(error.value) and " at 0x" not in str(error.value)
  with pytest.raises(UserError, match="record 7"):
    images.decode(content, name="record 7")


def test_missing_file_and_bomb(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="gone"):
    images.decode(tmp_path / "gone.png")
  monkeypatch.setattr(images, "MAX_PIXELS", 34)
  with pytest.raises(UserError, match="above the limit of 34"):
    images.decode(saved(Image.fromarray(RGB)))
  monkeypatch.setattr(images, "MAX_PIXELS", 35)
  images.decode(saved(Image.fromarray(RGB)))


def test_the_limit_is_ours_and_no_global_of_pillow_changes(monkeypatch):
  """A program that uses us may have set Pillow's limit, or made its warning an error."""
  content = saved(Image.fromarray(RGB))
  for limit in (3, None, 89478485):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    np.testing.assert_array_equal(images.decode(content), RGB)
    assert limit == Image.MAX_IMAGE_PIXELS
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    images.decode(content)  # which may silence Pillow's remarks about metadata, and no more
    with pytest.raises(Image.DecompressionBombWarning):
      Image.open(io.BytesIO(content))


@pytest.mark.parametrize("image", [GREY, GREY[..., None], RGB], ids=["hw", "hw1", "hw3"])
def test_png_round_trip(image):
  np.testing.assert_array_equal(images.decode(images.encode_png(image)), image.reshape(5, 7, -1))


@pytest.mark.parametrize("image", [RGB.astype(np.float32), RGB[..., :2], RGB[0, 0]])
def test_png_of_something_else(image):
  with pytest.raises(ValueError, match="expected uint8"):
    images.encode_png(image)
