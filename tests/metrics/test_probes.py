"""Linear probes: the minimum of scikit-learn, the protocol by hand, Wilson's interval, and what is refused."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vae_jax import metrics
from vae_jax.errors import UserError
from vae_jax.metrics import probes

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(4, 6))


def drawn(n, seed, names=(0, 1, 2, 3)):
  """Features that overlap, of different sizes and far from 0, and their labels."""
  random = np.random.default_rng(seed)
  index = random.integers(len(names), size=n)
  x = (CENTRES[index] + random.normal(size=(n, 6))) * [1, 10, 0.1, 1, 1, 1] + [0, 50, 0, -3, 0, 0]
  return x.astype(np.float32), np.array(names)[index]


def standardised(x, others):
  return (others - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)


@pytest.mark.parametrize("strength", [1.0, 1e-3])
def test_the_fit_is_that_of_scikit_learn(strength):
  x, y = drawn(300, 1, names=(7, -2, 11, 3))
  x = standardised(x, x)
  found = metrics.fit_probe(x.astype(np.float32), y, strength)
  theirs = LogisticRegression(C=1 / (len(x) * strength), tol=1e-10, max_iter=10_000).fit(x, y)
  assert found.converged and found.slope <= probes.TOLERANCE and 0 < found.iterations < 200
  assert found.labels.tolist() == [-2, 3, 7, 11] == theirs.classes_.tolist()
  largest = np.abs(theirs.coef_).max()
  np.testing.assert_allclose(found.weights, theirs.coef_.T, atol=3e-2 * largest)
  p = theirs.predict_proba(x)[np.arange(len(x)), np.searchsorted(theirs.classes_, y)]
  least = -np.log(p).mean() + strength / 2 * np.square(theirs.coef_).sum()
  assert found.loss == pytest.approx(least, rel=1e-5) and found.loss > least - 1e-6
  assert np.mean(found.tell(x) == theirs.predict(x)) > 0.99


def test_two_labels_and_a_start_elsewhere_reach_the_same_minimum():
  x, y = drawn(200, 2, names=(0, 1))
  x = standardised(x, x).astype(np.float32)
  alone, first = metrics.fit_probe(x, y, 1e-3), metrics.fit_probe(x, y, 1.0)
  again = metrics.fit_probe(x, y, 1e-3, start=first)
  assert again.converged and again.loss == pytest.approx(alone.loss, rel=1e-5)
  assert metrics.fit_probe(x, y, 1e-3, start=again).iterations <= 2
  assert alone.weights.shape == (6, 2)


def test_what_has_not_converged_says_so(monkeypatch):
  x, y = drawn(200, 2, names=(0, 1))
  x = standardised(x, x).astype(np.float32)
  told = []
  monkeypatch.setattr(
    probes, "TOLERANCE", 0.0
  )  # below what float32 reaches: it ends where the loss falls no more
  probes._descended.clear_cache()
  found = metrics.fit_probe(x, y, 1e-2, told=lambda *done: told.append(done))
  assert not found.converged and 0 < found.slope < 1e-4 and found.iterations < probes.MOST_ITERATIONS
  assert told[-1] == (found.iterations, probes.MOST_ITERATIONS) and len(told) > 1
  assert probes._descended._cache_size() == 1  # compiled once
  monkeypatch.setattr(probes, "MOST_ITERATIONS", 3)
  probes._descended.clear_cache()
  found = metrics.fit_probe(x, y, 1e-2)
  probes._descended.clear_cache()
  assert not found.converged and found.iterations == 3


def test_the_protocol_by_hand():
  (x, y), (held, held_y), (others, labels) = drawn(60, 4), drawn(80, 5), drawn(300, 6)
  constant = np.full((300, 1), 1000.1, np.float32)
  x, held, others = (np.concatenate([part, constant[: len(part)]], axis=1) for part in (x, held, others))
  others[0, 6] = 5.0  # a column that did not vary in the fit counts nothing
  found = metrics.linear_probe((x, y), (held, held_y), (others, labels), strengths=(1e-4, 1e-2, 10.0))
  assert found.constant == 1 and list(found.validation) == [10.0, 1e-2, 1e-4]
  inside = standardised(x[:, :6], x[:, :6])
  by_strength = {}
  for strength in (1e-4, 1e-2, 10.0):
    theirs = LogisticRegression(C=1 / (60 * strength), tol=1e-8, max_iter=10_000).fit(inside, y)
    told = [
      theirs.score(standardised(x[:, :6], part[:, :6]), of) for part, of in ((held, held_y), (others, labels))
    ]
    by_strength[strength] = told
    assert found.validation[strength] == pytest.approx(told[0], abs=1.5 / 80)
  best = max((10.0, 1e-2, 1e-4), key=lambda strength: found.validation[strength])
  assert found.probe.strength == best
  assert found.accuracy.value == pytest.approx(by_strength[best][1], abs=2 / 300)
  assert not np.any(found.probe.weights[6])


def test_equal_strengths_leave_the_greatest_and_unknown_labels_are_wrong():
  x = np.array([[-1.0], [-2.0], [1.0], [2.0]], np.float32)
  y = np.array([0, 0, 1, 1])
  found = metrics.linear_probe((x, y), (x, y), (x, np.array([0, 0, 1, 5])))
  assert set(found.validation.values()) == {1.0} and found.probe.strength == max(probes.STRENGTHS)
  assert found.accuracy.value == 0.75


def test_wilsons_interval():
  for right, n in ((0, 5), (5, 5), (83, 100)):
    p, z = right / n, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = metrics.proportion(np.arange(n) < right)
    expected = (p, max(0, (middle - half) / (1 + z**2 / n)), min(1, (middle + half) / (1 + z**2 / n)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
  for wrong in (np.zeros(0, bool), np.ones(3), np.ones((2, 2), bool)):
    with pytest.raises(ValueError, match="answers"):
      metrics.proportion(wrong)


def test_what_is_refused():
  x, y = drawn(20, 7)
  with pytest.raises(UserError, match="all 20 examples have the label 4; a probe needs two labels"):
    metrics.fit_probe(x, np.full(20, 4), 1e-2)
  bad = x.copy()
  bad[[3, 5], 2] = np.nan, np.inf
  with pytest.raises(UserError, match=r"the latents of 2 of 20 examples are not finite"):
    metrics.linear_probe((x, y), (x, y), (bad, y), what="latents")
  alike = np.full_like(x, 3.3)
  with pytest.raises(UserError, match="the latents of all 20 examples are alike"):
    metrics.linear_probe((alike, y), (x, y), (x, y), what="latents")
  found = metrics.fit_probe(x * np.float32(1e30), y, 1e-2)
  assert not found.converged
  with pytest.raises(UserError, match="the loss of the probe is not finite"):
    metrics.fit_probe(x, y, 1e-2, start=found._replace(bias=np.full(4, np.nan, np.float32)))
  for features, labels in ((x[:, 0], y), (x, y[:5]), (x, y.astype(float)), (x[:0], y[:0])):
    with pytest.raises(ValueError, match=r"features .* and labels"):
      metrics.fit_probe(features, labels, 1e-2)
  with pytest.raises(ValueError, match="strength is 0"):
    metrics.fit_probe(x, y, 0)
  with pytest.raises(ValueError, match="columns"):
    metrics.linear_probe((x, y), (x[:, :2], y), (x, y))
