"""PSNR-B and blockiness against loops in float64, PSNR-B against recorded values of torchmetrics, JPEG of Pillow."""

import io
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax.metrics.blocking import blockiness, psnr_b
from vae_jax.metrics.fidelity import psnr_rgb

score = jax.jit(psnr_b, static_argnums=2)
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "blocking.json").read_text())


def differences(image, block):
  """Differences of neighbours of one channel, [h, w]: across block edges, and all others."""
  image = np.asarray(image, np.float64)
  height, width = image.shape
  edge, other = [], []
  for i in range(height):
    for j in range(width - 1):
      (edge if j % block == block - 1 else other).append(image[i, j] - image[i, j + 1])
  for i in range(height - 1):
    for j in range(width):
      (edge if i % block == block - 1 else other).append(image[i, j] - image[i + 1, j])
  return np.array(edge), np.array(other)


def mse_b(prediction, target, block, counts="pairs"):
  """MSE + BEF of one channel, [h, w]. counts="torchmetrics" divides as that package does."""
  height, width = np.shape(prediction)
  edge, other = differences(prediction, block)
  edges, others = len(edge), len(other)
  if counts == "torchmetrics":
    edges = height * width / block - 1 + width * height / block - 1
    others = height * (width - 1) + width * (height - 1) - edges
  excess = (edge**2).sum() / edges - (other**2).sum() / others
  eta = math.log2(block) / math.log2(min(height, width)) if excess > 0 else 0
  return ((np.float64(prediction) - target) ** 2).mean() + eta * excess


def decibels(error):
  return -10 * math.log10(error)


