"""Whether the uncertainty of a restoration is where its errors are: their correlation over all pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vae_jax.photos.cases import finite_or_nan
from vae_jax.photos.stopwatch import timed
from vae_jax.photos.uncertainty import total_deviation
from vae_jax.types import ArrayLike

Draw = Callable[[np.ndarray, int], ArrayLike]


class Calibration:
  """Compares the standard deviation of random restorations with the absolute error of the point estimate."""

  def __init__(self, draw: Draw, samples: int, pixel_noise: Callable[[np.ndarray], ArrayLike] | None):
    """The arguments are those of `score_folder.benchmark`."""
    self._draw, self._samples, self._pixel_noise = draw, samples, pixel_noise
    self._pooled, self._correlations = Moments(), list[float]()

  def add(self, degraded: np.ndarray, point: np.ndarray, clean: np.ndarray) -> float:
    """Adds an image. `point` is the unrounded estimate. Returns the correlation within this image."""
    noise = None if self._pixel_noise is None else np.asarray(self._pixel_noise(degraded))
    own = Moments().add(*self._spread_and_error(degraded, point, clean, noise))
    self._pooled = self._pooled.merge(own)
    self._correlations.append(own.correlation)
    return own.correlation

  def summary(self) -> dict[str, Any]:
    """Returns "uncertainty" of the scores, see `score_folder`."""
    return {
      "samples": self._samples,
      "correlation": self._pooled.correlation,
      "correlation_per_image_mean": float(np.mean(self._correlations)),
      "mean_deviation": float(self._pooled.mean[0]),
      "mean_error": float(self._pooled.mean[1]),
    }

  def _spread_and_error(
    self, degraded: np.ndarray, point: np.ndarray, clean: np.ndarray, noise: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the standard deviation and the absolute error of the point estimate, float64 [h, w, c] each."""
    draws, _ = timed("draw", (self._samples, *clean.shape), self._draw, degraded, self._samples)
    draws, point = finite_or_nan(draws), finite_or_nan(point)
    mean = draws.mean(axis=0, dtype=np.float64)
    variance = sum(np.square(one - mean) for one in draws) / (self._samples - 1)
    return total_deviation(np.asarray(variance), noise), np.abs(point.astype(np.float64) - clean)


class Moments(NamedTuple):
  """Count, means and centred second moments of pairs of numbers, in float64, of all parts merged (Chan et al. 1983).

  No large sums are subtracted, so a small spread about a large mean survives.
  """

  number: int = 0
  mean: np.ndarray = np.zeros(2)
  centred: np.ndarray = np.zeros((2, 2))

  def add(self, x: np.ndarray, y: np.ndarray) -> Moments:
    both = np.stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
    mean = both.mean(axis=1)
    rest = both - mean[:, None]
    return self.merge(Moments(both.shape[1], mean, rest @ rest.T))

  def merge(self, other: Moments) -> Moments:
    number = self.number + other.number
    step = other.mean - self.mean
    centred = self.centred + other.centred + np.outer(step, step) * (self.number * other.number / number)
    return Moments(number, self.mean + step * (other.number / number), centred)

  @property
  def correlation(self) -> float:
    """Pearson's; NaN where one of the two does not vary beyond float32's resolution."""
    spread = np.sqrt(np.diag(self.centred) / self.number)
    if not (spread > 1e-7 * np.abs(self.mean)).all():
      return math.nan
    return float(self.centred[0, 1] / (self.number * spread[0] * spread[1]))
