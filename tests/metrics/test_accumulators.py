"""Accumulators: the same value however the data are divided and padded; nothing is filtered."""

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.metrics import ActiveUnits, Mean


def batches(values, size, padding):
  """Batches of `size`; the last one padded with `padding` and masked."""
  for start in range(0, len(values), size):
    part = values[start : start + size]
    missing = size - len(part)
    fill = np.full((missing, *values.shape[1:]), padding, values.dtype)
    yield np.concatenate([part, fill]), np.arange(size) < len(part)


@pytest.mark.parametrize("padding", [0.0, 1e30, np.nan])
@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_mean_does_not_depend_on_batches_and_padding(size, padding):
  values = (np.random.default_rng(0).normal(size=101) * 100).astype(np.float32)
  mean = Mean()
  for part, mask in batches(values, size, padding):
    mean = mean.update(part, mask)
  assert mean.count == 101
  np.testing.assert_allclose(mean.value, values.astype(np.float64).mean(), rtol=1e-14)


def test_mean_is_float64_and_merges():
  # In float32, 2^24 + 1 is 2^24: the ones would be lost.
  big, ones = Mean().update(jnp.array([2.0**24])), Mean().update(jnp.ones(7))
  merged = big.merge(ones)
  assert merged == ones.merge(big) and merged.sum == 2.0**24 + 7 and merged.count == 8
  assert Mean().update(jnp.asarray([1.5, 2.5], jnp.bfloat16)).value == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_kept(bad):
  value = Mean().update(np.array([1.0, bad, 2.0])).value
  np.testing.assert_equal(value, bad)
  np.testing.assert_equal(Mean().update(np.array([np.inf, -np.inf])).value, np.nan)
  units = ActiveUnits().update(np.array([[1.0, 1.0], [bad, 2.0]])).update(np.ones((1, 2)))
  assert np.isnan(units.variance[0]) and np.isfinite(units.variance[1])


def test_mean_refuses_what_it_cannot_count():
  with pytest.raises(ValueError, match="no examples"):
    _ = Mean().update(np.zeros(3), np.zeros(3, bool)).value
  with pytest.raises(ValueError, match=r"shape \(\)"):
    Mean().update(np.float32(1))
  with pytest.raises(ValueError, match=r"\(2,\) and type bool for values of shape \(3,\)"):
    Mean().update(np.zeros(3), np.ones(2, bool))
  with pytest.raises(ValueError, match="type float64"):
    Mean().update(np.zeros(3), np.ones(3))


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_active_units_do_not_depend_on_batches(size):
  scale = np.array([1.0, 0.0, 0.2, 0.05, 1e-3])  # variances 1, 0, 0.04, 0.0025, 1e-6
  means = (np.random.default_rng(0).normal(size=(101, 5)) * scale + 100.0).astype(np.float32)
  units = ActiveUnits()
  for part, mask in batches(means, size, np.nan):
    units = units.update(part, mask)
  np.testing.assert_allclose(units.variance, means.astype(np.float64).var(0), rtol=1e-9, atol=1e-15)
  assert units.count == 101 and units.active() == 2
  assert units.active(threshold=1e-3) == 3


def test_active_units_merge_and_refuse():
  means = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
  first, second = ActiveUnits().update(means[:4]), ActiveUnits().update(means[4:])
  for merged in (first.merge(second), second.merge(first), ActiveUnits().merge(first).merge(second)):
    np.testing.assert_allclose(merged.variance, means.astype(np.float64).var(0), rtol=1e-12)
  assert first.merge(ActiveUnits()) is first
  assert first.count == 4  # updates return new values
  with pytest.raises(ValueError, match="no examples"):
    _ = ActiveUnits().update(means, np.zeros(10, bool)).variance
  with pytest.raises(ValueError, match=r"\(3,\) cannot be merged with \(2,\)"):
    first.update(means[:, :2])
  with pytest.raises(ValueError, match="expected 2 axes"):
    ActiveUnits().update(means[0])
