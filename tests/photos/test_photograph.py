"""Photographs of every kind read, against pixels worked out by hand and other programs' readers."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from photographs import DEEP, GREY, RGB, RGBA, RNG, SRGB, chunk, exif_bytes, levels, opened, png, read_exif
from PIL import Image

from vae_jax.data import images
from vae_jax.errors import UserError
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.saving import save_photograph


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
  "image, pixels, alpha",
  [
    (Image.fromarray(GREY[..., 0]), GREY, None),
    (Image.fromarray(RGBA[..., :2]), GREY, RGBA[..., 1:2]),
    (Image.fromarray(RGB), RGB, None),
    (Image.fromarray(RGBA), RGB, RGBA[..., 3:]),
    (Image.fromarray(GREY[..., 0] > 127), np.where(GREY > 127, 255, 0), None),
  ],
  ids=["L", "LA", "RGB", "RGBA", "1"],
)
def test_modes(tmp_path, image, pixels, alpha, suffix):
  got = opened(tmp_path / f"a{suffix}", image)
  assert got.pixels.dtype == np.float32 and got.bits == 8 and got.icc is None and got.exif is None
  np.testing.assert_array_equal(levels(got.pixels, 255), pixels)
  assert got.pixels.min() >= 0 and got.pixels.max() <= 1
  if alpha is None:
    assert got.alpha is None
  else:
    assert got.alpha.dtype == np.float32
    np.testing.assert_array_equal(levels(got.alpha, 255), alpha)


def palette_image():
  image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
  image.putpalette([255, 0, 0, 0, 255, 0, 9, 8, 7])
  image.putdata([0, 1, 2, 1])
  return image


@pytest.mark.parametrize(
  "options, alpha",
  [
    ({}, None),
    ({"transparency": 1}, [[255, 0], [255, 0]]),
    ({"transparency": b"\x00\x80\xff"}, [[0, 128], [255, 128]]),
  ],
)
def test_palette(tmp_path, options, alpha):
  got = opened(tmp_path / "a.png", palette_image(), **options)
  expected = np.array([[[255, 0, 0], [0, 255, 0]], [[9, 8, 7], [0, 255, 0]]])
  np.testing.assert_array_equal(levels(got.pixels, 255), expected)
  if alpha is None:
    assert got.alpha is None
  else:
    np.testing.assert_array_equal(levels(got.alpha, 255)[..., 0], alpha)


@pytest.mark.parametrize(
  "samples, colour_type, depth",
  [(RGB, 2, 8), (GREY, 0, 8), (DEEP[..., :1], 0, 16), (DEEP[..., :3], 2, 16)],
  ids=["RGB", "grey", "grey16", "RGB16"],
)
def test_a_transparent_colour_of_png(tmp_path, samples, colour_type, depth):
  if (depth, colour_type) == (16, 2):
    pytest.importorskip("cv2")
  samples = samples.copy()
  samples[2, 3] = samples[0, 0]
  samples[1, 1] = samples[0, 0]
  samples[1, 1, -1] ^= 1  # almost the same
  (tmp_path / "a.png").write_bytes(
    png(samples, colour_type, depth, [(b"tRNS", samples[0, 0].astype(">u2").tobytes())])
  )
  got = open_photograph(tmp_path / "a.png")
  np.testing.assert_array_equal(levels(got.pixels, 2**depth - 1), samples)
  np.testing.assert_array_equal(got.alpha[..., 0], (samples != samples[0, 0]).any(axis=2))
  assert got.alpha[0, 0] == got.alpha[2, 3] == 0 and got.alpha[1, 1] == 1


@pytest.mark.parametrize("depth, key", [(1, 0), (1, 1), (2, 2), (4, 9)])
def test_a_transparent_level_of_few_bits(tmp_path, depth, key):
  """Levels 0..3 of two bits are 0, 85, 170, 255; the transparent one is given as 0..3."""
  values = np.arange(16).reshape(2, 8) % 2**depth
  bits = "".join(f"{value:0{depth}b}" for value in values.ravel())
  packed = np.array([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], np.uint8).reshape(2, -1)
  data = bytearray(png(packed, 0, depth, [(b"tRNS", bytes([0, key]))]))
  data[16:20] = struct.pack(">I", 8)  # eight pixels wide
  data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
  (tmp_path / "a.png").write_bytes(data)
  got = open_photograph(tmp_path / "a.png")
  np.testing.assert_array_equal(levels(got.pixels, 255)[..., 0], values * (255 // (2**depth - 1)))
  np.testing.assert_array_equal(got.alpha[..., 0], values != key)
  over = images.decode(bytes(data), over=7)[..., 0]
  np.testing.assert_array_equal(over, np.where(values == key, 7, values * (255 // (2**depth - 1))))


def test_gif_and_bmp_and_ppm(tmp_path):
  got = opened(tmp_path / "a.gif", palette_image(), transparency=2)
  np.testing.assert_array_equal(got.alpha[..., 0], [[1, 1], [0, 1]])
  grey = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))  # which Pillow opens as "L"
  got = opened(tmp_path / "grey.gif", grey, transparency=2)
  np.testing.assert_array_equal(got.alpha[..., 0], [[1, 1], [0, 1]])
  for suffix in (".bmp", ".ppm"):
    np.testing.assert_array_equal(
      levels(opened(tmp_path / f"a{suffix}", Image.fromarray(RGB)).pixels, 255), RGB
    )


@pytest.mark.parametrize("kind", ["png", "tiff-little", "tiff-big", "tiff-white-is-zero", "pgm"])
def test_grey_of_16_bits(tmp_path, kind):
  path, values = tmp_path / f"a.{kind[:4].strip('-')}", DEEP[..., :1]
  if kind == "png":
    path.write_bytes(png(values, 0))
  elif kind == "pgm":
    path.write_bytes(b"P5\n7 5\n65535\n" + values.astype(">u2").tobytes())
  else:
    tifffile = pytest.importorskip("tifffile")
    white = "white" in kind
    tifffile.imwrite(
      path,
      65535 - values[..., 0] if white else values[..., 0],
      photometric="miniswhite" if white else "minisblack",
      byteorder=">" if kind == "tiff-big" else "<",
      metadata=None,
    )
  got = open_photograph(path)
  assert got.bits == 16 and got.pixels.shape == (5, 7, 1)
  np.testing.assert_array_equal(levels(got.pixels, 65535), values)


def test_floating_point_grey(tmp_path):
  values = RNG.random((5, 7), np.float32)
  got = opened(tmp_path / "a.tif", Image.fromarray(values))
  np.testing.assert_array_equal(got.pixels[..., 0], values)
  assert got.bits == 16
  for bad in (2.0, -0.1, np.nan):
    with pytest.raises(UserError, match=r"b\.tif.*outside \[0, 1\]"):
      opened(tmp_path / "b.tif", Image.fromarray(np.where(values == values.max(), np.float32(bad), values)))


@pytest.mark.parametrize(
  "colour_type, chosen", [(2, [0, 1, 2]), (6, [0, 1, 2, 3]), (4, [0, 3])], ids=["RGB", "RGBA", "LA"]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_png_colour_of_16_bits(tmp_path, colour_type, chosen, orientation):
  pytest.importorskip("cv2")
  exif = exif_bytes(orientation).removeprefix(b"Exif\0\0")
  extra = [(b"iCCP", b"x\0\0" + zlib.compress(SRGB)), (b"gAMA", struct.pack(">I", 100000)), (b"eXIf", exif)]
  (tmp_path / "a.png").write_bytes(
    png(DEEP[..., chosen], colour_type, extra=extra[1:] if colour_type == 4 else extra)
  )
  got = open_photograph(tmp_path / "a.png")
  upright = DEEP if orientation == 1 else np.rot90(DEEP, -1)
  assert got.bits == 16 and (got.icc is None) == (colour_type == 4)
  assert got.pixels.shape[2] == (1 if colour_type == 4 else 3)
  np.testing.assert_array_equal(
    levels(got.pixels, 65535), upright[..., chosen if colour_type == 2 else chosen[:-1]]
  )
  if colour_type == 2:
    assert got.alpha is None
  else:
    np.testing.assert_array_equal(levels(got.alpha, 65535), upright[..., 3:])


UPRIGHT = {  # where row 0, column 0 of the file go: EXIF 2.3, table of tag 0x0112
  1: lambda a: a,
  2: np.fliplr,
  3: lambda a: np.rot90(a, 2),
  4: np.flipud,
  5: lambda a: np.swapaxes(a, 0, 1),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
  8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "tif16", "tif16-big", "bigtiff16"])
def test_orientation(tmp_path, orientation, kind):
  path = tmp_path / f"a.{'tif' if 'tif' in kind else kind}"
  if kind.endswith(("16", "big")):
    pytest.importorskip("cv2")
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(
      path,
      DEEP[..., :3],
      photometric="rgb",
      metadata=None,
      byteorder=">" if kind == "tif16-big" else "<",
      bigtiff=kind == "bigtiff16",
      extratags=[(274, 3, 1, orientation, True)],
    )
    expected = UPRIGHT[orientation](DEEP[..., :3])
    got = open_photograph(path)
    np.testing.assert_array_equal(levels(got.pixels, 65535), expected)
  elif kind == "jpg":
    halves = np.zeros((32, 48, 3), np.uint8)
    halves[:16, :24] = 255  # the corner of the first row and column: enough to tell all eight apart by shape
    halves[:16, 24:] = 128
    Image.fromarray(halves).save(path, exif=exif_bytes(orientation), quality=100, subsampling=0)
    got = open_photograph(path)
    np.testing.assert_allclose(got.pixels * 255, UPRIGHT[orientation](halves), atol=3)
  else:
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(RGB).save(path, exif=exif_bytes(orientation), **options)
    got = open_photograph(path)
    np.testing.assert_array_equal(levels(got.pixels, 255), UPRIGHT[orientation](RGB))
  if not kind.endswith(("16", "big")):
    main, sub, gps = read_exif(got.exif)
    assert 0x0112 not in main and main[0x010F] == "Maker"
    assert sub[0x9003] == "2024:01:02 03:04:05" and 0xA002 not in sub and 0xA003 not in sub
    assert gps[1] == "N"
  # What is written is upright everywhere.
  save_photograph(tmp_path / "b.png", got)
  np.testing.assert_array_equal(open_photograph(tmp_path / "b.png").pixels, got.pixels)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_fourth_channel_of_a_tiff_of_16_bits(tmp_path, extra):
  pytest.importorskip("cv2")
  tifffile = pytest.importorskip("tifffile")
  samples = DEEP.copy()
  samples[0, 0, 3] = 0
  if extra == 1:  # associated: premultiplied
    samples[..., :3] = np.rint(samples[..., :3] * (samples[..., 3:] / 65535))
  tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=[extra], metadata=None)
  got = open_photograph(tmp_path / "a.tif")
  if extra == 0:  # unspecified: no alpha
    assert got.alpha is None
    np.testing.assert_array_equal(levels(got.pixels, 65535), samples[..., :3])
    return
  np.testing.assert_array_equal(levels(got.alpha, 65535), samples[..., 3:])
  if extra == 2:
    np.testing.assert_array_equal(levels(got.pixels, 65535), samples[..., :3])
    return
  alpha = samples[..., 3:] / 65535
  np.testing.assert_allclose(got.pixels * alpha, samples[..., :3] / 65535, atol=1e-6)
  clear = (alpha > 0.5)[..., 0]
  np.testing.assert_allclose(got.pixels[clear], DEEP[clear][:, :3] / 65535, atol=2e-5)


def test_16_bits_written_by_opencv(tmp_path):
  cv2 = pytest.importorskip("cv2")
  for suffix in (".png", ".tif"):
    for channels in (3, 4):
      order = [2, 1, 0, 3][:channels]
      assert cv2.imwrite(str(tmp_path / f"a{suffix}"), DEEP[..., order])
      got = open_photograph(tmp_path / f"a{suffix}")
      np.testing.assert_array_equal(levels(got.pixels, 65535), DEEP[..., :3])
      assert (got.alpha is not None) == (channels == 4)


def test_ppm_of_16_bits(tmp_path):
  pytest.importorskip("cv2")
  for white in (65535, 1023):
    values = (DEEP[..., :3] & white).astype(">u2")
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n# comment\n7 5\n%d\n" % white + values.tobytes())
    got = open_photograph(path)
    assert got.bits == 16
    np.testing.assert_array_equal(levels(got.pixels, white), values)


def test_kinds_that_would_lose_bits_are_refused(tmp_path):
  tifffile = pytest.importorskip("tifffile")
  for name, samples, options in (
    ("planes", DEEP[..., :3].transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
    ("cmyk", DEEP, {"photometric": "separated"}),
  ):
    path = tmp_path / f"{name}.tif"
    tifffile.imwrite(path, samples, metadata=None, **options)
    with pytest.raises(UserError, match=f"{name}.tif: a TIFF .*would lose bits; convert it") as error:
      open_photograph(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM"])
def test_deep_colour_of_other_formats(tmp_path, kind):
  """10 bits of AVIF, 16 of JPEG 2000: against OpenCV's writer, both without loss."""
  cv2 = pytest.importorskip("cv2")
  white = {"AVIF": 1023, "JPEG2000": 65535, "PPM": 65535}[kind]
  suffix = {"AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm"}[kind]
  smooth = np.linspace(0.2, 0.8, 64 * 80 * 3).reshape(64, 80, 3)
  values = np.rint(smooth * white).astype(np.uint16)
  how = {"AVIF": [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, 10]}.get(kind, [])
  if not cv2.imwrite(str(tmp_path / f"a{suffix}"), values, how):
    pytest.skip("this OpenCV does not write it")
  got = open_photograph(tmp_path / f"a{suffix}")
  assert got.bits == 16 and got.pixels.shape == values.shape
  np.testing.assert_allclose(got.pixels, values[..., ::-1] / white, atol=1e-3 if kind == "JPEG2000" else 1e-6)


