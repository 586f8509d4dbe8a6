"""Whether the uncertainty of a restoration is where its errors are, and as large as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vae_jax.photos.cases import finite_or_nan
from vae_jax.photos.stopwatch import timed
from vae_jax.types import ArrayLike


class Calibration:
  """Compares the standard deviation that a model gives for each pixel with the error of its estimate."""

  def __init__(self, deviation: Callable[[np.ndarray], ArrayLike]):
    """deviation: degraded -> float32 [h, w, c], as of `score_folder.benchmark`."""
    self._deviation = deviation
    self._pooled, self._correlations = Moments(), list[float]()
    self._within, self._squares = 0.0, np.zeros(2)

  def add(self, degraded: np.ndarray, point: np.ndarray, clean: np.ndarray) -> float:
    """Adds an image. `point` is the unrounded estimate. Returns the correlation within this image."""
    found, _ = timed("deviation", clean.shape, self._deviation, degraded)
    deviation = finite_or_nan(found).astype(np.float64)
    error = np.abs(finite_or_nan(point).astype(np.float64) - clean)
    own = Moments().add(deviation, error)
    self._pooled = self._pooled.merge(own)
    self._correlations.append(own.correlation)
    bad = np.isnan(deviation + error).any()
    self._within += math.nan if bad else float((error <= 2 * deviation).sum())
    self._squares += np.square(error).sum(), np.square(deviation).sum()
    return own.correlation

  def summary(self) -> dict[str, Any]:
    """Returns "uncertainty" of the scores, see `score_folder`."""
    error, deviation = np.sqrt(self._squares)
    return {
      "correlation": self._pooled.correlation,
      "correlation_per_image_mean": float(np.mean(self._correlations)),
      "coverage": self._within / self._pooled.number,
      "rms_error_over_deviation": float(error / deviation) if deviation > 0 else math.nan,
      "mean_deviation": float(self._pooled.mean[0]),
      "mean_error": float(self._pooled.mean[1]),
    }


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
