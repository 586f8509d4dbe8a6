"""Scores of how well single codes stand for single factors: MIG, SAP, DCI and the FactorVAE score.

All take codes [n, d], such as posterior means, and factors [n, f], what the examples were made from. They are computed
on the host in float64. Each needs examples whose factors were drawn independently of one another, as those of a data
set with all combinations. Scores of different numbers of examples, protocols or factors do not compare.

A factor is a column of numbers whose values come several times. `unordered` lists the columns whose values are
names rather than amounts, such as shapes: MIG and the FactorVAE score treat all columns so, SAP and DCI the others as
amounts.

All raise ValueError for other shapes, and UserError for a factor that is not finite, has one value alone, or more
values than half of the examples. They return nan where a code is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vae_jax.errors import UserError
from vae_jax.metrics.counts import entropy, information
from vae_jax.types import ArrayLike

BINS = 20  # of a code's values, for mutual information
ALPHA = 0.02  # of the lasso
TOLD = 0.01  # R^2 below which the lasso has not found a factor
VOTES = (10_000, 5_000)  # of the FactorVAE score: to fit its classifier, and to score it
EQUAL = 64  # examples of a vote
LEAST_DEVIATION = 0.05  # of a code that votes
TINY = 1e-12  # a variance below this is none


class DCI(NamedTuple):
  """Disentanglement, completeness and informativeness, at most 1 each, and what they are made of.

  importance: float64 [d, f], the size of the weight by which code i predicts factor j.
  """

  disentanglement: float
  completeness: float
  informativeness: float
  importance: Float[np.ndarray, "d f"]


# Mutual information


def mutual_information(
  codes: Float[ArrayLike, "n d"], factors: Float[ArrayLike, "n f"], bins: int = BINS
) -> Float[np.ndarray, "d f"]:
  """I(code; factor) of each pair in nats, by counts: [n, d] and [n, f] -> float64 [d, f].

  Each code's range is divided into `bins` of equal width; a code without a range has one. The estimate of counts is too
  high, by about (bins - 1) (values - 1) / 2 n, alike for all codes of a factor.
  """
  codes, found = _checked(codes, factors)
  if bins < 2:
    raise ValueError(f"bins is {bins}; at least 2")
  if not np.isfinite(codes).all():
    return np.full((codes.shape[1], len(found)), np.nan)
  cells = np.stack([_binned(code, bins) for code in codes.T])
  return np.array([[information(cell, values) for values in found] for cell in cells])


def mig(codes: Float[ArrayLike, "n d"], factors: Float[ArrayLike, "n f"], bins: int = BINS) -> float:
  """The mutual information gap, in [0, 1] (Chen et al. 2018, arXiv:1802.04942, eq. 6).

  For each factor: the mutual information with the code that has most of it, less that with the next code, over the
  factor's entropy. The mean over factors. 1: each factor is wholly known from one code, and no other tells anything.

  Protocol: `mutual_information` with 20 bins, as Locatello et al. 2019 (arXiv:1811.12359) have it. So a factor of more
  values cannot reach 1: one of 40 has at most log 20 / log 40 = 0.81. They take posterior means. Chen et al. take the
  joint density of factor and code under the posterior; draws z ~ q(z | x) stand for that, and only they keep a code
  that equals the prior from telling of factors by tiny differences of its mean.
  """
  told = mutual_information(codes, factors, bins)
  return float(np.mean(_gaps(told) / factor_entropies(factors)))


def factor_entropies(factors: Float[ArrayLike, "n f"]) -> Float[np.ndarray, " f"]:
  """The entropy of each factor in nats, by counts: [n, f] -> float64 [f]."""
  columns = _values(np.asarray(factors))
  return np.array([entropy(np.bincount(values) / len(values)) for values in columns])


def _binned(code: np.ndarray, bins: int) -> Int[np.ndarray, " n"]:
  low, high = code.min(), code.max()
  if not high > low:
    return np.zeros(len(code), np.int64)
  return np.minimum(((code - low) / (high - low) * bins).astype(np.int64), bins - 1)


def _gaps(scores: Float[np.ndarray, "d f"]) -> Float[np.ndarray, " f"]:
  """The largest of each column less the second largest, which is 0 where there is one row."""
  ordered = np.sort(np.concatenate([scores, np.zeros((max(2 - len(scores), 0), scores.shape[1]))]), axis=0)
  return ordered[-1] - ordered[-2]


# Single attributes


def sap(
  codes: Float[ArrayLike, "n d"], factors: Float[ArrayLike, "n f"], unordered: Sequence[int] = ()
) -> float:
  """The separated attribute predictability, in [0, 1) (Kumar et al. 2018, arXiv:1711.00848, section 3).

  For each factor: how well the best single code predicts it, less how well the next code does. The mean over factors.

  Protocol, that of the paper: a factor that is an amount is predicted by linear regression, and its score is R^2. One
  that is a name is predicted by thresholds on the code, one less than the factor has values; its score is the mean
  over values of the share that is told right (balanced accuracy), by the best thresholds there are. All on the same
  examples. So a name of c values cannot reach 1, but 1 - 1 / c, as any code is right by chance. (disentanglement_lib
  has a linear SVM for names.)

  Args:
    unordered: columns of factors that are names.
  """
  codes, found = _checked(codes, factors)
  names = _columns(unordered, len(found))
  if not np.isfinite(codes).all():
    return float("nan")
  amounts = np.asarray(factors, np.float64)
  scores = np.array(
    [
      [_told_by_thresholds(code, values) if j in names else _r2(code, amounts[:, j]) for code in codes.T]
      for j, values in enumerate(found)
    ]
  ).T
  return float(np.mean(_gaps(scores)))


def _r2(x: np.ndarray, y: np.ndarray) -> float:
  """The squared correlation of y and x, R^2 of the regression of y on x; 0 where x has no variance."""
  x, y = x - x.mean(), y - y.mean()
  variance = np.mean(np.square(x))
  return float(np.mean(x * y) ** 2 / (variance * np.mean(np.square(y)))) if variance > TINY else 0.0


def _told_by_thresholds(code: np.ndarray, values: Int[np.ndarray, " n"]) -> float:
  """The best balanced accuracy of a rule that gives each of as many intervals of a code as there are values one value.

  By dynamic programming over the sorted code: exact. Equal codes stay together.
  """
  points, at = np.unique(code, return_inverse=True)
  count = int(values.max()) + 1
  weights = np.zeros((len(points) + 1, count))  # a row of zeros before the first point
  np.add.at(weights, (at + 1, values), 1 / (np.bincount(values)[values] * count))
  told = np.cumsum(weights, axis=0)  # [points + 1, values]: right up to a point, if all were given that value
  best = np.zeros(len(points) + 1)
  for _ in range(count):  # one interval more, from any point on
    best = np.max(told + np.maximum.accumulate(best[:, None] - told, axis=0), axis=1)
  return float(best[-1])


# Disentanglement, completeness, informativeness


def dci(
  codes: Float[ArrayLike, "n d"], factors: Float[ArrayLike, "n f"], unordered: Sequence[int] = ()
) -> DCI:
  """Disentanglement, completeness, informativeness (Eastwood & Williams 2018, "A framework for the quantitative
  evaluation of disentangled representations"); d and f at least 2.

  R_ij is how important code i is for predicting factor j. With P_ij = R_ij over its row's sum, code i has the
  disentanglement 1 - entropy_f(P_i), and the score is their mean, weighted by the rows' sums. With the columns' sums,
  factor j has the completeness 1 - entropy_d(P_j), and the score is their mean. Entropies have the base f or d.
  Informativeness is the mean over factors of R^2 of the prediction, at most 1, on examples that it was not fitted to.

  Protocol: a lasso, one of the paper's two regressions, here with alpha = 0.02, fitted to a half of the examples, drawn
  at random by a fixed seed, and scored on the other. Codes and factors are standardised, and R is the sizes of the
  weights. A factor
  that is a name enters as one column of 0 and 1 for each value; its R is the mean over them. A factor with R^2 below
  0.01 has not been found: its R is 0, so it counts nothing for disentanglement, and has a completeness of 0. The lasso
  is linear: it misses a factor that bends or turns in the codes. (The paper gives errors in place of R^2.
  disentanglement_lib has gradient boosted trees, whose scores are others.)

  Args:
    unordered: columns of factors that are names.
  """
  codes, found = _checked(codes, factors)
  names = _columns(unordered, len(found))
  d, f = codes.shape[1], len(found)
  if d < 2 or f < 2:
    raise ValueError(f"{d} codes and {f} factors; DCI needs at least 2 of each")
  if not np.isfinite(codes).all():
    nan = float("nan")
    return DCI(nan, nan, nan, np.full((d, f), np.nan))
  amounts, (half, rest) = np.asarray(factors, np.float64), _halves(len(codes))
  x, held = _standardised(codes[half], codes[rest])
  importance, told = np.zeros((d, f)), np.zeros(f)
  for j, values in enumerate(found):
    target = np.eye(values.max() + 1)[values] if j in names else amounts[:, j : j + 1]
    y, wanted = _standardised(target[half], target[rest])
    weights = lasso(x, y, ALPHA)
    told[j] = _told(wanted, held @ weights)
    importance[:, j] = np.abs(weights).mean(axis=1) if told[j] >= TOLD else 0.0
  rows = importance.sum(axis=1)
  return DCI(
    disentanglement=float(np.dot(rows, _concentration(importance)) / max(rows.sum(), TINY)),
    completeness=float(np.mean(_concentration(importance.T))),
    informativeness=float(np.mean(told)),
    importance=importance,
  )


def _halves(n: int) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
  """Places of n examples in two halves by chance, always the same: their order may be that of a factor."""
  fitted, scored = np.split(np.random.default_rng(0).permutation(n), [n // 2])
  return fitted, scored


def _told(wanted: Float[np.ndarray, "n t"], predicted: Float[np.ndarray, "n t"]) -> float:
  """R^2 of what is predicted of all targets; 0 where none varies."""
  spread = np.square(wanted - wanted.mean(axis=0)).sum()
  return float(1 - np.square(wanted - predicted).sum() / spread) if spread > TINY else 0.0


def _concentration(rows: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
  """1 - entropy of each row as a distribution, to the base m: 1 for one entry alone. 0 for a row of zeros."""
  sums = rows.sum(axis=1)
  base = np.log(rows.shape[1])
  return np.array(
    [1 - entropy(row / total) / base if total else 0.0 for row, total in zip(rows, sums, strict=True)]
  )


def lasso(
  x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n t"], alpha: float, sweeps: int = 1000
) -> Float[np.ndarray, "d t"]:
  """The weights w that minimise |y - x w|^2 / 2 n + alpha |w|_1, for each of t targets: float64 [d, t].

  By coordinate descent (Friedman et al. 2007), until no weight moves by more than 1e-8. There is no intercept: centre x
  and y. A column of zeros has the weight 0.
  """
  n = len(x)
  products, slopes = x.T @ x / n, x.T @ y / n
  weights = np.zeros((x.shape[1], y.shape[1]))
  for _ in range(sweeps):
    before = weights.copy()
    for i, square in enumerate(np.diagonal(products)):
      if square > TINY:
        pull = slopes[i] - products[i] @ weights + square * weights[i]
        weights[i] = np.sign(pull) * np.maximum(np.abs(pull) - alpha, 0.0) / square
    if np.abs(weights - before).max() < 1e-8:
      break
  return weights


def _standardised(fitted: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Both, by the mean and deviation of the first; a column that does not vary there becomes zeros."""
  mean, variance = fitted.mean(axis=0), fitted.var(axis=0)
  scale = np.where(variance > TINY, 1 / np.sqrt(np.maximum(variance, TINY)), 0.0)
  return (fitted - mean) * scale, (others - mean) * scale


# Votes


def factor_vae_score(
  codes: Float[ArrayLike, "n d"],
  factors: Float[ArrayLike, "n f"],
  *,
  seed: int = 0,
  votes: tuple[int, int] = VOTES,
  equal: int = EQUAL,
  least_deviation: float = LEAST_DEVIATION,
) -> float:
  """The score of Kim & Mnih 2018 (arXiv:1802.05983, section 4), a share of votes that are right, in [1 / f, 1].

  A vote: a factor and one of its values are drawn, and `equal` examples with that value. The code whose variance over
  them is least, relative to its variance over all examples, votes for the factor. A classifier gives each code the
  factor for which it voted most often. The score is its accuracy on other votes. A factor that changes no code is told
  right by chance.

  Protocol: 10,000 votes to fit, 5,000 to score, of 64 examples, by codes of a deviation of 0.05 or more, as Locatello
  et al. 2019 have it. Examples are drawn from those given, without replacement, and values by how often they come.

  Args:
    seed: of the draws.
    votes: how many to fit the classifier, and to score it.
    equal: examples of a vote; each factor needs a value that as many have.
    least_deviation: codes whose standard deviation over all examples is less do not vote: posterior means of a unit
      that equals the prior N(0, 1). For codes of another size give another one; codes without variance never vote.

  Returns 1 / f where no code votes. Raises UserError where a factor has no value of `equal` examples.
  """
  codes, found = _checked(codes, factors)
  if min(votes) < 1 or equal < 2:
    raise ValueError(f"votes {votes} of {equal} examples; give at least 1 vote each of 2 examples")
  groups = []
  for j, values in enumerate(found):
    counts = np.bincount(values)
    if counts.max() < equal:
      raise UserError(
        f"factor {j} has no value that {equal} of {len(values)} examples share; give more examples, or votes of fewer"
      )
    groups.append([np.flatnonzero(values == v) for v in np.flatnonzero(counts >= equal)])
  if not np.isfinite(codes).all():
    return float("nan")
  variances = codes.var(axis=0)
  active = variances > max(least_deviation**2, TINY)
  if not active.any():
    return 1.0 / len(found)
  scaled, random = codes[:, active] / np.sqrt(variances[active]), np.random.default_rng(seed)
  fitted, scored = (_votes(scaled, groups, count, equal, random) for count in votes)
  chosen = np.argmax(fitted, axis=1)
  return float(scored[np.arange(len(scored)), chosen].sum() / scored.sum())


def _votes(
  codes: np.ndarray, groups: list[list[np.ndarray]], count: int, equal: int, random: np.random.Generator
) -> Int[np.ndarray, "d f"]:
  """How often each code voted where each factor was fixed."""
  found = np.zeros((codes.shape[1], len(groups)), np.int64)
  sizes = [np.array([len(rows) for rows in some], np.float64) for some in groups]
  for j in random.integers(len(groups), size=count):
    rows = groups[j][random.choice(len(sizes[j]), p=sizes[j] / sizes[j].sum())]
    chosen = random.choice(rows, equal, replace=False, shuffle=False)
    found[np.argmin(codes[chosen].var(axis=0)), j] += 1
  return found


# What goes in


def _checked(codes: ArrayLike, factors: ArrayLike) -> tuple[np.ndarray, list[np.ndarray]]:
  """The codes in float64, and the place of each example's value among those of each factor."""
  x, y = np.asarray(codes), np.asarray(factors)
  if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2 or not x.shape[1] or not y.shape[1]:
    raise ValueError(
      f"codes of shape {x.shape} and factors of shape {y.shape}; give [n, d] and [n, f], n >= 2"
    )
  return x.astype(np.float64), _values(y)


def _values(factors: np.ndarray) -> list[np.ndarray]:
  """The place of each example's value among those of its factor, column by column."""
  if not np.isfinite(np.asarray(factors, np.float64)).all():
    raise UserError("factors have values that are not finite; leave those examples out")
  found = [np.unique(column, return_inverse=True)[1] for column in factors.T]
  for j, values in enumerate(found):
    if not values.max():
      raise UserError(f"factor {j} has one value in all {len(values)} examples; give others, or leave it out")
    if values.max() >= len(values) / 2:
      raise UserError(
        f"factor {j} has {values.max() + 1} values in {len(values)} examples, too many to count; give more examples, "
        "or round it"
      )
  return found


def _columns(unordered: Sequence[int], f: int) -> frozenset[int]:
  if not all(0 <= j < f for j in unordered):
    raise ValueError(f"unordered is {tuple(unordered)}; give columns from 0 to {f - 1}")
  return frozenset(unordered)
