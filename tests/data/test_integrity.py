"""Damage that decoders pass over: what the format can show is refused, and sound files never are.

`python tests/flipped_bits.py` counts it for every format.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from flipped_bits import KINDS, count, encoded, picture
from PIL import Image

from vae_jax.data import images, integrity
from vae_jax.errors import UserError
from vae_jax.photos.photograph import open_photograph


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_read(kind):
  content = encoded(kind, picture(40, 60))
  assert images.decode(content).shape[:2] == (40, 60)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("PNG")])
def test_every_flipped_bit_of_a_png_is_found(kind):
  """By the CRC of a chunk. A bit that is passed over could only be one of the signature's."""
  refused, same, changed = count(encoded(kind, picture(24, 36)), 300, seed=1)
  assert changed == 0 and refused >= 299, (refused, same, changed)


@pytest.mark.parametrize("kind, least", [("TIFF deflate", 0.9), ("GIF", 0.4), ("TIFF LZW", 0.2)])
def test_flipped_bits_of_other_formats(kind, least):
  """A part of them is found: deflated pixels have a checksum, LZW strings must make as many pixels as there are."""
  refused, same, changed = count(encoded(kind, picture(50, 70)), 100, seed=2)
  assert refused >= least * 100, (refused, same, changed)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_lost_sectors_of_a_jpeg(options):
  """512 bytes of zeros, what a disk or a broken transfer leaves."""
  content = io.BytesIO()
  Image.fromarray(picture(120, 160)).save(content, "JPEG", **options)
  content = content.getvalue()
  found = 0
  for at in np.linspace(700, len(content) - 600, 12).astype(int):
    try:
      images.decode(content[:at] + bytes(512) + content[at + 512 :], name="x")
    except UserError as error:
      assert str(error).startswith("x: ")
      found += 1
  assert found >= (7 if options.get("progressive") else 12)


def test_a_jpeg_may_be_padded_and_followed_by_anything():
  content = encoded("JPEG", picture(40, 60))
  expected = images.decode(content)
  for tail in (
    bytes(40) + b"\xff\xd9",
    b"\xff\xff\xff\xd9",
    b"\xff\xd9" + content,
    b"\xff\xd9 film \xff\xd9",
  ):
    np.testing.assert_array_equal(images.decode(content[:-2] + tail), expected)


def test_the_case_of_the_report(tmp_path):
  """A PNG, one bit flipped at a third of it: Pillow decoded it once with an error, and then with black rows."""
  content = bytearray(encoded("PNG RGB", picture(200, 300)))
  content[len(content) // 3] ^= 16
  (tmp_path / "a.png").write_bytes(content)
  for read in (images.decode, open_photograph):
    with pytest.raises(UserError, match=r"a\.png: .*wrong checksum of chunk IDAT\); remove or replace it"):
      read(tmp_path / "a.png")


@pytest.mark.parametrize("rows", [1, 5])
def test_a_png_whose_pixels_end_early(rows):
  """With the right checksums."""
  chunks = integrity.png_chunks(encoded("PNG grey", picture(8, 9)))
  packed = zlib.compress(bytes(10 * rows))
  chunks = [(name, packed if name == b"IDAT" else data) for name, data in chunks]
  with pytest.raises(UserError, match="cannot be decoded"):
    images.decode(integrity.write_png(chunks))


def test_reading_metadata_decodes_nothing(monkeypatch):
  """Or an error of decoding would be taken for damaged metadata, and the next decoding would not repeat it."""
  for kind in KINDS:
    image = images.open_image(encoded(kind, picture(8, 9)))
    monkeypatch.setattr(type(image), "load", lambda self: pytest.fail("was decoded"))
    assert images.orientation(image) == 1
    monkeypatch.undo()


@pytest.mark.parametrize("tiff", [False, True])
@pytest.mark.parametrize("bits", [2, 8])
def test_lzw(bits, tiff):
  """Against Pillow's GIF writer (bits low first) and libtiff's (high first): as many bytes as went in."""
  values = np.random.default_rng(0).integers(0, 2**bits, (150, 190)).astype(np.uint8)
  values[:50] = 1
  content = io.BytesIO()
  if tiff:
    values *= 2 ** (8 - bits)
    Image.fromarray(values).save(content, "TIFF", compression="tiff_lzw")
    with Image.open(content) as image:
      strips = list(integrity.tiff_strips(content.getvalue(), image.tag_v2))
    assert sum(integrity.lzw_bytes(strip, 8, tiff=True) for strip in strips) == values.size
    return
  palette = Image.frombytes("P", (190, 150), values.tobytes())
  palette.putpalette(bytes(3 * i // 3 % 256 for i in range(3 * 2**bits)))
  palette.save(content, "GIF", optimize=False)
  integrity.check(content.getvalue(), Image.open(content))
  damaged = bytearray(content.getvalue())
  place = damaged.index(b"," + struct.pack("<HHHH", 0, 0, 190, 150))
  damaged[place + 7] -= 1
  with pytest.raises(ValueError, match="28500 pixels of 190 x 149"):
    integrity.check(bytes(damaged), Image.open(content))


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (9, 7), (16, 2)])
def test_an_interlaced_png(height, width):
  """Its seven passes (PNG specification, 8.2), some of them empty; one row less is missed."""
  values = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
  steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
  parts = [values[y::dy, x::dx] for y, x, dy, dx in steps]
  rows = [b"\0" + row.tobytes() for part in parts if part.size for row in part]
  header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))

  def content(some):
    return integrity.write_png([header, (b"IDAT", zlib.compress(b"".join(some))), (b"IEND", b"")])

  np.testing.assert_array_equal(images.decode(content(rows))[..., 0], values)
  with pytest.raises(UserError, match="bytes of pixels"):
    images.decode(content(rows[:-1]))