def test_avif_and_jpeg2000_of_8_bits(tmp_path):
  got = opened(tmp_path / "a.jp2", Image.fromarray(RGBA))
  np.testing.assert_array_equal(levels(got.pixels, 255), RGB)
  np.testing.assert_array_equal(levels(got.alpha, 255), RGBA[..., 3:])
  exif = Image.Exif()
  exif[0x0112] = 6
  flat = Image.fromarray(np.full((8, 16, 3), (200, 100, 50), np.uint8))
  got = opened(tmp_path / "a.avif", flat, quality=100, subsampling="4:4:4", exif=exif)
  assert got.pixels.shape == (16, 8, 3) and got.bits == 8
  np.testing.assert_allclose(got.pixels[0, 0] * 255, (200, 100, 50), atol=2)


def test_a_preview_is_not_taken_for_the_picture(tmp_path):
  """Raw files of cameras are TIFF files that begin with a small preview, and say so (NewSubfileType 1)."""
  Image.fromarray(RGB).save(tmp_path / "a.tif", tiffinfo={254: 1})
  with pytest.raises(UserError, match="first picture is a preview"):
    open_photograph(tmp_path / "a.tif")


def test_an_animation_of_16_bits_begins_as_one_of_8_bits(tmp_path):
  """With the still picture (IDAT), which here is no frame of the animation."""
  pytest.importorskip("cv2")
  found = []
  for depth in (8, 16):
    still, frame = (np.full((2, 3, 3), value * (1 if depth == 8 else 257), np.uint16) for value in (10, 200))
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in frame)
    animation = []
    for i in range(2):
      control = struct.pack(">IIIIIHHBB", 2 * i, 3, 2, 0, 0, 1, 10, 0, 0)
      animation += [(b"fcTL", control), (b"fdAT", struct.pack(">I", 2 * i + 1) + zlib.compress(rows))]
    content = png(still, 2, depth, [(b"acTL", struct.pack(">II", 2, 0))])
    (tmp_path / "a.png").write_bytes(content[:-12] + b"".join(chunk(*c) for c in animation) + content[-12:])
    found.append(open_photograph(tmp_path / "a.png").pixels)
  np.testing.assert_allclose(found[0], found[1], atol=1e-6)
  np.testing.assert_allclose(found[0], 10 / 255, atol=1e-6)


