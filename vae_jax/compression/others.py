"""What general formats make of the same images: PNG, lossless WebP, and Python's compressors on all bytes at once."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import Any

import numpy as np


def sizes(levels: np.ndarray, binary: bool) -> dict[str, int]:
  """Bytes of images, uint8 [n, h, w, c], by format; PNG and WebP have a file for each image, and take 1 or 3 channels.

  binary: levels are 0 and 1. PNG then has one bit a pixel, and the compressors get eight pixels in a byte."""
  raw = (np.packbits(levels) if binary else levels).tobytes()
  found = {"raw": len(raw)}
  if levels.shape[-1] in (1, 3):
    each = [_each(image, binary) for image in levels]
    found |= {name: sum(one[name] for one in each) for name in each[0]}
  return found | {
    "zlib": len(zlib.compress(raw, 9)),
    "bz2": len(bz2.compress(raw, 9)),
    "lzma": len(lzma.compress(raw, preset=9)),
  }


def _each(image: np.ndarray, binary: bool) -> dict[str, int]:
  """Bytes of one image's files."""
  from PIL import Image

  picture = Image.fromarray(
    np.squeeze(image * 255 if binary else image, -1) if image.shape[-1] == 1 else image
  )
  formats: dict[str, tuple[Any, dict[str, Any]]] = {
    "png": (picture.convert("1") if binary and image.shape[-1] == 1 else picture, {"optimize": True}),
    "webp": (picture, {"lossless": True, "quality": 100, "method": 4}),
  }
  found = {}
  for name, (one, how) in formats.items():
    file = io.BytesIO()
    one.save(file, name.upper(), **how)
    found[name] = file.tell()
  return found
