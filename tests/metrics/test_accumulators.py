"""Accumulators: the same value however the data are divided and padded; nothing is filtered."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from vae_jax.metrics import ActiveUnits, CodeUsage, Mean, Posteriors


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


def test_a_nan_is_not_an_inactive_unit_and_no_code_is_cut_off():
  means = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
  means[4, 1] = np.nan
  assert np.isnan(ActiveUnits().update(means).active())
  with pytest.raises(ValueError, match=r"codes of type float64 and shape \(1, 1\): give integers"):
    CodeUsage(4).update(np.array([[1.7]]))


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


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_active_and_null_units_of_posteriors_made_by_hand(size):
  """Mean variances 0.04, 0.0999, 0.5, 0.9001, 1: two active, one between, two null; one swings about its mean."""
  variance = np.tile([0.04, 0.0999, 0.5, 0.9001, 1.0], (101, 1))
  variance[:100, 2] += np.tile(
    [-0.49, 0.49], 50
  )  # below 0.1 for half of the images: a mean of 0.5 all the same
  mean = np.random.default_rng(0).normal(size=(101, 5)) * [1, 1, 0.5, 0, 0] + [0.0, 0.5, 0.0, 0.0, 0.0]
  found = Posteriors()
  for part, mask in batches(np.concatenate([mean, np.log(variance)], 1).astype(np.float32), size, np.nan):
    found = found.update(part[:, :5], part[:, 5:], mask)
  np.testing.assert_allclose(found.variance, variance.mean(0), rtol=1e-5)
  assert (found.active, found.null) == (2, 2) and isinstance(found.null, int)
  # The gap is a KL of Gaussians, here one by one from scipy: -entropy + cross-entropy.
  moments = zip(mean.mean(0), np.sqrt(mean.var(0) + variance.mean(0)), strict=True)
  kl = sum(0.5 * (s**2 + m**2 + np.log(2 * np.pi)) - stats.norm(m, s).entropy() for m, s in moments)
  np.testing.assert_allclose(found.prior_gap, kl, rtol=1e-4)


def test_the_gap_of_posteriors_is_a_lower_bound():
  """KL(q || N(0, 1)) of a mixture with two modes, integrated by scipy, is larger; equal where q is one Gaussian."""

  def both(means, deviation):
    q = lambda x: stats.norm(np.array(means), deviation).pdf(x).mean()  # noqa: E731
    kl = integrate.quad(lambda x: q(x) * (np.log(q(x)) - stats.norm.logpdf(x)), -9, 9, points=means)[0]
    rows = np.full((len(means), 1), 2 * np.log(deviation))
    return Posteriors().update(np.array(means)[:, None], rows).prior_gap, kl

  gap, kl = both([-2.0, 2.0], 0.3)
  assert 0.5 < gap < kl - 0.5
  np.testing.assert_allclose(*both([0.7, 0.7], 0.4), rtol=1e-6)


def test_posteriors_merge_and_refuse():
  mean, logvar = np.random.default_rng(0).normal(size=(2, 10, 3))
  whole = Posteriors().update(mean, logvar)
  parts = Posteriors().update(mean[:4], logvar[:4]).merge(Posteriors().update(mean[4:], logvar[4:]))
  np.testing.assert_allclose(parts.variance, whole.variance, rtol=1e-12)
  np.testing.assert_allclose(parts.prior_gap, whole.prior_gap, rtol=1e-12)
  logvar[2, 1] = np.nan
  broken = Posteriors().update(mean, logvar)
  assert np.isnan([broken.active, broken.null, broken.prior_gap]).all()
  with pytest.raises(ValueError, match="no examples"):
    _ = Posteriors().variance
  with pytest.raises(ValueError, match=r"\(10, 3\) and logvars of shape \(10, 2\) differ"):
    Posteriors().update(mean, logvar[:, :2])


def perplexity(codes, size):
  """exp of the entropy, by numpy in float64."""
  shares = np.bincount(codes.reshape(-1), minlength=size) / codes.size
  return np.exp(-sum(p * np.log(p) for p in shares if p > 0))


@pytest.mark.parametrize("padding", [0, 6, -1, 10**6])
@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_code_usage_does_not_depend_on_batches_and_padding(size, padding):
  """Against numpy; what is masked need not even be a code."""
  codes = (np.random.default_rng(0).integers(0, 5, size=(101, 3)) ** 2).astype(np.int32)  # 0, 1, 4, 9, 16
  usage = CodeUsage(20)
  for part, mask in batches(codes, size, padding):
    usage = usage.update(part, mask)
  np.testing.assert_array_equal(usage.counts, np.bincount(codes.reshape(-1), minlength=20))
  assert usage.used == 5 / 20 and usage.dead == 15
  np.testing.assert_allclose(usage.perplexity, perplexity(codes, 20), rtol=1e-12)


def test_perplexity_at_its_ends():
  assert CodeUsage(7).update(np.full((4, 2), 3)).perplexity == 1.0
  even = CodeUsage(7).update(jnp.arange(7)[None])
  np.testing.assert_allclose(even.perplexity, 7.0, rtol=1e-12)
  assert (even.used, even.dead) == (1.0, 0)


def test_code_usage_merges():
  codes = np.random.default_rng(0).integers(0, 6, size=(10, 3))
  first, second = CodeUsage(6).update(codes[:4]), CodeUsage(6).update(codes[4:])
  for merged in (first.merge(second), second.merge(first), CodeUsage(6).merge(first).merge(second)):
    np.testing.assert_array_equal(merged.counts, np.bincount(codes.reshape(-1), minlength=6))
  assert first.merge(CodeUsage(6)) is first
  assert first.counts.sum() == 12  # updates return new values
  with pytest.raises(ValueError, match="codebooks of 6 and of 7 codes cannot be merged"):
    first.merge(CodeUsage(7))


def test_code_usage_of_several_codebooks():
  """Codes of one number in two codebooks are two codes; the perplexity is the mean of those of each codebook."""
  random = np.random.default_rng(0)
  books, size = (0, 1, 0, 1, 2), 5
  codes = np.stack([random.integers(0, 1 + book, 40) for book in books], axis=1)
  whole = CodeUsage(size, books=books).update(codes)
  each = [
    CodeUsage(size).update(codes[:, [i for i, b in enumerate(books) if b == book]]) for book in range(3)
  ]
  assert whole.dead == sum(usage.dead for usage in each) == 15 - 1 - 2 - 3
  np.testing.assert_allclose(whole.used, 6 / 15)
  np.testing.assert_allclose(whole.perplexity, np.mean([usage.perplexity for usage in each]), rtol=1e-12)
  parts = CodeUsage(size, books=books).update(codes[:9]).merge(CodeUsage(size, books=books).update(codes[9:]))
  np.testing.assert_array_equal(parts.counts, whole.counts)
  with pytest.raises(ValueError, match="codes of other codebooks cannot be merged"):
    whole.merge(CodeUsage(size))
  with pytest.raises(ValueError, match="4 codes of an example, and the codebooks of 5 are given"):
    whole.update(codes[:, :4])


@pytest.mark.parametrize(("code", "said"), [(4, "codes from 0 to 4"), (-1, "codes from -1 to 0")])
def test_code_usage_refuses_what_is_no_code(code, said):
  codes = np.array([[0, 0], [0, code]])
  with pytest.raises(ValueError, match=f"{said}; a codebook of 4 has 0 to 3"):
    CodeUsage(4).update(codes)
  usage = CodeUsage(4).update(codes, np.array([True, False]))  # masked, it is not looked at
  assert usage.counts.tolist() == [2, 0, 0, 0]


def test_code_usage_of_nothing_has_no_value():
  nothing = CodeUsage(4).update(np.zeros((3, 2), np.int32), np.zeros(3, bool))
  for usage in CodeUsage(4), nothing:
    for name in "used", "dead", "perplexity":
      with pytest.raises(ValueError, match="no codes: every batch was empty or masked"):
        getattr(usage, name)
  with pytest.raises(ValueError, match="expected 2 axes"):
    CodeUsage(4).update(np.zeros(3, np.int32))
