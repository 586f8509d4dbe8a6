"""The class score of a set of images, and the inception score: that score by the Inception classifier.

At a finite number of examples it is mostly biased downwards, by an amount that depends on the model: compare at one
count only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import Protocol, check_inception, check_same, kept_with_index
from vae_jax.types import ArrayLike

SCORE_LAYER = "logits"  # inception_fid has them without bias


@dataclass(frozen=True, eq=False)
class ClassStatistics:
  """Sums over a classifier's probabilities in each of `splits` runs of examples, for the inception score.

  The split of an example follows from its index and `total`, the number of examples there will be: split s has
  the indices from s * total // splits up to (s + 1) * total // splits. `total` is therefore needed at the start.
  """

  protocol: Protocol
  total: int
  splits: int = 10
  counts: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))  # [splits]
  probabilities: np.ndarray = field(default_factory=lambda: np.zeros(()))  # [splits, c], sum of p
  negentropies: np.ndarray = field(default_factory=lambda: np.zeros(()))  # [splits], sum of sum_c p log p

  def __post_init__(self) -> None:
    if not 1 <= self.splits <= self.total:
      raise UserError(f"{self.total} examples in {self.splits} splits; give at least one example to each")

  @property
  def bounds(self) -> np.ndarray:
    """int [splits + 1], the first index of each split, and `total`."""
    return np.arange(self.splits + 1) * self.total // self.splits

  def update(self, logits: ArrayLike, index: ArrayLike, mask: ArrayLike | None = None) -> ClassStatistics:
    """With the logits [b, c] of the examples `index` int [b] added where `mask` [b] is True.

    ValueError if shapes differ or an index is not in 0 .. total - 1.
    """
    kept, indices = kept_with_index(logits, index, mask)
    if not len(kept):
      return self
    if indices.min() < 0 or indices.max() >= self.total:
      raise ValueError(f"index {indices.min()} to {indices.max()} of {self.total} examples; it starts at 0")
    with np.errstate(invalid="ignore"):
      shifted = kept - kept.max(axis=1, keepdims=True)
      log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
      p = np.exp(log_p)
      split = np.searchsorted(self.bounds, indices, side="right") - 1
      counts = np.bincount(split, minlength=self.splits)
      probabilities, negentropies = np.zeros((self.splits, p.shape[1])), np.zeros(self.splits)
      np.add.at(probabilities, split, p)
      np.add.at(negentropies, split, (p * log_p).sum(axis=1))
    return self.merge(
      ClassStatistics(self.protocol, self.total, self.splits, counts, probabilities, negentropies)
    )

  def merge(self, other: ClassStatistics) -> ClassStatistics:
    """Joins both. UserError where the protocols differ, ValueError where total, splits or the classes do."""
    check_same(self, other)
    if (self.total, self.splits) != (other.total, other.splits):
      raise ValueError(
        f"{self.total} examples in {self.splits} splits cannot be merged with {other.total} in {other.splits}"
      )
    if not self.counts.any() or not other.counts.any():
      return self if self.counts.any() else other
    if self.probabilities.shape != other.probabilities.shape:
      raise ValueError(
        f"sums of shape {self.probabilities.shape} cannot be merged with {other.probabilities.shape}"
      )
    return dataclasses.replace(
      self,
      counts=self.counts + other.counts,
      probabilities=self.probabilities + other.probabilities,
      negentropies=self.negentropies + other.negentropies,
    )


def class_score(statistics: ClassStatistics) -> tuple[float, float]:
  """(mean, standard deviation) over the splits of exp(E_x KL(p(y | x) || p(y))), p(y) being the split's own mean.

  From 1 (all examples are classified alike) to the number of classes or of a split's examples, if fewer. The
  deviation is over `splits`, as numpy.std. Data in the order of their classes score low, as a split sees few of them.

  Returns:
    nan where a logit was not finite.

  Raises:
    UserError: a split has not all of its examples (an example added twice hides a missing one of its split).
  """
  expected = np.diff(statistics.bounds)
  counts = np.broadcast_to(statistics.counts, expected.shape)
  wrong = np.flatnonzero(counts != expected)
  if len(wrong):
    s = wrong[0]
    raise UserError(f"split {s} has {counts[s]} of its {expected[s]} examples; add every index once")
  marginal = statistics.probabilities / counts[:, None]
  with np.errstate(invalid="ignore"):
    log_marginal = np.log(np.where(marginal == 0, 1.0, marginal))  # 0 log 0 = 0
    divergence = statistics.negentropies / counts - (marginal * log_marginal).sum(axis=1)
    scores = np.exp(np.maximum(divergence, 0.0))  # rounding alone is below 0
    return float(scores.mean()), float(scores.std())


def inception_score(statistics: ClassStatistics) -> tuple[float, float]:
  """The inception score (Salimans et al. 2016), (mean, deviation): `class_score` of the Inception classifier only.

  The logits are the 1008 without bias, and a split is a run of examples, both as in the original code. Raises as
  `class_score`; UserError for any other network or layer, and for other than 10 splits.
  """
  check_inception(
    statistics.protocol,
    SCORE_LAYER,
    "inception_score",
    "call class_score, and do not call it inception score",
  )
  if statistics.splits != 10:
    raise UserError(f"inception_score is defined on 10 splits, not {statistics.splits}; call class_score")
  return class_score(statistics)
