"""Photographs of every kind there and back, against pixels worked out by hand and other programs' readers."""

import io
import os
import stat
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from vae_jax.errors import UserError
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.saving import check_saveable, save_photograph
from vae_jax.photos.transparency import enlarged as alpha_resized

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (5, 7, 4), np.uint8)
RGB, GREY = RGBA[..., :3], RGBA[..., :1]
DEEP = RNG.integers(0, 65536, (5, 7, 4), np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = SRGB[:16] + b"GRAY" + SRGB[20:]  # good enough: what a file carries is not interpreted


def opened(path, image, **options):
  image.save(path, **options)
  return open_photograph(path)


def levels(values, white):
  """float -> integers; the values must be exact levels."""
  scaled = np.asarray(values, np.float64) * white
  np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-2)
  return np.rint(scaled).astype(int)


def png(samples, colour_type, depth=16, extra=()):
  """A PNG without filters, written out by hand."""

  def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

  h, w = samples.shape[:2]
  rows = [b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in samples]
  header = struct.pack(">IIBBBBB", w, h, depth, colour_type, 0, 0, 0)
  chunks = [
    (b"IHDR", header),
    *extra,
    (b"IDAT", zlib.compress(b"".join(rows))),
    (b"IEND", b""),
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def exif_bytes(orientation=None):
  exif = Image.Exif()
  exif[0x010F] = "Maker"
  exif[0x0132] = "2024:01:02 03:04:05"
  if orientation:
    exif[0x0112] = orientation
  exif[0x8769] = {0x829A: (1, 250), 0x9003: "2024:01:02 03:04:05", 0xA002: 7, 0xA003: 5, 0x927C: b"\0\1note"}
  exif[0x8825] = {1: "N", 2: (47.0, 22.0, 8.0)}
  return exif.tobytes()


def read_exif(exif):
  known = Image.Exif()
  known.load(exif)
  return dict(known), dict(known.get_ifd(0x8769)), dict(known.get_ifd(0x8825))


# Reading


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


def test_a_transparent_level_of_two_bits(tmp_path):
  """Levels 0..3 are 0, 85, 170, 255; the transparent one is given as 0..3."""
  packed = np.array([[0b00011011], [0b11100100]], np.uint8)  # 0 1 2 3 | 3 2 1 0
  data = bytearray(png(packed, 0, 2, [(b"tRNS", b"\0\2")]))
  data[16:20] = struct.pack(">I", 4)  # four pixels wide
  data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
  (tmp_path / "a.png").write_bytes(data)
  got = open_photograph(tmp_path / "a.png")
  np.testing.assert_array_equal(levels(got.pixels, 255)[..., 0], [[0, 85, 170, 255], [255, 170, 85, 0]])
  np.testing.assert_array_equal(got.alpha[..., 0], [[1, 1, 0, 1], [1, 0, 1, 1]])


def test_gif_and_bmp_and_ppm(tmp_path):
  got = opened(tmp_path / "a.gif", palette_image(), transparency=2)
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


def test_formats_that_may_be_deep_are_refused(tmp_path):
  path = tmp_path / "a.png"  # whatever its name
  Image.fromarray(RGB).save(path, "JPEG2000")
  with pytest.raises(UserError, match="JPEG2000 files are not read"):
    open_photograph(path)


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
  from vae_jax.data import images

  monkeypatch.setattr(images, "MAX_PIXELS", 30)
  with pytest.raises(UserError, match="above the limit"):
    opened(tmp_path / "a.png", Image.fromarray(RGB))


# Writing


def photograph(channels, alpha, bits, h=9, w=6):
  white = 2**bits - 1
  samples = np.random.default_rng(3).integers(0, white + 1, (h, w, 4)).astype(np.float32) / np.float32(white)
  icc = SRGB if channels == 3 else GREY_ICC
  return Photograph(samples[..., :channels], samples[..., 3:] if alpha else None, bits, icc, exif_bytes())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_round_trip_without_loss(tmp_path, channels, alpha, bits, suffix):
  if bits == 16 and (channels == 3 or alpha):
    pytest.importorskip("cv2")
  given = photograph(channels, alpha, bits)
  path = tmp_path / "new" / f"Größe ñ 日本{suffix}"
  save_photograph(path, given)
  if suffix != ".png" and bits == 16 and alpha and channels == 1:
    with pytest.raises(UserError):  # right, but Pillow does not know it; see the test with tifffile
      open_photograph(path)
    return
  got = open_photograph(path)
  np.testing.assert_array_equal(got.pixels, given.pixels)
  assert (got.alpha is None) == (not alpha)
  if alpha:
    np.testing.assert_array_equal(got.alpha, given.alpha)
  assert got.bits == bits and got.icc == given.icc
  for one, other in zip(read_exif(got.exif), read_exif(given.exif), strict=True):
    ours = {k: v for k, v in other.items() if k not in (0xA002, 0xA003)}
    assert {k: v for k, v in one.items() if k not in (0x8769, 0x8825)} == {
      k: v for k, v in ours.items() if k not in (0x8769, 0x8825)
    }
  assert os.listdir(path.parent) == [path.name] and stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_files_as_others_read_them(tmp_path, samples, bits):
  """tifffile for TIFF, and for PNG the bytes, un-filtered by hand."""
  tifffile = pytest.importorskip("tifffile")
  given = photograph(1 if samples < 3 else 3, samples in (2, 4), bits)
  expected = np.rint(
    np.concatenate([a for a in (given.pixels, given.alpha) if a is not None], axis=2).astype(np.float64)
    * (2**bits - 1)
  )
  save_photograph(tmp_path / "a.tif", given)
  with tifffile.TiffFile(tmp_path / "a.tif") as file:
    page = file.pages[0]
    assert page.bitspersample == bits and page.samplesperpixel == samples
    assert page.photometric.name == ("MINISBLACK" if samples < 3 else "RGB")
    assert [e.name for e in page.extrasamples] == (["UNASSALPHA"] if samples in (2, 4) else [])
    raw = zlib.decompress(file.filehandle.read_segments(page.dataoffsets, page.databytecounts).__next__()[0])
    stored = np.frombuffer(raw, "<u2" if bits == 16 else "u1").reshape(9, 6, samples)
    np.testing.assert_array_equal(np.cumsum(stored, axis=1, dtype=stored.dtype), expected)
    assert page.tags[34665].value["ExposureTime"] == (1, 250)
  save_photograph(tmp_path / "a.png", given)
  data, at, packed = (tmp_path / "a.png").read_bytes(), 8, b""
  while at < len(data):
    length, name = struct.unpack_from(">I4s", data, at)
    body = data[at + 8 : at + 8 + length]
    assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(name + body)
    packed += body if name == b"IDAT" else b""
    at += 12 + length
  if bits == 16:
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(9, -1)
    step = 2 * samples
    plain = np.zeros((10, 6 * step + step), int)
    for y, row in enumerate(rows, start=1):
      assert row[0] == 4
      for x in range(6 * step):
        a, b, c = int(plain[y, x]), int(plain[y - 1, x + step]), int(plain[y - 1, x])
        best = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        plain[y, x + step] = (int(row[1 + x]) + best) % 256
    values = plain[1:, step:].reshape(9, 6, samples, 2)
    np.testing.assert_array_equal(values[..., 0] * 256 + values[..., 1], expected)


def test_webp_is_lossless_and_keeps_colour_behind_transparency(tmp_path):
  given = photograph(3, True, 8)
  given.alpha[:4] = 0
  save_photograph(tmp_path / "a.webp", given)
  got = open_photograph(tmp_path / "a.webp")
  np.testing.assert_array_equal(got.pixels, given.pixels)
  np.testing.assert_array_equal(got.alpha, given.alpha)
  assert got.icc == SRGB and read_exif(got.exif)[1][0x9003]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_resolution(tmp_path, suffix, bits):
  """As Pillow reads it. JPEG holds whole dots per inch, PNG and BMP those per metre."""
  given = photograph(1, False, bits)._replace(dpi=(300.0, 150.0), exif=None)
  save_photograph(tmp_path / f"a{suffix}", given)
  with Image.open(tmp_path / f"a{suffix}") as image:
    np.testing.assert_allclose(np.array(image.info["dpi"], float), (300, 150), atol=0.02)
  got = open_photograph(tmp_path / f"a{suffix}")
  np.testing.assert_allclose(got.dpi, (300, 150), atol=0.02)
  save_photograph(tmp_path / f"b{suffix}", got)
  assert open_photograph(tmp_path / f"b{suffix}").dpi == got.dpi
  save_photograph(tmp_path / f"c{suffix}", given._replace(dpi=None))
  if suffix != ".bmp":  # which always has one
    assert open_photograph(tmp_path / f"c{suffix}").dpi is None
  save_photograph(tmp_path / "d.webp", given)


@pytest.mark.parametrize("dpi", [(0, 300), (300, 1e7)])
def test_a_resolution_that_is_none(tmp_path, dpi):
  density = b"".join(struct.pack(">I", round(x / 0.0254)) for x in dpi) + b"\1"
  (tmp_path / "a.png").write_bytes(png(GREY, 0, 8, extra=[(b"pHYs", density[:9])]))
  assert open_photograph(tmp_path / "a.png").dpi is None


def test_resolution_is_turned_with_the_picture(tmp_path):
  exif = exif_bytes(6)
  got = opened(tmp_path / "a.jpg", Image.fromarray(RGB), exif=exif, dpi=(300, 150))
  assert got.dpi == (150, 300)


def test_the_pictures_of_a_file_are_counted(tmp_path):
  pictures = [Image.fromarray(np.full((3, 3), 60 * i, np.uint8)) for i in range(4)]
  for name in ("a.gif", "a.png", "a.webp", "a.tif"):
    got = opened(tmp_path / name, pictures[0], save_all=True, append_images=pictures[1:])
    assert got.frames == 4 and got.pixels.max() < 0.1  # the first is black
    assert opened(tmp_path / name, pictures[1]).frames == 1
  data = (tmp_path / "a.gif").read_bytes()
  opened(tmp_path / "a.gif", pictures[0], save_all=True, append_images=pictures[1:])
  torn = (tmp_path / "a.gif").read_bytes()[: len(data) + 4]  # behind the first
  (tmp_path / "a.gif").write_bytes(torn)
  assert open_photograph(tmp_path / "a.gif").pixels.shape[:2] == (3, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_and_bmp(tmp_path, channels):
  smooth = np.linspace(0, 1, 32 * 48, dtype=np.float32).reshape(32, 48, 1) * np.ones(channels, np.float32)
  given = Photograph(
    smooth, np.ones((32, 48, 1), np.float32), 16, SRGB if channels == 3 else GREY_ICC, exif_bytes()
  )
  for name in ("a.jpg", "a.JPEG", "a.bmp"):
    save_photograph(tmp_path / name, given)
    got = open_photograph(tmp_path / name)
    assert got.bits == 8 and got.alpha is None and got.pixels.shape == smooth.shape
    np.testing.assert_allclose(got.pixels, smooth, atol=0.51 / 255 if name == "a.bmp" else 3 / 255)
    if name != "a.bmp":
      assert got.icc == given.icc and read_exif(got.exif)[0][0x010F] == "Maker"
  with Image.open(tmp_path / "a.jpg") as image:
    if channels == 3:
      assert [c[1:3] for c in image.layer] == [(1, 1)] * 3  # no chroma subsampling


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_transparency_is_not_lost_unsaid(tmp_path, name):
  given = photograph(3, True, 8)
  with pytest.raises(UserError, match=r"cannot hold the picture's transparency; save as \.png"):
    save_photograph(tmp_path / name, given)
  nearly = given._replace(alpha=np.full((9, 6, 1), 0.9999, np.float32))  # rounds to opaque
  save_photograph(tmp_path / name, nearly)


def test_a_profile_of_other_channels_is_dropped(tmp_path):
  save_photograph(tmp_path / "a.png", photograph(1, False, 8)._replace(icc=SRGB))
  assert open_photograph(tmp_path / "a.png").icc is None


def test_long_exif(tmp_path):
  exif = Image.Exif()
  exif[0x010E] = "x" * 70_000
  given = photograph(3, False, 8)._replace(exif=exif.tobytes())
  save_photograph(tmp_path / "a.jpg", given)  # more than JPEG holds
  assert open_photograph(tmp_path / "a.jpg").exif is None
  save_photograph(tmp_path / "a.png", given)
  assert read_exif(open_photograph(tmp_path / "a.png").exif)[0][0x010E] == "x" * 70_000


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding(tmp_path, bits):
  """Every level is kept; halves go up; the rest is clipped."""
  white = 2**bits - 1
  every = np.arange(white + 1, dtype=np.float64)
  values = np.concatenate([every, every[:-1] + 0.49, every[:-1] + 0.51, [-5.0, 2.0 * white]]) / white
  expected = np.concatenate([every, every[:-1], every[1:], [0, white]])
  save_photograph(tmp_path / "a.png", Photograph(values.astype(np.float32).reshape(1, -1, 1), bits=bits))
  got = np.asarray(Image.open(tmp_path / "a.png")).ravel()
  np.testing.assert_array_equal(got, expected)
  save_photograph(tmp_path / "a.png", Photograph(np.full((1, 1, 1), 0.5, np.float32), bits=bits))
  assert np.asarray(Image.open(tmp_path / "a.png")).item() == (white + 1) // 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["pixels", "alpha"])
def test_what_is_not_finite_is_not_written(tmp_path, value, where):
  given = photograph(3, True, 8)
  getattr(given, where)[2, 3, 0] = value
  with pytest.raises(UserError, match=r"1 of .* not finite"):
    save_photograph(tmp_path / "a.png", given)
  assert os.listdir(tmp_path) == []


def test_what_cannot_be_written(tmp_path):
  given = photograph(3, False, 8)
  for name in ("a.gif", "a", "a.png.txt"):
    with pytest.raises(UserError, match=r"use one of \.png, \.jpg"):
      save_photograph(tmp_path / name, given)
  with pytest.raises(UserError, match="WEBP holds at most 16383"):
    save_photograph(tmp_path / "a.webp", Photograph(np.zeros((1, 16384, 1), np.float32)))
  check_saveable(tmp_path / "a.webp", 16383, 1)
  with pytest.raises(UserError, match="JPEG holds at most 65500"):
    check_saveable("a.jpg", 65501, 1)
  save_photograph(tmp_path / "long.jpg", Photograph(np.zeros((65500, 1, 1), np.float32)))
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "file").write_bytes(b"")
  for path in (tmp_path / "folder.png", tmp_path / "file" / "a.png", tmp_path / ("n" * 300 + ".png")):
    with pytest.raises(UserError, match="cannot be written") as error:
      save_photograph(path, given)
    assert "\n" not in str(error.value)
  assert sorted(os.listdir(tmp_path)) == ["file", "folder.png", "long.jpg"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
  given = photograph(3, False, 8)
  path = tmp_path / "a.png"
  save_photograph(path, given)
  before = path.read_bytes()

  def full(*args):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"a\.png: cannot be written \(No space left on device\)"):
      save_photograph(path, given._replace(pixels=given.pixels * 0))
  assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
  "bad",
  [
    {"pixels": np.zeros((4, 4))},
    {"pixels": np.zeros((4, 4, 2))},
    {"pixels": np.zeros((0, 4, 3))},
    {"alpha": np.zeros((4, 4, 1))},
    {"bits": 12},
  ],
)
def test_no_photograph(tmp_path, bad):
  with pytest.raises(ValueError):
    save_photograph(tmp_path / "a.png", photograph(3, False, 8)._replace(**bad))


