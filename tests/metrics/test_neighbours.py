"""Precision, recall, density and coverage against integers, two published packages, and sets made for each score."""

import dataclasses
import itertools

import numpy as np
import pytest
from feature_sets import VGG, divisions, feature_set, gathered, legacy_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.errors import UserError
from vae_jax.metrics import FeatureSet, density_coverage, precision_recall
from vae_jax.metrics import neighbours as module
from vae_jax.metrics.neighbours import neighbour_scores


def by_loops(real, fake, k):
  """(precision, recall, density, coverage) of integer points by the equations of both papers, without rounding."""

  def squared(a, b):
    return sum((int(p) - int(q)) ** 2 for p, q in zip(a, b, strict=True))

  def radius(points, i):
    return sorted(squared(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

  radii_real, radii_fake = ([radius(points, i) for i in range(len(points))] for points in (real, fake))
  within_real = [[squared(x, y) <= r for y in fake] for x, r in zip(real, radii_real, strict=True)]
  within_fake = [[squared(x, y) <= r for x in real] for y, r in zip(fake, radii_fake, strict=True)]
  precision = np.mean([any(ball[j] for ball in within_real) for j in range(len(fake))])
  recall = np.mean([any(ball[i] for ball in within_fake) for i in range(len(real))])
  density = sum(map(sum, within_real)) / (k * len(fake))
  return precision, recall, density, np.mean([any(ball) for ball in within_real])


def scores(real, fake, k):
  a, b = feature_set(real), feature_set(fake)
  return (*precision_recall(a, b, k), *density_coverage(a, b, k))


@given(
  st.integers(4, 9),
  st.integers(4, 9),
  st.integers(1, 3),
  st.integers(1, 3),
  st.integers(0, 10**6),
  st.sampled_from([0, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_ties_and_copies_are_inside_as_in_the_papers(n, m, d, k, seed, offset):
  rng = np.random.default_rng(seed)
  real, fake = (
    rng.integers(-1, 2, size=(count, d)) + offset for count in (n, m)
  )  # most distances tie, or are 0
  expected = by_loops(real, fake, k)
  thirds = [
    points.astype(np.float32) / 3 for points in (real, fake)
  ]  # float64 does not hold their distances exactly
  for found in (scores(real, fake, k), scores(*thirds, k) if not offset else expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# compute_prdc of prdc 0.2 (NAVER) with scikit-learn 1.9.1; the first two also by calculate_precision_recall_full of
# torch-fidelity 0.4.0, in float64 on PyTorch 2.13.0, which are the same to the digits of its float32 means.
PUBLISHED = [
  ((0, 60, 50, 8), 3, (0.96, 0.3333333333333333, 1.76, 0.8)),
  ((0, 60, 50, 8), 5, (0.96, 0.5, 1.764, 0.95)),
  ((1, 200, 300, 32), 3, (0.9933333333333333, 0.03, 5.655555555555555, 0.985)),
  ((1, 200, 300, 32), 5, (1.0, 0.055, 5.339333333333333, 1.0)),
]


@pytest.mark.parametrize(("sizes", "k", "expected"), PUBLISHED)
def test_scores_are_those_of_prdc_and_torch_fidelity(sizes, k, expected):
  np.testing.assert_allclose(scores(*legacy_sets(*sizes), k), expected, rtol=1e-12)


def test_copies_of_one_image():
  """Every ball has radius 0 and holds all: prdc, which leaves the edge out, has 0 for all four."""
  one = np.full((9, 4), 0.1, np.float32)
  assert scores(one, one[:6], 3) == (1.0, 1.0, 9 / 3, 1.0)
  assert scores(one, one[:6] + 0.1, 3) == (0.0, 0.0, 0.0, 0.0)


def test_far_from_zero_digits_are_kept():
  """Float32 features of one offset: |x|^2 + |y|^2 - 2 xy in float32, or about 0, would leave noise alone."""
  rng = np.random.default_rng(0)
  real, fake = rng.integers(-40, 41, size=(2, 40, 3))
  far = np.array([0, 4_000_000, -8_000_000])
  assert scores(real + far, fake + far, 3) == scores(real, fake, 3) == by_loops(real, fake, 3)


# --- sets made for each score ---


def mixture(rng, n, modes=8, d=16):
  centres = 6 * np.eye(modes, d)
  return (centres[rng.integers(modes, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def test_two_halves_of_one_set_have_equal_and_high_scores():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(1200, 8))
  precision, recall, density, coverage = scores(values[:600], values[600:], 5)
  assert precision > 0.8 and recall > 0.8 and abs(precision - recall) < 0.06
  assert abs(density - 1) < 0.1
  # n equal draws: a ball of the k-th neighbour of 2 n is empty of the other set with a chance of about 2^-k.
  assert abs(coverage - (1 - 0.5**5)) < 0.03


def test_dropped_modes_cost_recall_and_coverage():
  rng = np.random.default_rng(0)
  real, dropped = mixture(rng, 600), mixture(rng, 600, modes=2)
  precision, recall = precision_recall(feature_set(real), feature_set(dropped))
  assert precision > 0.8 and recall < 0.4
  assert density_coverage(feature_set(real), feature_set(dropped))[1] < 0.4
  noisy = real + 2.0 * rng.normal(size=real.shape).astype(np.float32)
  precision, recall = precision_recall(feature_set(real), feature_set(noisy))
  assert precision < 0.4 and recall > 0.8
  assert density_coverage(feature_set(real), feature_set(noisy))[0] < 0.4


def test_an_outlier_raises_precision_more_than_density():
  """Figure 2 of Naeem et al. 2020: the ball of one real outlier holds what is far from all others."""
  rng = np.random.default_rng(0)
  real, fake = rng.normal(size=(200, 4)), rng.normal(size=(200, 4)) + 6
  before = scores(real, fake, 5)
  after = scores(np.concatenate([real, [[7.0] * 4]]), fake, 5)
  assert before[0] < 0.1 and after[0] > 0.9
  assert after[2] - before[2] < 0.21  # one ball of k


# --- what must not matter ---


@given(divisions(24), divisions(24))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_depend_on_batches_padding_and_order(division, other):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=(24, 3)).astype(np.float32)
  a = gathered(FeatureSet(VGG), x, **division, indexed=True)
  b = gathered(FeatureSet(VGG), y, **other, indexed=True)
  assert precision_recall(a, b) == precision_recall(feature_set(x), feature_set(y))
  assert density_coverage(a, b) == density_coverage(feature_set(x), feature_set(y))


@pytest.mark.parametrize("entries", [1, 50, 333])
def test_neither_blocks_nor_the_order_of_images_change_a_score(monkeypatch, entries):
  real, fake = legacy_sets(0, 60, 50, 8)
  expected = scores(real, fake, 3)
  monkeypatch.setattr(module, "ENTRIES", entries)
  rng = np.random.default_rng(1)
  assert scores(rng.permutation(real), rng.permutation(fake), 3) == expected


def test_distances_are_not_held_all_at_once(monkeypatch):
  sizes = []
  squared = module._squared
  monkeypatch.setattr(module, "ENTRIES", 1000)
  monkeypatch.setattr(module, "_squared", lambda *args: sizes.append(found := squared(*args)) or found)
  scores(*legacy_sets(0, 60, 50, 8), 3)
  assert max(found.size for found in sizes) <= 1000 and len(sizes) > 10


def test_scores_without_each_group_are_those_of_the_others():
  rng = np.random.default_rng(0)
  real, fake = (
    rng.integers(-3, 4, size=(40, 2)) / 3,
    rng.integers(-3, 4, size=(31, 2)) / 3,
  )  # copies and ties too
  groups = rng.permutation(np.arange(40) % 4), rng.permutation(np.arange(31) % 4)
  found = neighbour_scores(feature_set(real), feature_set(fake), k=3, k_density=5, groups=groups)
  for g in range(-1, 4):
    rest = feature_set(real[groups[0] != g]), feature_set(fake[groups[1] != g])
    expected = (*precision_recall(*rest), *density_coverage(*rest))
    np.testing.assert_allclose([values[g + 1] for values in found.values()], expected, rtol=1e-14)
  assert list(found) == ["precision", "recall", "density", "coverage"]


# --- mistakes ---


@pytest.mark.parametrize(
  ("bad", "which"), list(itertools.product([np.nan, np.inf, -np.inf], ["real", "fake"]))
)
def test_a_feature_that_is_not_finite_is_nan(bad, which):
  real, fake = legacy_sets(0, 12, 12, 3)
  (real if which == "real" else fake)[5, 1] = bad
  assert np.isnan(scores(real, fake, 3)).all()


@pytest.mark.parametrize("function", [precision_recall, density_coverage])
def test_refusals(function):
  values = np.random.default_rng(0).normal(size=(9, 3))
  a = feature_set(values)
  with pytest.raises(
    UserError, match="4 fake examples are too few for 4 neighbours; add some, to 5 or more, or lower"
  ):
    function(a, feature_set(values[:4]), 4)
  with pytest.raises(UserError, match="4 real examples are too few"):
    function(feature_set(values[:4]), a, 4)
  assert np.isfinite(function(a, feature_set(values[:5]), 4)).all()
  with pytest.raises(UserError, match="k is 0"):
    function(a, a, 0)
  with pytest.raises(UserError, match="of 3 and of 2 dimensions"):
    function(a, feature_set(values[:, :2]))
  with pytest.raises(UserError, match="example 4 was added twice"):
    function(a, a.update(values[:1], np.array([4])))
  for entry in ("network", "layer", "weights", "resize", "pooling", "version"):
    with pytest.raises(UserError, match=f"features differ in {entry}"):
      function(a, feature_set(values, dataclasses.replace(VGG, **{entry: "another"})))