def blocky(height, width, block, seed=0):
  """A target and a prediction with a step at every block edge, [h, w, 3]; the third channel has none."""
  rng = np.random.default_rng(seed)
  target = 0.3 + 0.3 * rng.random((height, width, 3))
  cells = rng.random((-(-height // block), -(-width // block), 3))
  steps = np.repeat(np.repeat(cells, block, 0), block, 1)[:height, :width]
  prediction = 0.2 * target + 0.7 * steps
  prediction[..., 2] = target[..., 2] + 0.05 * rng.standard_normal((height, width))
  return prediction.astype(np.float32), target.astype(np.float32)


@pytest.mark.parametrize(
  ("height", "width", "block"), [(16, 16, 8), (24, 40, 8), (9, 9, 8), (21, 13, 8), (33, 20, 4), (5, 6, 2)]
)
def test_against_loops_over_pairs(height, width, block):
  prediction, target = blocky(height, width, block)
  errors = [mse_b(prediction[..., c], target[..., c], block) for c in range(3)]
  value = score(prediction, target, block)
  np.testing.assert_allclose(value, decibels(np.mean(errors)), rtol=1e-5)
  channels = score(*(np.moveaxis(x, -1, 0)[..., None] for x in (prediction, target)), block)
  np.testing.assert_allclose(channels, [decibels(error) for error in errors], rtol=1e-5)
  assert value < psnr_rgb(prediction, target) - 0.1  # the factor is not idle here


def test_a_step_by_hand():
  """8 x 8, block 4, a step of 0.5 at the middle: 8 of the 16 edge pairs differ, no other; eta = 2/3."""
  image = np.zeros((8, 8, 1), np.float32)
  image[:, 4:] = 0.5
  np.testing.assert_allclose(psnr_b(image, image, 4), decibels(2 / 3 * 8 * 0.25 / 16), rtol=1e-6)
  shifted = np.roll(image, 1, axis=1)
  shifted[:, 0] = 0.0  # the step now lies within the blocks
  np.testing.assert_allclose(psnr_b(shifted, shifted, 4), 100.0, rtol=1e-6)


def test_the_factor_looks_at_the_prediction_only():
  prediction, _ = blocky(16, 16, 8)
  ramp = np.linspace(0.2, 0.8, 16, dtype=np.float32)
  target = np.broadcast_to(ramp[:, None, None], prediction.shape)
  np.testing.assert_allclose(psnr_b(target, prediction), psnr_rgb(target, prediction), rtol=1e-5)
  assert psnr_b(prediction, target) < psnr_rgb(prediction, target) - 1.0


def test_never_above_psnr():
  prediction, target = np.random.default_rng(0).random((2, 20, 17, 18, 3)).astype(np.float32)
  assert (psnr_b(prediction, target) <= psnr_rgb(prediction, target) + 1e-5).all()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_images_score_100_with_a_finite_gradient(level):
  image = jnp.full((16, 16, 3), level)
  np.testing.assert_allclose(psnr_b(image, image), 100.0, rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(lambda p: psnr_b(p, image))(image), 0.0)


def test_gradient_against_differences():
  prediction, target = blocky(9, 10, 4)
  gradient = jax.grad(lambda p: psnr_b(p, target, 4))(jnp.asarray(prediction))
  direction = np.random.default_rng(1).standard_normal(prediction.shape)

  def loop(step):
    moved = prediction.astype(np.float64) + step * direction
    return decibels(np.mean([mse_b(moved[..., c], target[..., c], 4) for c in range(3)]))

  np.testing.assert_allclose((gradient * direction).sum(), (loop(1e-5) - loop(-1e-5)) / 2e-5, rtol=1e-3)


def golden_image(case):
  """Integer arithmetic, so that the picture is the same everywhere."""
  i, j = np.mgrid[: case["height"], : case["width"]]
  target = (37 * i + 11 * j + (i * j) % 29) % 256
  prediction = target // 2 + 60 * ((i // case["block"] + j // case["block"]) % 2) + (5 * i + 3 * j) % 7
  return (prediction / 255).astype(np.float32), (target / 255).astype(np.float32)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_against_recorded_torchmetrics(case):
  """torchmetrics agrees on the differences and on eta; its number of pairs is not the number of pairs."""
  prediction, target = golden_image(case)
  theirs = decibels(mse_b(prediction, target, case["block"], "torchmetrics"))
  np.testing.assert_allclose(theirs, case["torchmetrics"], rtol=1e-5)
  ours = score(prediction[..., None], target[..., None], case["block"])
  np.testing.assert_allclose(ours, decibels(mse_b(prediction, target, case["block"])), rtol=1e-5)
  assert ours < case["torchmetrics"]


def test_torchmetrics_itself_says_what_is_recorded():
  torch = pytest.importorskip("torch")
  image = pytest.importorskip("torchmetrics.functional.image")
  for case in GOLDEN["cases"]:
    prediction, target = (torch.from_numpy(x)[None, None] for x in golden_image(case))
    value = image.peak_signal_noise_ratio_with_blocked_effect(prediction, target, 1.0, case["block"])
    np.testing.assert_allclose(float(value), case["torchmetrics"], rtol=1e-6)


def test_types_shapes_and_transformations():
  prediction, target = blocky(16, 18, 8)
  batch = jnp.stack([jnp.asarray(prediction), jnp.asarray(target)])
  expected = np.array([psnr_b(p, target) for p in batch])
  np.testing.assert_allclose(jax.jit(psnr_b)(batch, jnp.stack([target, target])), expected, rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(psnr_b, (0, None))(batch, target), expected, rtol=1e-6)
  assert psnr_b(batch[:, None], batch[:, None]).shape == (2, 1)
  assert psnr_b(prediction.astype(jnp.bfloat16), target.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(("height", "width", "block"), [(24, 40, 8), (21, 13, 8), (5, 6, 2)])
def test_blockiness_against_loops_over_pairs(height, width, block):
  image, _ = blocky(height, width, block)
  pairs = [differences(image[..., c], block) for c in range(3)]
  edge, other = (np.mean([np.abs(pair[k]).mean() for pair in pairs]) for k in range(2))
  assert edge / other > 1.5
  np.testing.assert_allclose(blockiness(image, block), edge / other, rtol=1e-4)
  np.testing.assert_allclose(blockiness(image[None].repeat(2, 0), block), [edge / other] * 2, rtol=1e-4)


def test_blockiness_by_hand():
  """A ramp has none; with twice the step at each edge it has 2; each pixel repeated, the grid is as much wider."""
  steps = np.where(np.arange(1, 32) % 8 == 0, 2.0, 1.0)
  line = np.concatenate([[0], np.cumsum(steps)]) / 64
  image = (line[:, None] + line)[..., None].astype(np.float32) / 2
  assert blockiness(image) == pytest.approx(2, rel=1e-4)
  assert blockiness(image[4:]) < 1.6  # the grid starts at the upper left corner
  ramp = np.add.outer(np.arange(24), np.arange(24))[..., None].astype(np.float32) / 64
  assert blockiness(ramp) == pytest.approx(1, rel=1e-4)
  large = image.repeat(3, 0).repeat(3, 1)
  assert blockiness(large, factor=3) == pytest.approx(2, rel=1e-3)
  assert blockiness(large, 24) == pytest.approx(
    2 * 23 / 7, rel=1e-3
  )  # of 23 pairs within a block, 16 are equal
  image[3, 3] = np.inf
  assert np.isnan(blockiness(image))
  for level in (0.0, 0.5, 1.0):
    assert blockiness(np.full((16, 16, 3), level, np.float32)) == 1


def test_blockiness_of_jpeg():
  """libjpeg by Pillow; enlarged after it by a factor, the blocks are as much larger."""
  random = np.random.default_rng(0)
  noise = Image.fromarray(random.integers(0, 256, (19, 19), dtype=np.uint8))
  smooth = noise.resize((192, 192), Image.Resampling.BICUBIC)

  def coded(quality):
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=quality)
    return Image.open(file)

  def score(image, factor=1):
    return float(blockiness(np.asarray(image, np.float32)[..., None] / 255, factor=factor))

  found = [score(smooth), *(score(coded(quality)) for quality in (90, 50, 10))]
  assert found[0] == pytest.approx(1, abs=0.05) and found == sorted(found) and found[-1] > 1.5
  for factor in (2, 3):
    clean, large = (
      one.resize((192 * factor, 192 * factor), Image.Resampling.BICUBIC) for one in (smooth, coded(10))
    )
    assert score(clean, factor) == pytest.approx(1, abs=0.05)
    assert score(large, factor) > 1.4
    assert (
      score(large.crop((4 * factor, 4 * factor, 180 * factor, 180 * factor)), factor) < 1.2
    )  # another grid


def test_bad_input_is_named():
  for shape in ((8, 16, 3), (16, 8, 3), (1, 1, 3)):
    with pytest.raises(ValueError, match=f"{shape[0]} x {shape[1]}"):
      psnr_b(np.zeros(shape), np.zeros(shape))
  for block in (1, 0, -8):
    with pytest.raises(ValueError, match=f"block {block}"):
      psnr_b(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)), block)
    with pytest.raises(ValueError, match=f"blockiness .* block {block}"):
      blockiness(np.zeros((16, 16, 3)), block)
  with pytest.raises(ValueError, match="block 16, images 16 x 16"):
    blockiness(np.zeros((16, 16, 3)), factor=2)
  with pytest.raises(ValueError, match="factor=0"):
    blockiness(np.zeros((16, 16, 3)), factor=0)
  for image, message in ((np.zeros((16, 16)), "give images"), (np.zeros((16, 16, 3), np.uint8), "uint8")):
    with pytest.raises(ValueError, match=message):
      blockiness(image)
  with pytest.raises(ValueError, match="must be equal"):
    psnr_b(np.zeros((16, 16, 3)), np.zeros((16, 16, 1)))
