"""A file or its bytes -> a uint8 image [h, w, c], whatever the file's mode."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
import threading
import warnings
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data import integrity
from vae_jax.errors import UserError

MAX_PIXELS = 200_000_000  # refuse images that decode to more: a few kilobytes can claim terabytes
MAX_BYTES = 2**31  # refuse longer files: MAX_PIXELS of four 16-bit channels are shorter
LARGE = 2**25  # pixels above which images are decoded one after the other, whatever the number of threads
# What Pillow may try. Among the rest are formats that it gives to other programs: EPS goes to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000")

_SILENT: Any = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [..., h, w, 1 or 3] as `channels` = 0 (unchanged), 1 (grey) or 3 (RGB).

  Grey is the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded; RGB repeats the grey.

  Raises:
    UserError: for another number of channels.
  """
  stored = image.shape[-1]
  if channels not in (0, 1, 3):
    raise UserError(f"data.channels = {channels}: must be 0 (as stored), 1 (grey) or 3 (RGB)")
  if channels in (0, stored):
    return image
  if (stored, channels) == (1, 3):
    return np.repeat(image, 3, axis=-1)
  if (stored, channels) == (3, 1):
    luma = np.full(image.shape[:-1], 500, np.uint32)
    for c, weight in enumerate((299, 587, 114)):
      luma += image[..., c].astype(np.uint32) * np.uint32(weight)
    return (luma // 1000).astype(np.uint8)[..., None]
  raise UserError(f"cannot turn images of {stored} channels into {channels}; set data.channels=0")


def read_file(path: str | os.PathLike) -> bytes:
  """The content of a regular file. A pipe (reading it may never end), a device or a folder is not one.

  Raises:
    UserError: for those, and for a file that is missing, unreadable or longer than MAX_BYTES.
  """

  def unblocked(name: str, flags: int) -> int:  # to open a pipe that nobody writes to would wait, too
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

  try:
    with open(path, "rb", opener=unblocked) as file:
      status = os.fstat(file.fileno())
      if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a regular file; remove it, or copy its content into one")
      if status.st_size > MAX_BYTES:
        raise UserError(
          f"{path}: {status.st_size} bytes, above the limit of {MAX_BYTES} for an image; remove or replace it"
        )
      return file.read()
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise UserError(f"{path}: cannot be read ({reason}); replace it or change its permissions") from error


def why_not(error: Exception) -> str:
  """Why a file could not be decoded, on one line."""
  if isinstance(error, struct.error):  # Pillow ran past the end; the words are those of `struct`
    return "too short for an image"
  return " ".join(str(error).split()) or type(error).__name__


def open_image(content: bytes) -> Any:
  """The opened `PIL.Image.Image` of a file's bytes, its pixels not decoded yet.

  By the plugins themselves: `PIL.Image.open` has a limit of its own on the number of pixels, a global of the program
  that uses us.

  Raises:
    ValueError: none of FORMATS, above MAX_PIXELS, or a preview in place of a picture; else as Pillow's plugins.
  """
  from PIL import Image

  # Pillow's warnings about damaged metadata name no file. (`catch_warnings` is not for threads.)
  if _SILENT not in warnings.filters:
    warnings.filterwarnings("ignore", category=_SILENT[2], module=_SILENT[3].pattern)
  if not content:
    raise ValueError("the file is empty")
  image: Any = None
  Image.init()
  for factory, accept in (Image.OPEN[name] for name in FORMATS if name in Image.OPEN):
    accepted = accept is None or accept(content[:16])
    if isinstance(accepted, str):
      raise ValueError(f"{accepted}; pip install --upgrade pillow")
    if accepted:
      with contextlib.suppress(
        SyntaxError, IndexError, TypeError, struct.error
      ):  # another format, as in Image.open
        # The content comes through memory, so that no handle is left open whatever happens later.
        image = factory(io.BytesIO(content), "")
        break
  if image is None:
    raise ValueError(f"none of {', '.join(FORMATS)}{_unread(content)}")
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(f"{image.width} x {image.height} pixels, above the limit of {MAX_PIXELS}")
  if image.format == "TIFF" and (
    image.tag_v2.get(254, 0) == 1 or 50706 in image.tag_v2 or content[8:10] == b"CR"
  ):
    raise ValueError("its first picture is a preview, as in raw files of cameras; develop it to PNG or TIFF")
  return image


def _unread(content: bytes) -> str:
  """A word on formats that people take for photographs and that nothing here decodes."""
  if content[4:8] == b"ftyp":
    return " (perhaps HEIC or another video format; convert it to PNG or JPEG)"
  if content[:2] == b"\xff\x0a" or content[4:8] == b"JXL ":
    return " (JPEG XL; convert it to PNG or JPEG)"
  return ""


class Loaded(NamedTuple):
  """image: a decoded `PIL.Image.Image`. turn: EXIF's orientation, 1..8, of its pixels. chunks: of a PNG."""

  image: Any
  turn: int
  chunks: integrity.Chunks


def load_image(image: Any, content: bytes, trusted: bool = False) -> Loaded:
  """Decodes `open_image(content)`: the one way from bytes to pixels, of data and of photographs.

  trusted: the bytes are known to be sound, so that checks beyond those of the decoder are left out.

  Raises:
    ValueError: the file is damaged, see `integrity`; else whatever Pillow's plugins raise.
  """
  chunks = [] if trusted else integrity.check(content, image)
  image.load()
  return Loaded(image, orientation(image), chunks)


def orientation(image: Any) -> int:
  """EXIF's, 1..8, of a decoded `PIL.Image.Image`; 1, upright, where EXIF is damaged or absent.

  A TIFF has 1 too: Pillow turns its pixels while decoding.
  """
  try:
    value = exif(image).get(0x0112, 1)
  except Exception:  # damaged; nothing in it decodes pixels
    return 1
  return value if value in range(1, 9) else 1


def exif(image: Any) -> Any:
  """The `PIL.Image.Exif` of an image. In place of `image.getexif()`, which decodes a PNG."""
  from PIL import Image

  return Image.Image.getexif(image)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
  """[h, w, ...] stored with an EXIF orientation 1..8 -> as it is to be seen."""
  turned = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
  }.get(orientation, lambda a: a)(values)
  return np.ascontiguousarray(turned)


