"""What a photograph's file says beside its pixels: colour, resolution, EXIF, XMP, comments; read once, written anew.

What would not be true of another file of the picture is left out: orientation, pixel sizes, thumbnails.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any, NamedTuple

from vae_jax.data import images, integrity

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
_INTEROP_IFD = 0xA005
_PIXEL_SIZES = (0xA002, 0xA003)  # of the file as it was; an enlarged one has others
# What a TIFF says about the picture rather than about its own layout: description, make, model, resolution and its
# unit, software, date, artist, copyright.
_DESCRIPTIVE = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, EXIF_IFD, GPS_IFD)
_XMP_TAG, _ICC_TAG = 700, 34675

# Chunks of a PNG that say what colour its numbers are. (sBIT would no longer be true.)
_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
_XMP_KEYWORD = "XML:com.adobe.xmp"
_LONGEST_TEXT = 2**20  # of a comment or of XMP, in bytes
# In XMP, as an attribute or an element: the same that is left out of EXIF. (No repetition before the names, which would
# take a time that grows with the square of a file's spaces.)
_NAMES = b"tiff:(?:Orientation|ImageWidth|ImageLength)|exif:Pixel[XY]Dimension"
_UNTRUE_XMP = re.compile(rb"(?<=\s)(?:%b)\s*=\s*(?:\"[^\"]*\"|'[^']*')|<(%b)>[^<]*</\1>" % (_NAMES, _NAMES))
_THUMBNAILS = b"<xmp:Thumbnails", b"</xmp:Thumbnails>"


class Metadata(NamedTuple):
  """Fields as of `photograph.Photograph`."""

  icc: bytes | None = None
  exif: bytes | None = None
  dpi: tuple[float, float] | None = None
  xmp: bytes | None = None
  comments: tuple[tuple[str, str], ...] = ()
  colour: tuple[tuple[bytes, bytes], ...] = ()


def read(image: Any, turn: int, chunks: integrity.Chunks) -> Metadata:
  """The metadata of a file.

  image: opened and not decoded, as reading EXIF of a TIFF needs; nothing here decodes pixels, so that damage to
  them is never passed over with damage to the metadata. turn: its orientation, 1..8. chunks: of a PNG.
  """
  for name, data in chunks:
    if name == b"eXIf":  # it may stand behind the pixels
      image.info["exif"] = data
  texts = dict(text for name, data in chunks if (text := _text(name, data)))
  xmp = image.info.get("xmp") or texts.get(_XMP_KEYWORD, "").encode() or None
  return Metadata(
    image.info.get("icc_profile") or None,
    _exif(image),
    _dpi(image, turn),
    _true_xmp(xmp) if isinstance(xmp, bytes) else None,
    _comments(image, texts),
    tuple(chunk for chunk in chunks if chunk[0] in _COLOUR),
  )


def colour_of_avif(content: bytes) -> tuple[tuple[bytes, bytes], ...]:
  """What an AVIF says about its colours (box "colr" of type "nclx", ISO 14496-12) as chunks of a PNG.

  () where it says sRGB or nothing: that is how a picture without such a chunk is taken.
  """
  at = content.find(b"colrnclx")
  codes = content[at + 8 : at + 12]
  if at < 0 or len(codes) < 4:
    return ()
  primaries, transfer = int.from_bytes(codes[:2], "big"), int.from_bytes(codes[2:], "big")
  if max(primaries, transfer) > 255 or 2 in (primaries, transfer) or (primaries == 1 and transfer in (1, 13)):
    return ()
  return ((b"cICP", bytes([primaries, transfer, 0, 1])),)


def _comments(image: Any, texts: dict[str, str]) -> tuple[tuple[str, str], ...]:
  """(keyword, text) of a PNG's texts, or of the comment that JPEG, GIF and JPEG 2000 may have."""
  comment = image.info.get("comment")
  if image.format != "PNG" and isinstance(comment, bytes) and 0 < len(comment) <= _LONGEST_TEXT:
    return (("Comment", _decoded(comment.rstrip(b"\0"))),)
  untrue = (_XMP_KEYWORD, "Raw profile type", "Thumb::")  # the first two are read as XMP and EXIF
  return tuple((key, text) for key, text in texts.items() if not key.startswith(untrue))


def _decoded(text: bytes) -> str:
  try:
    return text.decode("utf-8")
  except UnicodeDecodeError:
    return text.decode("latin-1")


def _text(name: bytes, data: bytes) -> tuple[str, str] | None:
  """(keyword, text) of a text chunk of a PNG (its specification, 11.3.3); None: another chunk, or a damaged one."""
  keyword, _, rest = data.partition(b"\0")
  packed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
  if name == b"zTXt":
    rest = rest[1:]
  elif name == b"iTXt":
    rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind language and translated keyword
  elif name != b"tEXt":
    return None
  if packed:
    try:
      rest = zlib.decompressobj().decompress(rest, _LONGEST_TEXT + 1)
    except zlib.error:
      return None
  if len(rest) > _LONGEST_TEXT:
    return None
  text = rest.decode("utf-8", "replace") if name == b"iTXt" else rest.decode("latin-1")
  return keyword.decode("latin-1"), text


def _true_xmp(xmp: bytes) -> bytes | None:
  """An XMP packet without what would not hold for another file of the picture; None for a very long one."""
  if len(xmp) > _LONGEST_TEXT:
    return None
  start, end = (xmp.find(mark) for mark in _THUMBNAILS)
  if 0 <= start < end:
    xmp = xmp[:start] + xmp[end + len(_THUMBNAILS[1]) :]
  return _UNTRUE_XMP.sub(b"", xmp)


