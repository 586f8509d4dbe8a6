"""The table, line by line."""

import pytest
from scored_folders import BICUBIC, enlarge, photo, save

from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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
