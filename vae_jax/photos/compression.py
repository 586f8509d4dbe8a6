"""How strongly a photograph was compressed as JPEG: from the tables of its file, or from its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data.jpeg_tables import CHROMA, LUMA
from vae_jax.photos.samples import grey_levels, luma, tiles

_SHARE = 0.04  # of coefficients that are zero beyond those of other grids, from which on there was a JPEG
_ZERO = 0.5  # a coefficient below it counts as zero; rounding pixels gives coefficients a deviation of 0.29
_SURELY = 2.0  # above it a coefficient is surely none that was zero, also in colours that were clipped
_NOISE = 0.4  # deviation of a coefficient about the multiples of its step
_STRAY = 0.02  # share of coefficients that lie anywhere, clipped at black or white
_GAIN = 0.1  # of log likelihood for each coefficient, which a step needs over that of 1
_ENOUGH = 60  # blocks without clipped colours, so that the others are left out
_USED = 3000  # coefficients of one frequency that are looked at
_TILE = 128  # rows and columns of the parts that are looked at
_FREQUENCIES = [(i, j) for i in range(5) for j in range(5) if 0 < i + j < 5]


class Compression(NamedTuple):
  """What is known of a photograph's last JPEG compression.

  quality: 1 to 100 on the scale of the Independent JPEG Group (libjpeg, Pillow, most cameras and programs say
    something similar); None where a grid of blocks is seen but not its steps, as after noise was added.
  exact: whether the tables are those of that quality; else it is the nearest one.
  subsampling: of the colours, as in "4:2:0"; "" for grey, or where it is not known.
  """

  quality: int | None
  exact: bool = False
  subsampling: str = ""


def scaled(table: np.ndarray, quality: int) -> np.ndarray:
  """The quantisation table [8, 8] for a quality of 1 to 100: `jpeg_set_quality` of libjpeg."""
  percent = 5000 // quality if quality < 50 else 200 - 2 * quality
  return np.clip((table * percent + 50) // 100, 1, 255)


def quality_of(tables: Sequence[np.ndarray]) -> tuple[int, bool]:
  """Inverts the scaling: (quality, whether the tables [8, 8], luma and perhaps chroma, are those of this quality).

  Other tables get the quality whose luma table is nearest, by the mean ratio of steps.
  """
  own = [np.asarray(table).reshape(8, 8) for table in tables[:2]]
  for quality in range(100, 0, -1):
    if all((scaled(base, quality) == table).all() for base, table in zip((LUMA, CHROMA), own, strict=False)):
      return quality, True
  return _nearest(own[0]), False


def _nearest(steps: np.ndarray) -> int:
  """The quality whose luma table is nearest to steps [8, 8], where these are not 0."""
  known = steps > 0
  distances = [np.abs(np.log(scaled(LUMA, q)[known] / steps[known])).sum() for q in range(1, 101)]
  best = np.flatnonzero(np.isclose(distances, min(distances)))
  return int(best[len(best) // 2]) + 1


def of_file(image: Any) -> Compression | None:
  """The compression of an opened `PIL.Image.Image`, from its quantisation tables; None if it is no JPEG."""
  tables = getattr(image, "quantization", None)
  layers = getattr(image, "layer", ())
  if image.format not in ("JPEG", "MPO") or not tables or not layers:
    return None
  used = [tables[layer[3]] for layer in layers if layer[3] in tables]
  colour = used[:1] if len(layers) == 1 or used[0] == used[-1] else [used[0], used[-1]]
  quality, exact = quality_of([np.array(table) for table in colour])
  return Compression(quality, exact, _subsampling(layers))


def _subsampling(layers: Sequence[tuple]) -> str:
  if len(layers) != 3:
    return ""
  across, down = layers[0][1] / layers[1][1], layers[0][2] / layers[1][2]
  names = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (4, 1): "4:1:1",
    (1, 2): "4:4:0",
    (4, 2): "4:1:0",
  }
  return names.get((across, down), "")


def of_pixels(image: np.ndarray) -> Compression | None:
  """The compression that decoded pixels [h, w, c] (uint8 or float in [0, 1]) still show; None where they show none.

  On the grid of the blocks, and on none of the 63 others, many coefficients of the discrete cosine transform are zero
  (Nikoukhah et al. 2021, "ZERO"); the others are multiples of the step (Fan & de Queiroz 2003), which gives the
  quality.
  Pixels that were resized, turned by other angles than 90 degrees or noisy afterwards show little of it. Patterns of
  8 pixels (tiles, pixel art) are no JPEG: flat blocks do not count, and a grid must be better than those that share
  neither rows nor columns with it.
  """
  parts = [luma(part) for part in tiles(image, _TILE)]
  if min(image.shape[:2]) < 32:
    return None
  (row, column), share = grid(parts)
  if share < _SHARE:
    return None
  blocks = np.concatenate([_cosines(part, row, column) for part in parts])
  levels = [grey_levels(part) for part in tiles(image, _TILE)]
  clipped = np.concatenate([_clipped(part, row, column) for part in levels])
  if (~clipped).sum() >= _ENOUGH:
    blocks = blocks[~clipped]
  steps = np.array([_step(np.abs(blocks[:, i, j])) for i, j in _FREQUENCIES])
  if not steps.any():  # nothing but zeros: steps larger than all coefficients
    return Compression(10)
  if (steps <= 1).all():
    return Compression(None)
  known = np.zeros((8, 8))
  known[tuple(np.transpose(_FREQUENCIES))] = np.where(steps > 1, steps, 0)  # 1 is also what strays look like
  return Compression(_nearest(known))


def grid(parts: Sequence[np.ndarray]) -> tuple[tuple[int, int], float]:
  """The likeliest grid of 8 x 8 blocks of greys [h, w] in 0..255: its first row and column, and the evidence for it.

  The evidence: how many coefficients are zero beyond the best grid with other rows and columns; a share, 0 to 1.
  """
  zeros = np.zeros((8, 8))
  for i in range(8):
    for j in range(8):
      counts = np.concatenate([(np.abs(_cosines(part, i, j)) < _ZERO).sum(axis=(1, 2)) for part in parts])
      counts = counts[counts < 63]  # a flat block fits every grid
      zeros[i, j] = counts.mean() if len(counts) else 0
  i, j = divmod(int(zeros.argmax()), 8)
  other = np.delete(np.delete(zeros, i, 0), j, 1).max()
  return (i, j), float((zeros[i, j] - other) / (64 - other))


def _clipped(part: np.ndarray, row: int, column: int) -> np.ndarray:
  """Which whole blocks of [h, w, c] in 0..255 have black or white in a channel: clipping moves their coefficients."""
  rows, columns = (part.shape[0] - row) // 8, (part.shape[1] - column) // 8
  whole = part[row : row + 8 * rows, column : column + 8 * columns]
  edge = ((whole <= 0) | (whole >= 255)).reshape(rows, 8, columns, -1)
  return np.asarray(edge.any(axis=(1, 3))).ravel()


def _cosines(part: np.ndarray, row: int, column: int) -> np.ndarray:
  """[h, w] -> the orthonormal discrete cosine transform of its whole blocks, [n, 8, 8]."""
  from scipy.fft import dctn

  rows, columns = (part.shape[0] - row) // 8, (part.shape[1] - column) // 8
  whole = part[row : row + 8 * rows, column : column + 8 * columns].reshape(rows, 8, columns, 8)
  return dctn(whole, axes=(1, 3), norm="ortho").swapaxes(1, 2).reshape(-1, 8, 8)


def _step(coefficients: np.ndarray) -> float:
  """The likeliest step of which these absolute values are multiples; 0 where few are seen, 1 where there is none."""
  values = coefficients[coefficients > _SURELY][:_USED]
  if len(values) < 12:
    return 0.0
  steps = np.arange(1, min(256, int(values.min()) + 100))
  totals = np.array([_likelihood(values, int(step)) for step in steps])
  best = int(totals.argmax())
  return float(steps[best]) if totals[best] - totals[0] > _GAIN * len(values) else 1.0


def _likelihood(values: np.ndarray, step: int) -> float:
  """The logarithm of the likelihood that positive values are multiples of a step, but for noise and strays."""
  away = values - step * np.maximum(np.rint(values / step), 1)
  near = np.exp(-0.5 * (away / _NOISE) ** 2) / _NOISE
  return float(np.log(_STRAY / 20 + (1 - _STRAY) * step / 20 * near).sum())
