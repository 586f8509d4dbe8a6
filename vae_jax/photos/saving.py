"""Writes a photograph as a file: its pixels rounded once, and what its format holds of the rest."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.data import integrity
from vae_jax.errors import UserError
from vae_jax.photos import metadata
from vae_jax.photos.photograph import Photograph
from vae_jax.storage.files import write_bytes

# By suffix; the formats that hold transparency, and the longest side a format can have.
WRITABLE = {
  ".png": "PNG",
  ".jpg": "JPEG",
  ".jpeg": "JPEG",
  ".jpe": "JPEG",
  ".jfif": "JPEG",
  ".webp": "WEBP",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".bmp": "BMP",
}
_ALPHA = ("PNG", "WEBP", "TIFF")
_LONGEST = {"JPEG": 65500, "WEBP": 16383}
_STRIP = 2**20  # values that are worked on at once


def check_saveable(path: str | os.PathLike, height: int, width: int, alpha: np.ndarray | None = None) -> None:
  """Raises UserError if `save_photograph` would refuse a finite photograph of this size: ask before long work."""
  kind = WRITABLE.get(Path(path).suffix.lower())
  if kind is None:
    raise UserError(f"{path}: photographs cannot be written in this format; use one of {', '.join(WRITABLE)}")
  if max(height, width) > _LONGEST.get(kind, 2**31):
    raise UserError(
      f"{path}: {width} x {height} pixels, but {kind} holds at most {_LONGEST[kind]} along a side; save as .png"
    )
  if alpha is not None and kind not in _ALPHA and (_rounded(alpha, 8) < 255).any():
    raise UserError(f"{path}: {kind} cannot hold the picture's transparency; save as .png, .webp or .tif")


def save_photograph(path: str | os.PathLike, photograph: Photograph) -> None:
  """Writes a photograph in the format that the suffix names. The file appears whole or not at all.

  .png, .webp (lossless), .tif .tiff (deflate), .bmp, .jpg .jpeg (quality 95, no chroma subsampling). 16 bits stay 16
  in PNG and TIFF, and become 8 in the others, which have no more. ICC, EXIF and XMP are kept but in
  BMP; a profile of another number of channels (RGB on grey pixels) is dropped, and so are EXIF and XMP above JPEG's
  64 KB. Dots per inch are kept but in WebP, which has no place for them outside EXIF. PNG keeps all comments, JPEG
  that of the keyword "Comment"; only PNG has the chunks of `colour`.

  JPEG and BMP hold no transparency. A picture that is opaque everywhere loses nothing and is written without its alpha;
  any other is refused, because nothing says what lies behind it and a wrong guess shows only later.

  Values are clipped to [0, 1] and rounded, halves up. Missing folders are made, an existing file is replaced.

  Raises:
    UserError: another suffix; a NaN or an infinity; transparency or a size that the format cannot hold; the disk's
      errors.
    ValueError: shapes or bits that no Photograph has.
  """
  pixels, alpha = photograph.pixels, photograph.alpha
  if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
    raise ValueError(f"pixels of shape {list(pixels.shape)}: a photograph has [h, w, 1 or 3]")
  if alpha is not None and alpha.shape != (*pixels.shape[:2], 1):
    raise ValueError(f"alpha of shape {list(alpha.shape)} for pixels of shape {list(pixels.shape)}")
  rows = RowWriter(path, pixels.shape[0], pixels.shape[1], photograph)
  for part in strips(pixels.shape):
    rows.add(pixels[part], None if alpha is None else alpha[part])
  rows.save()


def _stored(kind: str, photograph: Photograph) -> tuple[int, int]:
  """Channels and bits of a photograph in a file of this kind."""
  channels = photograph.pixels.shape[2] + (photograph.alpha is not None and kind in _ALPHA)
  return channels, photograph.bits if kind in ("PNG", "TIFF") else 8


def bytes_of_pixel(path: str | os.PathLike, photograph: Photograph) -> tuple[int, int]:
  """Bytes of memory that `RowWriter` takes for each pixel, at least: while rows are added, and while it saves.

  Left out is the content of the file, whose length is unknown before.
  """
  kind = WRITABLE[Path(path).suffix.lower()]
  channels, bits = _stored(kind, photograph)
  size = channels * bits // 8
  copy = size if kind == "TIFF" else 4 if (channels, bits) == (3, 8) else 0  # Pillow has 4 bytes for RGB
  return size, size + copy


class RowWriter:
  """Writes a photograph as `save_photograph` does, from rows given from the top down.

  Beside some rows, memory holds the picture as 8 or 16 bits and, in `save`, what its encoder takes.
  """

  def __init__(self, path: str | os.PathLike, height: int, width: int, like: Photograph):
    """height, width: of the picture. like: a photograph of any size that has everything else: channels, bits, whether
    there is alpha, metadata."""
    if like.bits not in (8, 16):
      raise ValueError(f"bits = {like.bits}: must be 8 or 16")
    check_saveable(path, height, width)
    self._path, self._kind = Path(path), WRITABLE[Path(path).suffix.lower()]
    self._colours = like.pixels.shape[2]
    channels, self._bits = _stored(self._kind, like)
    self._samples = np.empty((height, width, channels), np.uint8 if self._bits == 8 else np.uint16)
    space = {1: b"GRAY", 3: b"RGB "}[self._colours]
    self._about = like.about._replace(icc=like.icc if like.icc and like.icc[16:20] == space else None)
    self._filled = 0
    self._bad = {"pixels": 0, "alpha": 0}

  def add(self, pixels: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """The next rows: pixels float [rows, width, 1 or 3], alpha [rows, width, 1], where the photograph has it."""
    rows = self._samples[self._filled : self._filled + len(pixels)]
    self._filled += len(pixels)
    if self._finite("pixels", pixels):
      rows[..., : self._colours] = _rounded(pixels, self._bits)
    if alpha is not None and self._finite("alpha", alpha):
      check_saveable(self._path, len(alpha), alpha.shape[1], alpha)
      if self._kind in _ALPHA:
        rows[..., self._colours :] = _rounded(alpha, self._bits)

  def _finite(self, what: str, values: np.ndarray) -> bool:
    bad = values.size - int(np.isfinite(values).sum())
    self._bad[what] += bad
    return not bad

  def save(self) -> None:
    """Writes the file. Raises UserError as `save_photograph`, ValueError where rows are missing."""
    height, width = self._samples.shape[:2]
    if self._filled != height:
      raise ValueError(f"{self._filled} rows of a picture of {height}")
    for what, bad in self._bad.items():
      if bad:
        values = height * width * (self._colours if what == "pixels" else 1)
        raise UserError(
          f"{self._path}: not written, because {bad} of {values} values are NaN or infinite; the model is at fault"
        )
    save_samples(self._path, self._samples, self._about)


def save_samples(path: Path, samples: np.ndarray, about: metadata.Metadata) -> None:
  """Writes samples, uint8 or uint16 [h, w, 1..4], as they are; see `save_photograph`."""
  kind = WRITABLE[Path(path).suffix.lower()]
  try:
    content = _encode(kind, samples, about)
  except MemoryError:
    raise
  except Exception as error:
    raise UserError(f"{path}: cannot be encoded as {kind} ({error}); save as .png") from error
  write_bytes(path, content)


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
  """Cuts the rows of an array of this shape, [h, ...], into parts of about a million values, so that what is computed
  from one takes little memory."""
  rows = max(1, _STRIP * shape[0] // math.prod(shape))
  return (slice(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows))


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
  """[0, 1], clipped -> uint8 or uint16, rounded to the nearest level, halves up."""
  levels = np.float32(2**bits - 1)
  scaled = np.clip(values.astype(np.float32), 0.0, 1.0) * levels + np.float32(0.5)
  return np.floor(scaled).astype(np.uint8 if bits == 8 else np.uint16)


def _encode(kind: str, samples: np.ndarray, about: metadata.Metadata) -> bytes:
  """Samples uint8 or uint16 [h, w, 1..4] -> the bytes of a file."""
  from PIL import Image

  if kind == "TIFF":
    return _tiff(samples, about)
  if kind == "PNG":
    return _png(samples, about)
  how: dict[str, Any] = metadata.options(about, kind)
  if kind == "JPEG":
    how |= {"quality": 95, "subsampling": 0}
  elif kind == "WEBP":
    how |= {"lossless": True, "exact": True}
  out = io.BytesIO()
  image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
  image.save(out, kind, **how)
  return out.getvalue()


def _png(samples: np.ndarray, about: metadata.Metadata) -> bytes:
  from PIL import Image

  if samples.dtype == np.uint16:
    chunks = _png16(samples)
  else:
    out = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(out, "PNG")
    chunks = integrity.png_chunks(out.getvalue())
  return integrity.write_png([chunks[0], *metadata.png_chunks(about), *chunks[1:]])


def _png16(samples: np.ndarray) -> integrity.Chunks:
  """The chunks of a PNG of uint16 [h, w, 1..4]. Pillow has no colour of 16 bits, OpenCV no grey with alpha."""
  height, width, channels = samples.shape
  header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
  chunks = [(b"IHDR", header)]
  deflate, step = zlib.compressobj(6), 2 * channels
  above = np.zeros(step * (width + 1), np.uint8)  # a pixel of zeros stands at the left of each row
  for row in samples:
    line = np.concatenate([above[:step], np.ascontiguousarray(row, ">u2").view(np.uint8).ravel()])
    filtered = line[step:] - _paeth(line[:-step], above[step:], above[:-step])
    if packed := deflate.compress(b"\4" + filtered.tobytes()):
      chunks.append((b"IDAT", packed))
    above = line
  return [*chunks, (b"IDAT", deflate.flush()), (b"IEND", b"")]


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
  """PNG's filter 4 (RFC 2083, 6.6): whichever neighbour is nearest to left + up - corner."""
  a, b, c = (part.astype(np.int16) for part in (left, up, corner))
  to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
  return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))


