"""Intervals against closed forms, SciPy's Wilson interval, scores by hand, and how scores vary from draw to draw."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from feature_sets import VGG, feature_set, statistics

from vae_jax.errors import UserError
from vae_jax.metrics import (
  FeatureSet,
  FeatureStatistics,
  density_coverage,
  frechet_distance,
  kernel_distance,
  precision_recall,
  score_intervals,
)
from vae_jax.metrics import intervals as module

NAMES = ["frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"]


def draw(rng, n=60, d=4, shift=0.4):
  return rng.normal(size=(n, d)).astype(np.float32), (0.8 * rng.normal(size=(n, d)) + shift).astype(
    np.float32
  )


def test_the_error_of_a_mean_is_exact():
  """Leaving out one image at a time, the jackknife of a mean is s / sqrt(n)."""
  values = np.random.default_rng(0).normal(size=30)
  without = (values.sum() - values) / 29
  estimate = module._around(np.array([values.mean(), *without]))
  error = values.std(ddof=1) / np.sqrt(30)
  interval = scipy.stats.t.interval(0.95, 29, loc=values.mean(), scale=error)
  np.testing.assert_allclose(estimate, (values.mean(), *interval), rtol=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 35), (35, 35), (90, 90)])
def test_a_part_of_0_or_1_has_the_interval_of_wilson(monkeypatch, hits, n):
  """By SciPy, of a normal and not of Student; wider where the jackknife says so."""
  monkeypatch.setattr(module, "quantile", lambda groups: scipy.stats.norm.ppf(0.975))
  p = hits / n
  estimate = module._around(np.full(21, p), n, low=0.0, high=1.0)
  expected = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
  np.testing.assert_allclose(estimate, (p, *expected), rtol=1e-9, atol=1e-15)
  wider = module._around(np.array([p, p, abs(p - 0.4)]), n, low=0.0, high=1.0)
  np.testing.assert_allclose(wider.high - wider.low, scipy.stats.norm.ppf(0.975) * 0.2, rtol=1e-9)


def test_scores_are_those_of_the_functions():
  real, fake = (feature_set(values) for values in draw(np.random.default_rng(0)))
  found = score_intervals(real, fake, k=2, k_density=4)
  assert list(found) == NAMES
  expected = [
    frechet_distance(statistics(real.features), statistics(fake.features)),
    kernel_distance(real, fake),
    *precision_recall(real, fake, 2),
    *density_coverage(real, fake, 4),
  ]
  np.testing.assert_allclose([estimate.value for estimate in found.values()], expected, rtol=1e-9)
  for name, (value, low, high) in found.items():
    assert low <= value <= high and low < high, name
    assert name == "kernel_distance" or low >= 0
    assert name not in ("precision", "recall", "coverage") or high <= 1


def test_each_group_is_left_out_of_both_sets():
  real, fake = draw(np.random.default_rng(0), n=24)
  groups = [np.random.default_rng(1).permutation(np.arange(24) % 6) for _ in range(2)]
  sets = [feature_set(real), feature_set(fake)]
  frechet = module._frechet(sets, groups, None, 20)
  kernel = module.kernel_distances_without(*sets, tuple(groups))
  assert len(frechet) == len(kernel) == 7
  for g in range(-1, 6):
    rest = real[groups[0] != g], fake[groups[1] != g]
    np.testing.assert_allclose(frechet[g + 1], frechet_distance(*map(statistics, rest)), rtol=1e-9)
    np.testing.assert_allclose(kernel[g + 1], kernel_distance(*map(feature_set, rest)), rtol=1e-9)
  fixed = module._frechet(sets[1:], groups, statistics(real), 20)
  np.testing.assert_allclose(fixed[0], frechet[0], rtol=1e-9)
  expected = frechet_distance(statistics(real), statistics(fake[groups[1] != 3]))
  np.testing.assert_allclose(fixed[4], expected, rtol=1e-9)


def test_statistics_without_a_part_are_those_of_the_rest():
  values = np.random.default_rng(0).normal(size=(30, 5)) + 100
  rest = statistics(values).without(statistics(values[:11]))
  assert rest.count == 19
  np.testing.assert_allclose(rest.mean, values[11:].mean(0), rtol=1e-13)
  np.testing.assert_allclose(rest.covariance, np.cov(values[11:], rowvar=False), rtol=1e-9, atol=1e-11)
  assert statistics(values).without(FeatureStatistics(VGG)).count == 30
  with pytest.raises(UserError, match="30 of 30 examples cannot be taken away"):
    statistics(values).without(statistics(values))
  with pytest.raises(UserError, match="differ in layer"):
    statistics(values).without(FeatureStatistics(dataclasses.replace(VGG, layer="relu1")))


def test_intervals_are_as_wide_as_scores_vary():
  """Over 60 draws of two Gaussians, half an interval is about 1.96 deviations, and nearly all hold the mean."""
  rng = np.random.default_rng(0)
  found = [score_intervals(*map(feature_set, draw(rng)), seed=i) for i in range(60)]
  for name in NAMES:
    value, low, high = np.array([estimates[name] for estimates in found]).T
    assert 0.7 < (high - low).mean() / (2 * 1.96 * value.std(ddof=1)) < 1.7, name
    assert np.mean((low <= value.mean()) & (value.mean() <= high)) > 0.86, name


def test_a_bootstrap_would_lie_beside_the_score():
  """Why there is none: drawing images twice raises the Frechet distance by about its bias, and shrinks recall."""
  rng = np.random.default_rng(0)
  real, fake = draw(rng, n=80, d=12, shift=0.1)
  scored = score_intervals(feature_set(real), feature_set(fake))
  again = [(real[rng.integers(80, size=80)], fake[rng.integers(80, size=80)]) for _ in range(40)]
  frechet = [frechet_distance(*map(statistics, sets)) for sets in again]
  recall = [precision_recall(*map(feature_set, sets))[1] for sets in again]
  assert np.quantile(frechet, 0.025) > scored["frechet_distance"].value
  assert np.quantile(recall, 0.975) < scored["recall"].value


def test_intervals_follow_the_seed_and_not_the_order_of_batches():
  real, fake = draw(np.random.default_rng(0))
  one = score_intervals(feature_set(real), feature_set(fake))
  shuffled = FeatureSet(VGG)
  for rows in np.array_split(np.random.default_rng(1).permutation(60), 7):
    shuffled = shuffled.update(real[rows], rows)
  assert score_intervals(shuffled, feature_set(fake)) == one
  other = score_intervals(feature_set(real), feature_set(fake), seed=1)
  assert other["recall"].value == one["recall"].value and other["recall"] != one["recall"]


def test_few_images_have_fewer_scores_and_intervals():
  rng = np.random.default_rng(0)
  real, fake = draw(rng, n=30)
  for count, names, finite in (
    (2, NAMES[:2], []),
    (3, NAMES[:2], NAMES[:2]),
    (4, NAMES[:4], NAMES[:2]),
    (5, NAMES[:4], NAMES[:4]),
    (6, NAMES, NAMES[:2]),  # without a group there are no six
    (7, NAMES, NAMES),
  ):
    found = score_intervals(feature_set(real), feature_set(fake[:count]))
    assert list(found) == names
    assert [name for name, estimate in found.items() if np.isfinite(estimate).all()] == finite, count
    assert all(np.isfinite(estimate.value) for estimate in found.values())


def test_statistics_alone_give_the_frechet_distance():
  real, fake = draw(np.random.default_rng(0))
  found = score_intervals(None, feature_set(fake), statistics=statistics(real))
  assert list(found) == ["frechet_distance"]
  whole = score_intervals(feature_set(real), feature_set(fake))["frechet_distance"]
  narrow = found["frechet_distance"]
  np.testing.assert_allclose(narrow.value, whole.value, rtol=1e-9)
  some = score_intervals(feature_set(real[:30]), feature_set(fake), statistics=statistics(real))
  np.testing.assert_allclose(some["frechet_distance"].value, whole.value, rtol=1e-9)
  assert list(some) == NAMES


def test_a_feature_that_is_not_finite_is_nan_throughout():
  real, fake = draw(np.random.default_rng(0), n=30)
  fake[3, 1] = np.nan
  for name, estimate in score_intervals(feature_set(real), feature_set(fake)).items():
    assert np.isnan(estimate).all(), name


def test_refusals():
  real, fake = draw(np.random.default_rng(0), n=9)
  a = feature_set(real)
  with pytest.raises(UserError, match="neither features nor statistics"):
    score_intervals(None, a)
  with pytest.raises(UserError, match="a set of 1 examples, but 2 are needed"):
    score_intervals(a, feature_set(fake[:1]))
  with pytest.raises(UserError, match="k is 0"):
    score_intervals(a, a, k=0)
  other = dataclasses.replace(VGG, layer="relu1")
  with pytest.raises(UserError, match="differ in layer"):
    score_intervals(a, feature_set(fake, other))
  with pytest.raises(UserError, match="differ in layer"):
    score_intervals(None, feature_set(fake, other), statistics=statistics(real))
  with pytest.raises(UserError, match="differ in layer"):
    score_intervals(feature_set(real[:5], other), feature_set(fake, other), statistics=statistics(real))
