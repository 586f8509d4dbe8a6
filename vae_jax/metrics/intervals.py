"""95 % intervals of the scores of a set of images: how far each would move with other images of the same kind.

The images of both sets are divided into 20 random groups, and each score is computed again without one group of each
set: the jackknife of Kott 2001 ("The Delete-a-Group Jackknife", Journal of Official Statistics 17), which deletes more
images at a time than one because scores by nearest neighbours are not smooth (Shao & Wu 1989, Annals of Statistics 17).
The bootstrap draws images twice: a copy is its own nearest neighbour at a distance of 0 and narrows the covariance, so
that its scores lie beside the score they are for (measured in docs/perceptual.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from vae_jax.errors import UserError
from vae_jax.metrics.features import FeatureSet, FeatureStatistics
from vae_jax.metrics.frechet import frechet_distance
from vae_jax.metrics.kernel import kernel_distances_without
from vae_jax.metrics.neighbours import neighbour_scores
from vae_jax.progress import followed

LEVEL, GROUPS = 0.95, 20


class Estimate(NamedTuple):
  """A score and the ends of its interval; the ends are nan where too few images are left without a group."""

  value: float
  low: float
  high: float


def score_intervals(
  real: FeatureSet | None,
  fake: FeatureSet,
  *,
  statistics: FeatureStatistics | None = None,
  k: int = 3,
  k_density: int = 5,
  seed: int = 0,
) -> dict[str, Estimate]:
  """The scores of a set of images, each with a 95 % interval by a jackknife that deletes groups of images.

  An interval is about the score at these counts, so it leaves out the bias that counts cause: of a Frechet distance
  upwards, of scores by neighbours in ways of their own. Both sets vary, as samples of what they are of. A part that is
  0 or 1 has at least Wilson's interval of as many independent images, since the jackknife may find no variation there.

  Args:
    real, fake: features under one protocol. real: None where there are statistics alone.
    statistics: of the real images, where `real` is None or holds some of them. The real images then count as fixed in
      the interval of the Frechet distance.
    k: of precision and recall. k_density: of density and coverage.
    seed: of the division into groups.

  Returns:
    By name: frechet_distance; and, where there are real features, kernel_distance (over all pairs), precision, recall,
    density, coverage. Scores by neighbours are left out where a set has too few images for k. nan for nan in a feature.

  Raises:
    UserError: protocols or dimensions differ; fewer than two examples; neither features nor statistics; k below 1.
  """
  if real is None and statistics is None:
    raise UserError("neither features nor statistics of the real images are given; give one of them")
  sets = [part for part in (real, fake) if part is not None]
  fewest = min(part.count for part in sets)
  if fewest < 2:
    raise UserError(f"a set of {fewest} examples, but 2 are needed; add some")
  g, generator = min(GROUPS, fewest), np.random.default_rng(seed)
  groups = [generator.permutation(np.arange(part.count) % g) for part in sets]
  left = fewest - -(-fewest // g)  # examples without the largest group
  whole = real is not None and (statistics is None or statistics.count == real.count)
  found = {
    "frechet_distance": _around(_frechet(sets if whole else [fake], groups, statistics, left), low=0.0)
  }
  if real is None:
    return found
  both = groups[0], groups[1]
  found["kernel_distance"] = _around(kernel_distances_without(real, fake, both))
  ks = {name: each for name, each in (("k", k), ("k_density", k_density)) if fewest > each}
  if not ks:
    return found
  wanted = {"k": None, "k_density": None, **ks}
  scores = neighbour_scores(real, fake, **wanted, groups=both if left > max(ks.values()) else None)
  for name, values in scores.items():
    of = fake.count if name == "precision" else real.count
    found[name] = _around(values, low=0.0) if name == "density" else _around(values, of, low=0.0, high=1.0)
  return found


def _frechet(
  sets: list[FeatureSet], groups: list[np.ndarray], statistics: FeatureStatistics | None, left: int
) -> np.ndarray:
  """The distance of all examples, and without each group: of both sets, or of the fake one against `statistics`."""
  protocol, g = sets[-1].protocol, int(groups[-1].max()) + 1
  pairs = [(part.features, label) for part, label in zip(sets, groups[-len(sets) :], strict=True)]

  def without(whole: list[FeatureStatistics], group: int) -> list[FeatureStatistics]:
    return [
      total.without(FeatureStatistics(protocol).update(features[label == group]))
      for total, (features, label) in zip(whole, pairs, strict=True)
    ]

  whole = []
  for features, label in pairs:
    total = FeatureStatistics(protocol)
    for group in range(g):
      total = total.update(features[label == group])
    whole.append(total)
  fixed = [] if len(sets) == 2 or statistics is None else [statistics]
  values = [frechet_distance(*fixed, *whole)]
  if left >= 2:
    values += [
      frechet_distance(*fixed, *without(whole, group)) for group in followed(range(g), g, "Frechet distance")
    ]
  return np.array(values)


def _deviation(values: np.ndarray) -> tuple[float, float]:
  """Standard error by the jackknife of [1 + g] values, and what it is multiplied by for half an interval."""
  g = len(values) - 1
  if g < 2:
    return float("nan"), float("nan")
  with np.errstate(invalid="ignore"):
    error = np.sqrt((g - 1) * np.var(values[1:]))
  return float(error), quantile(g)


def quantile(groups: int) -> float:
  """How many standard errors half an interval has, by Student's distribution."""
  return float(stdtrit(groups - 1, (1 + LEVEL) / 2))


def _around(values: np.ndarray, count: int = 0, low: float = -np.inf, high: float = np.inf) -> Estimate:
  """The first value and its interval, cut to what a score can be. A part of 0 or 1 has at least Wilson's of `count`."""
  value, (error, times) = float(values[0]), _deviation(values)
  ends = value - times * error, value + times * error
  if count and value in (0.0, 1.0):
    width = times**2 / (count + times**2)
    ends = min(ends[0], value - width), max(ends[1], value + width)
  return Estimate(value, float(np.maximum(low, ends[0])), float(np.minimum(high, ends[1])))  # nan stays nan