def _tiff(samples: np.ndarray, about: metadata.Metadata) -> bytes:
  """A TIFF of one deflated strip. Pillow's has no 16-bit colour, and with compression no EXIF."""
  from PIL.TiffImagePlugin import ImageFileDirectory_v2

  height, width, channels = samples.shape
  # Each row holds the differences to the left (predictor 2), modulo the type.
  stored = samples.astype(samples.dtype.newbyteorder("<"))
  stored[:, 1:] -= samples[:, :-1]
  data = zlib.compress(stored.data)
  del stored
  ifd = ImageFileDirectory_v2()
  for tag, value in metadata.tiff_tags(about).items():
    ifd[tag] = value
  ifd[256], ifd[257] = width, height
  ifd[258] = (8 * samples.dtype.itemsize,) * channels
  ifd[259], ifd[317] = 8, 2  # deflate, differences
  ifd[262] = 1 if channels < 3 else 2  # black is zero; RGB
  ifd[273], ifd[278], ifd[279] = 0, height, len(data)  # one strip, after the directory
  ifd[277], ifd[284] = channels, 1
  if channels in (2, 4):
    ifd[338] = (2,)  # alpha, not premultiplied
  ifd[339] = (1,) * channels  # unsigned
  out = io.BytesIO()
  ifd.save(out)
  out.write(data)
  return out.getvalue()
