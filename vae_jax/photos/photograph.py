"""A person's photograph as it is, in and out: bit depth, transparency, colour profile, resolution, EXIF survive."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data import images
from vae_jax.errors import UserError
from vae_jax.storage.files import write_whole

# By suffix; the formats that hold transparency, and the longest side a format can have.
WRITABLE = {
  ".png": "PNG",
  ".jpg": "JPEG",
  ".jpeg": "JPEG",
  ".webp": "WEBP",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".bmp": "BMP",
}
_ALPHA = ("PNG", "WEBP", "TIFF")
_LONGEST = {"JPEG": 65500, "WEBP": 16383}

# Formats of which Pillow returns all that they hold (or whose deep variants are recognised below).
_READABLE = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM")

_ORIENTATION, _EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x0112, 0x8769, 0x8825, 0xA005
_PIXEL_SIZES = (0xA002, 0xA003)  # of the file as it was; an enlarged one has others
# What a TIFF says about the picture rather than about its own layout: description, make, model, resolution and its
# unit, software, date, artist, copyright.
_DESCRIPTIVE = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, _EXIF_IFD, _GPS_IFD)


class Photograph(NamedTuple):
  """A photograph, upright.

  pixels: float32 [h, w, c] in [0, 1], c = 1 (grey) or 3 (RGB), in the file's own encoding (no linear light).
  alpha: float32 [h, w, 1] in [0, 1], 1 opaque; None where the file has none. Colours are not premultiplied.
  bits: 8 or 16, per channel.
  icc: the colour profile of `pixels`, or None.
  exif: bytes that begin with "Exif\\0\\0", or None. Without orientation, pixel sizes and thumbnail, which would
    no longer be true.
  dpi: dots per inch across and down, upright, or None.
  frames: how many pictures the file holds, of which this is the first.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  bits: int = 8
  icc: bytes | None = None
  exif: bytes | None = None
  dpi: tuple[float, float] | None = None
  frames: int = 1


def open_photograph(path: str | os.PathLike) -> Photograph:
  """Reads a photograph without losing anything of its pixels.

  PNG, JPEG, WebP, TIFF, BMP, GIF, PPM; the first picture of several (`frames`). Grey or colour with 1 to 16 bits,
  palettes, alpha or a transparent colour, CMYK. Grey stays grey, all else becomes RGB. The EXIF orientation is
  applied. CMYK becomes sRGB, through its colour profile if it has one. Floating-point grey in [0, 1] is taken as 16
  bits. Premultiplied colours are divided by alpha. Colour with 16 bits is read with OpenCV (extra "photos16").

  Raises:
    UserError: missing, unreadable, empty, truncated or no image; above images.MAX_PIXELS; a kind of which bits
      would be lost; 16-bit colour without OpenCV.
  """
  content = images.read_file(path)
  try:
    return _read(content)
  except MemoryError:
    raise
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # Pillow's plugins raise nearly everything on a damaged file
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{path}: cannot be decoded as an image ({reason}); remove or replace it") from error


def check_saveable(path: str | os.PathLike, height: int, width: int, alpha: np.ndarray | None = None) -> None:
  """Raises UserError if `save_photograph` would refuse a finite photograph of this size: ask before long work."""
  kind = WRITABLE.get(Path(path).suffix.lower())
  if kind is None:
    raise UserError(f"{path}: no format to write photographs in; use one of {', '.join(WRITABLE)}")
  if max(height, width) > _LONGEST.get(kind, 2**31):
    raise UserError(
      f"{path}: {width} x {height} pixels, but {kind} holds at most {_LONGEST[kind]} along a side; save as .png"
    )
  if alpha is not None and kind not in _ALPHA and (_rounded(alpha, 8) < 255).any():
    raise UserError(f"{path}: {kind} cannot hold the picture's transparency; save as .png, .webp or .tif")


