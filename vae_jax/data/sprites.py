"""Sprites: a white shape on black, where a picture is a pure function of five factors, after dSprites.

The factors are those of dSprites (Matthey et al. 2017, github.com/deepmind/dsprites-dataset), each counted from 0:

    shape          3   square, ellipse, heart
    scale          6   0.5, 0.6, ..., 1
    orientation   40   angles 2 pi k / 39, so that 0 and 39 are one angle, as in dSprites
    x, y      32, 32   the centre of mass, in steps of one pixel, rightwards and downwards

Pictures are binary, as those of dSprites: a pixel of 64 x 64 is 255 where its centre lies in the shape, else 0. Nothing
is smoothed at edges. The shapes have equal areas at each scale, and no shape is cut off. They are drawn here, not
copied: pixel by pixel these are other pictures than those of dSprites.

Orientations 0 and 39 give one picture; all other pictures differ. But the factor orientation can hardly be seen in two
of the shapes. A square looks the same after a quarter turn and an ellipse after half a turn. Multiples of 2 pi / 39
never meet such a turn, but come within 2.3 degrees of a quarter turn (10 steps) and 4.6 of a half (19 or 20 steps). So
no code of few numbers can give orientation for all shapes, and scores of it stay low.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from vae_jax.data import images
from vae_jax.data.examples import Full
from vae_jax.errors import UserError

FACTORS = ("shape", "scale", "orientation", "x", "y")
SHAPES = ("square", "ellipse", "heart")
VALUES = (len(SHAPES), 6, 40, 32, 32)  # of each factor
COUNT = int(np.prod(VALUES))  # pictures: 737,280
UNORDERED = frozenset({"shape"})  # factors whose values have no order
SIDE = 64
REACH = 16  # pixels from the pixel of a shape's centre to the edge of its window
# Pixels of a shape of scale 1, and where in its pixel the centre lies, right of and below the middle. With these, no
# two windows are alike, moved or not; with a centre in the middle, squares of two scales are.
AREA, OFFSET = 324.0, (0.25, 0.4)
# The features of TFDS's data set `dsprites` that are these factors, in their order.
STORED = ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position")


# Pictures


def render(factors: Sequence[int] | Int[np.ndarray, " f"]) -> UInt8[np.ndarray, "64 64 1"]:
  """The picture of five factors, each a whole number from 0 in the order of `FACTORS`: 0 or 255.

  Raises UserError for another number of factors, or a value out of range.
  """
  values = np.asarray(factors)
  if values.shape != (5,) or not all(
    0 <= v < n and v == int(v) for v, n in zip(values.tolist(), VALUES, strict=True)
  ):
    shown = ", ".join(f"{name} 0 to {n - 1}" for name, n in zip(FACTORS, VALUES, strict=True))
    raise UserError(f"factors {values.tolist()} are those of no sprite; give whole numbers: {shown}")
  return _drawn(*(int(v) for v in values))


def _drawn(shape: int, scale: int, orientation: int, x: int, y: int) -> UInt8[np.ndarray, "64 64 1"]:
  picture = np.zeros((SIDE, SIDE, 1), np.uint8)
  picture[y : y + 2 * REACH + 1, x : x + 2 * REACH + 1, 0] = _window(shape, scale, orientation)
  return picture


@functools.lru_cache(maxsize=int(np.prod(VALUES[:3])))
def _window(shape: int, scale: int, orientation: int) -> UInt8[np.ndarray, "33 33"]:
  """What a shape covers of the pixels about its centre."""
  at = np.arange(-REACH, REACH + 1, dtype=np.float64)
  x, y = at[None] - OFFSET[0], at[:, None] - OFFSET[1]
  angle = 2 * np.pi * (orientation % 39) / 39
  cos, sin = np.cos(angle), np.sin(angle)
  unit = (0.5 + 0.1 * scale) * np.sqrt(
    AREA
  )  # pixels of a length of 1, with which all shapes have an area of 1
  inside = _INSIDE[SHAPES[shape]]((cos * x + sin * y) / unit, (cos * y - sin * x) / unit)
  return np.where(inside, 255, 0).astype(np.uint8)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.maximum(np.abs(x), np.abs(y)) <= 0.5


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Its long axis, along x, is 1.7 times the other."""
  ratio = 1.7
  return np.square(x) / ratio + np.square(y) * ratio <= 1 / np.pi


# Facts of the curve below, by quadrature: its area, and how far its centre of mass lies above the origin.
HEART_AREA, HEART_RISE = 3.6620, 0.2935


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """(x^2 + y^2 - 1)^3 <= x^2 y^3 with the tip down, about its centre of mass."""
  x, y = x * np.sqrt(HEART_AREA), HEART_RISE - y * np.sqrt(HEART_AREA)
  return (np.square(x) + np.square(y) - 1) ** 3 <= np.square(x) * y**3


_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "square": _square,
  "ellipse": _ellipse,
  "heart": _heart,
}


# Data sets


def splits(data: ConfigDict) -> dict[str, Callable[[], Full]]:
  """The one split of data.name=sprites, `train`, as TFDS's `dsprites` has it: all pictures in a fixed random order.

  Raises UserError where data.size would cut pictures, so that their factors were no longer true.
  """
  check_size(data)
  return {
    "train": lambda: Full(COUNT, _read, {"image": (SIDE, SIDE, 1)}, factors=FACTORS, unordered=UNORDERED)
  }


def check_size(data: ConfigDict) -> None:
  """Refuses to crop pictures: a crop moves the shape, and its factors stay."""
  if tuple(data.size) not in ((0, 0), (SIDE, SIDE)) and data.fit == "crop":
    h, w = data.size
    raise UserError(
      f"data.size={h},{w} with data.fit=crop cuts the images of data.name={data.name}, and their factors stay as they "
      "are; set data.fit=resize"
    )


def _read(indices: Sequence[int]) -> list[dict[str, Any]]:
  factors = np.stack(np.unravel_index(_order()[np.asarray(indices, np.int64)], VALUES), axis=1)
  return [{"image": _drawn(*row.tolist()), "factors": row.astype(np.float32)} for row in factors]


@functools.cache
def _order() -> Int[np.ndarray, " n"]:
  """All combinations of factors, by number, in the order of the records. It is the same with every NumPy."""
  draws = np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(COUNT)
  return np.argsort(draws, kind="stable")


def of_tfds(data: ConfigDict, opened: Callable[[str], Full]) -> Callable[[str], Full]:
  """What opens a split of TFDS's `dsprites`, as one of ours: `opened` gives records with the features `STORED`.

  That data set has images of 0 and 1. Raises UserError as `splits` does.
  """
  check_size(data)

  def record(row: dict[str, Any]) -> dict[str, Any]:
    image = images.decode(row["image"], 1, name="dsprites", trusted=True)
    factors = np.array([row[name] for name in STORED], np.float32)
    return {"image": np.where(image > 0, 255, 0).astype(np.uint8), "factors": factors}

  def split(name: str) -> Full:
    full = opened(name)
    read = lambda indices: [record(row) for row in full.read(indices)]  # noqa: E731
    return Full(full.length, read, full.shapes, factors=FACTORS, unordered=UNORDERED)

  return split
