"""UIQM and UCIQE against float64 loops, hand-computed pictures and the CIELab of scikit-image."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.metrics import underwater
from vae_jax.metrics.underwater import uciqe, uicm, uiconm, uiqm, uism

MEASURES = (uicm, uism, uiconm, uiqm, uciqe)
compiled = {measure: jax.jit(measure) for measure in MEASURES}


def picture(height=21, width=30, seed=0):
  """Smooth colour with noise, some of it black and white."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width][..., None]
  image = (
    0.5
    + 0.4 * np.sin(0.3 * x + 0.2 * y + np.array([0.0, 1.0, 2.5]))
    + 0.1 * rng.standard_normal((height, width, 3))
  )
  image[:9, :5] = 0.0
  image[-4:, :7] = 1.0
  image[8:16, 8:16] = [0.1, 0.4, 0.5]
  return np.clip(image, 0, 1).astype(np.float32)


def loop_uicm(image):
  pixels = 255 * image.astype(np.float64).reshape(-1, 3)
  means, variances = [], []
  for values in (
    [r - g for r, g, b in pixels],
    [(r + g) / 2 - b for r, g, b in pixels],
  ):
    values, count = sorted(values), len(values)
    low, high = math.ceil(count / 10), math.floor(count / 10)
    mean = sum(values[i] for i in range(low, count - high)) / (count - low - high)
    means.append(mean)
    variances.append(sum((v - mean) ** 2 for v in values) / count)
  return -0.0268 * math.sqrt(means[0] ** 2 + means[1] ** 2) + 0.1586 * math.sqrt(variances[0] + variances[1])