def test_without_opencv(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "cv2", None)
  path = tmp_path / "deep colour.png"
  path.write_bytes(png(DEEP[..., :3], 2))
  with pytest.raises(UserError, match=r'deep colour\.png: .*pip install -e "\.\[photos16\]"') as error:
    open_photograph(path)
  assert "\n" not in str(error.value)
  path.write_bytes(png(DEEP[..., :1], 0))  # grey needs none, nor does writing
  assert open_photograph(path).bits == 16
  save_photograph(tmp_path / "b.png", Photograph(np.zeros((2, 2, 3), np.float32), bits=16))


def test_cmyk(tmp_path):
  """Printed black is dark and paper white; each ink takes its colour away. Both as Adobe stores JPEGs, and TIFF."""
  inks = np.zeros((8, 40, 4), np.uint8)
  for i in range(4):
    inks[:, 8 * (i + 1) : 8 * (i + 2), i] = 255
  for path in (tmp_path / "a.jpg", tmp_path / "a.tif"):
    got = opened(path, Image.fromarray(inks, "CMYK"), icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    assert got.pixels.shape == (8, 40, 3) and got.icc is None and got.alpha is None
    colours = got.pixels[4, 4::8]
    np.testing.assert_allclose(colours, [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], atol=0.02)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_icc_is_kept(tmp_path, name):
  assert opened(tmp_path / name, Image.fromarray(RGB), icc_profile=SRGB).icc == SRGB


def test_several_pictures_in_a_jpeg_of_a_phone(tmp_path):
  image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
  image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(RGB)])
  with Image.open(tmp_path / "a.jpg") as file:
    assert file.format == "MPO"
  np.testing.assert_allclose(open_photograph(tmp_path / "a.jpg").pixels * 255, 90, atol=1)


