"""Photographs written, read back by us and by other programs' readers."""

import os
import struct
import zlib

import numpy as np
import pytest
from photographs import GREY, GREY_ICC, RGB, SRGB, exif_bytes, opened, photograph, png, read_exif
from PIL import Image

from vae_jax.errors import UserError
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.saving import RowWriter, bytes_of_pixel, check_saveable, save_photograph


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
  assert os.listdir(path.parent) == [path.name]


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


def test_bytes_of_a_pixel():
  """By hand: the picture, and with Pillow's 4 bytes for RGB, or the differences of a TIFF."""
  for name, channels, alpha, bits, expected in (
    ("a.png", 3, False, 8, (3, 7)),
    ("a.jpg", 3, True, 16, (3, 7)),  # without alpha, and 8 bits
    ("a.png", 3, True, 16, (8, 8)),
    ("a.TIF", 1, True, 16, (4, 8)),
    ("a.webp", 1, True, 16, (2, 2)),
  ):
    assert bytes_of_pixel(name, photograph(channels, alpha, bits)) == expected


def test_rows_that_are_missing(tmp_path):
  rows = RowWriter(tmp_path / "a.png", 4, 6, photograph(3, False, 8))
  rows.add(np.zeros((3, 6, 3), np.float32))
  with pytest.raises(ValueError, match="3 rows of a picture of 4"):
    rows.save()
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["pixels", "alpha"])
def test_what_is_not_finite_is_not_written(tmp_path, value, where):
  given = photograph(3, True, 8)
  getattr(given, where)[2, 3, 0] = value
  with pytest.raises(UserError, match=r"1 of .* NaN or infinite"):
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
