"""A file or its bytes -> a uint8 image [h, w, c], whatever the file's mode."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError

MAX_PIXELS = 200_000_000  # refuse images that decode to more: a few kilobytes can claim terabytes
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")


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


def open_image(data: bytes | str | os.PathLike) -> Any:
  """The opened, not yet decoded, `PIL.Image.Image`. Raises as Pillow does; ValueError above MAX_PIXELS."""
  from PIL import Image

  # Pillow warns above MAX_IMAGE_PIXELS and refuses above twice that. Our limit is the one that counts.
  if Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < MAX_PIXELS:
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
  # A file's content comes through memory, so that no handle is left open whatever happens later.
  content = data if isinstance(data, bytes) else Path(data).read_bytes()
  if not content:
    raise ValueError("the file is empty")
  image = Image.open(io.BytesIO(content))
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(f"{image.width} x {image.height} pixels, above the limit of {MAX_PIXELS}")
  return image


def _grey16(values: np.ndarray) -> np.ndarray:
  """Integers 0..65535 -> round(v / 257), so that 65535 is 255. (257 is odd: no ties.)"""
  low, high = int(values.min()), int(values.max())
  if low < 0 or high > 65535:
    raise ValueError(f"pixel values from {low} to {high}, outside 0..65535; store it with 8 or 16 bits")
  return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _grey_float(values: np.ndarray) -> np.ndarray:
  low, high = float(values.min()), float(values.max())
  if not (low >= 0 and high <= 1):  # also true for NaN
    raise ValueError(
      f"floating-point pixel values from {low:g} to {high:g}, outside [0, 1]; scale it or store it as PNG"
    )
  return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _pixels(image: Any) -> np.ndarray:
  from PIL import ImageOps

  image.load()
  ImageOps.exif_transpose(image, in_place=True)
  mode = image.mode
  if mode.startswith("I"):
    return _grey16(np.asarray(image))[..., None]
  if mode == "F":
    return _grey_float(np.asarray(image))[..., None]
  if mode in ("1", "L", "LA"):
    return np.array(image if mode == "L" else image.convert("L"))[..., None]
  if mode in (
    "P",
    "PA",
    "RGBa",
  ):  # through RGBA: a palette with transparency has no other way that keeps its colours
    image = image.convert("RGBA")
  elif mode not in ("RGB", "RGBA"):
    image = image.convert("RGB")
  return np.ascontiguousarray(np.asarray(image)[..., :3])


def decode(data: bytes | str | os.PathLike, channels: int = 0, *, name: str = "") -> np.ndarray:
  """Decodes an image file to uint8 [h, w, c].

  PNG, JPEG, WebP, TIFF and whatever else Pillow reads; the first frame of several. The EXIF orientation is
  applied. Grey (1, 8 or 16 bits) has c = 1, everything else, palettes included, c = 3. Alpha is dropped and
  the stored colour kept, as nothing says what lies behind. 16-bit grey and integer images are v / 257
  rounded, never clipped; floating-point images must lie in [0, 1]. Pillow reads RGB with 16 bits per channel
  as its upper 8 bits. Colour profiles are ignored.

  Args:
    data: the file's bytes, or its path.
    channels: 0 as stored | 1 grey (ITU-R BT.601 luma) | 3 RGB.
    name: what to call the image in an error; a path names itself.

  Raises:
    UserError: if it is missing, empty, truncated, no image, out of range, or above MAX_PIXELS.
  """
  name = name or ("image bytes" if isinstance(data, bytes) else str(data))
  try:
    image = _pixels(open_image(data))
  except MemoryError:
    raise
  except Exception as error:  # Pillow's plugins raise nearly everything on a damaged file
    reason = " ".join(str(error).split()) or type(error).__name__
    if "<_io.BytesIO" in reason:
      reason = "no image format that Pillow knows"
    raise UserError(f"{name}: cannot be decoded as an image ({reason}); remove or replace it") from error
  return to_channels(image, channels)


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