def save_photograph(path: str | os.PathLike, photograph: Photograph) -> None:
  """Writes a photograph in the format that the suffix names. The file appears whole or not at all.

  .png, .webp (lossless), .tif .tiff (deflate), .bmp, .jpg .jpeg (quality 95, no chroma subsampling). 16 bits stay 16
  in PNG and TIFF, and become 8 in the others, which have no more. ICC and EXIF are kept but in BMP; a profile
  of another number of channels (RGB on grey pixels) is dropped, and so is EXIF above JPEG's 64 KB. Dots per inch are
  kept but in WebP, which has no place for them outside EXIF.

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
  if photograph.bits not in (8, 16):
    raise ValueError(f"bits = {photograph.bits}: must be 8 or 16")
  path = Path(path)
  for values in (pixels,) if alpha is None else (pixels, alpha):
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
      raise UserError(
        f"{path}: not written, {bad} of {values.size} values are not finite; the model is at fault"
      )
  check_saveable(path, pixels.shape[0], pixels.shape[1], alpha)
  kind = WRITABLE[path.suffix.lower()]
  bits = photograph.bits if kind in ("PNG", "TIFF") else 8
  parts = [_rounded(pixels, bits)]
  if alpha is not None and kind in _ALPHA:
    parts.append(_rounded(alpha, bits))
  samples = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
  space = {1: b"GRAY", 3: b"RGB "}[pixels.shape[2]]
  icc = photograph.icc if photograph.icc and photograph.icc[16:20] == space else None
  try:
    content = _encode(kind, samples, icc, photograph.exif, photograph.dpi)
  except MemoryError:
    raise
  except Exception as error:
    raise UserError(f"{path}: cannot be encoded as {kind} ({error}); save as .png") from error
  write_whole(path, lambda file: file.write(content))


def alpha_resized(alpha: np.ndarray, factor: int) -> np.ndarray:
  """alpha [h, w, 1] enlarged: [factor * h, factor * w, 1], bicubic, clipped to [0, 1]."""
  from PIL import Image

  if factor == 1:
    return alpha
  height, width = alpha.shape[:2]
  plane = Image.fromarray(np.ascontiguousarray(alpha[..., 0], np.float32))
  large = plane.resize((factor * width, factor * height), Image.Resampling.BICUBIC)
  return np.clip(np.asarray(large), 0.0, 1.0)[..., None]


def _read(content: bytes) -> Photograph:
  image = images.open_image(content)
  if image.format not in _READABLE:
    raise UserError(
      f"{image.format} files are not read, for some hold more than 8 bits; convert it to PNG or TIFF"
    )
  exif, orientation = _exif(image), images.orientation(image)
  dpi, frames = _dpi(image, orientation), _frames(image, content)
  icc = image.info.get("icc_profile") or None
  depth, layout = _deep_colour(image, content)
  image.load()  # also where OpenCV reads: it may not notice a truncated file
  if depth:
    values, bits, levels = _read_deep(content, layout), 16, depth
  else:
    orientation = images.orientation(image)  # Pillow turns a TIFF while loading
    if image.mode == "CMYK":
      image, icc = _cmyk_to_srgb(image, icc), None
    values, bits, levels = _samples(image)
  colours = values[..., : 1 if values.shape[2] < 3 else 3]
  has_alpha = values.shape[2] in (2, 4)
  pixels = colours.astype(np.float32) / np.float32(levels)
  alpha = values[..., -1:].astype(np.float32) / np.float32(levels) if has_alpha else None
  key = image.info.get("transparency")
  if alpha is None and isinstance(key, int | tuple):
    stored = (
      content[24] if image.format == "PNG" else 8
    )  # bits per sample; Pillow scales the pixels, not the key
    scale = 255 // (2**stored - 1) if stored < 8 else 1
    alpha = (colours != np.asarray(key).reshape(-1) * scale).any(axis=2, keepdims=True).astype(np.float32)
  if alpha is not None and layout == "premultiplied":
    pixels = np.minimum(pixels / np.where(alpha > 0, alpha, 1), np.float32(1))
  pixels = images.upright(pixels, orientation)
  alpha = None if alpha is None else images.upright(alpha, orientation)
  return Photograph(pixels, alpha, bits, icc, exif, dpi, frames)


def _samples(image: Any) -> tuple[np.ndarray, int, int]:
  """A loaded image of at most 8 bits per channel, or of one channel -> [h, w, 1..4], bits, the value of white."""
  mode = image.mode
  if mode.startswith("I"):
    values = np.asarray(image).astype(np.int64)[..., None]
    levels = images.white_level(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > levels:
      raise UserError(f"pixel values from {low} to {high}, outside 0..{levels}; store it with 8 or 16 bits")
    return levels - values if images.white_is_zero(image) else values, 16, levels
  if mode == "F":
    values = np.asarray(image)[..., None]
    if not (values.min() >= 0 and values.max() <= 1):  # also true for NaN
      raise UserError("floating-point pixel values outside [0, 1]; scale it, or store it with 16 bits")
    return 1 - values if images.white_is_zero(image) else values, 16, 1
  if mode in ("P", "PA"):
    target = "RGBA" if mode == "PA" or "transparency" in image.info else "RGB"
  else:
    target = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA"}.get(mode, "RGB")
  values = np.asarray(image if mode == target else image.convert(target))
  return (values[..., None] if values.ndim == 2 else values), 8, 255


def _cmyk_to_srgb(image: Any, icc: bytes | None) -> Any:
  from PIL import ImageCms

  if icc and icc[16:20] == b"CMYK":
    try:
      profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
      return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
      pass  # a damaged profile is as none
  return image.convert("RGB")


def _deep_colour(image: Any, content: bytes) -> tuple[int, str]:
  """(the value of white, layout) of a file with several channels of over 8 bits, else (0, "").

  Layout: "grey and alpha", "colour", "premultiplied" (colour too), "no alpha" (of a fourth channel, if any).
  """
  if image.format == "PNG" and content[24] == 16 and content[25] != 0:
    # A transparent colour is left to the caller, whatever OpenCV makes of it.
    return 65535, {2: "no alpha", 4: "grey and alpha"}.get(content[25], "colour")
  if image.format == "PPM":
    header = re.match(rb"P[36](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)", content)
    white = int(header[1]) if header else 0
    return (white, "colour") if white > 255 else (0, "")
  if image.format != "TIFF":
    return 0, ""
  tags = image.tag_v2
  depths = tuple(tags.get(258, (1,)))
  if len(depths) < 2 or max(depths) <= 8:
    return 0, ""
  extra = tuple(tags.get(338, ()))
  plain = set(depths) == {16} and tags.get(262) == 2 and tags.get(284, 1) == 1
  if not plain or set(tags.get(339, (1,))) != {1} or len(depths) not in (3, 4) or len(extra) > 1:
    raise UserError(
      f"a TIFF with {len(depths)} channels of {'/'.join(map(str, depths))} bits, not plain 16-bit RGB or RGBA, "
      "would lose bits; convert it to a 16-bit PNG"
    )
  # Without ExtraSamples a fourth channel is alpha, as Pillow has it and OpenCV writes it.
  return 65535, {(0,): "no alpha", (1,): "premultiplied"}.get(extra, "colour")


def _read_deep(content: bytes, layout: str) -> np.ndarray:
  """16-bit samples [h, w, 2..4], not turned upright, through OpenCV."""
  try:
    import cv2
  except ImportError:
    raise UserError(
      'colour with 16 bits per channel is read with OpenCV; run: pip install -e ".[photos16]"'
      " (opencv-python-headless)"
    ) from None
  values = cv2.imdecode(np.frombuffer(_unturned(content), np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in (3, 4):
    found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
    raise ValueError(f"OpenCV reads {found} instead of 16-bit colour")
  if layout == "grey and alpha":
    return values[..., [0, 3]]
  return values[..., 2::-1] if layout == "no alpha" or values.shape[2] == 3 else values[..., [2, 1, 0, 3]]


def _unturned(content: bytes) -> bytes:
  """A TIFF with its orientation set to 1, because versions of OpenCV differ in applying it; else `content`."""
  order = {b"II": "<", b"MM": ">"}.get(content[:2])
  if order is None:
    return content
  big = struct.unpack_from(order + "H", content, 2)[0] == 43
  start = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
  count = struct.unpack_from(order + ("Q" if big else "H"), content, start)[0]
  first, size, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
  for entry in range(first, first + size * count, size):
    if struct.unpack_from(order + "H", content, entry)[0] == _ORIENTATION:
      return b"".join((content[: entry + value], struct.pack(order + "H", 1), content[entry + value + 2 :]))
  return content


def _exif(image: Any) -> bytes | None:
  """The EXIF of an image that is not loaded yet, without what would not hold for another file of it."""
  from PIL import Image

  try:
    source, kept = image.getexif(), Image.Exif()
    for tag, value in source.items():
      known = image.format != "TIFF" or tag in _DESCRIPTIVE
      if known and tag not in (_ORIENTATION, _EXIF_IFD, _GPS_IFD):
        kept[tag] = value
    for folder in (_EXIF_IFD, _GPS_IFD):
      values = {tag: value for tag, value in source.get_ifd(folder).items() if tag not in _PIXEL_SIZES}
      if _INTEROP_IFD in values:
        values[_INTEROP_IFD] = source.get_ifd(_INTEROP_IFD)
      if values:
        kept[folder] = values
    return kept.tobytes() if len(kept) else None
  except Exception:  # damaged: the picture is worth more than its EXIF
    return None


def _dpi(image: Any, orientation: int) -> tuple[float, float] | None:
  """Dots per inch of the upright picture, where the file says so."""
  try:
    across, down = (float(value) for value in image.info["dpi"])
  except Exception:  # none, or damaged
    return None
  if not (1 < across < 65536 and 1 < down < 65536):  # what every format holds; of a TIFF 1 means none
    return None
  return (down, across) if orientation >= 5 else (across, down)


def _frames(image: Any, content: bytes) -> int:
  """Counts the pictures of an animation or a TIFF. A phone's JPEG (MPO) counts as one: the others are previews."""
  if image.format not in ("GIF", "PNG", "WEBP", "TIFF"):
    return 1
  try:
    return getattr(images.open_image(content), "n_frames", 1)  # counting moves to and fro in the file
  except Exception:  # damaged behind the first
    return 1


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
  """[0, 1], clipped -> uint8 or uint16, rounded to the nearest level, halves up."""
  levels = np.float32(2**bits - 1)
  scaled = np.clip(values.astype(np.float32), 0.0, 1.0) * levels + np.float32(0.5)
  return np.floor(scaled).astype(np.uint8 if bits == 8 else np.uint16)


