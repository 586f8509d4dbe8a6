"""Discretised distributions for `ans`: which of 2^24 numbers each symbol owns.

A distribution over symbols 0 .. size - 1 is given by `below(j, k)`, how many of the numbers belong to symbols less
than k: floor(F(k) * (2^24 - 2 * size)) + 2 k, with F the cumulative distribution. So the masses sum to 2^24, and every
symbol has at least one, even where rounding lets F fall by its last bit. A symbol is found by bisection.

Encoder and decoder evaluate the same functions on arrays of the same shapes, one symbol of each lane at a time, so that
they get the same floats.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.special import expit, log_expit, ndtr, ndtri, softmax

from vae_jax.errors import UserError

PRECISION = 24
TOTAL = 1 << PRECISION
MOST_LATENT_BITS = 16  # more buckets would take a noticeable part of TOTAL
LEVELS = 256


class Symbols(Protocol):
  """`count` symbols of each of n lanes, each 0 .. size - 1; they are coded in order."""

  count: int
  size: int

  def below(self, j: int, k: np.ndarray) -> np.ndarray:
    """int64 [n]: how many of the 2^24 numbers belong to values of symbol j that are less than k [n], 0 <= k <= size."""
    ...

  def known(self, j: int, k: np.ndarray) -> None:
    """Symbol j is k [n]; later ones may depend on it. Called for each j in order, after its last `below`."""
    ...


def intervals(symbols: Symbols, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(start, frequency), int64 [count, n] each, of `values`, integers [count, n]."""
  start, end = (np.empty(values.shape, np.int64) for _ in range(2))
  for j, value in enumerate(values):
    start[j], end[j] = symbols.below(j, value), symbols.below(j, value + 1)
    symbols.known(j, value)
  return start, end - start


