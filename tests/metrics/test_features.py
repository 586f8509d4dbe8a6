"""Sets of features: statistics that do not depend on batches, protocols that must agree, names kept for Inception."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from feature_sets import LOGITS, POOL, VGG, divisions, feature_set, gathered, statistics
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.errors import UserError
from vae_jax.metrics import (
  ClassStatistics,
  FeatureSet,
  FeatureStatistics,
  class_score,
  fid,
  frechet_distance,
  inception_score,
  kernel_distance,
  kernel_distance_subsets,
  kid,
)
from vae_jax.metrics import kernel as module


@given(divisions(37), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_statistics_do_not_depend_on_batches_padding_and_order(division, seed):
  values = (np.random.default_rng(seed).normal(size=(37, 5)) + 100.0).astype(np.float32)
  found = gathered(FeatureStatistics(VGG), values, **division, indexed=False)
  exact = values.astype(np.float64)
  assert found.count == 37
  np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-14)
  np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-12)
  np.testing.assert_array_equal(found.scatter, found.scatter.T)


def test_statistics_do_not_cancel_far_from_zero():
  # E[x^2] - E[x]^2 would have no digit left, and neither would float32.
  noise = np.random.default_rng(0).normal(size=(1000, 3))
  found = FeatureStatistics(VGG)
  for part in np.split(noise + 1e8, 20):
    found = found.update(part)
  np.testing.assert_allclose(found.covariance, np.cov(noise, rowvar=False), rtol=1e-5, atol=1e-7)


def test_statistics_take_jax_arrays_and_are_immutable():
  values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  first = FeatureStatistics(VGG).update(jnp.asarray(values[:4]), jnp.array([True, True, False, True]))
  before = first.scatter.copy()
  second = first.update(values[4:])
  kept = values[[0, 1, 3, 4, 5]].astype(np.float64)
  np.testing.assert_allclose(second.covariance, np.cov(kept, rowvar=False), rtol=1e-12)
  np.testing.assert_array_equal(first.scatter, before)
  assert first.count == 3
  half = statistics(jnp.array([[1.5, 2.0], [2.5, 4.0]], jnp.bfloat16))
  np.testing.assert_array_equal(half.covariance, [[0.5, 1.0], [1.0, 2.0]])


def test_statistics_refuse_what_they_cannot_count():
  some = statistics(np.eye(3))
  with pytest.raises(ValueError, match=r"\(3,\) cannot be merged with \(2,\)"):
    some.update(np.eye(2))
  with pytest.raises(ValueError, match="expected 2 axes"):
    some.update(np.zeros(3))
  with pytest.raises(UserError, match="'vgg16' and 'inception_fid'"):
    some.merge(statistics(np.eye(3), POOL))
  with pytest.raises(UserError, match="1 examples have no covariance"):
    _ = statistics(np.zeros((1, 3))).covariance
  with pytest.raises(UserError, match="0 examples have no covariance"):
    _ = FeatureStatistics(VGG).update(np.eye(3), np.zeros(3, bool)).covariance


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_kept(bad):
  clean = np.random.default_rng(0).normal(size=(8, 3))
  spoilt = clean.copy()
  spoilt[5, 1] = bad
  broken = statistics(spoilt[:4]).update(spoilt[4:])
  assert np.isnan(frechet_distance(broken, statistics(clean)))
  assert np.isnan(frechet_distance(statistics(clean), broken.update(clean)))
  assert np.isnan(kernel_distance(feature_set(spoilt), feature_set(clean)))
  assert np.isnan(kernel_distance_subsets(feature_set(clean), feature_set(spoilt), subsets=3, size=8)).all()
  classes = ClassStatistics(VGG, 8, 2).update(spoilt, np.arange(8))
  assert np.isnan(class_score(classes)).all()
  masked = FeatureStatistics(VGG).update(spoilt, np.arange(8) != 5)
  assert np.isfinite(frechet_distance(masked, statistics(clean)))


@pytest.mark.parametrize("entry", ["network", "layer", "weights", "resize", "value_range"])
def test_differing_protocols_are_refused(entry):
  values = np.random.default_rng(0).normal(size=(9, 3))
  other = dataclasses.replace(VGG, **{entry: "another"})
  message = f"features differ in {entry}: {getattr(VGG, entry)!r} and 'another'".replace("[", r"\[")
  for distance, make in ((frechet_distance, statistics), (kernel_distance, feature_set)):
    with pytest.raises(UserError, match=message) as raised:
      distance(make(values), make(values, other))
    assert "\n" not in str(raised.value)
    make(values).merge(make(values[:0], dataclasses.replace(VGG, note="of another day")))


def test_names_are_kept_for_inception(monkeypatch):
  values = np.random.default_rng(0).normal(size=(1001, 2))
  a, b = statistics(values, POOL), statistics(2 * values, POOL)
  assert fid(a, b) == frechet_distance(a, b) > 0.5
  sets = feature_set(values, POOL), feature_set(2 * values, POOL)
  with monkeypatch.context() as patch:  # the true one takes its time
    patch.setattr(module, "kernel_distance_subsets", lambda *args, **options: (args, options))
    assert kid(*sets, seed=3) == (sets, {"subsets": 100, "size": 1000, "seed": 3})
  classes = ClassStatistics(LOGITS, 1001).update(values, np.arange(1001))
  assert inception_score(classes) == class_score(classes)

  with pytest.raises(
    UserError, match="fid is defined on inception_fid pool2048, not on vgg16 relu5_3; call frechet"
  ):
    fid(statistics(values), statistics(values))
  with pytest.raises(UserError, match="not on inception_fid logits"):
    fid(statistics(values, LOGITS), statistics(values, LOGITS))
  with pytest.raises(UserError, match="features differ in network"):
    fid(a, statistics(values))
  with pytest.raises(UserError, match=r"kid is defined on .* call kernel_distance"):
    kid(feature_set(values), feature_set(values))
  with pytest.raises(
    UserError, match=r"inception_score is defined on .*logits, not on .*pool2048; call class_score"
  ):
    inception_score(ClassStatistics(POOL, 1001).update(values, np.arange(1001)))
  with pytest.raises(UserError, match="10 splits, not 2"):
    inception_score(ClassStatistics(LOGITS, 1001, 2).update(values, np.arange(1001)))


def test_feature_sets_are_float32_of_their_own():
  values = np.ones((3, 2), np.float32)
  found = feature_set(values)
  values[:] = 7.0
  np.testing.assert_array_equal(found.features, np.ones((3, 2)))
  assert found.features.dtype == np.float32
  jax_set = FeatureSet(VGG).update(
    jnp.array([[1.0], [2.0], [3.0]]), jnp.array([7, 9, 4]), jnp.array([True, False, True])
  )
  assert jax_set.count == 2 and isinstance(jax_set.features, np.ndarray)
  np.testing.assert_array_equal(jax_set.features, [[3.0], [1.0]])


def test_feature_sets_refuse():
  values = np.random.default_rng(0).normal(size=(9, 3))
  a = feature_set(values)
  with pytest.raises(UserError, match="example 4 was added twice"):
    kernel_distance(a, a.update(values[:1], np.array([4])))
  with pytest.raises(UserError, match="a set of 1 examples, but 2 are needed"):
    kernel_distance(a, feature_set(values[:1]))
  with pytest.raises(UserError, match="a set of 9 examples, but 1000 are needed"):
    kid(feature_set(values, POOL), feature_set(values, POOL))
  with pytest.raises(UserError, match="no features"):
    _ = FeatureSet(VGG).features
  with pytest.raises(UserError, match="of 3 and of 2 dimensions"):
    kernel_distance(a, feature_set(values[:, :2]))
  with pytest.raises(UserError, match="5 subsets of 1 examples"):
    kernel_distance_subsets(a, a, subsets=5, size=1)
  with pytest.raises(UserError, match="0 subsets of 5 examples"):
    kernel_distance_subsets(a, a, subsets=0, size=5)
  with pytest.raises(ValueError, match=r"\[., 3\] cannot be merged with \[., 2\]"):
    a.update(values[:, :2], np.arange(9))
  with pytest.raises(ValueError, match=r"index of shape \(8,\)"):
    a.update(values, np.arange(8))
  with pytest.raises(ValueError, match="type float64"):
    a.update(values, np.arange(9.0))


@pytest.mark.filterwarnings("ignore")
def test_distances_are_those_of_torchmetrics():
  torch = pytest.importorskip("torch")
  pytest.importorskip("torchmetrics")
  from torchmetrics.image.fid import _compute_fid
  from torchmetrics.image.inception import InceptionScore
  from torchmetrics.image.kid import poly_mmd

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 6)).astype(np.float32), rng.gamma(2.0, size=(30, 6)).astype(np.float32)
  a, b = statistics(x), statistics(y)
  parts = [torch.from_numpy(part) for s in (a, b) for part in (s.mean, s.covariance)]
  np.testing.assert_allclose(frechet_distance(a, b), float(_compute_fid(*parts)), rtol=1e-9)
  doubles = [torch.from_numpy(values.astype(np.float64)) for values in (x, y)]
  expected = float(poly_mmd(*doubles))
  np.testing.assert_allclose(kernel_distance(feature_set(x), feature_set(y)), expected, rtol=1e-9)

  metric = InceptionScore(feature=torch.nn.Identity(), splits=1)  # in one split its shuffling does not matter
  metric.update(torch.from_numpy(3 * x))
  found = class_score(ClassStatistics(VGG, 30, 1).update(3 * x, np.arange(30)))[0]
  np.testing.assert_allclose(found, float(metric.compute()[0]), rtol=1e-5)
