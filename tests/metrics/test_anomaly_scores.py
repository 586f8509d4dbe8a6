"""Scores of anomalies on Gaussians whose densities are known, and sizes of images against zlib and bz2 by hand."""

import bz2
import struct
import zlib

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal

from vae_jax import metrics
from vae_jax.errors import UserError
from vae_jax.metrics import anomaly

RANDOM = np.random.default_rng(0)
D = 20


def nll(x, deviation=1.0):
  """In closed form, of N(0, deviation^2 I)."""
  return -multivariate_normal(np.zeros(D), deviation**2).logpdf(x)


def test_simpler_images_are_likelier_and_typicality_finds_them():
  """Draws of half the deviation lie where the density of N(0, I) is higher than that of nearly all of its own draws."""
  normal, simple, wide = (RANDOM.normal(0, s, (400, D)) for s in (1.0, 0.5, 2.0))
  mean = D / 2 * (1 + np.log(2 * np.pi))  # the entropy
  bound = [nll(x) for x in (normal, simple, wide)]
  typical = [metrics.typicality(x, mean) for x in bound]
  # nll is half a chi-squared: P(simple scores higher) = P(X / 4 > Y) of two chi-squared ones
  grid = np.linspace(1e-3, 100, 20001)
  expected = np.trapezoid(chi2.pdf(grid, D) * chi2.cdf(grid / 4, D), grid)
  assert abs(metrics.auroc(bound[1], bound[0]) - (1 - expected)) < 0.01
  assert metrics.auroc(bound[0], bound[1]) < 0.01 and metrics.auroc(bound[0], bound[2]) > 0.99
  assert metrics.auroc(typical[0], typical[1]) > 0.95 and metrics.auroc(typical[0], typical[2]) > 0.95
  np.testing.assert_allclose(metrics.typicality([3.0, 5.0, 7.0], 5.0), [2, 0, 2])


def test_the_ratio_of_two_known_models_leaves_out_what_they_share():
  """Half of the dimensions, of any scale, are alike to both models; the other half tells."""
  scale = RANDOM.uniform(0.3, 3.0, (400, 1))  # of the background, which changes from image to image
  shared = scale * RANDOM.normal(size=(400, 10 * D))
  normal, anomalous = RANDOM.normal(size=(200, D)), RANDOM.normal(0, 1.6, (200, D))
  content = np.concatenate([normal, anomalous])
  common = np.sum(0.5 * np.square(shared) + 0.5 * np.log(2 * np.pi), axis=1)
  model, background = common + nll(content), common + nll(content, 2.0)
  ratio = metrics.likelihood_ratio(model, background)
  np.testing.assert_allclose(ratio, nll(content) - nll(content, 2.0), rtol=1e-9)
  # in closed form 3/8 |x|^2 - d log 2
  np.testing.assert_allclose(ratio, 0.375 * np.square(content).sum(1) - D * np.log(2), rtol=1e-9)
  assert metrics.auroc(ratio[:200], ratio[200:]) > 0.95 > 0.6 > metrics.auroc(model[:200], model[200:])
  with pytest.raises(UserError, match=r"shape \(2,\) and of the background \(3,\)"):
    metrics.likelihood_ratio(np.zeros(2), np.zeros(3))


def test_complexity_in_bits_per_dimension():
  # 8 ln 2 nats of 4 values are 2 bits of each, and 12 bits 3 of each
  np.testing.assert_allclose(metrics.complexity_corrected([8 * np.log(2)], [12.0], 4), [2 - 3])
  np.testing.assert_allclose(metrics.complexity_corrected([8 * np.log(2)], [12.0], 4, True), [8 + 2 - 3])
  with pytest.raises(UserError, match="give the same images"):
    metrics.complexity_corrected([1.0, 2.0], [1.0], 4)


def test_sizes_are_those_of_the_better_compressor():
  flat = np.full((32, 32, 3), 130, np.uint8)
  noise = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
  ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None] * 7, (32, 32, 3))
  sizes = metrics.compressed_bits(np.stack([flat, noise, ramp]))
  assert sizes[0] < sizes[2] < sizes[1]
  assert 8 * noise.size <= sizes[1] < 8.3 * noise.size  # noise cannot be compressed
  # the data of a PNG of noise: rows with a byte for their filter, by zlib
  rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise), 9)
  assert sizes[1] == 8 * min(len(rows), len(bz2.compress(noise.tobytes())))


def test_a_png_has_that_many_bytes_besides_its_data():
  """The chunks by hand: signature, IHDR of 13 bytes, IDAT, IEND, each with length, name and CRC."""
  frame = 8 + (12 + 13) + 12 + 12
  assert frame == anomaly.PNG_FRAME
  image = np.zeros((1, 8, 8, 1), np.bool_)
  rows = zlib.compress(b"\0\0" * 8, 9)  # a row of 8 pixels is a byte, after that of its filter
  assert struct.calcsize(">I4sI") == 12 and metrics.compressed_bits(image)[0] == 8 * len(rows)


def test_black_and_white_images_are_packed():
  noise = RANDOM.random((4, 64, 64, 1)) < 0.5
  bits, grey = (
    metrics.compressed_bits(noise),
    metrics.compressed_bits(np.where(noise, 255, 0).astype(np.uint8)),
  )
  assert (noise[0].size <= bits).all() and (bits < 1.15 * noise[0].size).all() and (bits < grey).all()
  colours = RANDOM.random((1, 64, 64, 3)) < 0.5
  assert colours.size <= metrics.compressed_bits(colours)[0] < 1.15 * colours.size


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 1), np.float32), np.zeros((4, 4, 1), np.uint8)])
def test_other_images_are_refused(images):
  with pytest.raises(UserError, match="give uint8"):
    metrics.compressed_bits(images)