def find(symbols: Symbols, j: int, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The symbols that own `number` [n]: (value, start, frequency), int64 [n] each."""
  value, over = np.zeros(len(number), np.int64), np.full(len(number), symbols.size, np.int64)
  while (over - value > 1).any():
    middle = (value + over) // 2
    reached = symbols.below(j, middle) <= number
    value, over = np.where(reached, middle, value), np.where(reached, over, middle)
  start, end = symbols.below(j, value), symbols.below(j, value + 1)
  symbols.known(j, value)
  return value, start, end - start


def _numbers(cumulative: np.ndarray, k: np.ndarray, size: int) -> np.ndarray:
  """`below` of a cumulative distribution in [0, 1]."""
  return np.floor(np.minimum(cumulative, 1.0) * (TOTAL - 2 * size)).astype(np.int64) + 2 * k


def _finite(what: str, *arrays: np.ndarray) -> None:
  if not all(np.isfinite(x).all() for x in arrays):
    raise UserError(
      f"the {what} of an image has values that are not finite; train the model again, or longer"
    )


class LatentGrid:
  """Buckets of a latent that have equal mass under N(0, 1): 2^bits of them, between quantiles (Townsend et al. 2019).

  edges: float64 [2^bits + 1], from -inf to inf. centres: float32 [2^bits], the median of each bucket.
  """

  def __init__(self, bits: int):
    if not 1 <= bits <= MOST_LATENT_BITS:
      raise ValueError(f"latent bits = {bits}; 1 to {MOST_LATENT_BITS}")
    self.bits, self.size = bits, 1 << bits
    self.edges = ndtri(np.arange(self.size + 1) / self.size)
    self.centres = ndtri((np.arange(self.size) + 0.5) / self.size).astype(np.float32)


class Posterior:
  """The masses that N(mean, exp(logvar)) gives to the buckets of a grid. mean, logvar: [n, d]."""

  def __init__(self, grid: LatentGrid, mean: np.ndarray, logvar: np.ndarray):
    _finite("posterior", mean, logvar)
    self.count, self.size, self._edges = mean.shape[1], grid.size, grid.edges
    self._mean = np.ascontiguousarray(mean.T, np.float64)
    self._inverse = np.exp(-0.5 * np.ascontiguousarray(logvar.T, np.float64))

  def below(self, j: int, k: np.ndarray) -> np.ndarray:
    return _numbers(ndtr((self._edges[k] - self._mean[j]) * self._inverse[j]), k, self.size)

  def known(self, j: int, k: np.ndarray) -> None:
    pass


class Bernoulli:
  """Pixels that are 0 or 1. logits: [n, ...]; the symbols are the pixels in C order."""

  size = 2

  def __init__(self, logits: np.ndarray):
    _finite("decoder's logits", logits)
    flat = np.ascontiguousarray(logits.reshape(len(logits), -1).T, np.float64)
    self.count = len(flat)
    self._zero = np.clip(np.rint(expit(-flat) * TOTAL), 1, TOTAL - 1).astype(np.int64)

  def below(self, j: int, k: np.ndarray) -> np.ndarray:
    return np.where(k == 1, self._zero[j], k * (TOTAL // 2))  # 0, zero, TOTAL

  def known(self, j: int, k: np.ndarray) -> None:
    pass


class LogisticMixture:
  """Pixels of 256 grey levels, of a mixture of logistics: `distributions.logistic_mixture` (Salimans et al. 2017).

  The symbols are the pixels in C order, channel after channel, and p(x_i | x_1 .. x_{i-1}) of channel i is the mixture
  whose weights are the components' posterior probabilities given the earlier channels.

  logits, [n, h, w, m]; means, log_scales: [n, h, w, c, m]; coefficients: [n, h, w, c, c, m], of channel i (first) on j.
  They are of images in [-1, 1].
  """

  size = LEVELS
  # Weights of the symbol that is next, [n, m].
  _log_weights: np.ndarray
  _weights: np.ndarray
  _location: np.ndarray
  _inverse: np.ndarray

  def __init__(self, logits: np.ndarray, means: np.ndarray, log_scales: np.ndarray, coefficients: np.ndarray):
    _finite("decoder's mixture", logits, means, log_scales, coefficients)
    self._channels = means.shape[-2]
    self._logits, self._means, self._log_scales, self._coefficients = (
      _by_pixel(x) for x in (logits, means, log_scales, coefficients)
    )
    self.count = len(self._logits) * self._channels
    self._at(0)

  def below(self, j: int, k: np.ndarray) -> np.ndarray:
    threshold = ((2 * k - 1) / (LEVELS - 1) - 1)[:, None]  # halfway between the levels k - 1 and k
    cumulative = (self._weights * expit((threshold - self._location) * self._inverse)).sum(axis=-1)
    cumulative = np.where(k == 0, 0.0, np.where(k == LEVELS, 1.0, cumulative))
    return _numbers(cumulative, k, LEVELS)

  def known(self, j: int, k: np.ndarray) -> None:
    channel = j % self._channels
    if channel < self._channels - 1:
      self._seen.append((2 * k / (LEVELS - 1) - 1)[:, None])
      self._log_weights = self._log_weights + _log_mass(self._seen[-1], self._location, self._inverse)
    if j + 1 < self.count:
      self._at(j + 1)

  def _at(self, j: int) -> None:
    """Makes the mixture of symbol j."""
    pixel, channel = divmod(j, self._channels)
    if not channel:
      self._seen: list[np.ndarray] = []
      self._log_weights = self._logits[pixel]
    self._location = self._means[pixel, :, channel].copy()
    for earlier, x in enumerate(self._seen):
      self._location += self._coefficients[pixel, :, channel, earlier] * x
    self._inverse = np.exp(-self._log_scales[pixel, :, channel])
    self._weights = softmax(self._log_weights, axis=-1)


def _by_pixel(x: np.ndarray) -> np.ndarray:
  """[n, h, w, ...] -> float64 [h * w, n, ...]."""
  n, h, w, *rest = x.shape
  return np.ascontiguousarray(np.moveaxis(x.reshape(n, h * w, *rest), 0, 1), np.float64)


def _log_mass(x: np.ndarray, location: np.ndarray, inverse: np.ndarray) -> np.ndarray:
  """Log of the mass of the level at x in [-1, 1] under logistics of scale 1 / inverse; the end levels have the tails.

  With u = (x - location) / scale and a = (half a level) / scale, the mass of an inner level is
  sinh(a) / (cosh(a) + cosh(u)), here without cancellation in the tails."""
  half = 1 / (LEVELS - 1)
  u, a = (x - location) * inverse, half * inverse
  t = np.exp(-np.abs(u))
  inner = -np.abs(u) + np.log(np.sinh(a) / (np.cosh(a) * t + 0.5 * (1 + t * t)))
  ends = log_expit(a + np.where(x < 0, u, -u))
  return np.where(np.abs(x) > 1 - half, ends, inner)
