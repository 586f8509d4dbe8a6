"""The protocol of a comparison, number by number: how images are degraded, cropped and rounded; what is reported."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from scored_folders import (
  BICUBIC,
  IDENTITY,
  NOISE,
  Recorder,
  decibels,
  eight_bits,
  enlarge,
  luma,
  photo,
  save,
  soften,
)

from vae_jax import perceptual
from vae_jax.configuration import base_config
from vae_jax.data.degrade import bicubic_down, bicubic_up
from vae_jax.errors import UserError
from vae_jax.evaluation import write_json
from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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
  assert list(scores["mean"])[:2] == ["ours", "bicubic"]
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
  assert (protocol["pairs"], protocol["missing"], protocol["degrade"]) == (
    False,
    [],
    BICUBIC | {"border": "mirror"},
  )
  assert protocol["degraded"] == "rounded to 8 bits"
  assert list(protocol["metrics"]) == list(entry["ours"])


@pytest.mark.parametrize(("chain", "factor"), [("jpeg 10 444", 1), ("down 2 box; jpeg 10 444", 2)])
def test_blocks_of_jpeg(tmp_path, chain, factor):
  """PSNR-B and blockiness by the grid of 8 pixels of the JPEG; those of the degraded image by Pillow's JPEG."""
  pixels = photo(64, 48)
  degrade = {"name": "chain", "chain": chain}
  enlarged = (lambda x: x.repeat(2, 0).repeat(2, 1)) if factor == 2 else (lambda x: x)
  ours = Recorder(enlarged)
  folder = save(tmp_path, {"a.png": pixels, "b.png": photo(16, 40)})  # no larger than a block of 16
  scores, _ = benchmark(ours, folder, degrade, channels=3)
  small = Image.fromarray(pixels).reduce(factor)  # what a person makes smaller with
  file = io.BytesIO()
  small.save(file, "JPEG", quality=10, subsampling=0)
  coded = np.asarray(Image.open(file), np.float64) / 255
  off = np.abs(ours.seen[0] - coded)
  assert (
    (off < 1.01 / 255).mean() > 0.99 if factor == 1 else off.mean() < 0.3 / 255
  )  # `reduce` rounds before it
  found, output = scores["images"][0]["ours"], ours.seen[0].astype(np.float64)
  y = luma(output)[..., 0]
  steps = [np.abs(np.diff(y, axis=k)).swapaxes(0, k) for k in (0, 1)]
  across = np.concatenate([s[7::8].ravel() for s in steps])
  within = np.concatenate([np.delete(s, np.s_[7::8], 0).ravel() for s in steps])
  assert (
    found["blockiness"] == pytest.approx(across.mean() / within.mean(), rel=1e-3)
    and across.mean() > 1.3 * within.mean()
  )
  large, clean = enlarged(output), pixels / 255.0
  block = 8 * factor
  squares = [np.square(np.diff(large, axis=k)).swapaxes(0, k) for k in (0, 1)]
  across = np.concatenate([s[block - 1 :: block].reshape(-1, 3) for s in squares]).mean(0)
  within = np.concatenate([np.delete(s, np.s_[block - 1 :: block], 0).reshape(-1, 3) for s in squares]).mean(
    0
  )
  effect = np.maximum(across - within, 0).mean() * math.log(block) / math.log(48)
  expected = -10 * math.log10(((large - clean) ** 2).mean() + effect)
  assert found["psnr_b"] == pytest.approx(expected, abs=2e-3) and expected < found["psnr_rgb"] - 0.5
  assert scores["protocol"]["block"] == block and scores["psnr_b_images"] == (2 if factor == 1 else 1)
  assert list(scores["mean"])[:2] == ["ours", "input" if factor == 1 else "bicubic"]
  titles = table(scores).splitlines()[1]
  assert "PSNR-B" in titles and "blockiness" in titles


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
