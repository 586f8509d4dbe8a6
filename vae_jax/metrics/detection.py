"""How well a score tells anomalous images from normal ones. Higher scores mean more anomalous; anomalous is positive.

Scores are [n] of normal and [m] of anomalous images, in any unit: only their order counts, and ties count half. All is
in float64 on the host. NaN is refused, as it has no place in an order; infinite scores have one.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from vae_jax.errors import UserError
from vae_jax.metrics.intervals import LEVEL, Estimate
from vae_jax.types import ArrayLike


def auroc(normal: ArrayLike, anomalous: ArrayLike) -> float:
  """Area under the ROC curve: the probability that an anomalous image scores higher than a normal one, ties half.

  It is the Mann-Whitney statistic over n m, by midranks (Hanley & McNeil 1982): 0.5 by chance, 1 where every anomalous
  image scores higher. Raises UserError: no scores on a side, or NaN.
  """
  normal, anomalous = _checked(normal, anomalous)
  n, m = len(normal), len(anomalous)
  ranks = _midranks(np.concatenate([anomalous, normal]))[:m]
  return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def auroc_interval(normal: ArrayLike, anomalous: ArrayLike) -> Estimate:
  """`auroc` with its 95 % interval, by the standard error of DeLong et al. 1988, which takes no form of the scores.

  The error is found by midranks (Sun & Xu 2014), and the interval cut to [0, 1]. Where the value is 0 or 1
  the error is zero; then it is Wilson's interval of as many images as the smaller side has. The ends are nan where a
  side has one image. Raises UserError as `auroc` does.
  """
  value = auroc(normal, anomalous)
  normal, anomalous = _checked(normal, anomalous)
  n, m = len(normal), len(anomalous)
  if min(n, m) < 2:
    return Estimate(value, math.nan, math.nan)
  ranks, times = _midranks(np.concatenate([anomalous, normal])), float(ndtri((1 + LEVEL) / 2))
  # For each anomalous image the share of normal ones below it; for each normal one that of anomalous ones above it.
  above = (ranks[:m] - _midranks(anomalous)) / n
  below = 1 - (ranks[m:] - _midranks(normal)) / m
  half = times * math.sqrt(np.var(above, ddof=1) / m + np.var(below, ddof=1) / n)
  if value in (0.0, 1.0):
    half = times**2 / (min(n, m) + times**2)
  return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def average_precision(normal: ArrayLike, anomalous: ArrayLike) -> float:
  """Area under the curve of precision over recall in steps: sum_i (R_i - R_{i-1}) P_i over distinct scores, highest
  first. By chance it is the share of anomalous images, so it compares only at one share.

  Raises UserError as `auroc` does.
  """
  normal, anomalous = _checked(normal, anomalous)
  levels = np.unique(np.concatenate([normal, anomalous]))[::-1]
  found = _at_least(anomalous, levels)
  precision = found / (found + _at_least(normal, levels))
  return float(np.sum(np.diff(found, prepend=0.0) / len(anomalous) * precision))


def fpr_at_tpr(normal: ArrayLike, anomalous: ArrayLike, tpr: float = 0.95) -> float:
  """Share of normal images that are taken for anomalous by the strictest threshold that finds the share `tpr` of the
  anomalous ones or more. tpr: in (0, 1]. Raises UserError as `auroc` does, and for another tpr."""
  normal, anomalous = _checked(normal, anomalous)
  if not 0 < tpr <= 1:
    raise UserError(f"tpr={tpr}: give a share above 0 and up to 1")
  wanted = math.ceil(tpr * len(anomalous) - 1e-9)
  threshold = np.sort(anomalous)[-wanted]
  return float(np.mean(normal >= threshold))


def percentiles(reference: ArrayLike, scores: ArrayLike) -> np.ndarray:
  """The percentage of reference scores below each score, ties half: float64 [m] from 0 to 100.

  Raises UserError as `auroc` does.
  """
  reference, scores = _checked(reference, scores)
  ordered = np.sort(reference)
  low, high = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
  return 50.0 * (low + high) / len(ordered)


def _at_least(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """How many scores are at least each level."""
  return len(scores) - np.searchsorted(np.sort(scores), levels, "left").astype(np.float64)


def _midranks(scores: np.ndarray) -> np.ndarray:
  """Ranks from 1 on; equal scores share the mean of theirs."""
  from scipy.stats import rankdata  # takes long to import

  return rankdata(scores)


def _checked(normal: ArrayLike, anomalous: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Both in float64."""
  both = np.asarray(normal, np.float64), np.asarray(anomalous, np.float64)
  for name, scores in zip(("normal", "anomalous"), both, strict=True):
    if scores.ndim != 1 or not len(scores):
      raise UserError(f"{name} scores of shape {scores.shape}: give one number for each of one image or more")
    if bad := int(np.isnan(scores).sum()):
      raise UserError(f"{bad} of the {len(scores)} {name} scores are NaN, which has no place in an order")
  return both