def blocks(plane):
  for i in range(plane.shape[0] // 8):
    for j in range(plane.shape[1] // 8):
      yield plane[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]


def loop_uism(image):
  image, score = image.astype(np.float64), 0.0
  height, width, _ = image.shape
  kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
  for c, weight in enumerate((0.299, 0.587, 0.114)):
    edges = np.zeros((height, width))
    for i in range(height):
      for j in range(width):
        gx = gy = 0.0
        for m in range(3):
          for n in range(3):
            value = image[min(max(i + m - 1, 0), height - 1), min(max(j + n - 1, 0), width - 1), c]
            gx += kernel[m][n] * value / 4
            gy += kernel[n][m] * value / 4
        edges[i, j] = max(255 * image[i, j, c] * math.sqrt((gx**2 + gy**2) / 2), 1.0)
    ratios = [math.log(block.max() / block.min()) for block in blocks(edges)]
    score += weight * 2 * sum(ratios) / len(ratios)
  return score


def loop_uiconm(image):
  def plus(a, b):
    return a + b - a * b / 1026

  intensity, total, count = 255 * image.astype(np.float64) @ [0.299, 0.587, 0.114], 0.0, 0
  for block in blocks(intensity):
    high, low = block.max(), block.min()
    contrast = 1026 * (high - low) / (1026 - low) / plus(high, low) if high > 0 else 0.0
    total = plus(total, -contrast * math.log(contrast) if contrast > 1e-12 else 0.0)
    count += 1
  return 1026 - 1026 * (1 - total / 1026) ** (1 / count)


def loop_uiqm(image):
  return 0.0282 * loop_uicm(image) + 0.2953 * loop_uism(image) + 3.5753 * loop_uiconm(image)


def loop_uciqe(image):
  lab = pytest.importorskip("skimage.color").rgb2lab(image.astype(np.float64)).reshape(-1, 3) / 100
  chroma = [math.hypot(a, b) for _, a, b in lab]
  saturation = [c / math.hypot(c, l) if c > 0 else 0.0 for c, (l, _, _) in zip(chroma, lab, strict=True)]
  mean = sum(chroma) / len(chroma)
  deviation = math.sqrt(sum((c - mean) ** 2 for c in chroma) / len(chroma))
  contrast = np.quantile(lab[:, 0], 0.99) - np.quantile(lab[:, 0], 0.01)
  return 0.4680 * deviation + 0.2745 * contrast + 0.2576 * sum(saturation) / len(saturation)


LOOPS = {uicm: loop_uicm, uism: loop_uism, uiconm: loop_uiconm, uiqm: loop_uiqm, uciqe: loop_uciqe}


@pytest.mark.parametrize("measure", MEASURES)
def test_against_loops(measure):
  images = np.stack(
    [picture(), 0.3 + 0.2 * picture(seed=1), np.random.default_rng(2).random((21, 30, 3))]
  ).astype(np.float32)
  expected = [LOOPS[measure](image) for image in images]
  np.testing.assert_allclose(compiled[measure](images), expected, rtol=2e-5)
  assert np.ptp(expected) > 0.05 * np.abs(expected).max()


def test_lab_against_scikit_image():
  color = pytest.importorskip("skimage.color")
  levels = np.array([0.0, 1e-3, 0.02, 0.04045, 0.0405, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0], np.float32)
  image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(11, 121, 3)
  expected = color.rgb2lab(image.astype(np.float64))
  np.testing.assert_allclose(jax.jit(underwater._lab)(image), expected, atol=1e-4)


def test_uicm_by_hand():
  """10 pixels drop one at either end, 11 drop two below and one above."""
  image = np.zeros((2, 5, 3), np.float32)
  image[0, 0] = [
    1,
    0,
    0,
  ]  # R - G = 255, (R + G) / 2 - B = 127.5; both the highest, trimmed from the mean only
  np.testing.assert_allclose(compiled[uicm](image), 0.1586 * math.sqrt((255**2 + 127.5**2) / 10), rtol=1e-6)
  image = np.zeros((1, 11, 3), np.float32)
  image[0, :2, 2] = 1.0  # two lowest of B alone: trimmed
  np.testing.assert_allclose(compiled[uicm](image), 0.1586 * math.sqrt(2 * 255**2 / 11), rtol=1e-6)
  image = np.zeros((1, 11, 3), np.float32)
  image[0, :2] = [1, 1, 0]  # two highest: one stays, of the 8 kept
  mean = 255 / 8
  variance = (2 * (255 - mean) ** 2 + 9 * mean**2) / 11
  np.testing.assert_allclose(compiled[uicm](image), -0.0268 * mean + 0.1586 * math.sqrt(variance), rtol=1e-6)


def test_uism_by_hand():
  """A step from 0.2 to 0.6: the Sobel magnitude is 0.4 / sqrt(2) beside it, 0 elsewhere."""
  image = np.full((8, 8, 3), 0.2, np.float32)
  image[:, 4:] = 0.6
  np.testing.assert_allclose(compiled[uism](image), 2 * math.log(255 * 0.6 * 0.4 / math.sqrt(2)), rtol=1e-6)
  image[..., :2] = 0.2  # blue alone keeps its step
  np.testing.assert_allclose(
    compiled[uism](image), 0.114 * 2 * math.log(255 * 0.6 * 0.4 / math.sqrt(2)), rtol=1e-6
  )
  faint = np.full((8, 8, 3), 0.2, np.float32)
  faint[:, 4:] = 0.21  # 0.4 grey levels of edge
  np.testing.assert_array_equal(compiled[uism](faint), 0.0)


def test_uiconm_by_hand():
  image = np.full((8, 8, 3), 100 / 255, np.float32)
  image[2, 3] = 200 / 255
  contrast = (1026 * 100 / 926) / (300 - 100 * 200 / 1026)
  np.testing.assert_allclose(compiled[uiconm](image), -contrast * math.log(contrast), rtol=1e-5)
  cropped = np.pad(image, ((0, 7), (0, 7), (0, 0)))  # no further whole block
  np.testing.assert_allclose(compiled[uiconm](cropped), compiled[uiconm](image), rtol=1e-6)
  flat = np.pad(image, ((0, 8), (0, 0), (0, 0)), mode="edge")  # a second block, flat
  np.testing.assert_allclose(compiled[uiconm](flat), compiled[uiconm](image) / 2, rtol=1e-3)
  image[0, 0] = 0.0  # a black pixel makes m = 1
  np.testing.assert_allclose(compiled[uiconm](image), 0.0, atol=1e-5)


def test_uciqe_by_hand():
  """Red: L 53.24, a 80.09, b 67.20. Black and white: quantiles at 1 and 99, no chroma to speak of."""
  red = np.broadcast_to(np.float32([1, 0, 0]), (4, 4, 3))
  np.testing.assert_allclose(compiled[uciqe](red), 0.2576 * 104.55 / math.hypot(104.55, 53.24), rtol=1e-4)
  pair = np.float32([[[0, 0, 0], [1, 1, 1]]])
  np.testing.assert_allclose(compiled[uciqe](pair), 0.2745 * 0.98, atol=1e-3)
  half = np.concatenate([red, 0 * red])
  saturation = 0.2576 * 104.55 / math.hypot(104.55, 53.24) / 2
  np.testing.assert_allclose(
    compiled[uciqe](half), 0.4680 * 1.0455 / 2 + 0.2745 * 0.5324 + saturation, rtol=1e-4
  )


@pytest.mark.parametrize("measure", MEASURES)
def test_constant_images(measure):
  greys = np.stack([np.full((16, 16, 3), level, np.float32) for level in (0.0, 1 / 255, 0.3, 1.0)])
  np.testing.assert_allclose(compiled[measure](greys), 0.0, atol=5e-5)
  np.testing.assert_array_equal(compiled[measure](greys)[0], 0.0)
  blue = np.broadcast_to(np.float32([0, 0, 1]), (4, 16, 16, 3))
  cast = {
    uicm: -0.0268 * 255,
    uiqm: -0.0282 * 0.0268 * 255,
    uciqe: 0.2576 * 133.81 / math.hypot(133.81, 32.30),
  }
  np.testing.assert_allclose(compiled[measure](blue), cast.get(measure, 0.0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("measure", [uicm, uism, uiconm, uciqe])
def test_gradients_are_finite(measure):
  slope = jax.jit(jax.grad(lambda image: measure(image).sum()))
  for level in (0.0, 0.5, 1.0):
    assert jnp.isfinite(slope(jnp.full((16, 24, 3), level))).all()
  for scale in (1e-38, 1e-30, 1e-22, 1e-18, 1e-8):  # nearly black, whole and in one block
    dark = jnp.asarray(picture(16, 24)).at[:8, :8].multiply(scale)
    assert jnp.isfinite(slope(dark)).all() and jnp.isfinite(slope(scale * dark)).all(), scale
  noise = jnp.asarray(np.random.default_rng(0).uniform(0.05, 0.95, (8, 72, 72, 3)), jnp.float32)
  plain = jax.grad(lambda image: measure(image).sum())(noise)  # the forward pass is a program by itself
  np.testing.assert_allclose(plain, slope(noise), rtol=1e-3, atol=1e-6)
  gradient = slope(jnp.asarray(picture(16, 24)))
  assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_a_cast_with_less_contrast_lowers_both(name):
  """Red fades fastest, and a blue-green veil lies over the rest."""
  photograph = (
    getattr(pytest.importorskip("skimage.data"), name)()[::8, ::8][:48, :64].astype(np.float32) / 255
  )
  veil = np.float32([0.02, 0.12, 0.15])
  dim = np.float32([0.2, 0.45, 0.5])
  for measure, drop in ((uiqm, 0.05), (uciqe, 0.2)):
    above, below = compiled[measure](np.stack([photograph, photograph * dim + veil]))
    assert below < (1 - drop) * above


def test_the_astronaut_scores_what_the_docstrings_say():
  image = pytest.importorskip("skimage.data").astronaut()[::4, ::4].astype(np.float32) / 255
  said = {uicm: 8.44, uism: 6.86, uiconm: 0.163, uiqm: 2.85, uciqe: 0.473}
  for measure, score in said.items():
    np.testing.assert_allclose(compiled[measure](image), score, rtol=2e-3)


@pytest.mark.parametrize("measure", MEASURES)
def test_types_shapes_and_transformations(measure):
  images = np.stack([picture(16, 20, seed) for seed in (0, 1)])
  expected = compiled[measure](images)
  assert expected.shape == (2,) and expected.dtype == jnp.float32
  np.testing.assert_allclose(jax.jit(jax.vmap(measure))(images), expected, rtol=1e-5)
  nested = jax.eval_shape(measure, jax.ShapeDtypeStruct((2, 1, 16, 20, 3), jnp.bfloat16))
  assert nested.shape == (2, 1) and nested.dtype == jnp.float32


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input_is_named(measure):
  for shape in ((16, 16, 1), (16, 16), (2, 16, 16, 4), (3,)):
    with pytest.raises(ValueError, match="RGB"):
      measure(np.zeros(shape, np.float32))
  small = (7, 16, 3) if measure in (uism, uiconm, uiqm) else (1, 1, 3)
  with pytest.raises(ValueError, match=f"{small[0]} x {small[1]} are too small"):
    measure(np.zeros(small, np.float32))
