"""The protocol of a benchmark, number by number: how images are degraded, cropped and rounded; what is reported."""

import functools
import json
import math
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from vae_jax import perceptual
from vae_jax.config import base_config
from vae_jax.data.degrade import bicubic_down, bicubic_up, gaussian_blur
from vae_jax.errors import UserError
from vae_jax.evaluation import write_json
from vae_jax.photos import score_folder as module
from vae_jax.photos.score_folder import benchmark, stabilised, table
from vae_jax.pictures import BACKGROUND

BICUBIC = {"name": "bicubic_down", "factor": 2}
NOISE = {"name": "gaussian_noise", "sigma": 0.1, "sigma_max": 0.0}
IDENTITY = {"name": "identity"}


def photo(height, width, channels=3, seed=0):
  """Smooth patches, edges and a little texture, uint8."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / random.uniform(2, 9) + y / random.uniform(2, 9)) for _ in range(channels)]
  image = 0.5 + 0.2 * np.stack(waves, -1) + 0.2 * ((x // 13 + y // 11) % 2)[..., None]
  return np.uint8(np.rint(255 * np.clip(image + 0.03 * random.standard_normal(image.shape), 0, 1)))


def save(folder, images):
  for name, pixels in images.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
  return folder


def enlarge(low):
  return np.asarray(bicubic_up(low, 2))


def soften(noisy):
  return np.asarray(gaussian_blur(noisy, 1.0))


class Recorder:
  """A restoration that keeps what it was given; the same array twice once, as it comes back to be timed."""

  def __init__(self, restore=lambda x: x):
    self.restore, self.seen = restore, []

  def __call__(self, degraded):
    if not (self.seen and self.seen[-1] is degraded):
      self.seen.append(degraded)
    return self.restore(degraded)


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def no_packages(monkeypatch):
  """Neither BM3D nor scikit-image: quick, and the same on every machine."""
  monkeypatch.setitem(sys.modules, "bm3d", None)
  monkeypatch.setitem(sys.modules, "skimage.restoration", None)


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


def eight_bits(x):
  return np.rint(255 * np.clip(np.asarray(x, np.float64), 0, 1)) / 255


def luma(x):
  return (16 + x @ np.array([65.481, 128.553, 24.966])[:, None]) / 255 if x.shape[-1] == 3 else x


def decibels(a, b, crop=0):
  h, w = b.shape[:2]
  return -10 * np.log10(np.mean((a - b)[crop : h - crop, crop : w - crop] ** 2))


# --- down-sampling ---


@pytest.mark.parametrize("channels", [1, 3])
def test_super_resolution_by_hand(tmp_path, channels):
  """Cut, shrunk, rounded, enlarged, rounded, cropped: all of it again in float64."""
  pixels = photo(45, 39, channels)
  save(tmp_path, {"a.png": pixels})
  ours = Recorder(lambda low: 1.02 * enlarge(low) - 0.015)
  scores, _ = benchmark(ours, tmp_path, BICUBIC, channels=channels)

  clean = pixels[:44, :38] / 255.0
  low = eight_bits(bicubic_down(None, clean.astype(np.float32), 2))
  assert ours.seen[0].dtype == np.float32 and isinstance(ours.seen[0], np.ndarray)
  np.testing.assert_allclose(ours.seen[0], low, atol=1e-7)
  large = np.asarray(bicubic_up(low.astype(np.float32), 2), np.float64)
  expected = {"ours": eight_bits(1.02 * large - 0.015), "bicubic": eight_bits(large)}
  (entry,) = scores["images"]
  assert (entry["name"], entry["height"], entry["width"]) == ("a.png", 44, 38)
  assert list(scores["mean"]) == ["ours", "bicubic"]
  for method, output in expected.items():
    found = entry[method]
    assert list(found) == (["psnr_rgb", "psnr_y", "ssim_y"] if channels == 3 else ["psnr_y", "ssim_y"])
    assert found["psnr_y"] == pytest.approx(decibels(luma(output), luma(clean), 2), abs=2e-3)
    # The protocol is what is tested, not just a number near: each departure from it is further away than that.
    assert abs(decibels(luma(output), luma(clean)) - found["psnr_y"]) > 0.01
    if channels == 3:
      assert found["psnr_rgb"] == pytest.approx(decibels(output, clean), abs=2e-3)
  protocol = scores["protocol"]
  assert (protocol["crop"], protocol["factor"], protocol["channels"]) == (2, 2, channels)
  assert (protocol["pairs"], protocol["missing"], protocol["degrade"]) == (False, [], BICUBIC)
  assert protocol["degraded"] == "rounded to 8 bits"
  assert list(protocol["metrics"]) == list(entry["ours"])


def test_ssim_is_that_of_scikit_image(tmp_path):
  structure = pytest.importorskip("skimage.metrics")
  pixels = photo(45, 39)
  ours = Recorder(enlarge)
  scores, _ = benchmark(ours, save(tmp_path, {"a.png": pixels}), BICUBIC, channels=3)
  output = eight_bits(bicubic_up(ours.seen[0], 2))
  a, b = (luma(x)[2:-2, 2:-2, 0] for x in (output, pixels[:44, :38] / 255.0))
  expected = structure.structural_similarity(
    a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
  )
  # It averages without 5 pixels at each border, as ours does.
  assert scores["images"][0]["ours"]["ssim_y"] == pytest.approx(expected, abs=1e-4)


def test_the_degraded_image_cannot_be_changed(tmp_path):
  """The baselines see the same array."""

  def restore(low):
    low *= 2
    return enlarge(low)

  with pytest.raises(ValueError, match="read-only"):
    benchmark(restore, save(tmp_path, {"a.png": photo(24, 24)}), BICUBIC, channels=3)


@pytest.mark.parametrize("factor", [3, 4])
def test_factor(tmp_path, factor):
  scores, _ = benchmark(
    lambda low: np.asarray(bicubic_up(low, factor)),
    save(tmp_path, {"a.png": photo(50, 41)}),
    {"name": "blur_down", "factor": factor, "blur": 0.5},
    channels=3,
  )
  entry = scores["images"][0]
  assert (entry["height"], entry["width"]) == (50 // factor * factor, 41 // factor * factor)
  assert entry["ours"] == entry["bicubic"] and scores["protocol"]["crop"] == factor
  assert scores["protocol"]["degradation"] == f"blur_down, factor {factor}, blur 0.5"


def test_outputs_are_clipped_and_rounded(tmp_path):
  pixels = photo(32, 32)
  pixels[:8], pixels[8:16] = 0, 255
  clean = pixels / np.float32(255)
  shift = np.where(clean < 0.5, -1, 1) * 0.4 / 255 + np.where(clean == 0, -3, np.where(clean == 1, 3, 0))
  save(tmp_path, {"a.png": pixels})
  scores, _ = benchmark(lambda x: (x + shift).astype(np.float32), tmp_path, IDENTITY, channels=3)
  assert scores["mean"]["ours"] == pytest.approx({"psnr_rgb": 100, "psnr_y": 100, "ssim_y": 1}, abs=1e-6)
  shift += np.where(clean < 0.5, -1, 1) * 0.2 / 255  # 0.6 of a grey level is one
  scores, _ = benchmark(lambda x: (x + shift).astype(np.float32), tmp_path, IDENTITY, channels=3)
  inside = ((pixels > 0) & (pixels < 255)).mean()
  assert scores["mean"]["ours"]["psnr_rgb"] == pytest.approx(-10 * math.log10(inside / 255**2), abs=1e-3)


def test_identity_has_no_baseline(tmp_path):
  ours = Recorder()
  pixels = photo(33, 35)
  scores, picture = benchmark(ours, save(tmp_path, {"a.png": pixels}), IDENTITY, channels=3)
  np.testing.assert_array_equal(ours.seen[0], pixels / np.float32(255))  # nothing is cut
  assert list(scores["mean"]) == ["ours"] and scores["protocol"]["baselines"] == {}
  assert "difference" not in table(scores)
  assert picture.shape[1] == 12 + 3 * 268  # input, ours, original


# --- noise ---


def test_noise_is_neither_clipped_nor_rounded(tmp_path, no_packages):
  pixels = photo(32, 32)
  pixels[:16] = 0
  ours = Recorder()
  degrade = {**NOISE, "sigma": 0.3}
  scores, _ = benchmark(ours, save(tmp_path, {"a.png": pixels}), degrade, channels=3)
  (noisy,) = ours.seen
  noise = noisy - pixels / 255.0
  assert noise.std() == pytest.approx(0.3, rel=0.06) and abs(noise.mean()) < 0.02
  assert (noisy[:16] < 0).mean() == pytest.approx(0.5, abs=0.06)
  assert np.abs(noisy * 255 - np.rint(noisy * 255)).max() > 0.4
  # The score of the noisy image itself, which is clipped and rounded as every output is; nothing is cropped.
  expected = decibels(eight_bits(noisy), pixels / 255.0)
  assert scores["mean"]["noisy"]["psnr_rgb"] == pytest.approx(expected, abs=1e-3)
  assert scores["mean"]["ours"] == scores["mean"]["noisy"]
  assert scores["protocol"]["crop"] == 0 and scores["protocol"]["degrade"] == degrade
  clean, outputs = (scores["protocol"][key] for key in ("degraded", "outputs"))
  assert clean == "not clipped, not rounded" and "rounded to 8 bits" in outputs


def test_noise_depends_on_seed_and_name_alone(tmp_path, no_packages):
  images = {name: photo(24, 24, 1) for name in ("b.png", "c/d.png", "e.png")}

  def noise(folder, **options):
    ours = Recorder()
    scores, _ = benchmark(ours, folder, NOISE, channels=1, **options)
    return dict(zip([e["name"] for e in scores["images"]], ours.seen, strict=True)), scores

  first, scores = noise(save(tmp_path / "x", images))
  again, same = noise(tmp_path / "x", seed=0)
  for name in images:
    np.testing.assert_array_equal(first[name], again[name])
  assert scores["images"] == same["images"] and scores["mean"] == same["mean"]
  assert len({image.tobytes() for image in first.values()}) == 3
  more, _ = noise(save(tmp_path / "y", {"a.png": photo(24, 24, 1), **images}))
  for name in images:
    np.testing.assert_array_equal(first[name], more[name])
  few, limited = noise(tmp_path / "y", limit=2)
  assert list(few) == ["a.png", "b.png"] and limited["count"] == 2
  np.testing.assert_array_equal(first["b.png"], few["b.png"])
  other, scores = noise(tmp_path / "x", seed=1)
  assert scores["protocol"]["seed"] == 1
  assert not any((first[name] == other[name]).all() for name in images)


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
  result = module._bm3d(noisy, 0.1)
  assert result.shape == (64, 64, 1)
  assert decibels(result, clean) > decibels(noisy, clean) + 4
  black = np.zeros((16, 16, 3), np.float32)
  np.testing.assert_array_equal(module._bm3d(black, 0.1), black)


@pytest.mark.parametrize("channels", [1, 3])
def test_real_nlm(tmp_path, monkeypatch, channels):
  pytest.importorskip("skimage.restoration")
  monkeypatch.setitem(sys.modules, "bm3d", None)
  scores, _ = benchmark(soften, save(tmp_path, {"a.png": photo(32, 32)}), NOISE, channels=channels)
  assert list(scores["mean"]) == ["ours", "nlm", "noisy"]
  assert scores["mean"]["nlm"]["psnr_y"] > scores["mean"]["noisy"]["psnr_y"] + 1
  assert "h=0.8*sigma" in scores["protocol"]["baselines"]["nlm"]


# --- pairs ---


def test_pairs(tmp_path):
  low, high = photo(17, 16), photo(35, 33, seed=1)
  images = {"a_LR.png": low, "a_HR.png": high, "b/c_LR.bmp": low[:16], "b/c.png": high[:32, :32]}
  ours = Recorder(enlarge)
  scores, _ = benchmark(ours, save(tmp_path, images), IDENTITY, channels=3)
  np.testing.assert_array_equal(ours.seen[0], low / np.float32(255))
  np.testing.assert_array_equal(ours.seen[1], low[:16] / np.float32(255))
  assert [(e["name"], e["height"], e["width"]) for e in scores["images"]] == [
    ("a_HR.png", 34, 32),
    ("b/c.png", 32, 32),
  ]
  protocol = scores["protocol"]
  assert protocol["pairs"] and (protocol["factor"], protocol["crop"]) == (2, 2)
  assert (protocol["degradation"], protocol["degraded"]) == ("pairs, factor 2", "as stored")
  output = eight_bits(bicubic_up(low / np.float32(255), 2))
  expected = decibels(luma(output), luma(high[:34, :32] / 255.0), 2)
  assert scores["images"][0]["ours"]["psnr_y"] == pytest.approx(expected, abs=2e-3)
  assert scores["images"][0]["bicubic"] == scores["images"][0]["ours"]
  assert benchmark(enlarge, tmp_path, BICUBIC, channels=1, limit=1)[0]["count"] == 1


def test_pairs_of_one_size(tmp_path):
  images = {"a_LR.png": photo(24, 24), "a.png": photo(24, 24, seed=1)}
  scores, picture = benchmark(Recorder(), save(tmp_path, images), IDENTITY, channels=3)
  assert list(scores["mean"]) == ["ours", "input"] and scores["mean"]["ours"] == scores["mean"]["input"]
  assert scores["protocol"]["crop"] == 0 and picture.shape[1] == 12 + 3 * 268
  benchmark(Recorder(), tmp_path, NOISE, channels=3)  # of the same size: they may stand for noise


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["a_LR.png", "a.png", "b.png"], r"pairs \(X_LR\) and single images \(b.png\)"),
    (["a_LR.png", "a.png", "b_HR.png"], r"single images \(b_HR.png\)"),
    (["a_LR.png"], "a_LR.png: a pair is one X_LR and one X_HR or X"),
    (["a_LR.png", "a.png", "a_HR.png"], "a.png, a_HR.png, a_LR.png: a pair is"),
    (["a_LR.png", "a.png", "a.bmp"], "a.bmp, a.png, a_LR.png: a pair is"),
    (["a_LR.png", "a_LR.bmp", "a.png"], "a.png, a_LR.bmp, a_LR.png: a pair is"),
    (["a_LR.png", "x/a.png"], "a_LR.png: a pair is"),
  ],
)
def test_unclear_pairs(tmp_path, names, message):
  save(tmp_path, {name: photo(16, 16) for name in names})
  with pytest.raises(UserError, match=message) as error:
    benchmark(Recorder(), tmp_path, IDENTITY, channels=3)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("low", "high", "degrade"),
  [
    ((16, 16), (48, 48), BICUBIC),  # of factor 3
    ((16, 16), (32, 32), NOISE),
    ((16, 16), (32, 48), IDENTITY),
    ((16, 16), (34, 32), IDENTITY),  # larger by more than can be cut
    ((17, 16), (33, 32), IDENTITY),  # rounded up: half a pixel at the border has no counterpart
    ((32, 32), (16, 16), IDENTITY),
  ],
)
def test_pairs_of_another_factor(tmp_path, low, high, degrade):
  save(tmp_path, {"a_LR.png": photo(*low), "a_HR.png": photo(*high)})
  with pytest.raises(
    UserError, match=f"a_HR.png of {high[0]} x {high[1]} and a_LR.png of {low[0]} x {low[1]}"
  ):
    benchmark(Recorder(), tmp_path, degrade, channels=3)


def test_pairs_share_one_factor(tmp_path):
  save(tmp_path, {"a_LR.png": photo(16, 16), "a_HR.png": photo(32, 32)})
  save(tmp_path, {"b_LR.png": photo(16, 16), "b_HR.png": photo(48, 48)})
  with pytest.raises(UserError, match=r"b_HR.png .* a factor of 2"):
    benchmark(Recorder(), tmp_path, IDENTITY, channels=3)


def test_a_damaged_half_of_a_pair(tmp_path):
  images = {f"{n}_{side}.png": photo(16 * s, 16 * s) for n in "ab" for side, s in (("LR", 1), ("HR", 2))}
  save(tmp_path, images)
  (tmp_path / "a_LR.png").write_bytes(b"no image")
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert [e["name"] for e in scores["images"]] == ["b_HR.png"]
  assert scores["skipped"][0]["name"] == "a_HR.png" and "a_LR.png" in scores["skipped"][0]["reason"]
  (tmp_path / "a_HR.png").write_bytes(b"no image")
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert scores["skipped"][0]["reason"].startswith("cannot be decoded")
  (tmp_path / "b_HR.png").write_bytes(b"")
  with pytest.raises(UserError, match="none of 2 images can be scored"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)


# --- what is reported ---


def test_means_are_over_all_images(tmp_path, no_packages):
  folder = save(tmp_path, {f"{i}.png": photo(24, 24, seed=i) for i in range(5)})
  scores, _ = benchmark(soften, folder, NOISE, channels=3, limit=4)
  assert scores["count"] == 4 == len(scores["images"]) and scores["skipped"] == [] == scores["nonfinite"]
  for method in ("ours", "noisy"):
    for metric, mean in scores["mean"][method].items():
      values = [entry[method][metric] for entry in scores["images"]]
      assert len(set(values)) == 4 and mean == pytest.approx(math.fsum(values) / 4, rel=1e-14)
    seconds = scores["seconds"][method]
    assert len(seconds["images"]) == 4 and min(seconds["images"]) >= 0
    assert seconds["mean"] == pytest.approx(sum(seconds["images"]) / 4)
    assert seconds["median"] == pytest.approx(np.median(seconds["images"]))
  assert seconds["median"] < 0.1  # of handing the noisy image on


def test_time_without_compilation(tmp_path, monkeypatch):
  """The first of a size takes 100 s, all others 1 s on a clock that stands still meanwhile."""
  now, compiled = [0.0], set()
  monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

  def restore(low):
    now[0] += 1 if low.shape in compiled else 100
    compiled.add(low.shape)
    return enlarge(low)

  widths = [24, 24, 26, 28, 30, 30, 32]
  save(tmp_path, {f"{i}.png": photo(24, w) for i, w in enumerate(widths)})
  scores, _ = benchmark(restore, tmp_path, BICUBIC, channels=3)
  # Four are timed when the fourth size comes: it is not restored again.
  assert scores["seconds"]["ours"] == {"mean": 1, "median": 1, "images": [1, 1, 1, None, None, 1, None]}
  assert scores["seconds"]["bicubic"]["images"] == [0, 0, 0, None, None, 0, None]
  assert now[0] == 5 * 100 + 2 + 2
  assert "without compilation" in scores["protocol"]["seconds"] and scores["nonfinite"] == []


def test_how_far_it_is(tmp_path, capsys):
  benchmark(enlarge, save(tmp_path, {"a.png": photo(24, 24), "b.png": photo(24, 24)}), BICUBIC, channels=3)
  assert capsys.readouterr().err == "scoring 2 images: 0 %, compiling\n"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite(tmp_path, no_packages, value):
  folder = save(tmp_path, {"a.png": photo(32, 32), "b.png": photo(32, 34, seed=1)})

  def restore(noisy):
    noisy = noisy.copy()
    if noisy.shape[1] == 34:
      noisy[20, 20, 1] = value
    return noisy

  def distance(a, b):
    assert np.isfinite(a).all()
    return np.abs(a - b).mean(axis=(1, 2, 3))

  scores, picture = benchmark(restore, folder, NOISE, channels=3, lpips=distance)
  first, second = scores["images"]
  assert all(math.isfinite(v) for v in first["ours"].values())
  assert second["ours"] == dict.fromkeys(("psnr_rgb", "psnr_y", "ssim_y", "lpips"))
  assert scores["mean"]["ours"] == second["ours"] and math.isfinite(scores["mean"]["noisy"]["psnr_y"])
  names = [f"{where}/ours/{m}" for where in ("mean", "images/b.png") for m in second["ours"]]
  assert scores["nonfinite"] == names
  assert "nan" in table(scores) and "8 not finite" in table(scores)
  write_json(tmp_path / "scores.json", scores)
  assert json.loads((tmp_path / "scores.json").read_text()) == scores
  assert picture.dtype == np.uint8


@pytest.mark.parametrize(
  "output",
  [
    np.zeros((24, 24, 1), np.float32),
    np.zeros((24, 24), np.float32),
    np.zeros((1, 24, 24, 3), np.float32),
    np.zeros((12, 12, 3), np.float32),
    np.zeros((24, 24, 3), np.uint8),
    np.float32(0),
  ],
)
def test_output_of_another_shape_or_type(tmp_path, output):
  save(tmp_path, {"a.png": photo(24, 24)})
  with pytest.raises(ValueError, match=r"restore returned .* expected float32\[24, 24, 3\]"):
    benchmark(lambda low: output, tmp_path, BICUBIC, channels=3)


def test_what_cannot_be_scored_is_named(tmp_path):
  images = {"a.png": photo(24, 24), "b.png": photo(15, 40), "c.png": photo(17, 40), "d.png": photo(16, 16)}
  save(tmp_path, images)
  (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert [e["name"] for e in scores["images"]] == ["a.png", "c.png", "d.png"]  # c is cut to 16 x 40
  assert scores["skipped"][0] == {"name": "b.png", "reason": "14 x 40 pixels; the least side is 16"}
  assert scores["skipped"][1]["name"] == "e.png"
  assert scores["skipped"][1]["reason"].startswith("cannot be decoded as an image (")
  assert "2 skipped" in table(scores)
  lines = table(scores).splitlines()[-2:]
  assert lines[0] == "  skipped b.png: 14 x 40 pixels; the least side is 16"
  assert lines[1].startswith("  skipped e.png: cannot be decoded as an image (")
  many = scores | {"skipped": [{"name": f"{i}.png", "reason": "why"} for i in range(23)]}
  assert table(many).splitlines()[-2:] == ["  skipped 19.png: why", "  skipped 3 more"]
  # A border of 4 leaves too little of 16 pixels for the window of SSIM.
  scores, _ = benchmark(
    lambda low: np.asarray(bicubic_up(low, 4)), tmp_path, {**BICUBIC, "factor": 4}, channels=3
  )
  assert [e["name"] for e in scores["images"]] == ["a.png"]
  assert {"name": "d.png", "reason": "16 x 16 pixels; the least side is 19"} in scores["skipped"]


def test_no_images(tmp_path):
  with pytest.raises(UserError, match="no image files"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  with pytest.raises(UserError, match="is no folder"):
    benchmark(enlarge, tmp_path / "x", BICUBIC, channels=3)
  save(tmp_path, {"a.png": photo(8, 8)})
  with pytest.raises(UserError, match=r"none of 1 images can be scored \(a.png: 8 x 8 pixels"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)


@pytest.mark.parametrize("bad", [{"channels": 0}, {"channels": 4}, {"limit": -1}, {"sheet": 0}])
def test_bad_arguments(tmp_path, bad):
  save(tmp_path, {"a.png": photo(24, 24)})
  with pytest.raises(UserError, match=next(iter(bad))):
    benchmark(enlarge, tmp_path, BICUBIC, **{"channels": 3, **bad})
  with pytest.raises(UserError, match="not a degradation"):
    benchmark(enlarge, tmp_path, {"name": "bicubic"}, channels=3)


def test_the_config_of_a_run(tmp_path, no_packages):
  config = base_config()
  with config.unlocked():
    config.data.degrade.name = "gaussian_noise"
  scores, _ = benchmark(soften, save(tmp_path, {"a.png": photo(24, 24)}), config.data.degrade, channels=3)
  assert scores["protocol"]["degrade"] == NOISE  # only the keys that it uses
  json.dumps(scores, allow_nan=False)


def test_lpips(tmp_path, no_packages):
  kernel = np.random.default_rng(0).normal(size=(11, 11, 3, 64)).astype(np.float32) / 19
  extractor = perceptual.Extractor(
    {"params": {"conv1": {"kernel": kernel, "bias": np.zeros(64, np.float32)}}},
    perceptual.NETWORKS["alexnet"](layers=("relu1",)),
    "alexnet",
    sha256="",
    source="",
  )
  network = perceptual.LPIPS(extractor, {"relu1": np.ones(64, np.float32)})
  save(tmp_path, {"a.png": photo(32, 32), "b.png": photo(31, 40), "c.png": photo(32, 32, seed=1)})
  ours = Recorder(soften)
  scores, _ = benchmark(ours, tmp_path, NOISE, channels=3, lpips=network)
  assert scores["lpips_images"] == 2 and scores["count"] == 3
  assert "lpips" not in scores["images"][1]["ours"] and scores["protocol"]["lpips_network"] == "alexnet"
  values = [scores["images"][i]["ours"]["lpips"] for i in (0, 2)]
  assert scores["mean"]["ours"]["lpips"] == pytest.approx(np.mean(values), rel=1e-12)
  clean = np.asarray(Image.open(tmp_path / "a.png"))[None] / np.float32(255)
  output = eight_bits(soften(ours.seen[0]))[None].astype(np.float32)
  assert values[0] == pytest.approx(float(network(output, clean)[0]), rel=1e-4)
  assert "LPIPS: lower is better" in table(scores)


# --- uncertainty ---


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
  with pytest.raises(UserError, match="samples=1: a spread needs at least 2 draws"):
    benchmark(ours, folder, NOISE, channels=3, draw=draw, samples=1)


def test_moments_of_a_small_spread_about_a_large_mean():
  random = np.random.default_rng(0)
  x = 1000 + 0.01 * random.standard_normal(3000)
  y = 0.5 * x + 0.01 * random.standard_normal(3000)
  parts = [module.Moments().add(a, b) for a, b in zip(np.split(x, 3), np.split(y, 3), strict=True)]
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


# --- table ---


def test_table():
  def seconds(value):
    return {"mean": 9.0, "median": value, "images": []}

  mean = {
    "ours": {"psnr_rgb": 28.126, "psnr_y": None, "ssim_y": 0.81234, "lpips": 0.1},
    "bm3d": {"psnr_rgb": 27.5, "psnr_y": 29.0, "ssim_y": 0.8, "lpips": 0.25},
    "noisy": {"psnr_rgb": 9.25, "psnr_y": 10.0, "ssim_y": 0.2, "lpips": 0.875},
  }
  scores = {
    "protocol": {
      "degradation": "gaussian_noise, sigma 0.1",
      "crop": 0,
      "channels": 3,
      "baselines": {"bm3d": "", "noisy": ""},
      "missing": ["scikit-image"],
    },
    "count": 3,
    "mean": mean,
    "seconds": {"ours": seconds(0.01234), "bm3d": seconds(12.3456), "noisy": seconds(0.0)},
    "skipped": [{"name": "x", "reason": "y"}],
    "nonfinite": ["mean/ours/psnr_y"],
  }
  assert table(scores).splitlines() == [
    "gaussian_noise, sigma 0.1: 3 images, outputs rounded to 8 bits",
    "         PSNR RGB      PSNR Y        SSIM Y           LPIPS            s/image",
    "  ours   28.13  +0.63    nan         0.8123  +0.0123  0.1000  -0.1500   0.0123",
    "  BM3D   27.50         29.00         0.8000           0.2500              12.3",
    "  noisy   9.25 -18.25  10.00 -19.00  0.2000  -0.6000  0.8750  +0.6250        0",
    "  (differences to BM3D; LPIPS: lower is better; not installed: scikit-image; 1 skipped; 1 not finite)",
    "  skipped x: y",
  ]


def test_table_of_grey_images(tmp_path):
  scores, _ = benchmark(enlarge, save(tmp_path, {"a.png": photo(24, 24, 1)}), BICUBIC, channels=1)
  head, titles, *_ = table(scores).splitlines()
  assert head == "bicubic_down, factor 2: 1 image, 2 pixels of the border cropped, outputs rounded to 8 bits"
  assert titles.split() == ["PSNR", "SSIM", "s/image"]


# --- contact sheet ---


def test_sheet_shows_the_detail_of_each(tmp_path):
  """128 pixels of the original in the last column, the small image with square pixels in the first."""
  flat = np.full((150, 170, 3), 90, np.uint8)
  flat[14:, 36:] = photo(136, 134)  # the telling part
  ours = Recorder(enlarge)
  _, picture = benchmark(ours, save(tmp_path, {"a.png": flat}), BICUBIC, channels=3)
  assert picture.dtype == np.uint8 and picture.shape == (36 + 298 + 34, 12 + 4 * 268, 3)
  top, left, height, width = module._telling(flat / np.float32(255), 2)
  assert top and left and (height, width) == (128, 128) and top % 2 == left % 2 == 0
  shown = [picture[36 : 36 + 256, 12 + j * 268 : 12 + j * 268 + 256] for j in range(4)]
  detail = np.s_[top : top + 128, left : left + 128]
  np.testing.assert_array_equal(shown[3], flat[detail].repeat(2, 0).repeat(2, 1))
  large = np.uint8(np.rint(np.clip(enlarge(ours.seen[0]), 0, 1) * np.float32(255))[detail])
  np.testing.assert_array_equal(shown[1], large.repeat(2, 0).repeat(2, 1))
  np.testing.assert_array_equal(shown[2], shown[1])
  low = np.uint8(np.rint(255 * ours.seen[0][top // 2 : top // 2 + 64, left // 2 : left // 2 + 64]))
  np.testing.assert_array_equal(shown[0], low.repeat(4, 0).repeat(4, 1))
  # Words stand above and below each, and between the cells there is nothing.
  for j in range(4):
    column = np.s_[12 + j * 268 : 12 + j * 268 + 256]
    assert (picture[:36, column] > 150).any() and (picture[36 + 256 : 36 + 286, column] > 150).any()
    assert (picture[:, 12 + j * 268 - 12 : 12 + j * 268][: 36 + 298] == BACKGROUND).all()


def test_sheet_of_different_sizes(tmp_path, no_packages):
  images = {"a" * 120 + ".png": photo(24, 40, 1), "b.png": photo(200, 16, 1), "c.png": photo(24, 24, 1)}
  scores, picture = benchmark(soften, save(tmp_path, images), NOISE, channels=1, sheet=2)
  assert scores["count"] == 3 and picture.shape == (36 + 144 + 42 + 256 + 42 + 34, 12 + 3 * 268, 3)
  assert (picture[..., 0] == picture[..., 2]).all()  # grey
  last = picture[36:, 12 + 2 * 268 : 12 + 3 * 268, 0]
  first, second = (image[..., 0] for image in list(images.values())[:2])
  np.testing.assert_array_equal(last[:144, 8 : 8 + 240], first.repeat(6, 0).repeat(6, 1))  # in the middle
  top, *_ = module._telling(second[..., None] / np.float32(255), 1)
  second = second[top : top + 128].repeat(2, 0).repeat(2, 1)
  np.testing.assert_array_equal(last[186 : 186 + 256, 112 : 112 + 32], second)
  assert (last[144 : 144 + 30, -12:] == BACKGROUND).all()  # a long name ends within its column


@pytest.mark.parametrize(("h", "w", "factor"), [(16, 300, 3), (129, 128, 2), (128, 128, 1), (331, 17, 4)])
def test_detail_lies_inside_at_multiples_of_the_factor(h, w, factor):
  h, w = h // factor * factor, w // factor * factor
  clean = photo(h, w).astype(np.float32) / 255
  top, left, height, width = module._telling(clean, factor)
  assert (height, width) == (min(h, 128) // factor * factor, min(w, 128) // factor * factor)
  assert not any(n % factor for n in (top, left, height, width))
  assert 0 <= top <= h - height and 0 <= left <= w - width


def test_detail_has_the_highest_local_variance():
  clean = np.full((140, 300, 3), 0.4, np.float32)
  clean[:, 5:95] += 0.03 * np.random.default_rng(0).standard_normal((140, 90, 1)).astype(np.float32)
  clean[:, 250:] = 0.9  # a hard edge: more variance, of fewer patches
  grey = clean.astype(np.float64).mean(-1)
  patches = np.lib.stride_tricks.sliding_window_view(grey, (7, 7)).std(axis=(2, 3))
  windows = np.lib.stride_tricks.sliding_window_view(patches, (122, 122)).mean(axis=(2, 3))
  expected = np.unravel_index(np.argmax(windows), windows.shape)
  assert module._telling(clean, 1)[:2] == tuple(expected) and expected[1] < 20
