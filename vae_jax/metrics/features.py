"""Sets of images as features that a network took of them, with the protocol by which it did.

Features are float arrays [b, d] from whatever network; a `Protocol` says from which, and two sets under different
protocols are never compared. The distances between sets are in `frechet.py` (FID) and `kernel.py` (KID), the inception
score is in `class_score.py`; those three names are kept for the Inception network that they are defined on. The
accumulators are as those of `accumulators.py`: float64, immutable, mergeable, nothing filtered; a nan in the features
is a nan in the result. Where the order of the examples matters (subsets, splits) it is that of their indices, so that
no result depends on batches, padding, devices or the order of merging.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.accumulators import kept_rows
from vae_jax.types import ArrayLike

INCEPTION = "inception_fid"
FID_LAYER = "pool2048"


@dataclass(frozen=True)
class Protocol:
  """How features were taken: two sets are compared only where all but `note` agree.

  network: its name, as "inception_fid".
  layer: as "pool2048".
  weights: sha256 of the weights file.
  resize: how images came to the network's size, as "tf1", "bilinear", "bilinear to 32 x 32", "none".
  value_range: what the pixels were, as "uint8" (rounded to 256 levels) or "float [0, 1]".
  note: free text: the data set, the date, the command.
  pooling: how a map of features became one vector, as "mean"; "none" where the layer is a vector.
  version: of the computation; it is raised when the same network, layer and images come to give other features.
  """

  network: str
  layer: str
  weights: str
  resize: str
  value_range: str
  note: str = field(default="", compare=False)
  pooling: str = "none"
  version: str = "1"


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
  """Mean and covariance of features [., d], as (count, mean, scatter), merged by the formula of Chan et al. 1979."""

  protocol: Protocol
  count: int = 0
  mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
  scatter: np.ndarray = field(default_factory=lambda: np.zeros(()))

  def update(self, features: ArrayLike, mask: ArrayLike | None = None) -> FeatureStatistics:
    """With the features [b, d] added where `mask` [b] is True. ValueError if shapes differ."""
    kept = kept_rows(features, mask, ndim=2)
    if not len(kept):
      return self
    with np.errstate(invalid="ignore", over="ignore"):
      mean = kept.mean(axis=0)
      centred = kept - mean
      return self.merge(FeatureStatistics(self.protocol, len(kept), mean, centred.T @ centred))

  def merge(self, other: FeatureStatistics) -> FeatureStatistics:
    """Joins both sets. UserError where the protocols differ, ValueError where the dimensions do."""
    check_same(self, other)
    if not self.count or not other.count:
      return self if self.count else other
    if self.mean.shape != other.mean.shape:
      raise ValueError(f"features of shape {self.mean.shape} cannot be merged with {other.mean.shape}")
    count = self.count + other.count
    with np.errstate(invalid="ignore", over="ignore"):
      delta = other.mean - self.mean
      mean = self.mean + delta * (other.count / count)
      scatter = np.outer(delta, delta)
      scatter *= self.count * other.count / count
      scatter += self.scatter
      scatter += other.scatter
    return FeatureStatistics(self.protocol, count, mean, scatter)

  def without(self, part: FeatureStatistics) -> FeatureStatistics:
    """Takes away examples that were merged before. UserError where the protocols differ or none would be left."""
    check_same(self, part)
    count = self.count - part.count
    if count < 1:
      raise UserError(f"{part.count} of {self.count} examples cannot be taken away; leave at least 1")
    if not part.count:
      return self
    with np.errstate(invalid="ignore", over="ignore"):
      delta = part.mean - self.mean
      mean = self.mean - delta * (part.count / count)
      scatter = np.outer(delta, delta)
      scatter *= -self.count * part.count / count
      scatter += self.scatter
      scatter -= part.scatter
    return FeatureStatistics(self.protocol, count, mean, scatter)

  @property
  def covariance(self) -> np.ndarray:
    """float64 [d, d], over count - 1 as in numpy.cov and the original FID. UserError under two examples."""
    if self.count < 2:
      raise UserError(f"statistics of {self.count} examples have no covariance; give at least 2")
    return self.scatter / (self.count - 1)


@dataclass(frozen=True, eq=False)
class FeatureSet:
  """All features [., d], kept as float32, with the index of each example: 8 kB an image at d = 2048."""

  protocol: Protocol
  blocks: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # features [b, d] and indices [b]

  def update(self, features: ArrayLike, index: ArrayLike, mask: ArrayLike | None = None) -> FeatureSet:
    """With the features [b, d] of the examples `index` int [b] added where `mask` [b] is True.

    The index is the example's number in its data set, or in the order of generation. ValueError if shapes differ.
    """
    kept, indices = kept_with_index(features, index, mask)
    if not len(kept):
      return self
    with np.errstate(over="ignore"):
      return self.merge(FeatureSet(self.protocol, ((kept.astype(np.float32), indices),)))

  def merge(self, other: FeatureSet) -> FeatureSet:
    """Joins both sets. UserError where the protocols differ, ValueError where the dimensions do."""
    check_same(self, other)
    if self.blocks and other.blocks:
      d, other_d = self.blocks[0][0].shape[1], other.blocks[0][0].shape[1]
      if d != other_d:
        raise ValueError(f"features [., {d}] cannot be merged with [., {other_d}]")
    return FeatureSet(self.protocol, self.blocks + other.blocks)

  @property
  def count(self) -> int:
    return sum(len(indices) for _, indices in self.blocks)

  @property
  def features(self) -> np.ndarray:
    """float32 [count, d] in the order of the indices. UserError where there are none, or an example came twice."""
    order = self._order()[0]
    return np.concatenate([features for features, _ in self.blocks])[order]

  @property
  def index(self) -> np.ndarray:
    """int64 [count], the indices in ascending order. UserError as `features`."""
    return self._order()[1]

  def _order(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the examples in the order of their indices, and the indices in that order."""
    if not self.count:
      raise UserError("a set of no features: every batch was empty or masked; give at least 2 examples")
    indices = np.concatenate([indices for _, indices in self.blocks])
    order = np.argsort(indices)
    again = np.flatnonzero(np.diff(indices[order]) == 0)
    if len(again):
      raise UserError(
        f"example {indices[order][again[0]]} was added twice; give every example an index of its own"
      )
    return order, indices[order]


