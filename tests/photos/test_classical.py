"""Classical methods against their formulas in float64, and what is known of the packages."""

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scored_folders import decibels, enlarge, photo

from vae_jax.photos import classical
from vae_jax.photos.classical import stabilised


def noisy_photo(channels=1, side=64, sigma=0.1):
  clean = photo(side, side, channels) / 255.0
  return clean, (clean + sigma * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


def test_wiener_by_hand():
  """Lee 1980: mean + (variance - noise) / variance * (x - mean), never amplified; a window of 5 x 5, mirrored."""
  _, noisy = noisy_photo(3, 20)
  noisy[:8, :8] = 0.5  # nothing varies
  wide = np.pad(noisy.astype(np.float64), ((2, 2), (2, 2), (0, 0)), "symmetric")
  windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), axis=(0, 1))
  mean, variance = windows.mean((-1, -2)), windows.var((-1, -2))
  gain = np.maximum(variance - 0.1**2, 0) / np.maximum(variance, 0.1**2)
  np.testing.assert_allclose(classical.wiener(noisy, 0.1), mean + gain * (noisy - mean), atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  ("name", "package", "gain"), [("bm3d", "bm3d", 4), ("nlm", "skimage", 1), ("wavelet", "pywt", 1)]
)
def test_denoisers_of_packages(name, package, gain, channels):
  pytest.importorskip(package)
  pytest.importorskip("skimage.restoration")
  clean, noisy = noisy_photo(channels)
  result = getattr(classical, name)(noisy, 0.1)
  assert result.shape == clean.shape
  assert decibels(result, clean) > decibels(noisy, clean) + gain


def test_bm3d_of_an_even_image():
  pytest.importorskip("bm3d")
  black = np.zeros((16, 16, 3), np.float32)
  np.testing.assert_array_equal(classical.bm3d(black, 0.1), black)


def test_wavelets_by_hand():
  """BayesShrink on one level of Haar's wavelets: thresholds sigma^2 / sqrt(variance - sigma^2), soft."""
  pytest.importorskip("pywt")
  _, noisy = noisy_photo(1, 16)  # 4 levels are possible, the 3 coarsest stay
  x = noisy[..., 0].astype(np.float64)

  def split(x):
    return (x[::2] + x[1::2]) / math.sqrt(2), (x[::2] - x[1::2]) / math.sqrt(2)

  low, high = split(x)
  bands = [band.T for part in (low, high) for band in split(part.T)]
  for k in range(1, 4):
    threshold = 0.01 / math.sqrt(max((bands[k] ** 2).mean() - 0.01, np.finfo(np.float64).eps))
    bands[k] = np.sign(bands[k]) * np.maximum(np.abs(bands[k]) - threshold, 0)

  def join(a, b):
    return np.stack([(a + b) / math.sqrt(2), (a - b) / math.sqrt(2)], 1).reshape(-1, a.shape[1])

  expected = join(*(join(bands[k].T, bands[k + 1].T).T for k in (0, 2)))
  np.testing.assert_allclose(classical.wavelet(noisy, 0.1)[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_enlarged_by_pillow(channels):
  """Agrees with the formulas in float64, or with ours for bicubic; Pillow rounds to 8 bits after each axis."""
  low = photo(20, 17, channels).astype(np.float32) / 255
  bicubic = classical.bicubic_pillow(low, 2)
  assert bicubic.shape == (40, 34, channels)
  np.testing.assert_allclose(bicubic[8:-8, 8:-8], np.clip(enlarge(low), 0, 1)[8:-8, 8:-8], atol=1.5 / 255)
  x = (np.arange(40)[:, None] + 0.5) / 2 - 0.5 - np.arange(20)
  kernel = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
  kernel /= kernel.sum(1, keepdims=True)
  tall = np.clip(np.einsum("oh,hwc->owc", kernel, low), 0, 1)
  found = classical.lanczos(low.transpose(1, 0, 2), 2).transpose(1, 0, 2)
  y = kernel[:34, :17] / kernel[:34, :17].sum(1, keepdims=True)
  np.testing.assert_allclose(found, np.clip(np.einsum("pw,owc->opc", y, tall), 0, 1), atol=2 / 255)

  sharp = np.rint(255 * classical.unsharp(low, 2))
  plain = np.rint(255 * bicubic)
  picture = Image.fromarray(np.uint8(plain[..., 0] if channels == 1 else plain))
  soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(2)), np.float64).reshape(plain.shape)
  expected = plain + np.where(np.abs(plain - soft) > 3, 1.5 * (plain - soft), 0)
  np.testing.assert_allclose(sharp, np.clip(expected, 0, 255), atol=1)
  assert np.abs(sharp - plain).max() > 10


@pytest.mark.parametrize("start", [0.0, 1 / 255, 8 / 255, 1.0])
@pytest.mark.parametrize("best", [1, 15, 50])
def test_best_sigma(start, best):
  """The same as by trying all, wherever the search starts; each sigma is tried once."""
  clean, noisy = noisy_photo(1, 16)
  tried = []

  def denoise(x, sigma):
    tried.append(round(255 * sigma))
    return clean + (sigma - best / 255)

  np.testing.assert_allclose(classical.best_sigma(denoise, noisy, clean, start), clean, atol=1e-12)
  assert len(set(tried)) == len(tried) <= 10


@pytest.mark.parametrize("rate", [0.0, 0.7, 2.0, 10.0, 50.0])
def test_the_inverse_is_unbiased(rate):
  """It makes the rate from the mean of the transformed counts, which is what a perfect denoiser finds."""
  peak = 50.0
  counts = np.arange(200)
  log_factorial = np.cumsum(np.log(np.maximum(counts, 1)))
  p = np.exp(counts * math.log(rate) - rate - log_factorial) if rate else np.eye(1, 200)[0]
  found = stabilised(lambda f, _: np.full_like(f, (p * f.ravel()).sum()), peak, 0.0)
  assert found((counts / peak).reshape(-1, 1, 1), 1.0)[0, 0, 0] == pytest.approx(rate / peak, abs=0.02 / peak)
  with np.errstate(all="raise"):
    dark = stabilised(lambda f, _: f - 9, peak, 0.1)(np.full((3, 3, 1), -1.0), 1.0)
  np.testing.assert_array_equal(dark, 0)
