"""What the baselines are given: the noise as it is, its sigma, and counts of unit variance."""

import functools
import sys
import types

import numpy as np
import PIL
import pytest
from PIL import Image
from scored_folders import BICUBIC, IDENTITY, NOISE, Recorder, decibels, enlarge, photo, save, soften

from vae_jax.photos import baselines
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
  assert scores["protocol"]["missing"][:2] == ["bm3d", "scikit-image"]  # PyWavelets is not always there
  assert list(scores["mean"]) == ["ours", "wiener", "noisy"] == list(scores["seconds"])
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
    assert list(scores["mean"]) == ["ours", "bm3d", "wiener", "noisy"]
    assert "scikit-image" in scores["protocol"]["missing"]
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


def test_small_images_are_enlarged_by_what_a_person_has(tmp_path):
  ours = Recorder(enlarge)
  scores, _ = benchmark(ours, save(tmp_path, {"a.png": photo(48, 40)}), BICUBIC, channels=3)
  assert list(scores["mean"]) == ["ours", "bicubic", "lanczos", "bicubic_pillow", "unsharp"]
  words = scores["protocol"]["baselines"]
  assert all(f"Pillow {PIL.__version__}" in words[name] for name in ("lanczos", "bicubic_pillow", "unsharp"))
  small = Image.fromarray(np.uint8(np.rint(255 * ours.seen[0])))
  expected = decibels(
    np.asarray(small.resize((40, 48), Image.Resampling.LANCZOS)) / 255.0, photo(48, 40) / 255.0
  )
  assert scores["mean"]["lanczos"]["psnr_rgb"] == pytest.approx(expected, abs=1e-3)


def test_pairs_of_one_size_have_denoisers_at_their_best_sigma(tmp_path, monkeypatch):
  """A method that is right at 10 grey levels; wherever the search starts, it is found."""
  clean = photo(24, 24, 1)
  noisy = np.uint8(np.clip(clean + 20 * np.random.default_rng(0).standard_normal(clean.shape), 0, 255))
  calls = fake_bm3d(monkeypatch, lambda x, sigma: clean[..., 0] / 255 + abs(sigma - 10 / 255))
  scores, picture = benchmark(
    soften, save(tmp_path, {"a_LR.png": noisy, "a_HR.png": clean}), IDENTITY, channels=1
  )
  assert list(scores["mean"]) == ["ours", "bm3d_best", "input"] and len(calls) == 5  # 20, 30, 15, 10, 7
  assert scores["mean"]["bm3d_best"]["psnr_y"] == 100
  assert "BM3D, best sigma" in table(scores) and "against the clean image" in str(scores["protocol"])
  assert picture.shape[1] == 12 + 4 * 268  # input, BM3D, ours, original


@pytest.mark.parametrize(
  ("chain", "sigma"),
  [
    ("noise 25", 25 / 255),
    ("blur 1; noise 25; round", 25 / 255),
    ("noise 0; round", 0.0),
    ("jpeg 30", 0.0),
    ("noise 5..50", None),
    ("noise 5|50", None),
    ("noise 25 @0.5", None),
    ("noise 25; noise 5", None),
    ("linear; noise 25; srgb", None),  # not as strong everywhere
    ("noise 25; jpeg 30", None),
    ("camera 5 2", None),
  ],
)
def test_sigma_of_a_chain(chain, sigma):
  """None: of each image, the root mean square of what was added."""
  assert baselines.sigma_of({"name": "chain", "chain": chain}) == sigma


@pytest.mark.parametrize(
  ("chain", "block"),
  [
    ("noise 9", 0),
    ("jpeg 9", 8),
    ("down 2 box; jpeg 9", 16),
    ("jpeg 9; down 2 box", 8),
    ("jpeg 9; down 4 box; jpeg 9", 32),
    ("jpeg 9; jpeg 9 420|444 aligned|anywhere", 0),
  ],
)
def test_blocks_of_a_chain(chain, block):
  assert baselines.block_of({"name": "chain", "chain": chain}) == block


def test_noise_of_a_chain_in_8_bits(tmp_path, monkeypatch):
  calls = fake_bm3d(monkeypatch)
  pixels = photo(24, 24, 1)
  pixels[:12] = 0
  scores, _ = benchmark(
    soften, save(tmp_path, {"a.png": pixels}), {"name": "chain", "chain": "noise 50; round"}, channels=1
  )
  ((_, noisy, sigma),) = calls
  assert sigma == 50 / 255 and 0.3 < (noisy[:12] == 0).mean() < 0.7
  np.testing.assert_allclose(noisy * 255, np.rint(noisy * 255), atol=1e-4)
  assert list(scores["mean"]) == ["ours", "bm3d", "wiener", "noisy"]
  assert scores["protocol"]["degradation"] == "noise 50; round"
  assert scores["protocol"]["degraded"] == "rounded to 8 bits"


def test_a_baseline_that_fails_is_reported_and_loses_no_other(tmp_path, monkeypatch):
  def denoise(noisy, sigma):
    if noisy.shape[1] == 26:
      raise MemoryError("no\nspace")
    return noisy[:9] if noisy.shape[1] == 28 else noisy + (np.nan if noisy.shape[1] == 30 else 0)

  fake_bm3d(monkeypatch, denoise)
  folder = save(tmp_path, {f"{w}.png": photo(24, w) for w in (24, 26, 28, 30)})
  scores, picture = benchmark(soften, folder, NOISE, channels=3)
  reasons = ["MemoryError: no space", "its output is (9, 28, 3)", "its output is not finite"]
  assert scores["failed"] == [
    {"name": f"{w}.png", "baseline": "bm3d", "reason": r} for w, r in zip((26, 28, 30), reasons, strict=True)
  ]
  first, *others = (entry["bm3d"]["psnr_y"] for entry in scores["images"])
  assert first > 15 and others == [None] * 3 and scores["mean"]["bm3d"]["psnr_y"] is None
  assert all(None not in scores["mean"][name].values() for name in ("ours", "wiener", "noisy"))
  assert scores["seconds"]["bm3d"]["images"][1:] == [None] * 3 and scores["seconds"]["bm3d"]["median"] >= 0
  lines = table(scores).splitlines()
  assert "  BM3D failed on 26.png: MemoryError: no space" in lines and "differences to Wiener" in table(
    scores
  )
  assert picture.shape[1] == 12 + 4 * 268  # with the filter that did not fail


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
  assert protocol["degradation"] == "noise 10..60; round"
  assert protocol["degraded"] == "rounded to 8 bits" and protocol["degrade"]["chain"] == noisy["chain"]
  for (_, given, sigma), name in zip(calls, ("a.png", "b.png"), strict=True):
    clean = np.asarray(Image.open(folder / name).convert("RGB")) / 255.0
    np.testing.assert_allclose(sigma, np.sqrt(np.mean((given - clean) ** 2)), rtol=1e-5)
    np.testing.assert_allclose(given * 255, np.rint(given * 255), atol=1e-4)
  smaller = {**noisy, "chain": "down 2 box; jpeg 50"}
  protocol = benchmark(enlarge, folder, smaller, channels=3)[0]["protocol"]
  assert (protocol["factor"], protocol["crop"], protocol["degraded"]) == (2, 2, "rounded to 8 bits")
  assert protocol["degradation"] == "down 2 box; jpeg 50"
  blurred = benchmark(soften, folder, {**noisy, "chain": "blur 1"}, channels=3)[0]
  assert list(blurred["mean"]) == ["ours", "input"]  # there is no noise to remove
