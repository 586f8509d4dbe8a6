"""What two divisions of the same examples into groups tell of one another, by counts, on the host in float64."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def entropy(p: Float[np.ndarray, ...]) -> float:
  """The entropy of a distribution of any shape, in nats; parts of 0 count 0."""
  p = p[p > 0]
  return float(-np.sum(p * np.log(p)))


def information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
  """The mutual information of two groupings of n examples, numbered from 0, in nats, at least 0."""
  joint = np.bincount(a * (b.max() + 1) + b) / len(a)
  return max(entropy(np.bincount(a) / len(a)) + entropy(np.bincount(b) / len(b)) - entropy(joint), 0.0)
