"""What the baselines are given: the noise as it is, its sigma, and counts of unit variance."""

import functools
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image
from scored_folders import BICUBIC, IDENTITY, NOISE, Recorder, decibels, enlarge, photo, save, soften

from vae_jax.photos import baselines
from vae_jax.photos.baselines import stabilised
from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def fake_bm3d(monkeypatch, denoise=lambda noisy, sigma: noisy):
  """A module in place of bm3d; returns the list of its calls, (function, noisy, sigma)."""
  calls = []

  def function(name, noisy, sigma_psd):
    calls.append((name, noisy, sigma_psd))
    return denoise(noisy, sigma_psd)

  fake = types.SimpleNamespace(
    bm3d=functools.partial(function, "grey"), bm3d_rgb=functools.partial(function, "colour")
  )
  monkeypatch.setitem(sys.modules, "bm3d", fake)
  monkeypatch.setitem(sys.modules, "skimage.restoration", None)
  return calls


def test_missing_packages_are_named(tmp_path, no_packages):
  folder = save(tmp_path, {"a.png": photo(24, 24)})
  scores, _ = benchmark(soften, folder, NOISE, channels=3)
  assert scores["protocol"]["missing"] == ["bm3d", "scikit-image"]
  assert list(scores["mean"]) == ["ours", "noisy"] == list(scores["seconds"])
  assert "not installed: bm3d, scikit-image" in table(scores)
  assert benchmark(enlarge, folder, BICUBIC, channels=3)[0]["protocol"]["missing"] == []


def test_bm3d_gets_the_noise_as_it_is_and_its_sigma(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch, lambda noisy, sigma: 0 * noisy + 0.25)
  folder = save(tmp_path, {"a.png": photo(24, 24)})
  for channels, name in ((1, "grey"), (3, "colour")):
    ours = Recorder()
    scores, _ = benchmark(ours, folder, NOISE, channels=channels)
    function, noisy, sigma = calls.pop()
    assert (function, sigma, noisy.dtype) == (name, 0.1, np.float64) and not calls
    np.testing.assert_array_equal(noisy.reshape(24, 24, channels), ours.seen[0])
    assert list(scores["mean"]) == ["ours", "bm3d", "noisy"]
    assert scores["protocol"]["missing"] == ["scikit-image"]
    assert "sigma given" in scores["protocol"]["baselines"]["bm3d"]
    clean = np.asarray(Image.open(folder / "a.png").convert("RGB" if channels == 3 else "L")) / 255.0
    expected = decibels(np.full((24, 24, channels), 64 / 255), clean.reshape(24, 24, channels))
    metric = "psnr_rgb" if channels == 3 else "psnr_y"
    assert scores["mean"]["bm3d"][metric] == pytest.approx(expected, abs=0.02)


def test_a_range_of_sigma(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch)
  folder = save(tmp_path, {f"{i}.png": photo(24, 24, seed=i) for i in range(3)})
  ours = Recorder()
  scores, _ = benchmark(ours, folder, {**NOISE, "sigma": 0.05, "sigma_max": 0.4}, channels=3)
  told = [sigma for _, _, sigma in calls]
  for i, sigma in enumerate(told):
    clean = np.asarray(Image.open(folder / f"{i}.png")) / 255.0
    assert sigma == pytest.approx((ours.seen[i] - clean).std(), rel=0.01)
  assert all(0.05 < sigma < 0.42 for sigma in told) and max(told) - min(told) > 0.02
  assert "root mean square" in scores["protocol"]["baselines"]["bm3d"]


def test_without_noise_there_is_nothing_to_denoise(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch)
  folder = save(tmp_path, {"a.png": photo(24, 24)})
  scores, _ = benchmark(soften, folder, {**NOISE, "sigma": 0.0}, channels=3)
  assert not calls and list(scores["mean"]) == ["ours", "noisy"] and scores["protocol"]["missing"] == []
  assert scores["mean"]["noisy"]["psnr_rgb"] == 100.0


def test_photon_noise_is_stabilised(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch)
  pixels = np.tile(np.uint8([[[60]], [[120]], [[240]]]).repeat(32, 0), (1, 96, 1))
  degrade = {"name": "poisson_gaussian", "peak": 40.0, "sigma": 0.03}
  scores, _ = benchmark(soften, save(tmp_path, {"a.png": pixels}), degrade, channels=1)
  ((_, given, sigma),) = calls
  assert sigma == 1.0
  for band in np.split(given, 3):
    assert band.std() == pytest.approx(1.0, abs=0.05)
  assert "Anscombe" in scores["protocol"]["baselines"]["bm3d"]
  assert scores["protocol"]["degradation"] == "poisson_gaussian, peak 40, sigma 0.03"