def stated_white(image: Any) -> int | None:
  """What a grey image of mode "I" or "I;16" stores for white, where its format says so, else None.

  TIFF of 12 bits, and DNG's WhiteLevel. PGM and JPEG 2000 come from Pillow scaled to 16 bits. Not asked: PNG's sBIT, as
  such samples are scaled to the full range already, and TIFF's MaxSampleValue, which TIFF 6.0 keeps for statistics.
  """
  tags = getattr(image, "tag_v2", {})
  if tags.get(258) == (12,):
    return 4095
  if image.format in ("PPM", "JPEG2000"):
    return 65535
  level = tags.get(50717)
  level = level[0] if isinstance(level, tuple) and level else level
  return level if isinstance(level, int) and 0 < level < 2**31 else None


def white_level(image: Any, given: int = 0) -> int:
  """What a grey image of mode "I" or "I;16" stores for white, where black is 0: as its format says, else as `given`,
  else 65535."""
  return stated_white(image) or given or 65535


def white_is_zero(image: Any) -> bool:
  """Whether a TIFF stores white as 0; of one or eight bits Pillow turns the values round, of more it does not."""
  deep = image.mode.startswith("I") or image.mode == "F"
  return deep and getattr(image, "tag_v2", {}).get(262) == 0


def _grey_integers(values: np.ndarray, white: int) -> np.ndarray:
  """Integers 0..white -> round(255 v / white). (No ties: it is v / 257 or 17 v / 273.)"""
  low, high = int(values.min()), int(values.max())
  if low < 0 or high > white:
    raise ValueError(
      f"pixel values from {low} to {high}, outside 0..{white}; store it with 8 or 16 bits, or set data.white"
    )
  return ((values.astype(np.uint64) * 255 + white // 2) // white).astype(np.uint8)


def _grey_float(values: np.ndarray) -> np.ndarray:
  low, high = float(values.min()), float(values.max())
  if not (low >= 0 and high <= 1):  # also true for NaN
    raise ValueError(
      f"floating-point pixel values from {low:g} to {high:g}, outside [0, 1]; scale it or store it as PNG"
    )
  return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def transparent_colour(colours: np.ndarray, levels: int, chunks: integrity.Chunks) -> np.ndarray | None:
  """bool [h, w, 1]: where a grey or RGB PNG has the one colour that it declares transparent; None: it declares none.

  colours: [h, w, 1 or 3], 0..levels, from samples of any depth.
  """
  found = dict(chunks)
  header, key = found.get(b"IHDR", bytes(10)), found.get(b"tRNS", b"")
  depth, kind = header[8:10]
  if kind not in (0, 2) or len(key) != (2, None, 6)[kind]:
    return None
  white = 2**depth - 1
  stored = np.array(struct.unpack(f">{len(key) // 2}H", key)) & white
  return (colours == np.rint(stored * (levels / white))).all(axis=2, keepdims=True)


def alpha_mode(image: Any) -> str:
  """ "LA" or "RGBA" for a decoded image of at most 8 bits that has transparency of its own, else ""."""
  if image.mode in ("LA", "La") or (
    image.mode == "L" and image.format == "GIF" and "transparency" in image.info
  ):
    return "LA"
  if image.mode in ("RGBA", "RGBa", "PA") or (image.mode == "P" and "transparency" in image.info):
    return "RGBA"
  return ""


def _samples(image: Any, white: int) -> tuple[np.ndarray, np.ndarray | None]:
  """A loaded image -> uint8 [h, w, 1 or 3], as it is stored, and its alpha [h, w, 1]."""
  mode = image.mode
  if mode.startswith("I") or mode == "F":
    values = np.asarray(image)
    grey = _grey_float(values) if mode == "F" else _grey_integers(values, white_level(image, white))
    return (255 - grey if white_is_zero(image) else grey)[..., None], None
  target = alpha_mode(image) or ("L" if mode in ("1", "L") else "RGB")
  values = np.array(image if mode == target else image.convert("RGBA" if mode == "P" else target))
  if target == "L":
    return values[..., None], None
  colours = 1 if target == "LA" else 3
  return values[..., :colours], values[..., -1:] if alpha_mode(image) else None


class Decoded(NamedTuple):
  """pixels: uint8 [h, w, 1 or 3]. plain: an upright PNG or JPEG of grey or RGB, which can be stored as it is.

  alpha: uint8 [h, w, 1], 255 opaque; None where the file has none. guessed: grey of more than 8 bits, whose white
  neither the file nor the caller states.
  """

  pixels: np.ndarray
  plain: bool
  alpha: np.ndarray | None = None
  guessed: bool = False


_one_at_a_time = threading.Lock()


def examine(
  data: bytes | str | os.PathLike, *, name: str = "", trusted: bool = False, white: int = 0
) -> Decoded:
  """As `decode` with channels = 0, and whether the file is `plain`, its transparency, and whether white is guessed."""
  name = name or ("image bytes" if isinstance(data, bytes) else str(data))
  content = data if isinstance(data, bytes) else read_file(data)
  try:
    image = open_image(content)
    with _one_at_a_time if image.width * image.height > LARGE else contextlib.nullcontext():
      image, turn, chunks = load_image(image, content, trusted)
      plain = image.format in ("PNG", "JPEG") and image.mode in ("L", "RGB") and turn == 1
      pixels, alpha = _samples(image, white)
      if alpha is None:
        clear = transparent_colour(pixels, 255, chunks)
        alpha = None if clear is None else np.where(clear, 0, 255).astype(np.uint8)
      guessed = image.mode.startswith("I") and not white and stated_white(image) is None
      return Decoded(upright(pixels, turn), plain, None if alpha is None else upright(alpha, turn), guessed)
  except (UserError, MemoryError):
    raise
  except Exception as error:  # Pillow's plugins raise nearly everything on a damaged file
    reason = why_not(error)
    raise UserError(f"{name}: cannot be decoded as an image ({reason}); remove or replace it") from error


def decode(
  data: bytes | str | os.PathLike,
  channels: int = 0,
  *,
  name: str = "",
  trusted: bool = False,
  over: int | None = None,
  white: int = 0,
) -> np.ndarray:
  """Decodes an image file to uint8 [h, w, c].

  What it is, of FORMATS, its content says and not its name; of several frames it is the first. The EXIF
  orientation is applied. Grey (1 to 16 bits) has c = 1, everything else, palettes included, c = 3. Without `over`,
  alpha is dropped and the stored colour kept. 16-bit grey and integer images are 255 v / white rounded, never clipped;
  floating-point images must lie in [0, 1]. Pillow reads RGB with 16 bits per channel as its upper 8 bits. Colour
  profiles are ignored.

  Args:
    data: the file's bytes, or its path.
    channels: 0 as stored | 1 grey (ITU-R BT.601 luma) | 3 RGB.
    name: what to call the image in an error; a path names itself.
    trusted: the bytes come from a store with checksums of its own, so the checks of `integrity` are left out.
    over: a grey level 0..255 that a picture with transparency is laid over.
    white: what grey images of more than 8 bits store for white where their format does not say; 0: 65535.

  Raises:
    UserError: if it is missing, not a regular file, empty, truncated, damaged as far as the format can show it, no
      image, out of range, or above MAX_PIXELS.
  """
  found = examine(data, name=name, trusted=trusted, white=white)
  pixels = found.pixels
  if over is not None and found.alpha is not None:
    share = found.alpha / np.float32(255)
    pixels = np.rint(pixels * share + np.float32(over) * (1 - share)).astype(np.uint8)
  return to_channels(pixels, channels)


def encode_png(image: np.ndarray) -> bytes:
  """uint8 [h, w], [h, w, 1] or [h, w, 3] -> the bytes of a PNG file. Raises ValueError for anything else."""
  from PIL import Image

  if (
    image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3))
  ):
    raise ValueError(f"expected uint8 [h, w], [h, w, 1] or [h, w, 3], got {image.dtype} {list(image.shape)}")
  out = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(out, "PNG")
  return out.getvalue()