# Alpha


def test_alpha_resized():
  alpha = np.random.default_rng(0).random((6, 9, 1), np.float32)
  assert alpha_resized(alpha, 1) is alpha
  flat = alpha_resized(np.full((6, 9, 1), 0.25, np.float32), 3)
  assert flat.shape == (18, 27, 1) and flat.dtype == np.float32
  np.testing.assert_allclose(flat, 0.25, atol=1e-6)
  edge = np.zeros((8, 8, 1), np.float32)
  edge[:, 4:] = 1
  large = alpha_resized(edge, 4)
  assert large.min() == 0 and large.max() == 1  # the overshoot is clipped
  np.testing.assert_allclose(large + large[:, ::-1], 1, atol=1e-6)  # pixel centres are kept
  # Keys' cubic with a = -1/2, away from the border, at the two phases of factor 2.
  weights = {0: [-3 / 128, 29 / 128, 111 / 128, -9 / 128], 1: [-9 / 128, 111 / 128, 29 / 128, -3 / 128]}
  smooth = 0.3 + 0.4 * alpha
  got = alpha_resized(smooth, 2)[..., 0]
  row = sum(
    w * smooth[:, 3 + i, 0] for i, w in enumerate(weights[1])
  )  # between columns 4 and 5, a quarter on
  want = sum(w * row[1 + i] for i, w in enumerate(weights[1]))
  np.testing.assert_allclose(got[5, 9], want, atol=1e-5)
