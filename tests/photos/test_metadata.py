"""What a file says beside its pixels survives, in each format that has a place for it; what is no longer true goes."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from photographs import RGB, chunk, opened, png, read_exif
from PIL import Image

from vae_jax.photos import metadata
from vae_jax.photos.photograph import open_photograph
from vae_jax.photos.saving import save_photograph

NAME = "José Ñandú ©"
XMP = (
  b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"\n'
  b' exif:PixelXDimension="7" dc:format="image/png"><tiff:ImageWidth>7</tiff:ImageWidth><dc:creator>Jos\xc3\xa9'
  b"</dc:creator><xmp:Thumbnails><rdf:Alt>abc</rdf:Alt></xmp:Thumbnails></rdf:Description></x:xmpmeta>"
)
TRUE_XMP = (
  b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description \n  dc:format="image/png"><dc:creator>Jos'
  b"\xc3\xa9</dc:creator></rdf:Description></x:xmpmeta>"
)


def exif_of(text):
  """EXIF with one text, artist, as cameras and phones write it: UTF-8 in a field that should be ASCII."""
  data = text.encode() + b"\0"
  entry = struct.pack("<HHII", 315, 2, len(data), 8 + 2 + 12 + 4)
  return b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + data


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_text_of_exif_keeps_its_bytes(tmp_path, suffix, bits):
  given = opened(tmp_path / "a.jpg", Image.fromarray(RGB), exif=exif_of(NAME))
  save_photograph(tmp_path / f"b{suffix}", given._replace(bits=bits))
  got = open_photograph(tmp_path / f"b{suffix}") if (suffix, bits) != (".tif", 16) else None
  assert NAME.encode() in (tmp_path / f"b{suffix}").read_bytes()
  if got is not None:
    assert read_exif(got.exif)[0][315].encode("latin-1").decode() == NAME


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_xmp(tmp_path, suffix):
  """In the place where Pillow looks for it in each format; without sizes and orientation."""
  given = opened(tmp_path / "a.webp", Image.fromarray(RGB), xmp=XMP, lossless=True)
  assert given.xmp == TRUE_XMP and given.pixels.shape == (7, 5, 3)  # turned as XMP says
  save_photograph(tmp_path / f"b{suffix}", given)
  with Image.open(tmp_path / f"b{suffix}") as image:
    image.load()
    xmp = image.info["xmp"]
    assert (xmp.encode() if isinstance(xmp, str) else xmp) == TRUE_XMP
  got = open_photograph(tmp_path / f"b{suffix}")
  assert got.xmp == TRUE_XMP and got.pixels.shape == (7, 5, 3)


def test_comments(tmp_path):
  words = "fine — 日本"
  given = opened(tmp_path / "a.jpg", Image.fromarray(RGB), comment=words.encode())
  assert given.comments == (("Comment", words),)
  save_photograph(tmp_path / "b.png", given)
  with Image.open(tmp_path / "b.png") as image:
    assert image.text == {"Comment": words}
  got = open_photograph(tmp_path / "b.png")
  save_photograph(tmp_path / "c.jpg", got._replace(comments=(("Title", "T"), *got.comments)))
  with Image.open(tmp_path / "c.jpg") as image:
    assert image.info["comment"].decode() == words


@pytest.mark.parametrize("bits", [8, 16])
def test_texts_and_colour_of_a_png(tmp_path, bits):
  """Before and behind the pixels. sBIT is dropped, and so are texts about a thumbnail."""
  chunks = [
    (b"cICP", bytes([12, 13, 0, 1])),
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", *range(31270, 31278))),
    (b"sBIT", bytes([5, 5, 5])),
    (b"tEXt", b"Title\0caf\xe9"),
    (b"iTXt", b"Author\0\0\0\0\0" + NAME.encode()),
    (b"zTXt", b"Note\0\0" + zlib.compress(b"packed")),
    (b"tEXt", b"Thumb::Image::Width\x0012"),
  ]
  content = png(RGB, 2, 8, chunks)
  content = content[:-12] + chunk(b"tEXt", b"Late\0behind") + content[-12:]
  (tmp_path / "a.png").write_bytes(content)
  given = open_photograph(tmp_path / "a.png")
  save_photograph(tmp_path / "b.png", given._replace(bits=bits))
  got = open_photograph(tmp_path / "b.png")
  expected = {"Title": "café", "Author": NAME, "Note": "packed", "Late": "behind"}
  assert dict(given.comments) == dict(got.comments) == expected
  assert got.colour == given.colour == tuple(chunks[:3])
  if bits == 8:
    with Image.open(io.BytesIO((tmp_path / "b.png").read_bytes())) as image:
      assert image.info["gamma"] == 0.45455 and image.text == expected
      np.testing.assert_array_equal(np.asarray(image), RGB)
  for suffix in (".jpg", ".tif", ".bmp", ".webp"):
    save_photograph(tmp_path / f"c{suffix}", got)  # which hold none of it


def test_the_colours_of_an_avif(tmp_path):
  """BT.2020 primaries with PQ, as phones write high dynamic range; sRGB needs no word."""
  opened(tmp_path / "a.avif", Image.fromarray(RGB))
  content = (tmp_path / "a.avif").read_bytes()
  assert open_photograph(tmp_path / "a.avif").colour == ()
  at = content.index(b"colrnclx") + 8
  (tmp_path / "a.avif").write_bytes(content[:at] + bytes([0, 9, 0, 16]) + content[at + 4 :])
  got = open_photograph(tmp_path / "a.avif")
  assert got.colour == ((b"cICP", bytes([9, 16, 0, 1])),)
  save_photograph(tmp_path / "b.png", got)
  assert open_photograph(tmp_path / "b.png").colour == got.colour


@pytest.mark.parametrize(
  "part", [b" ", b"<xmp:Thumbnails>", b' tiff:Orientation="', b"<tiff:Orientation>", b"\n"]
)
def test_hostile_xmp_takes_no_time(part):
  start = time.process_time()
  metadata._true_xmp(part * (900_000 // len(part)))
  assert time.process_time() - start < 2
