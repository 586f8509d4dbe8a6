"""How well standard deviations say how large errors are, as NumPy has it in float64."""

import numpy as np
import pytest
from PIL import Image
from scored_folders import NOISE, Recorder, photo, save, soften

from vae_jax.photos.calibration import Moments
from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_deviation_and_error_as_numpy_has_them(tmp_path, no_packages):
  folder = save(tmp_path, {"a.png": photo(24, 24), "b.png": photo(32, 20, seed=1)})
  given = []

  def deviation(noisy):
    given.append(np.random.default_rng(len(given)).uniform(0.01, 0.2, noisy.shape).astype(np.float32))
    return given[-1]

  ours = Recorder(soften)
  scores, _ = benchmark(ours, folder, NOISE, channels=3, deviation=deviation)
  error = []
  for i, name in enumerate(("a.png", "b.png")):
    clean = np.asarray(Image.open(folder / name)) / np.float32(255)
    output = soften(ours.seen[i]).astype(np.float64)  # neither clipped nor rounded
    error.append(np.abs(output - clean).ravel())
  spread = [x.astype(np.float64).ravel() for x in given]
  each = [np.corrcoef(s, e)[0, 1] for s, e in zip(spread, error, strict=True)]
  np.testing.assert_allclose([e["correlation"] for e in scores["images"]], each, rtol=1e-9)
  found = scores["uncertainty"]
  spread, error = np.concatenate(spread), np.concatenate(error)
  assert found["correlation"] == pytest.approx(np.corrcoef(spread, error)[0, 1], rel=1e-9)
  assert found["correlation_per_image_mean"] == pytest.approx(np.mean(each), rel=1e-9)
  assert found["coverage"] == pytest.approx(np.mean(error <= 2 * spread), rel=1e-12)
  ratio = np.sqrt(np.mean(error**2) / np.mean(spread**2))
  assert found["rms_error_over_deviation"] == pytest.approx(ratio, rel=1e-9)
  assert found["mean_deviation"] == pytest.approx(spread.mean(), rel=1e-9)
  assert found["mean_error"] == pytest.approx(error.mean(), rel=1e-9)
  words = f"{found['correlation']:.3f}; {found['coverage']:.1%} of errors within 2 deviations"
  assert words in table(scores)


def test_draws_are_scored_as_methods(tmp_path, no_packages):
  folder = save(tmp_path, {"a.png": photo(24, 24)})
  rough = lambda noisy: soften(noisy) + np.float32(0.1)  # noqa: E731
  scores, _ = benchmark(soften, folder, NOISE, channels=3, draws=[soften, rough])
  assert scores["mean"]["draw 1"] == scores["mean"]["ours"]
  assert scores["mean"]["draw 2"]["psnr_rgb"] < scores["mean"]["ours"]["psnr_rgb"] - 1
  assert "draw 2" in table(scores) and "uncertainty" not in scores


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
  scores, _ = benchmark(soften, folder, NOISE, channels=3, deviation=lambda x: np.full_like(x, 0.3))
  assert scores["uncertainty"]["correlation"] is None and "error of a pixel undefined" in table(scores)
  names = ["images/a.png/correlation", "uncertainty/correlation", "uncertainty/correlation_per_image_mean"]
  assert scores["nonfinite"] == names
  scores, _ = benchmark(soften, folder, NOISE, channels=3, deviation=lambda x: np.full_like(x, np.inf))
  assert scores["uncertainty"]["correlation"] is None and scores["uncertainty"]["coverage"] is None


def test_deviations_of_another_shape(tmp_path, no_packages):
  save(tmp_path, {"a.png": photo(24, 24)})
  with pytest.raises(ValueError, match=r"deviation returned .* expected float32\[24, 24, 3\]"):
    benchmark(soften, tmp_path, NOISE, channels=3, deviation=lambda x: np.zeros((23, 24, 3), np.float32))