def check_inception(protocol: Protocol, layer: str, name: str, remedy: str) -> None:
  """Raises UserError unless the features are those of `layer` of the Inception network."""
  if (protocol.network, protocol.layer) != (INCEPTION, layer):
    raise UserError(
      f"{name} is defined on {INCEPTION} {layer}, not on {protocol.network} {protocol.layer}; {remedy}"
    )


def check_same(a: Any, b: Any) -> None:
  """Raises UserError where two accumulators have different protocols."""
  refuse_differing(a.protocol, b.protocol, "")


def refuse_differing(a: Protocol, b: Protocol, prefix: str) -> None:
  """Raises UserError, with both values, for the first entry in which two protocols differ; notes may differ."""
  for entry in dataclasses.fields(Protocol):
    left, right = getattr(a, entry.name), getattr(b, entry.name)
    if entry.compare and left != right:
      raise UserError(
        f"{prefix}features differ in {entry.name}: {left!r} and {right!r}; take both in one way"
      )


def check_dimensions(d: int, other: int) -> None:
  """Raises UserError where features have different lengths."""
  if d != other:
    raise UserError(f"features of {d} and of {other} dimensions cannot be compared; take both from one layer")


def kept_with_index(
  values: ArrayLike, index: ArrayLike, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the rows of `values` where `mask` is True, in float64, and their indices, in int64."""
  kept, indices = kept_rows(values, mask, ndim=2), np.asarray(index)
  if indices.shape != np.shape(values)[:1] or indices.dtype.kind not in "iu":
    raise ValueError(
      f"index of shape {indices.shape} and type {indices.dtype} for values of shape {np.shape(values)}"
    )
  return kept, (indices if mask is None else indices[np.asarray(mask)]).astype(np.int64)
