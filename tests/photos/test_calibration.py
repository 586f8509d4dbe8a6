"""The correlation of standard deviation and error, as NumPy has it in float64."""

import numpy as np
import pytest
from PIL import Image
from scored_folders import NOISE, Recorder, photo, save, soften

from vae_jax.errors import UserError
from vae_jax.photos.calibration import Moments
from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_correlation_of_spread_and_error(tmp_path, no_packages):
  folder = save(tmp_path, {"a.png": photo(24, 24), "b.png": photo(32, 20, seed=1)})
  drawn = []

  def draw(noisy, n):
    scale = np.random.default_rng(len(drawn)).uniform(0.01, 0.2, noisy.shape)
    draws = 0.5 + len(drawn) + scale * np.random.default_rng(99).standard_normal((n, *noisy.shape))
    drawn.append(draws.astype(np.float32))
    return drawn[-1]

  ours = Recorder(soften)
  scores, _ = benchmark(ours, folder, NOISE, channels=3, draw=draw, samples=5)
  spread, error = [], []
  for i, name in enumerate(("a.png", "b.png")):
    clean = np.asarray(Image.open(folder / name)) / np.float32(255)
    spread.append(drawn[i].astype(np.float64).std(axis=0, ddof=1).ravel())
    error.append(
      np.abs(soften(ours.seen[i]).astype(np.float64) - clean).ravel()
    )  # neither clipped nor rounded
  each = [np.corrcoef(s, e)[0, 1] for s, e in zip(spread, error, strict=True)]
  np.testing.assert_allclose([e["correlation"] for e in scores["images"]], each, rtol=1e-9)
  found = scores["uncertainty"]
  assert found["samples"] == scores["protocol"]["samples"] == 5 == len(drawn[0])
  spread, error = np.concatenate(spread), np.concatenate(error)
  assert found["correlation"] == pytest.approx(np.corrcoef(spread, error)[0, 1], rel=1e-9)
  assert found["correlation_per_image_mean"] == pytest.approx(np.mean(each), rel=1e-9)
  assert found["mean_deviation"] == pytest.approx(spread.mean(), rel=1e-9)
  assert found["mean_error"] == pytest.approx(error.mean(), rel=1e-9)
  assert f"uncertainty (5 draws) and error of a pixel: correlation {found['correlation']:.3f}" in table(
    scores
  )
  with pytest.raises(UserError, match="samples=1: the uncertainty needs at least 2 draws"):
    benchmark(ours, folder, NOISE, channels=3, draw=draw, samples=1)


def test_moments_of_a_small_spread_about_a_large_mean():
  random = np.random.default_rng(0)
  x = 1000 + 0.01 * random.standard_normal(3000)
  y = 0.5 * x + 0.01 * random.standard_normal(3000)
  parts = [Moments().add(a, b) for a, b in zip(np.split(x, 3), np.split(y, 3), strict=True)]
  merged = parts[0].merge(parts[1]).merge(parts[2])
  assert merged.correlation == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-7)
  assert merged.number == 3000


def test_undefined_correlation(tmp_path, no_packages):
  folder = save(tmp_path, {"a.png": photo(24, 24)})
  scores, _ = benchmark(
    soften, folder, NOISE, channels=3, draw=lambda x, n: np.full((n, *x.shape), 0.3, np.float32)
  )
  assert scores["uncertainty"]["correlation"] is None and "correlation undefined" in table(scores)
  names = ["images/a.png/correlation", "uncertainty/correlation", "uncertainty/correlation_per_image_mean"]
  assert scores["nonfinite"] == names
  scores, _ = benchmark(
    soften, folder, NOISE, channels=3, draw=lambda x, n: np.full((n, *x.shape), np.inf, np.float32)
  )
  assert scores["uncertainty"]["correlation"] is None


def test_draws_of_another_shape(tmp_path, no_packages):
  save(tmp_path, {"a.png": photo(24, 24)})
  with pytest.raises(ValueError, match=r"draw returned .* expected float32\[8, 24, 24, 3\]"):
    benchmark(soften, tmp_path, NOISE, channels=3, draw=lambda x, n: np.zeros((n - 1, *x.shape), np.float32))