@pytest.mark.parametrize("rate", [0.0, 0.7, 2.0, 10.0, 50.0])
def test_the_inverse_is_unbiased(rate):
  """Of the mean of the transformed counts, which is what a perfect denoiser finds, it makes the rate."""
  peak = 50.0
  counts = np.arange(200)
  log_factorial = np.cumsum(np.log(np.maximum(counts, 1)))
  p = np.exp(counts * math.log(rate) - rate - log_factorial) if rate else np.eye(1, 200)[0]
  found = stabilised(lambda f, _: np.full_like(f, (p * f.ravel()).sum()), peak, 0.0)
  assert found((counts / peak).reshape(-1, 1, 1), 1.0)[0, 0, 0] == pytest.approx(rate / peak, abs=0.02 / peak)
  with np.errstate(all="raise"):
    dark = stabilised(lambda f, _: f - 9, peak, 0.1)(np.full((3, 3, 1), -1.0), 1.0)
  np.testing.assert_array_equal(dark, 0)


def test_real_bm3d(tmp_path):
  pytest.importorskip("bm3d")
  clean = photo(64, 64, 1) / 255.0
  noisy = (clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
  result = baselines._bm3d(noisy, 0.1)
  assert result.shape == (64, 64, 1)
  assert decibels(result, clean) > decibels(noisy, clean) + 4
  black = np.zeros((16, 16, 3), np.float32)
  np.testing.assert_array_equal(baselines._bm3d(black, 0.1), black)


@pytest.mark.parametrize("channels", [1, 3])
def test_real_nlm(tmp_path, monkeypatch, channels):
  pytest.importorskip("skimage.restoration")
  monkeypatch.setitem(sys.modules, "bm3d", None)
  scores, _ = benchmark(soften, save(tmp_path, {"a.png": photo(32, 32)}), NOISE, channels=channels)
  assert list(scores["mean"]) == ["ours", "nlm", "noisy"]
  assert scores["mean"]["nlm"]["psnr_y"] > scores["mean"]["noisy"]["psnr_y"] + 1
  assert "h=0.8*sigma" in scores["protocol"]["baselines"]["nlm"]


def test_identity_has_no_baseline(tmp_path):
  ours = Recorder()
  pixels = photo(33, 35)
  scores, picture = benchmark(ours, save(tmp_path, {"a.png": pixels}), IDENTITY, channels=3)
  np.testing.assert_array_equal(ours.seen[0], pixels / np.float32(255))  # nothing is cut
  assert list(scores["mean"]) == ["ours"] and scores["protocol"]["baselines"] == {}
  assert "difference" not in table(scores)
  assert picture.shape[1] == 12 + 3 * 268  # input, ours, original


def test_chains_are_scored_by_their_factor_and_the_noise_of_each_image(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch)
  folder = save(tmp_path, {"a.png": photo(24, 24), "b.png": photo(24, 24, 1)})
  noisy, ours = {**IDENTITY, "name": "chain", "chain": "noise 10..60; round"}, Recorder()
  scores, _ = benchmark(ours, folder, noisy, channels=3)
  protocol = scores["protocol"]
  assert protocol["degradation"] == "chain: noise 10..60; round"
  assert protocol["degraded"] == "as the chain leaves them" and protocol["degrade"]["chain"] == noisy["chain"]
  for (_, given, sigma), name in zip(calls, ("a.png", "b.png"), strict=True):
    clean = np.asarray(Image.open(folder / name).convert("RGB")) / 255.0
    np.testing.assert_allclose(sigma, np.sqrt(np.mean((given - clean) ** 2)), rtol=1e-5)
    np.testing.assert_allclose(given * 255, np.rint(given * 255), atol=1e-4)
  smaller = {**noisy, "chain": "down 2 box; jpeg 50"}
  protocol = benchmark(enlarge, folder, smaller, channels=3)[0]["protocol"]
  assert (protocol["factor"], protocol["crop"], protocol["degraded"]) == (2, 2, "rounded to 8 bits")
  assert protocol["degradation"] == "chain, factor 2: down 2 box; jpeg 50"
  blurred = benchmark(soften, folder, {**noisy, "chain": "blur 1"}, channels=3)[0]
  assert list(blurred["mean"]) == ["ours", "noisy"]  # there is no noise to remove
