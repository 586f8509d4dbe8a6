"""benchmarks/gradient_snr.py: its statistics, and the slopes of theory on a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from linear_gaussian import IMAGE, MODEL, params_of

snr = scripts.script("benchmarks/gradient_snr")


def test_statistics_are_those_of_the_draws():
  """Normal draws of known mean and deviation; the length of the mean is told without bias, where it is small too."""
  mean, deviation, draws = np.array([0.3, -0.1, 0.0]), np.array([1.0, 0.5, 2.0]), 4000
  keys = jax.random.split(jax.random.key(0), draws)
  own, variance = snr.moments(lambda key: mean + deviation * jax.random.normal(key, (3,)), keys)
  values = mean + deviation * np.asarray(jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys), np.float64)
  np.testing.assert_allclose(own, values.mean(0), atol=1e-5)
  np.testing.assert_allclose(variance, values.var(0, ddof=1), rtol=1e-4)
  found = snr.ratios(mean, deviation**2, 10**9)
  np.testing.assert_allclose(found["snr"], np.sqrt(0.1 / 5.25), rtol=1e-6)
  np.testing.assert_allclose(found["snr_elements"], (0.3 + 0.2 + 0.0) / 3, rtol=1e-6)
  assert snr.ratios(own, variance, draws)["length"] == pytest.approx(np.sqrt(0.1), abs=0.05)
  assert snr.ratios(np.full(3, 0.01), deviation**2, 100)["snr"] == 0.0
  assert snr.ratios(np.ones(2), np.zeros(2), 9)["snr"] == np.inf


def test_slopes_are_those_of_theory():
  """For a linear model (Rainforth et al. 2018, theorem 1; Tucker et al. 2019): K^-1/2 of standard, K^1/2 of dreg."""
  variables = {"params": params_of(1.0, 0.3)}
  batch = {"image": jnp.asarray(IMAGE)}
  rows = snr.measure(MODEL, variables, batch, [16, 128], ["standard", "dreg"], 500, seed=0)
  assert [row["samples"] for row in rows] == [16] * 2 + [128] * 2
  found = snr.slopes(rows)
  assert found["standard"] == pytest.approx(-0.5, abs=0.12) and found["dreg"] == pytest.approx(0.5, abs=0.12)
  assert rows[1]["cosine"] == pytest.approx(1.0) and rows[0]["cosine"] > 0.9
  assert rows[0]["length"] == pytest.approx(rows[1]["length"], rel=0.2)  # both are unbiased
  assert snr.table_of(rows).splitlines()[0] == "| K | standard | dreg |"
