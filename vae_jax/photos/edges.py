"""What edges of a photograph tell: sharpened (halos beside them), or blurred and enlarged (wide)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vae_jax.photos.samples import luma, tiles

_REACH = 9  # pixels to either side of an edge
_END = 4  # of them, at each end, those that say how dark and how bright the two sides are
_LEAST = 40.0  # grey levels that an edge has at least
_ROUGH = 0.4  # range of values at an end, as a share of the edge
_MARGIN = 6  # grey levels to black and white, where halos are clipped
_FEWEST = 20  # edges that an estimate needs
_SHARPEST = 0.2  # quantile of the widths: parts of most photographs are out of focus


class Edges(NamedTuple):
  """halo: how far the grey overshoots beside the sharper half of edges, as a share of their step; 0 to 0.1 unless it
    was sharpened.

  width: of the sharpest edges, in pixels: step over steepest slope (2.5 standard deviations of a Gaussian blur).
  number: of edges that were looked at. With fewer than 20 of them, halo and width are None; halo also where
    most are clipped.
  """

  halo: float | None
  width: float | None
  number: int


def edges(image: np.ndarray) -> Edges:
  """Measures the strong, straight, isolated edges along rows and columns of [h, w, c], uint8 or float in [0, 1]."""
  greys = [grey for part in tiles(image) for whole in (luma(part),) for grey in (whole, whole.T)]
  found = [_profiles(grey) for grey in greys]
  profiles, widths = (np.concatenate([pair[k] for pair in found]) for k in range(2))
  if len(widths) < _FEWEST:
    return Edges(None, None, len(widths))
  sharper = profiles[np.isfinite(profiles[:, 0]) & (widths <= np.median(widths))]
  return Edges(
    _halo(sharper) if len(sharper) >= _FEWEST // 2 else None,
    float(np.quantile(widths, _SHARPEST)),
    len(widths),
  )


def _profiles(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Edges across the rows of [h, w]: profiles [n, t] from 0 to 1, NaN where they are clipped, and widths [n]."""
  from scipy.ndimage import maximum_filter1d

  if grey.shape[1] < 2 * _REACH + 2 or grey.shape[0] < 3:
    return np.zeros((0, len(_places()))), np.zeros(0)
  steps = np.abs(np.diff(grey, axis=1))
  along = np.zeros_like(grey)
  along[1:-1] = np.abs(grey[2:] - grey[:-2]) / 2
  straight = steps > 2 * np.maximum(along[:, :-1], along[:, 1:])
  top = (steps == maximum_filter1d(steps, 9, axis=1)) & (steps > _LEAST / 8) & straight
  top[:, :_REACH] = top[:, -_REACH:] = False
  i, j = np.nonzero(top)
  profiles = grey[i[:, None], j[:, None] + np.arange(-_REACH, _REACH + 2)]
  left, right = profiles[:, :_END], profiles[:, -_END:]
  height = right.mean(axis=1) - left.mean(axis=1)
  rough = np.maximum(np.ptp(left, axis=1), np.ptp(right, axis=1))
  good = (np.abs(height) > _LEAST) & (rough < _ROUGH * np.abs(height))
  slopes = steps[i, j][good]
  profiles, height = profiles[good], height[good]
  inside = (profiles.min(axis=1) > _MARGIN) & (profiles.max(axis=1) < 255 - _MARGIN)
  scaled = (profiles - profiles[:, :_END].mean(axis=1, keepdims=True)) / height[:, None]
  return _centred(np.where(inside[:, None], scaled, np.nan)), np.abs(height) / slopes


def _places() -> np.ndarray:
  """Pixels from the middle of an edge at which its profile is looked at."""
  return np.arange(-_REACH + 1, _REACH - 0.9, 0.5)


def _centred(profiles: np.ndarray) -> np.ndarray:
  """Profiles [n, 2 reach + 2] -> at `_places` from where they cross 1/2; NaN where they do not cross there."""
  before, after = profiles[:, _REACH], profiles[:, _REACH + 1]
  crosses = (before < 0.5) & (after >= 0.5)
  middle = _REACH + (0.5 - before) / np.where(crosses, after - before, np.nan)
  at = np.where(crosses, middle, _REACH)[:, None] + _places()
  low = np.floor(at).astype(int)
  rows, share = np.arange(len(profiles))[:, None], at - low
  values = profiles[rows, low] * (1 - share) + profiles[rows, np.minimum(low + 1, 2 * _REACH + 1)] * share
  return np.where(crosses[:, None], values, np.nan)


def _halo(profiles: np.ndarray) -> float:
  """The overshoot of the median profile beside the edge, over the line through what lies farther; mean of two sides."""
  places, profile = _places(), np.median(profiles, axis=0)
  total = 0.0
  for where, values in ((places, profile), (-places, 1 - profile)):
    far, near = where >= 4.5, (where >= 0.5) & (where <= 3.5)
    line = np.polyfit(where[far], values[far], 1)
    total += float((values[near] - np.polyval(line, where[near])).max())
  return max(0.0, total / 2)