def test_damaged_exif_costs_the_exif_alone(tmp_path):
  for junk in (b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f", exif_bytes(6)[:40]):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=junk)
    assert open_photograph(tmp_path / "a.jpg").pixels.shape[2] == 3


def bad_files(folder):
  whole = io.BytesIO()
  Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "PNG")
  jpeg = io.BytesIO()
  Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(jpeg, "JPEG")
  deep = png(RNG.integers(0, 65536, (64, 64, 3), np.uint16), 2)
  save_photograph(folder / "whole16.tif", Photograph(RNG.random((64, 64, 3), np.float32), bits=16))
  for name, content in {
    "empty.png": b"",
    "half.png": whole.getvalue()[:4000],
    "half.jpg": jpeg.getvalue()[:2000],
    "half16.png": deep[:8000],
    "half16.tif": (folder / "whole16.tif").read_bytes()[:8000],
    "text.png": b"this is no picture",
    "header.png": whole.getvalue()[:30],
    "bad.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 20,
  }.items():
    (folder / name).write_bytes(content)
    yield folder / name
  yield folder / "missing.png"
  (folder / "folder.png").mkdir()
  yield folder / "folder.png"


def test_bad_files(tmp_path):
  for path in bad_files(tmp_path):
    with pytest.raises(UserError) as error:
      open_photograph(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert "BytesIO" not in str(error.value)


def test_the_limit_on_pixels(tmp_path, monkeypatch):
  monkeypatch.setattr(images, "MAX_PIXELS", 30)
  with pytest.raises(UserError, match="above the limit"):
    opened(tmp_path / "a.png", Image.fromarray(RGB))
