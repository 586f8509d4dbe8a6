"""Precision, recall, density and coverage of a set of images: what one distance hides, told apart by neighbours.

Around each example of one set is a ball; its radius is the distance to the k-th nearest other example of that set. A
score counts the examples of the other set in these balls. The edge belongs to a ball, as in both papers, so that copies
of an image are within each other's balls. (The package `prdc` leaves the edge out: it differs where distances tie.)
All four depend on the counts and on k: compare at one count and one k only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import FeatureSet, check_dimensions, check_same
from vae_jax.progress import followed

ENTRIES = 1 << 22  # distances that are held at a time: 32 MiB


def precision_recall(real: FeatureSet, fake: FeatureSet, k: int = 3) -> tuple[float, float]:
  """(precision, recall) of a set of images, each in [0, 1] (Kynkaanniemi et al. 2019, arXiv:1904.06991, equation 2).

  Precision is the part of the fake examples that lie in a ball of a real one: whether images look right. Recall is the
  part of the real examples that lie in a ball of a fake one: whether all kinds of images are made. The paper has
  k = 3, 50,000 examples of each and the features of VGG-16's second fully connected layer.

  Time grows as the square of the counts; memory does not.

  Returns:
    nan for both where a feature is not finite.

  Raises:
    UserError: protocols or dimensions differ; k below 1; fewer than k + 1 examples; an example added twice.
  """
  found = neighbour_scores(real, fake, k=k, k_density=None)
  return float(found["precision"][0]), float(found["recall"][0])


def density_coverage(real: FeatureSet, fake: FeatureSet, k: int = 5) -> tuple[float, float]:
  """(density, coverage) of a set of images (Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4).

  Density is the mean number of real balls that a fake example lies in, over k: at least 0, about 1 for equal
  distributions, and unlike precision hardly moved by one real outlier with its large ball. Coverage is the part of the
  real balls that hold a fake example, in [0, 1]. The paper has k = 5 and 10,000 examples of each.

  Returns, raises and costs what `precision_recall` does.
  """
  found = neighbour_scores(real, fake, k=None, k_density=k)
  return float(found["density"][0]), float(found["coverage"][0])


def neighbour_scores(
  real: FeatureSet,
  fake: FeatureSet,
  *,
  k: int | None,
  k_density: int | None,
  groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
  """Computes the scores of all examples, and of what is left without each group of them, in one pass.

  Args:
    real, fake: features under one protocol.
    k: of precision and recall; None leaves them out. k_density: of density and coverage; None leaves them out.
    groups: for each real and each fake example, in the order of their indices, the number of its group in 0 .. g - 1.

  Returns:
    "precision", "recall", "density", "coverage": float64 [1 + g] each, the first of all examples, the others without
    group 0, 1, ... Nan throughout where a feature is not finite.

  Raises:
    UserError: as `precision_recall`, for what is left without a group too.
  """
  check_same(real, fake)
  values = real.features, fake.features
  check_dimensions(values[0].shape[1], values[1].shape[1])
  labels = groups or tuple(np.zeros(len(part), int) for part in values)
  g = 0 if groups is None else int(max(part.max() for part in labels)) + 1
  for which, label in zip(("real", "fake"), labels, strict=True):
    _check_counts(which, len(label) - (np.bincount(label).max() if g else 0), k, k_density)
  names = (("precision", "recall") if k else ()) + (("density", "coverage") if k_density else ())
  if not all(np.isfinite(part).all() for part in values):
    return {name: np.full(1 + g, np.nan) for name in names}
  x, y = (
    _points(*pair, centre=values[0].mean(axis=0, dtype=np.float64))
    for pair in zip(values, labels, strict=True)
  )
  reach_x = _reaches(x, [each for each in (k, k_density) if each], g, "distances within the real images")
  reach_y = _reaches(y, [k] if k else [], g, "distances within the fake images")
  kept_x, kept_y = (np.arange(-1, g)[:, None] != part.groups for part in (x, y))  # [1 + g, n]
  precise, recalled = np.zeros(kept_y.shape, bool), np.zeros(kept_x.shape, bool)
  covered, held = np.zeros(kept_x.shape, bool), np.zeros(1 + g)
  for rows in _blocks(x, y, "distances of the sets"):
    distances = _squared(x, rows, y)
    if k:
      for r, _, j in _inside(distances, reach_x[k][rows], x.groups[rows], y.groups):
        precise[r, j] = True
      for r, _, i in _inside(distances.T, reach_y[k], y.groups, x.groups[rows]):
        recalled[r, rows.start + i] = True
    if k_density:
      for r, i, j in _inside(distances, reach_x[k_density][rows], x.groups[rows], y.groups):
        covered[r, rows.start + i] = True
        held[r] += len(j)
  n_x, n_y = kept_x.sum(axis=1), kept_y.sum(axis=1)
  found = {
    "precision": precise.sum(axis=1) / n_y,
    "recall": recalled.sum(axis=1) / n_x,
    "density": held / (n_y * (k_density or 1)),
    "coverage": covered.sum(axis=1) / n_x,
  }
  return {name: found[name] for name in names}


@dataclass(frozen=True)
class _Points:
  """Examples in the order of their groups, about the mean of the real ones, where distances lose the fewest digits."""

  values: np.ndarray  # float64 [n, d]
  squares: np.ndarray  # |values|^2 [n]
  groups: np.ndarray  # int [n], ascending


def _points(features: np.ndarray, groups: np.ndarray, centre: np.ndarray) -> _Points:
  order = np.argsort(groups, kind="stable")
  values = features[order] - centre
  return _Points(values, np.einsum("nd,nd->n", values, values), groups[order])


def _check_counts(which: str, count: int, *ks: int | None) -> None:
  for k in ks:
    if k is not None and k < 1:
      raise UserError(f"k is {k}; a ball reaches to its k-th nearest neighbour, so give 1 or more")
    if k is not None and count <= k:
      raise UserError(
        f"{count} {which} examples are too few for {k} neighbours; add some, to {k + 1} or more, or lower k"
      )


def _blocks(x: _Points, y: _Points, what: str) -> Iterator[slice]:
  """Rows of x that have at most `ENTRIES` distances to y; from two seconds on, standard error shows how far it is."""
  n, size = len(x.values), max(1, ENTRIES // len(y.values))
  blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
  yield from followed(blocks, len(blocks), what)


def _squared(x: _Points, rows: slice, y: _Points) -> np.ndarray:
  """|x - y|^2 for some rows of x, [b, n]; rounding may make it negative."""
  found = x.values[rows] @ y.values.T
  found *= -2
  found += x.squares[rows, None]
  found += y.squares
  return found


def _reaches(points: _Points, ks: list[int], g: int, what: str) -> dict[int, np.ndarray]:
  """Squared radii of the balls for each k, [n, 1 + g]: of all examples, and of those without each group.

  They reach further by the rounding of a squared distance, so that ties and copies are inside however they are
  rounded. In float64 that is far below the digits of float32 features.
  """
  if not ks:
    return {}
  centred = _points(points.values, points.groups, centre=points.values.mean(axis=0))
  n, d = points.values.shape
  radii = {k: np.empty((n, 1 + g)) for k in ks}
  for rows in _blocks(centred, centred, what):
    near, of = _nearest(_squared(centred, rows, centred), rows.start, points.groups, g, max(ks))
    for r in range(1 + g):
      rank = np.cumsum(of != r - 1, axis=1)  # of each neighbour among those that are left
      for k in ks:
        radii[k][rows, r] = np.take_along_axis(near, np.argmax(rank == k, axis=1)[:, None], axis=1)[:, 0]
  rounding = 8 * d * np.finfo(np.float64).eps
  for found in radii.values():
    np.maximum(found, 0.0, out=found)
    found += rounding * (found + (points.squares + centred.squares)[:, None])
  return radii


def _nearest(
  distances: np.ndarray, first: int, groups: np.ndarray, g: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The nearest others of each row, ascending, and their groups: so many that k are left without any one group.

  distances: [b, n] of the examples from `first` on to all, overwritten. Each group has at most k among the nearest 2 k
  if only its own nearest k are looked at.
  """
  b = len(distances)
  distances[np.arange(b), first + np.arange(b)] = np.inf
  parts = np.split(distances, np.searchsorted(groups, np.arange(1, g)), axis=1) if g else [distances]
  smallest = [np.partition(part, min(k, part.shape[1]) - 1, axis=1)[:, :k] for part in parts]
  found = np.concatenate(smallest, axis=1)
  order = np.argsort(found, axis=1)[:, : 2 * k]
  labels = np.repeat(np.arange(len(parts)), [part.shape[1] for part in smallest])
  return np.take_along_axis(found, order, axis=1), labels[order]


def _inside(
  distances: np.ndarray, reach: np.ndarray, centres: np.ndarray, points: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
  """Yields (r, i, j): ball i holds point j without group r - 1. distances [balls, points], reach [balls, 1 + g]."""
  i, j = np.nonzero(distances <= reach.max(axis=1, keepdims=True))
  found, own, other = distances[i, j], centres[i], points[j]
  for r in range(reach.shape[1]):
    kept = (found <= reach[i, r]) & (own != r - 1) & (other != r - 1)
    yield r, i[kept], j[kept]