def _encode(
  kind: str, samples: np.ndarray, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
  """Samples uint8 or uint16 [h, w, 1..4] -> the bytes of a file."""
  from PIL import Image

  if kind == "TIFF":
    return _tiff(samples, icc, exif, dpi)
  if samples.dtype == np.uint16:
    return _png16(samples, icc, exif, dpi)
  options: dict[str, Any] = {"icc_profile": icc} if icc else {}
  if exif and not (kind == "JPEG" and len(exif) > 65533):
    options["exif"] = exif
  if kind == "JPEG":
    options |= {"quality": 95, "subsampling": 0}
  elif kind == "WEBP":
    options |= {"lossless": True, "exact": True}
  elif kind == "BMP":
    options = {}
  if dpi and kind != "WEBP":
    options["dpi"] = dpi
  out = io.BytesIO()
  Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(out, kind, **options)
  return out.getvalue()


def _png16(
  samples: np.ndarray, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
  """A PNG of uint16 [h, w, 1..4]. Pillow has no colour of 16 bits, OpenCV no grey with alpha."""

  def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

  height, width, channels = samples.shape
  header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
  chunks = [chunk(b"IHDR", header)]
  if icc:
    chunks.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
  if dpi:  # dots per metre
    chunks.append(chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)))
  if exif:
    chunks.append(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
  deflate, step = zlib.compressobj(6), 2 * channels
  above = np.zeros(step * (width + 1), np.uint8)  # a pixel of zeros stands at the left of each row
  for row in samples:
    line = np.concatenate([above[:step], np.ascontiguousarray(row, ">u2").view(np.uint8).ravel()])
    filtered = line[step:] - _paeth(line[:-step], above[step:], above[:-step])
    if packed := deflate.compress(b"\4" + filtered.tobytes()):
      chunks.append(chunk(b"IDAT", packed))
    above = line
  chunks += [chunk(b"IDAT", deflate.flush()), chunk(b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
  """PNG's filter 4 (RFC 2083, 6.6): whichever neighbour is nearest to left + up - corner."""
  a, b, c = (part.astype(np.int16) for part in (left, up, corner))
  to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
  return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))


def _tiff(
  samples: np.ndarray, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
  """A TIFF of one deflated strip. Pillow's has no 16-bit colour, and with compression no EXIF."""
  from PIL import Image
  from PIL.TiffImagePlugin import ImageFileDirectory_v2

  height, width, channels = samples.shape
  # Each row holds the differences to the left (predictor 2), modulo the type.
  stored = samples.astype(samples.dtype.newbyteorder("<"))
  stored[:, 1:] -= samples[:, :-1]
  data = zlib.compress(stored.tobytes())
  ifd = ImageFileDirectory_v2()
  if exif:
    known = Image.Exif()
    known.load(exif)
    for tag in _DESCRIPTIVE:
      if tag in (_EXIF_IFD, _GPS_IFD):
        if values := dict(known.get_ifd(tag)):
          if _INTEROP_IFD in values:
            values[_INTEROP_IFD] = dict(known.get_ifd(_INTEROP_IFD))
          ifd[tag] = values
      elif tag in known:
        ifd[tag] = known[tag]
  if dpi:
    ifd[282], ifd[283], ifd[296] = *dpi, 2  # per inch
  ifd[256], ifd[257] = width, height
  ifd[258] = (8 * samples.dtype.itemsize,) * channels
  ifd[259], ifd[317] = 8, 2  # deflate, differences
  ifd[262] = 1 if channels < 3 else 2  # black is zero; RGB
  ifd[273], ifd[278], ifd[279] = 0, height, len(data)  # one strip, after the directory
  ifd[277], ifd[284] = channels, 1
  if channels in (2, 4):
    ifd[338] = (2,)  # alpha, not premultiplied
  ifd[339] = (1,) * channels  # unsigned
  if icc:
    ifd[34675] = icc
  out = io.BytesIO()
  ifd.save(out)
  out.write(data)
  return out.getvalue()
