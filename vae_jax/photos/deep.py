"""Photographs with more than 8 bits in several channels, which Pillow reads as 8: through OpenCV, or by hand."""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data import integrity
from vae_jax.errors import UserError
from vae_jax.photos.metadata import ORIENTATION

_BITS, _PREDICTOR = 258, 317  # tags of TIFF


class Layout(NamedTuple):
  """white: the value of white. channels: "grey and alpha", "colour" (any number), "no alpha" (of a fourth channel, if
  any). premultiplied: colours are multiplied by alpha."""

  white: int
  channels: str = "colour"
  premultiplied: bool = False


def layout(image: Any, content: bytes) -> Layout | None:
  """How a file holds its channels of over 8 bits; None: it has none, or one channel that Pillow reads.

  image: `content`, opened. Raises UserError for a kind of which bits would be lost.
  """
  if image.format == "PNG" and content[24] == 16 and content[25] != 0:
    return Layout(65535, "grey and alpha" if content[25] == 4 else "colour")
  if image.format == "PPM":
    header = re.match(rb"P[36](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)", content)
    white = int(header[1]) if header else 0
    return Layout(white) if white > 255 else None
  if image.format == "AVIF":
    at = content.find(b"av1C")  # the codec's configuration; its third byte has the depth
    flags = content[at + 6] if 0 <= at < len(content) - 6 else 0
    return Layout(4095 if flags & 0x20 else 1023) if flags & 0x40 else None
  if image.format == "JPEG2000":
    return _layout_of_jpeg2000(content)
  return _layout_of_tiff(image.tag_v2) if image.format == "TIFF" else None


def _layout_of_jpeg2000(content: bytes) -> Layout | None:
  at = content.find(b"\xff\x4f\xff\x51")  # start of the codestream, and the sizes
  number = struct.unpack_from(">H", content, at + 40)[0]
  depths = {1 + (content[at + 42 + 3 * i] & 0x7F) for i in range(number)}
  if max(depths) <= 8:
    return None
  if len(depths) > 1 or number not in (1, 3, 4):
    raise UserError(f"a JPEG 2000 with {number} channels of several depths; convert it to a 16-bit PNG")
  return Layout(2 ** depths.pop() - 1)


def _layout_of_tiff(tags: Any) -> Layout | None:
  depths = tuple(tags.get(_BITS, (1,)))
  if len(depths) < 2 or max(depths) <= 8:
    return None
  extra = tuple(tags.get(338, ()))
  plain = set(depths) == {16} and tags.get(262) == 2 and tags.get(284, 1) == 1
  if not plain or set(tags.get(339, (1,))) != {1} or len(depths) not in (3, 4) or len(extra) > 1:
    raise UserError(
      f"a TIFF with {len(depths)} channels of {'/'.join(map(str, depths))} bits, not plain 16-bit RGB or RGBA, "
      "would lose bits; convert it to a 16-bit PNG"
    )
  # Without ExtraSamples a fourth channel is alpha, as Pillow has it and OpenCV writes it.
  return Layout(65535, "no alpha" if extra == (0,) else "colour", extra == (1,))


def read(content: bytes, how: Layout, chunks: integrity.Chunks) -> np.ndarray:
  """Samples [h, w, 1..4], not turned upright, through OpenCV. chunks: of a PNG."""
  try:
    import cv2
  except ImportError:
    raise UserError(
      'colour with over 8 bits per channel is read with OpenCV; run: pip install -e ".[photos16]"'
      " (opencv-python-headless)"
    ) from None
  # The still picture alone: an animation may begin with another one. A transparent colour is the caller's.
  if chunks:
    content = integrity.write_png([c for c in chunks if c[0] in (b"IHDR", b"IDAT", b"IEND")])
  values = cv2.imdecode(np.frombuffer(unturned(content), np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None or values.dtype != np.uint16 or values.shape[2:] not in ((), (3,), (4,)):
    found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
    raise ValueError(f"OpenCV reads {found} instead of 16-bit colour")
  if values.ndim == 2:
    return values[..., None]
  if how.channels == "grey and alpha":
    return values[..., [0, 3]]
  return (
    values[..., 2::-1] if how.channels == "no alpha" or values.shape[2] == 3 else values[..., [2, 1, 0, 3]]
  )


def _entry(content: bytes, tag: int) -> tuple[str, int, int] | None:
  """(byte order, place of the value, count) of a tag in the first directory of a TIFF; None: not there, or no TIFF."""
  order = {b"II": "<", b"MM": ">"}.get(content[:2])
  if order is None:
    return None
  big = struct.unpack_from(order + "H", content, 2)[0] == 43
  start = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
  count = struct.unpack_from(order + ("Q" if big else "H"), content, start)[0]
  first, size, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
  for at in range(first, first + size * count, size):
    if struct.unpack_from(order + "H", content, at)[0] == tag:
      return order, at + value, struct.unpack_from(order + ("Q" if big else "I"), content, at + 4)[0]
  return None


def _with_shorts(content: bytes, at: int, order: str, *values: int) -> bytes:
  data = struct.pack(f"{order}{len(values)}H", *values)
  return content[:at] + data + content[at + len(data) :]


def unturned(content: bytes) -> bytes:
  """A TIFF with its orientation set to 1, because versions of OpenCV differ in applying it; else `content`."""
  found = _entry(content, ORIENTATION)
  return _with_shorts(content, found[1], found[0], 1) if found else content


def grey_alpha_header(content: bytes) -> bytes | None:
  """Returns a TIFF of 16-bit grey with alpha, which neither Pillow nor OpenCV opens, with 8 bits in its header.

  Its header and metadata can then be read by Pillow, its pixels with `read_grey_alpha`. None for any other file.
  """
  found = _entry(content, _BITS) if content[:4] in (b"II*\0", b"MM\0*") else None
  if (
    found is None or found[2] != 2 or content[found[1] : found[1] + 4] != struct.pack(found[0] + "2H", 16, 16)
  ):
    return None
  return _with_shorts(content, found[1], found[0], 8, 8)


def read_grey_alpha(content: bytes, tags: Any) -> tuple[np.ndarray, Layout]:
  """The samples uint16 [h, w, 2] of such a file. tags: Pillow's, of its header. Raises UserError for other layouts."""
  tags = dict(tags) | {_BITS: (16, 16)}
  width, height = tags[256], tags[257]
  usual = tags.get(262) == 1 and tags.get(284, 1) == 1 and 273 in tags and set(tags.get(339, (1,))) == {1}
  if not usual or tags.get(259, 1) not in (1, 8, 32946) or tags.get(_PREDICTOR, 1) not in (1, 2):
    raise UserError("a TIFF of 16-bit grey with alpha in a rare layout; convert it to a 16-bit PNG")
  data = b"".join(integrity.tiff_strips(content, tags))
  if len(data) < width * height * 4:
    raise ValueError("the file is truncated or damaged")
  order = "<u2" if content[:2] == b"II" else ">u2"
  values = np.frombuffer(data, order, width * height * 2).reshape(height, width, 2).astype(np.uint16)
  if tags.get(_PREDICTOR, 1) == 2:
    values = np.cumsum(values, axis=1, dtype=np.uint16)
  return values, Layout(65535, "grey and alpha", tuple(tags.get(338, ())) == (1,))
