"""The part of a large photograph that is enough to judge it by."""

from __future__ import annotations

import numpy as np

TILE = 256  # rows and columns
MOST = 16  # tiles


def tiles(image: np.ndarray, size: int = TILE) -> list[np.ndarray]:
  """The photograph [h, w, ...] itself, or 16 tiles evenly over it where it is larger than they are.

  size: rows and columns of a tile. Tiles begin at multiples of 8, so that the blocks of JPEG lie alike in all.
  """
  height, width = image.shape[:2]
  if height * width <= MOST * size**2:
    return [image]
  rows, columns = _counts(height, width, size)
  return [
    image[i : i + size, j : j + size]
    for i in _starts(height, rows, size)
    for j in _starts(width, columns, size)
  ]


def grey_levels(values: np.ndarray) -> np.ndarray:
  """uint8, or float in [0, 1] -> float64 in 0..255."""
  return values.astype(np.float64) if values.dtype == np.uint8 else 255.0 * values.astype(np.float64)


def luma(image: np.ndarray) -> np.ndarray:
  """[h, w, c], uint8 or float in [0, 1] -> [h, w] float64 in 0..255: ITU-R BT.601."""
  levels = grey_levels(image)
  return levels[..., 0] if image.shape[2] == 1 else levels @ np.array((0.299, 0.587, 0.114))


def _counts(height: int, width: int, size: int) -> tuple[int, int]:
  """How many tiles down and across: in the proportion of the sides, at most MOST."""
  rows = int(np.clip(round((MOST * height / width) ** 0.5), 1, min(MOST, max(1, height // size))))
  return rows, max(1, min(MOST // rows, width // size))


def _starts(length: int, count: int, size: int) -> list[int]:
  space = max(0, length - size)
  return [round(space * (k + 0.5) / count) // 8 * 8 for k in range(count)]
