"""Damage inside an image file that its decoder passes over in silence: checksums, and sums that must come out.

What can be known differs by format:

- PNG: every chunk has a CRC-32, and the pixels an Adler-32 and a length. A flipped bit is always found.
- TIFF: deflated strips end in an Adler-32, which covers the pixels but not the tags. LZW, up to 8 MB, as for GIF.
  Other compressions: nothing.
- GIF: no checksum. LZW strings must add up to the number of pixels, which most flipped bits change; not the palette.
- JPEG: no checksum. The warnings of libjpeg count as damage, and so does compressed data that the decoder leaves over.
  Sectors of zeros and missing parts are found; most single bits are not, as they change colours and nothing else.
- WebP, AVIF, JPEG 2000, BMP, PPM: no checksum. Only what the decoder itself refuses.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

Chunks = list[tuple[bytes, bytes]]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_DEFLATE, _LZW = (8, 32946), 5  # compressions of TIFF
_LONGEST_STRIP = 2**31  # bytes, uncompressed: more than the largest image that is read
_LONGEST_LZW = 2**23  # bytes of a TIFF whose LZW is followed code by code: some seconds
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG")


def check(content: bytes, image: Any) -> Chunks:
  """Raises ValueError where a file is damaged though `image`, its opened `PIL.Image.Image`, may decode.

  Returns the chunks of a PNG, of another format nothing.
  """
  if image.format == "PNG":
    chunks = png_chunks(content)
    _check_pixels_of_png(chunks)
    return chunks
  if image.format in ("JPEG", "MPO"):
    _check_jpeg(content)
  elif image.format == "GIF":
    _check_gif(content)
  elif image.format == "TIFF":
    _check_tiff(content, image.tag_v2)
  return []


def png_chunks(content: bytes) -> Chunks:
  """The chunks of a PNG, [(name, data)], up to IEND. Raises ValueError: one is cut off or has another CRC."""
  chunks: Chunks = []
  at = len(_SIGNATURE)
  while not chunks or chunks[-1][0] != b"IEND":
    if at + 12 > len(content):
      raise ValueError("the file is truncated")
    length, name = struct.unpack_from(">I4s", content, at)
    if at + 12 + length > len(content):
      raise ValueError("the file is truncated or damaged")
    data = content[at + 8 : at + 8 + length]
    if zlib.crc32(data, zlib.crc32(name)) != struct.unpack_from(">I", content, at + 8 + length)[0]:
      raise ValueError(f"the file is damaged: wrong checksum of chunk {name.decode('latin-1')}")
    chunks.append((name, data))
    at += 12 + length
  return chunks


def _check_pixels_of_png(chunks: Chunks) -> None:
  """Their compressed data must be whole. Pillow leaves rows black where they end early."""
  width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
  bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
  passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
  sizes = (((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes)
  wanted = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
  unpack, made = zlib.decompressobj(), 0
  try:
    for name, data in chunks:
      while name == b"IDAT" and data and not unpack.eof and made <= wanted:
        made += len(unpack.decompress(data, 2**20))
        data = unpack.unconsumed_tail
  except zlib.error as error:
    raise ValueError(f"the file is damaged: {error}") from None
  if made < wanted:
    raise ValueError(f"the file is damaged: {made} of {wanted} bytes of pixels")


def write_png(chunks: Chunks) -> bytes:
  """The file of these chunks, IEND included."""
  parts = [_SIGNATURE]
  for name, data in chunks:
    crc = zlib.crc32(data, zlib.crc32(name))
    parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", crc)]
  return b"".join(parts)


# JPEG


def _check_jpeg(content: bytes) -> None:
  """Decodes twice with libjpeg: as it is, and without the last byte of its compressed data.

  Without that byte every sound file is too short. One that is not had more data than its pixels take, so a part of
  them was passed over. (Padding by bytes of 0 or 255, which some cameras write, is no damage.)
  """
  if warning := _jpeg_warning(content):
    what = "truncated" if warning.startswith("Premature end of JPEG") else "damaged"
    raise ValueError(f"the file is {what}: {warning}")
  end = _end_of_jpeg(content)
  shorter = content[:end].rstrip(b"\0\xff")[:-1]
  if warning is not None and not _jpeg_warning(shorter + b"\xff\xd9"):
    raise ValueError("the file is damaged: compressed data are left over after the last pixel")


def _end_of_jpeg(content: bytes) -> int:
  """Where the end-of-image marker of the first picture stands; behind it cameras put previews and films."""
  at = 2
  while content[at : at + 1] == b"\xff" and content[at : at + 2] != b"\xff\xd9" and at + 4 <= len(content):
    marker, length = struct.unpack_from(">xBH", content, at)
    at += 1 if marker == 0xFF else 2 + length
    if marker == 0xDA:  # compressed data: up to the next marker, but for those of restarts
      found = _MARKER.search(content, at)
      at = found.start() if found else len(content)
  return at


def _jpeg_warning(content: bytes) -> str | None:
  """What libjpeg says of damage in the first picture; None: the picture is of a kind that cannot be asked about.

  Pillow drops these warnings. TensorStore's reader, the same library, raises them.
  """
  import tensorstore

  context = tensorstore.Context()
  store = tensorstore.KvStore.open("memory://", context=context).result()
  store.write("x", content).result()
  try:
    driver = {"driver": "jpeg", "kvstore": "memory://x"}
    tensorstore.open(driver, context=context).result().read().result()
  except ValueError as error:
    said = str(error).split(" [tensorstore_spec")[0]
    place = max(said.find(warning) for warning in _WARNINGS)
    return None if place < 0 else said[place:]
  return ""


# LZW and deflate


def lzw_bytes(data: bytes, bits: int, tiff: bool = False) -> int:
  """How many bytes (pixels of a GIF) LZW data decode to. Raises ValueError for a code that does not exist yet.

  bits: of a symbol. tiff: codes begin at the high bit of a byte and lengthen one code early.
  """
  clear = 1 << bits
  lengths = [1] * clear + [0, 0]  # of the string of each code; two are no strings
  first, width, total, previous = clear + 2, bits + 1, 0, -1
  hold = held = 0
  for byte in data:
    hold = (hold << 8 | byte) if tiff else (hold | byte << held)
    held += 8
    while held >= width:
      held -= width
      if tiff:
        code, hold = hold >> held, hold & ((1 << held) - 1)
      else:
        code, hold = hold & ((1 << width) - 1), hold >> width
      if code == clear:
        del lengths[first:]
        width, previous = bits + 1, -1
        continue
      if code == clear + 1:
        return total
      if previous >= 0 and len(lengths) < 4096:
        lengths.append(lengths[previous] + 1)
      if code >= len(lengths):
        raise ValueError("the file is damaged: impossible LZW code")
      total += lengths[code]
      previous = code
      if len(lengths) + (tiff or 0) >= 1 << width and width < 12:
        width += 1
  return total


def _check_gif(content: bytes) -> None:
  """Of the first picture: its strings make its pixels."""
  try:
    at = 13 + _colours(content[10])
    while content[at] != 0x2C:  # an extension stands before it
      at = _blocks(content, at + 2)[1]
    width, height = struct.unpack_from("<HH", content, at + 5)
    at += 10 + _colours(content[at + 9])
    data = _blocks(content, at + 1)[0]
    pixels = lzw_bytes(data, content[at])
  except (IndexError, struct.error):
    raise ValueError("the file is truncated or damaged") from None
  if pixels != width * height:
    raise ValueError(f"the file is damaged: {pixels} pixels of {width} x {height}")


def _colours(flags: int) -> int:
  """The length of a colour table."""
  return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(content: bytes, at: int) -> tuple[bytes, int]:
  """What the sub-blocks at a place of a GIF hold, and where they end."""
  parts = []
  while content[at]:
    parts.append(content[at + 1 : at + 1 + content[at]])
    at += 1 + content[at]
  return b"".join(parts), at + 1


def tiff_strips(content: bytes, tags: Any) -> Iterator[bytes]:
  """The strips or tiles of a TIFF, uncompressed where it is deflated; `tags` as Pillow's.

  Raises ValueError: a strip lies outside the file, or does not fit its checksum.
  """
  offsets, counts = tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or ()
  if _sizes(tags)[0] > _LONGEST_STRIP:
    raise ValueError(f"a strip or tile of {_sizes(tags)[0]} bytes, above the limit of {_LONGEST_STRIP}")
  for offset, count in zip(offsets, counts, strict=False):
    if offset + count > len(content):
      raise ValueError("the file is truncated or damaged")
    strip = content[offset : offset + count]
    if tags.get(259) in _DEFLATE:
      unpack = zlib.decompressobj()
      try:
        strip = unpack.decompress(strip, _sizes(tags)[0]) + unpack.decompress(unpack.unconsumed_tail, 1)
      except zlib.error as error:
        raise ValueError(f"the file is damaged: {error}") from None
      if not unpack.eof:
        raise ValueError("the file is damaged: deflated data do not end where they should")
    yield strip


def _sizes(tags: Any) -> tuple[int, int]:
  """The bytes of a whole strip or tile, as the tags have it, and of the last strip, which may be shorter."""
  width, height = tags.get(322) or tags[256], tags.get(323) or min(tags.get(278, tags[257]), tags[257])
  depths = tags.get(258, (1,))
  planes = 1 if tags.get(284) == 2 else tags.get(277, len(depths))
  row = -(-width * planes * max(depths) // 8)
  return row * height, row * (tags[257] % height or height)


def _check_tiff(content: bytes, tags: Any) -> None:
  lzw = tags.get(259) == _LZW and len(content) <= _LONGEST_LZW
  if not lzw and tags.get(259) not in _DEFLATE:
    return
  for strip in tiff_strips(content, tags):
    new = strip[:1] != b"\0" or not strip[1] & 1  # the other, older kind is rare
    if lzw and len(strip) > 1 and new and (made := lzw_bytes(strip, 8, tiff=True)) not in _sizes(tags):
      raise ValueError(f"the file is damaged: a strip of {made} bytes, not {_sizes(tags)[0]}")
