"""The table, line by line."""

import pytest
from scored_folders import BICUBIC, enlarge, photo, save

from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_table():
  def seconds(value):
    return {"mean": 9.0, "median": 9.0, "per_megapixel": value, "images": []}

  mean = {
    "ours": {
      "psnr_rgb": 28.126,
      "psnr_y": None,
      "psnr_b": 27.0,
      "ssim_y": 0.81234,
      "lpips": 0.1,
      "blockiness": 1.02,
    },
    "bm3d": dict.fromkeys(("psnr_rgb", "psnr_y", "psnr_b", "ssim_y", "lpips", "blockiness")),
    "nlm": {
      "psnr_rgb": 27.5,
      "psnr_y": 29.0,
      "psnr_b": 26.5,
      "ssim_y": 0.8,
      "lpips": 0.25,
      "blockiness": 1.2,
    },
    "noisy": {
      "psnr_rgb": 9.25,
      "psnr_y": 10.0,
      "psnr_b": 9.0,
      "ssim_y": 0.2,
      "lpips": 0.875,
      "blockiness": 1.45,
    },
  }
  scores = {
    "protocol": {
      "degradation": "gaussian_noise, sigma 0.1",
      "crop": 0,
      "channels": 3,
      "baselines": {"bm3d": "", "nlm": "", "noisy": ""},
      "missing": ["scikit-image"],
    },
    "count": 3,
    "mean": mean,
    "seconds": {
      "ours": seconds(0.01234),
      "bm3d": seconds(None),
      "nlm": seconds(12.3456),
      "noisy": seconds(0.0),
    },
    "skipped": [{"name": "x", "reason": "y"}],
    "failed": [{"name": "z", "baseline": "bm3d", "reason": "w"}],
    "nonfinite": ["mean/ours/psnr_y"],
  }
  assert table(scores).splitlines() == [
    "gaussian_noise, sigma 0.1: 3 images, outputs rounded to 8 bits",
    "         PSNR RGB      PSNR Y        PSNR-B        SSIM Y           LPIPS            blockiness       s/MP",
    "  ours   28.13  +0.63    nan         27.00  +0.50  0.8123  +0.0123  0.1000  -0.1500  1.020  -0.180  0.0123",
    "  BM3D     nan           nan           nan            nan              nan             nan             nan",
    "  NLM    27.50         29.00         26.50         0.8000           0.2500           1.200            12.3",
    "  noisy   9.25 -18.25  10.00 -19.00   9.00 -17.50  0.2000  -0.6000  0.8750  +0.6250  1.450  +0.250       0",
    "  (differences to NLM; LPIPS: lower is better; blockiness: 1 = no blocks"
    "; s/MP: seconds for 1e6 pixels of the input; not installed: scikit-image; 1 skipped; 1 not finite)",
    "  skipped x: y",
    "  BM3D failed on z: w",
  ]


def test_table_of_grey_images(tmp_path):
  scores, _ = benchmark(enlarge, save(tmp_path, {"a.png": photo(24, 24, 1)}), BICUBIC, channels=1)
  head, titles, *_ = table(scores).splitlines()
  assert head == "bicubic_down, factor 2: 1 image, 2 pixels of the border cropped, outputs rounded to 8 bits"
  assert titles.split() == ["PSNR", "SSIM", "s/MP"]
