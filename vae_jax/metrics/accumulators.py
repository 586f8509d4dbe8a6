"""Dataset metrics as values that grow batch by batch: on the host, in float64, immutable, mergeable.

The result does not depend, beyond float64 rounding, on batch size, padding or the order of merging.
Non-finite values are counted like others: a nan in the data is a nan in the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vae_jax.types import ArrayLike


@dataclass(frozen=True)
class Mean:
  """The mean of per-example values, as (sum, count)."""

  sum: float = 0.0
  count: int = 0

  def update(self, values: ArrayLike, mask: ArrayLike | None = None) -> Mean:
    """With the values [b] added where `mask` [b] is True. ValueError if shapes differ."""
    kept = kept_rows(values, mask, ndim=1)
    with np.errstate(invalid="ignore"):
      return self.merge(Mean(float(kept.sum()), len(kept)))

  def merge(self, other: Mean) -> Mean:
    return Mean(self.sum + other.sum, self.count + other.count)

  @property
  def value(self) -> float:
    """The mean. Raises ValueError where nothing was counted."""
    if not self.count:
      raise ValueError("Mean of no examples: every batch was empty or masked")
    return self.sum / self.count


@dataclass(frozen=True)
class ActiveUnits:
  """Variance over the data of each unit's posterior mean, Var_x(E_q[z | x]) (Burda et al. 2016).

  Kept as (count, mean, sum of squared deviations) and merged by the formula of Chan et al. 1979, which does
  not cancel where the mean is far from zero.
  """

  count: int = 0
  mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
  deviations: np.ndarray = field(default_factory=lambda: np.zeros(()))

  def update(self, posterior_mean: ArrayLike, mask: ArrayLike | None = None) -> ActiveUnits:
    """With posterior means [b, d] added where `mask` [b] is True. ValueError if shapes differ."""
    kept = kept_rows(posterior_mean, mask, ndim=2)
    if not len(kept):
      return self
    with np.errstate(invalid="ignore"):
      mean = kept.mean(axis=0)
      return self.merge(ActiveUnits(len(kept), mean, np.square(kept - mean).sum(axis=0)))

  def merge(self, other: ActiveUnits) -> ActiveUnits:
    if not self.count or not other.count:
      return self if self.count else other
    if self.mean.shape != other.mean.shape:
      raise ValueError(f"latents of shape {self.mean.shape} cannot be merged with {other.mean.shape}")
    count = self.count + other.count
    with np.errstate(invalid="ignore"):
      delta = other.mean - self.mean
      mean = self.mean + delta * (other.count / count)
      deviations = self.deviations + other.deviations + np.square(delta) * (self.count * other.count / count)
    return ActiveUnits(count, mean, deviations)

  @property
  def variance(self) -> np.ndarray:
    """float64 [d], the population variance of each unit. Raises ValueError where nothing was counted."""
    if not self.count:
      raise ValueError("ActiveUnits of no examples: every batch was empty or masked")
    return self.deviations / self.count

  def active(self, threshold: float = 0.01) -> float:
    """The number of units with variance above `threshold`; 0.01 as in Burda et al. 2016. nan where a variance is."""
    return float("nan") if np.isnan(self.variance).any() else int((self.variance > threshold).sum())


ACTIVE_BELOW, NULL_ABOVE = 0.1, 0.9  # mean posterior variance of a unit, for a prior of variance 1


@dataclass(frozen=True)
class Posteriors:
  """Which latent units carry information, and how far all posteriors together are from the prior N(0, I).

  A unit whose posterior has a variance close to 1 for every image equals the prior there: it is null, and the decoder
  ignores it. One with a variance close to 0 is active: an image is at one place of it. An optimal Gaussian VAE with a
  learned scale has as many active units as the images' manifold has dimensions, and nulls else (Dai & Wipf 2019,
  section 3). means: of the posterior means; variances: of the posterior variances.
  """

  means: ActiveUnits = field(default_factory=ActiveUnits)
  variances: ActiveUnits = field(default_factory=ActiveUnits)

  def update(self, mean: ArrayLike, logvar: ArrayLike, mask: ArrayLike | None = None) -> Posteriors:
    """With posteriors of mean and log variance [b, d] added where `mask` [b] is True. ValueError if shapes differ."""
    if np.shape(mean) != np.shape(logvar):
      raise ValueError(f"means of shape {np.shape(mean)} and logvars of shape {np.shape(logvar)} differ")
    with np.errstate(over="ignore", invalid="ignore"):  # padding may be anything
      variance = np.exp(np.asarray(logvar).astype(np.float64))
    return Posteriors(self.means.update(mean, mask), self.variances.update(variance, mask))

  def merge(self, other: Posteriors) -> Posteriors:
    return Posteriors(self.means.merge(other.means), self.variances.merge(other.variances))

  @property
  def variance(self) -> np.ndarray:
    """float64 [d], the mean variance of each unit's posteriors. Raises ValueError where nothing was counted."""
    if not self.variances.count:
      raise ValueError("Posteriors of no examples: every batch was empty or masked")
    return self.variances.mean

  @property
  def active(self) -> float:
    """The number of units with a mean variance below 0.1. nan where one is."""
    return float("nan") if np.isnan(self.variance).any() else int((self.variance < ACTIVE_BELOW).sum())

  @property
  def null(self) -> float:
    """The number of units with a mean variance above 0.9. nan where one is."""
    return float("nan") if np.isnan(self.variance).any() else int((self.variance > NULL_ABOVE).sum())

  @property
  def prior_gap(self) -> float:
    """A lower bound on KL(q(z) || N(0, I)) in nats, q(z) the mean of all posteriors: what samples of N(0, I) lack.

    It is the divergence of the independent Gaussians with the means m and variances v of q(z),
    0.5 sum(v + m^2 - 1 - log v); the rest, KL(q(z) || those Gaussians), is not negative. So 0 does not mean that q(z)
    is the prior.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
      spread = self.variance + self.means.variance
      return float(0.5 * np.sum(spread + np.square(self.means.mean) - 1.0 - np.log(spread)))


@dataclass(frozen=True)
class CodeUsage:
  """How often each code was chosen. `size`: codes of a codebook. `books`: the codebook, 0, 1, ..., of each column of
  the codes [b, n]; () where all are of one."""

  size: int
  counts: np.ndarray | None = None  # [codebooks * size]
  books: tuple[int, ...] = ()

  def update(self, codes: ArrayLike, mask: ArrayLike | None = None) -> CodeUsage:
    """With codes [b, n] in 0 .. size - 1 added where `mask` [b] is True.

    Raises ValueError for other shapes, for codes that are no integers, and for codes out of range.
    """
    if not np.issubdtype(np.asarray(codes).dtype, np.integer):
      raise ValueError(f"codes of type {np.asarray(codes).dtype} and shape {np.shape(codes)}: give integers")
    kept = kept_rows(codes, mask, ndim=2).astype(np.int64)
    if kept.size and not 0 <= kept.min() <= kept.max() < self.size:
      raise ValueError(
        f"codes from {kept.min()} to {kept.max()}; a codebook of {self.size} has 0 to {self.size - 1}"
      )
    if self.books and kept.shape[1] != len(self.books):
      raise ValueError(
        f"{kept.shape[1]} codes of an example, and the codebooks of {len(self.books)} are given"
      )
    books = np.asarray(self.books, np.int64) if self.books else np.zeros(kept.shape[1], np.int64)
    many = max(self.books, default=0) + 1
    found = np.bincount((books * self.size + kept).reshape(-1), minlength=many * self.size)
    return self.merge(CodeUsage(self.size, found, self.books))

  def merge(self, other: CodeUsage) -> CodeUsage:
    if self.size != other.size:
      raise ValueError(f"codebooks of {self.size} and of {other.size} codes cannot be merged")
    if self.books != other.books:
      raise ValueError("codes of other codebooks cannot be merged")
    if self.counts is None or other.counts is None:
      return other if self.counts is None else self
    return CodeUsage(self.size, self.counts + other.counts, self.books)

  @property
  def _shares(self) -> np.ndarray:
    if self.counts is None or not self.counts.sum():
      raise ValueError("CodeUsage of no codes: every batch was empty or masked")
    counts = self.counts.reshape(-1, self.size)
    return counts / counts.sum(axis=1, keepdims=True)

  @property
  def used(self) -> float:
    """Share of the codes of all codebooks that were chosen at least once."""
    return float((self._shares > 0).mean())

  @property
  def dead(self) -> int:
    """Number of codes that were never chosen, in all codebooks."""
    return int((self._shares == 0).sum())

  @property
  def perplexity(self) -> float:
    """exp of the entropy of the choices: `size` where all codes are chosen equally often, 1 where one always is. The
    mean over codebooks."""
    shares = self._shares
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(np.exp(-np.sum(shares * logs, axis=1)).mean())


def kept_rows(values: ArrayLike, mask: ArrayLike | None, ndim: int) -> np.ndarray:
  """The rows of `values` where `mask` is True, in float64."""
  array = np.asarray(values).astype(np.float64)
  if array.ndim != ndim:
    raise ValueError(f"values of shape {array.shape}; expected {ndim} axes, the batch first")
  if mask is None:
    return array
  chosen = np.asarray(mask)
  if chosen.shape != array.shape[:1] or chosen.dtype != np.bool_:
    raise ValueError(
      f"mask of shape {chosen.shape} and type {chosen.dtype} for values of shape {array.shape}"
    )
  return array[chosen]