class _Latin(str):
  """Text of EXIF as Pillow reads it, every byte a character: Pillow would write those above 127 as "?"."""

  def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
    return str.encode(self, "latin-1", "replace")


def _as_stored(values: dict[int, Any]) -> dict[int, Any]:
  """The values of a folder of EXIF, with texts that keep their bytes (UTF-8, mostly)."""
  return {tag: _Latin(value) if isinstance(value, str) else value for tag, value in values.items()}


def _exif(image: Any) -> bytes | None:
  """The EXIF of an image that is not decoded yet, without what would not hold for another file of it."""
  from PIL import Image

  try:
    source, kept = images.exif(image), Image.Exif()
    for tag, value in _as_stored(dict(source.items())).items():
      known = image.format != "TIFF" or tag in _DESCRIPTIVE
      if known and tag not in (ORIENTATION, EXIF_IFD, GPS_IFD, _XMP_TAG, _ICC_TAG):
        kept[tag] = value
    for folder in (EXIF_IFD, GPS_IFD):
      values = {tag: value for tag, value in source.get_ifd(folder).items() if tag not in _PIXEL_SIZES}
      if _INTEROP_IFD in values:
        values[_INTEROP_IFD] = source.get_ifd(_INTEROP_IFD)
      if values:
        kept[folder] = _as_stored(values)
    return kept.tobytes() if len(kept) else None
  except Exception:  # damaged: the picture is worth more than its EXIF
    return None


def _dpi(image: Any, turn: int) -> tuple[float, float] | None:
  """Dots per inch of the upright picture, where the file says so."""
  try:
    across, down = (float(value) for value in image.info["dpi"])
  except (KeyError, TypeError, ValueError, ZeroDivisionError):  # none, or damaged
    return None
  if not (1 < across < 65536 and 1 < down < 65536):  # what every format holds; of a TIFF 1 means none
    return None
  return (down, across) if turn >= 5 else (across, down)


def unusual_colour(about: Metadata) -> list[str]:
  """The chunks of a PNG without which another format shows other colours: those that say more than sRGB or the ICC
  profile, by name."""
  srgb = {
    (b"gAMA", (45455).to_bytes(4, "big")),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    (b"cICP", bytes([1, 13, 0, 1])),
  }
  weaker = (b"sRGB", b"gAMA", b"cHRM") if about.icc else (b"sRGB",)
  return [chunk[0].decode() for chunk in about.colour if chunk[0] not in weaker and chunk not in srgb]


def png_chunks(about: Metadata) -> integrity.Chunks:
  """The metadata as chunks of a PNG, which stand between its header and its pixels."""
  colour = [chunk for chunk in about.colour if not (about.icc and chunk[0] == b"sRGB")]  # one of the two
  chunks: integrity.Chunks = list(colour)
  if about.icc:
    chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(about.icc)))
  if about.dpi:  # dots per metre
    density = b"".join(round(value / 0.0254).to_bytes(4, "big") for value in about.dpi)
    chunks.append((b"pHYs", density + b"\1"))
  if about.exif:
    chunks.append((b"eXIf", about.exif.removeprefix(b"Exif\0\0")))
  if about.xmp:
    chunks.append((b"iTXt", _XMP_KEYWORD.encode() + bytes(5) + about.xmp))
  for keyword, text in about.comments:
    name = keyword.encode("latin-1", "replace")
    try:
      chunks.append((b"tEXt", name + b"\0" + text.encode("latin-1")))
    except UnicodeEncodeError:
      chunks.append((b"iTXt", name + bytes(5) + text.encode("utf-8", "replace")))
  return chunks


def tiff_tags(about: Metadata) -> dict[int, Any]:
  """The metadata as tags of a TIFF."""
  from PIL import Image

  tags: dict[int, Any] = {}
  if about.exif:
    known = Image.Exif()
    known.load(about.exif)
    for tag in _DESCRIPTIVE:
      if tag in (EXIF_IFD, GPS_IFD):
        if values := dict(known.get_ifd(tag)):
          if _INTEROP_IFD in values:
            values[_INTEROP_IFD] = dict(known.get_ifd(_INTEROP_IFD))
          tags[tag] = _as_stored(values)
      elif tag in known:
        tags[tag] = _as_stored({tag: known[tag]})[tag]
  if about.dpi:
    tags |= {282: about.dpi[0], 283: about.dpi[1], 296: 2}  # per inch
  if about.icc:
    tags[_ICC_TAG] = about.icc
  if about.xmp:
    tags[_XMP_TAG] = about.xmp
  return tags


def options(about: Metadata, kind: str) -> dict[str, Any]:
  """The metadata as arguments of Pillow's `save` of a JPEG, WebP or BMP, as far as the format holds them."""
  found: dict[str, Any] = {}
  if about.dpi and kind != "WEBP":
    found["dpi"] = about.dpi
  if kind == "BMP":
    return found
  if about.icc:
    found["icc_profile"] = about.icc
  longest = 65533 if kind == "JPEG" else 2**31
  if about.exif and len(about.exif) <= longest:
    found["exif"] = about.exif
  if about.xmp and len(about.xmp) + 29 <= longest:
    found["xmp"] = about.xmp
  comment = dict(about.comments).get("Comment", "").encode("utf-8", "replace")
  if kind == "JPEG" and 0 < len(comment) <= longest:
    found["comment"] = comment
  return found
