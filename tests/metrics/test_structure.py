"""SSIM and MS-SSIM against scikit-image, torchmetrics and float64; `tests/golden/structure.json` holds the scores
of torchmetrics, so that they are checked where PyTorch is not installed. To write that file anew:

  python tests/metrics/test_structure.py
"""

import json
import platform
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.losses.structure import total_variation
from vae_jax.metrics import structure
from vae_jax.metrics.fidelity import psnr_rgb
from vae_jax.metrics.structure import ms_ssim, ssim, ssim_y

GOLDEN = Path(__file__).parents[1] / "golden" / "structure.json"


def pattern(h, w, c, a, b):
  """A texture in whole grey levels, the same on every machine: float32 [h, w, c]."""
  i, j, k = np.mgrid[:h, :w, :c]
  return np.float32((i * i * a + j * j * b + 3 * i * j + 40 * k) // 16 % 256) / np.float32(255)


def pairs(h, w, c):
  """Names -> (prediction, target): other texture, less contrast, brighter, coarse levels, a negative."""
  image, other = pattern(h, w, c, 1, 2), pattern(h, w, c, 5, 3)
  return {
    "mixed": (np.float32(0.8) * image + np.float32(0.2) * other, image),
    "other": (other, image),
    "contrast": (np.float32(0.5) * image + np.float32(0.25), image),
    "brighter": (image + np.float32(0.2), image),
    "levels": (np.round(image * 6) / np.float32(6), image),
    "negative": (1 - image, image),
  }


SHAPES = {"colour": (176, 183, 3), "grey": (193, 177, 1)}


def stacked(name):
  cases = pairs(*SHAPES[name])
  return list(cases), *(np.stack(images) for images in zip(*cases.values(), strict=True))


def by_torchmetrics(prediction, target):
  """Scores in float64 of images [b, h, w, c]; `ssim` is the mean of its map where windows lie inside the image."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from torchmetrics.functional import image as reference

    p, t = (torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2) for x in (prediction, target))
    options = {"data_range": 1.0, "reduction": "none"}
    _, full = reference.structural_similarity_index_measure(p, t, return_full_image=True, **options)
    return {
      "ssim": full[..., 5:-5, 5:-5].mean((1, 2, 3)).tolist(),
      "ms_ssim": [
        float(
          reference.multiscale_structural_similarity_index_measure(p[i, None], t[i, None], data_range=1.0)
        )
        for i in range(len(p))
      ],
      "psnr": reference.peak_signal_noise_ratio(p, t, dim=(1, 2, 3), **options).tolist(),
      "total_variation": reference.total_variation(p, reduction="none").tolist(),
    }


def window64():
  taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  return np.outer(taps, taps) / np.outer(taps, taps).sum()


def factors64(x, y):
  """Luminance and contrast maps by raw moments: [h, w, c] -> two of [h - 10, w - 10, c]."""

  def blur(z):
    planes = [scipy.signal.convolve2d(z[..., k], window64(), "valid") for k in range(z.shape[-1])]
    return np.stack(planes, -1)

  mx, my = blur(x), blur(y)
  vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
  return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4), (2 * cov + 9e-4) / (vx + vy + 9e-4)


def ssim64(x, y):
  luminance, contrast = factors64(x.astype(np.float64), y.astype(np.float64))
  return (luminance * contrast).mean()


def ms_ssim64(x, y):
  x, y = x.astype(np.float64), y.astype(np.float64)
  score = 1.0
  for weight in (0.0448, 0.2856, 0.3001, 0.2363):
    score *= max(factors64(x, y)[1].mean(), 0.0) ** weight
    x, y = (z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2] for z in (x, y))
    x, y = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in (x, y))
  x, y = (np.pad(z, ((5, 5), (5, 5), (0, 0)), "reflect") for z in (x, y))
  return score * max(ssim64(x, y), 0.0) ** 0.1333


def noisy(seed, *shape, mean=0.5, noise=0.2):
  return (mean + noise * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def difficult():
  """Pairs [32, 30, 3] on which E[x^2] - E[x]^2 in float32 loses digits, or which lie at an end of the range."""
  steps = np.where(np.arange(32) < 16, 0.0, 1.0).astype(np.float32)[:, None, None] * np.ones(
    (32, 30, 3), np.float32
  )
  shape = steps.shape
  return {
    "noise": (noisy(0, *shape), noisy(1, *shape)),
    "bright": (noisy(0, *shape, mean=0.9, noise=1e-2), noisy(1, *shape, mean=0.9, noise=1e-2)),
    "bright, nearly flat": (noisy(0, *shape, mean=0.9, noise=1e-4), noisy(1, *shape, mean=0.9, noise=1e-3)),
    "steps": (steps + noisy(0, *shape, mean=0, noise=1e-2), steps + noisy(1, *shape, mean=0, noise=1e-2)),
    "black on white": (np.zeros(shape, np.float32), np.ones(shape, np.float32)),
    "beyond the range": (noisy(0, *shape, mean=20.0, noise=0.1), noisy(1, *shape, mean=20.0, noise=0.1)),
  }


@pytest.mark.parametrize("name", difficult())
def test_ssim_against_float64(name):
  x, y = difficult()[name]
  tolerance = 5e-5 if name == "beyond the range" else 1e-6
  expected = np.prod(factors64(x.astype(np.float64), y.astype(np.float64)), axis=0)
  np.testing.assert_allclose(structure._ssim_map(x, y), expected, atol=tolerance)
  np.testing.assert_allclose(ssim(x, y), expected.mean(), atol=2e-6)


@pytest.mark.parametrize("name", difficult())
def test_ssim_against_scikit_image(name):
  reference = pytest.importorskip("skimage.metrics")
  x, y = difficult()[name]
  options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
  expected = reference.structural_similarity(
    x.astype(np.float64), y.astype(np.float64), channel_axis=-1, **options
  )
  np.testing.assert_allclose(ssim(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_golden_scores_of_torchmetrics(name):
  golden = json.loads(GOLDEN.read_text())[name]
  names, prediction, target = stacked(name)
  assert golden["cases"] == names
  np.testing.assert_allclose(ssim(prediction, target), golden["ssim"], atol=1e-5)
  np.testing.assert_allclose(ms_ssim(prediction, target), golden["ms_ssim"], atol=1e-5)
  np.testing.assert_allclose(psnr_rgb(prediction, target), golden["psnr"], atol=1e-4)
  np.testing.assert_allclose(total_variation(prediction, "anisotropic"), golden["total_variation"], rtol=1e-5)
  assert golden["ms_ssim"][-1] == 0.0 and min(golden["ms_ssim"][:-1]) > 0.0


@pytest.mark.parametrize("name", SHAPES)
def test_ms_ssim_against_float64(name):
  _, prediction, target = stacked(name)
  expected = [ms_ssim64(x, y) for x, y in zip(prediction, target, strict=True)]
  np.testing.assert_allclose(ms_ssim(prediction, target), expected, atol=2e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_against_torchmetrics_itself(name):
  pytest.importorskip("torchmetrics")
  _, prediction, target = stacked(name)
  expected = by_torchmetrics(prediction, target)
  np.testing.assert_allclose(ssim(prediction, target), expected["ssim"], atol=1e-5)
  np.testing.assert_allclose(ms_ssim(prediction, target), expected["ms_ssim"], atol=1e-5)
  golden = json.loads(GOLDEN.read_text())[name]
  for score, values in expected.items():
    np.testing.assert_allclose(golden[score], values, rtol=1e-6)


def test_known_values():
  image = noisy(0, 2, 12, 14, 2)
  np.testing.assert_array_equal(ssim(image, image), 1.0)
  flat = np.ones((1, 12, 14, 2), np.float32) * np.array([0.2, 0.7], np.float32).reshape(2, 1, 1, 1)
  luminance = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
  np.testing.assert_allclose(ssim(flat, flat[::-1].copy()), luminance, rtol=1e-5)
  black, white = np.zeros((176, 176, 1), np.float32), np.ones((176, 176, 1), np.float32)
  pair = np.stack([black, white]), np.stack([white, white])
  np.testing.assert_allclose(ssim(*pair), [1e-4 / (1 + 1e-4), 1.0], rtol=1e-5)
  scores = ms_ssim(*pair)
  np.testing.assert_allclose(scores, [(1e-4 / (1 + 1e-4)) ** 0.1333, 1.0], rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  gain=st.floats(-2.0, 2.0, width=32),
  offset=st.floats(-1.0, 1.0, width=32),
  noise=st.floats(0.0, 1.0, width=32),
)
def test_ssim_is_bounded_symmetric_and_1_at_equality(seed, gain, offset, noise):
  x, other = noisy(seed, 2, 12, 13, 2), noisy(seed + 1, 2, 12, 13, 2)
  y = np.float32(gain) * x + np.float32(offset) + np.float32(noise) * other
  score = ssim(x, y)
  np.testing.assert_array_equal(score, ssim(y, x))
  np.testing.assert_array_equal(ssim(y, y), 1.0)
  assert (jnp.abs(score) <= 1.0 + 1e-6).all()


def test_a_crop_shaves_the_border_first():
  x, y = noisy(0, 2, 15, 18, 3), noisy(1, 2, 15, 18, 3)
  np.testing.assert_array_equal(ssim(x, y, crop=2), ssim(x[:, 2:-2, 2:-2], y[:, 2:-2, 2:-2]))
  weights = np.array([65.481, 128.553, 24.966]) / 255
  luma = [((16 / 255) + image.astype(np.float64) @ weights)[:, 2:-2, 2:-2, None] for image in (x, y)]
  expected = [ssim64(a, b) for a, b in zip(*luma, strict=True)]
  np.testing.assert_allclose(ssim_y(x, y, crop=2), expected, atol=1e-6)
  np.testing.assert_array_equal(ssim_y(x[..., :1], y[..., :1], 2), ssim(x[..., :1], y[..., :1], 2))


def test_leading_axes_and_types():
  x, y = noisy(0, 2, 3, 11, 12, 3), noisy(1, 2, 3, 11, 12, 3)
  for metric in (ssim, ssim_y):
    scores = metric(x, y)
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores[1, 2], metric(x[1, 2], y[1, 2]), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(metric)(x, y), scores, atol=1e-6)
    half = jax.jit(metric)(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, scores, atol=0.05)


def test_a_nan_stays_one_and_in_its_image():
  images = noisy(0, 2, 176, 176, 1)
  broken = images.copy()
  broken[1, 80, 80] = np.nan
  for metric in (ssim, ms_ssim):
    scores = metric(broken, images)
    assert scores[0] == 1.0 and jnp.isnan(scores[1])


@pytest.mark.parametrize("metric", [ssim, ssim_y, ms_ssim])
def test_shapes_that_differ_are_refused(metric):
  image = np.zeros((2, 12, 12, 3), np.float32)
  for shape in ((1, 12, 12, 3), (12, 12, 3), (2, 12, 12, 1), (12,)):
    with pytest.raises(ValueError) as caught:
      metric(image, np.zeros(shape, np.float32))
    assert str(image.shape) in str(caught.value) and str(shape) in str(caught.value)


def test_images_too_small_for_the_window_are_refused():
  for metric in (ssim, ssim_y):
    for h, w, crop in ((10, 30, 0), (30, 10, 0), (14, 30, 2), (30, 30, -1)):
      image = np.zeros((h, w, 3), np.float32)
      with pytest.raises(
        ValueError, match=rf"crop={crop} of images of {h} x {w} .* at least 11 x 11"
      ) as caught:
        metric(image, image, crop)
      assert "\n" not in str(caught.value)
  for h, w in ((175, 200), (200, 175)):
    image = np.zeros((h, w, 1), np.float32)
    with pytest.raises(
      ValueError, match=rf"{h} x {w} pixels are too small for ms_ssim: it needs sides of 176"
    ):
      ms_ssim(image, image)
  with pytest.raises(ValueError, match="has no luma"):
    ssim_y(np.zeros((12, 12, 2), np.float32), np.zeros((12, 12, 2), np.float32))


if __name__ == "__main__":
  from importlib.metadata import version

  packages = ("torchmetrics", "torch", "numpy")
  document = {
    "source": "torchmetrics.functional.image in float64, data_range=1, of the images of `pairs`; ssim: mean of the "
    "full map without 5 pixels at each border; total_variation: of the prediction",
    "command": "python tests/metrics/test_structure.py",
    "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
  }
  for name in SHAPES:
    cases, *images = stacked(name)
    document[name] = {"shape": SHAPES[name], "cases": cases} | by_torchmetrics(*images)
  GOLDEN.write_text(json.dumps(document, indent=1) + "\n")
