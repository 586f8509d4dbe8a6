"""A function of images, run over windows of one size: memory that does not grow with the photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vae_jax.errors import UserError
from vae_jax.types import ArrayLike


def tiled_bands(
  function: Callable[[np.ndarray, tuple[int, int]], ArrayLike],
  image: ArrayLike,
  *,
  factor: int = 1,
  tile: int,
  halo: int,
  multiple: int = 1,
  progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
  """Gives what `function` makes of the whole image in bands of rows, from the top down, made from windows.

  The image is continued below and at the right to a multiple of `multiple` by mirroring, the edge pixel repeated,
  and the result cropped. Windows have `tile + 2 * halo` rows and columns, all of them, so that a compiled function
  compiles once per image size at most; an axis that is shorter is given whole. Windows lie inside the
  continued image: one at its border shows that border, where the function's own padding acts as it would for
  the whole. Elsewhere only what is `halo` or more away from a window's edge is used.

  The result equals `function(whole)` to rounding if an output pixel depends on nothing farther than `halo` input
  pixels away, rows and columns, and shifting the input by `multiple` shifts the output. A function of global
  statistics, such as group normalisation or attention over all pixels, is not like that: seams are to be expected.

  Args:
    function: `(window float32 [h', w', c], (top, left)) -> [factor * h', factor * w', c_out]`, h' and w' multiples
      of `multiple`. (top, left) is the window's place in the image.
    image: [h, w, c], any float or integer type.
    factor: output pixels per input pixel along each axis.
    tile: rows and columns that a window adds to the result; rounded up to a multiple of `multiple`.
    halo: how far an output pixel sees, in input pixels; rounded up likewise.
    multiple: what window sizes and places must be divisible by: 2 for a network that halves the image once.
    progress: called with (windows done, windows in all) after each.

  Returns:
    float32 [rows, factor * w, c_out], one at a time: beside it and the image, memory holds one window. `assembled` puts
    them together.

  Raises:
    UserError: tile, factor or multiple below 1, halo below 0, no integers, or an image that is not [h, w, c] or
      is empty.
    ValueError: the function returns another size.
  """
  image = _checked(image, tile=tile, halo=halo, multiple=multiple, factor=factor)
  height, width = image.shape[:2]
  tile, halo = (-(-int(value) // multiple) * multiple for value in (tile, halo))
  rows, columns = (_windows(-(-n // multiple) * multiple, tile, halo) for n in (height, width))
  total = len(rows) * len(columns)
  for i, (top, tall, first, last) in enumerate(rows):
    band: np.ndarray | None = None
    last = min(last, height)
    for j, (left, wide, begin, end) in enumerate(columns):
      window = image[np.ix_(_mirrored(top, tall, height), _mirrored(left, wide, width))]
      out = np.asarray(function(np.ascontiguousarray(window, np.float32), (top, left)))
      if out.ndim != 3 or out.shape[:2] != (factor * tall, factor * wide):
        raise ValueError(
          f"a window of {tall} x {wide} became {list(out.shape)}, not [{factor * tall}, {factor * wide}, channels]"
        )
      if band is None:
        band = np.empty((factor * (last - first), factor * width, out.shape[2]), np.float32)
      end = min(end, width)
      band[:, factor * begin : factor * end] = out[
        factor * (first - top) : factor * (last - top), factor * (begin - left) : factor * (end - left)
      ]
      if progress is not None:
        progress(i * len(columns) + j + 1, total)
    assert band is not None
    yield band


def assembled(bands: Iterable[np.ndarray], height: int) -> np.ndarray:
  """Puts bands of rows, [rows, w, c], together: [height, w, c]. One band that is the whole is returned as it is."""
  result: np.ndarray | None = None
  first = 0
  for band in bands:
    if len(band) == height:
      return band
    if result is None:
      result = np.empty((height, *band.shape[1:]), band.dtype)
    result[first : first + len(band)] = band
    first += len(band)
  assert result is not None
  return result


def _checked(image: ArrayLike, **sizes: int) -> np.ndarray:
  """Returns `image` as an array; refuses it, and sizes out of range, as `tiled` says."""
  for name, value in sizes.items():
    least = 0 if name == "halo" else 1
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
      raise UserError(f"{name}={value!r}: give an integer of at least {least}")
  image = np.asarray(image)
  if image.ndim != 3 or 0 in image.shape:
    raise UserError(
      f"an image of shape {list(image.shape)} cannot be cut into tiles: give [height, width, channels]"
    )
  return image


def _windows(size: int, tile: int, halo: int) -> list[tuple[int, int, int, int]]:
  """Returns (start, length, first, last) of each window along one axis; [first, last) is what is taken from it.

  The taken parts follow one another over [0, size) and keep `halo` from the window's ends, but for the borders.
  """
  length = tile + 2 * halo
  if length >= size:
    return [(0, size, 0, size)]
  starts = [*range(0, size - length, tile), size - length]
  cuts = [0, *(start + halo for start in starts[1:]), size]
  return [(s, length, a, b) for s, a, b in zip(starts, cuts[:-1], cuts[1:], strict=True)]


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
  """Returns the indices of [start, start + length) in an axis of `size` that is continued by mirroring."""
  position = np.arange(start, start + length) % (2 * size)
  return np.minimum(position, 2 * size - 1 - position)
