"""The energy distance against scipy's, and against a closed form."""

import math

import numpy as np
import pytest
from scipy import stats

from vae_jax.metrics import energy, energy_distance

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (2, 2), (7, 300)])
def test_numbers_as_scipy(n, m, monkeypatch):
  """scipy counts pairs of a number with itself, and takes the square root."""
  monkeypatch.setattr(energy, "BLOCK", 16)
  x, y = RANDOM.normal(size=n), 0.5 + 2 * RANDOM.normal(size=m)
  within = {
    name: np.abs(a[:, None] - a).sum() / len(a) ** 2 / (len(a) - 1) for name, a in (("x", x), ("y", y))
  }
  got = energy_distance(x[:, None], y[:, None]) + within["x"] + within["y"]
  np.testing.assert_allclose(math.sqrt(got), stats.energy_distance(x, y), rtol=1e-9)


def test_unbiased_and_in_the_unit_of_the_vectors():
  """One distribution has 0 on average; points at two places have twice their distance."""
  found = [energy_distance(RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(8, 3))) for _ in range(2000)]
  assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(2000) and np.min(found) < 0
  a, b = np.zeros((3, 2)), np.tile([3.0, 4.0], (4, 1))
  assert energy_distance(a, b) == pytest.approx(10.0)
  assert energy_distance(7 * a, 7 * b) == pytest.approx(70.0)


def test_what_it_refuses():
  good = np.zeros((3, 2))
  for bad in (np.zeros((1, 2)), np.zeros((3, 4)), np.zeros(3)):
    with pytest.raises(ValueError, match=r"give \[n, d\] and \[m, d\]"):
      energy_distance(good, bad)
  assert math.isnan(energy_distance(good, np.full((2, 2), np.nan)))
