"""No decoder leaves a lattice: spectra of what toy models make of smooth images they have not seen.

A lattice is a pattern of 2 or 4 pixels, the blocks of sub-pixel convolutions. Its power lies at multiples of 1/4 cycle
a pixel, and is compared with that of the frequencies around them. Smooth images have no peak there. Decoders without
what is against a lattice (equal kernels, a last convolution that sees across blocks, a blur) have one.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config, from_json, to_json
from vae_jax.models import blocks, build
from vae_jax.models.blocks import blurred, pixel_shuffle
from vae_jax.models.decoders import ConvDecoder
from vae_jax.objectives import make_objective
from vae_jax.training import assemble, state, steps
from vae_jax.types import image_spec

SIDE, BATCH, PERIOD = 32, 16, 4
# Most that a peak may be above its surroundings. Smooth images have 1, decoders here 1 to 5 by the seed, faults 9 up.
BOUND = 6.0
SMALL = "model.channels=8,16 model.blocks=0"
VECTOR = f"{SMALL} model.dense=32 model.latent_dim=16 model.likelihood=gaussian model.sigma=0.1"
CODES = f"{SMALL} model.code_dim=4 model.codes=64 model.sigma=0.1"
GAN = (
  "model.channels=8,16 model.dense=32 model.latent_dim=16 objective.discriminator.channels=8,16 "
  "objective.discriminator.dense=16"
)
RESTORER = "model.channels=8 model.blocks=1 model.latent_dim=2 model.likelihood=laplace"


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


# --- what is measured ---


@functools.cache
def smooth(n, seed):
  """Noise whose amplitude falls as the frequency to the power of 1.5, cut from a larger field: [n, 32, 32, 1]."""
  side = 2 * SIDE
  frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
  noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(n, side, side)))
  field = np.fft.irfft2(noise / np.maximum(frequency, 1) ** 1.5, s=(side, side))[:, :SIDE, :SIDE, None]
  return np.clip(0.5 + 0.18 * field / field.std(), 0, 1).astype(np.float32)


def reduced(images, factor):
  """The means of blocks: what a super-resolution model sees."""
  n, h, w, c = images.shape
  return images.reshape(n, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def spectrum(images):
  """The mean power of images [n, 32, 32, c] without their means, under a Hann window: [32, 32]."""
  window = np.hanning(SIDE + 1)[:-1]
  centred = np.asarray(images, np.float64) - np.mean(images, axis=(1, 2), keepdims=True)
  found = np.fft.fft2(centred * (window[:, None] * window)[..., None], axes=(1, 2))
  return np.square(np.abs(found)).mean(axis=(0, 3))


def lattice(images, beside=None):
  """The strongest peak of the mean spectrum at multiples of 1/4 cycle a pixel, relative to its surroundings.

  The mean of 3 x 3 bins, over which the window spreads a peak, divided by the median of the bins up to 4 away, or of
  those in the same rows or columns, whichever is largest: images are strong along both axes. beside: images whose
  surroundings count too, for images that have nearly no power there.
  """
  power, offsets = spectrum(images), np.arange(-4, 5)
  others = [power] if beside is None else [power, spectrum(beside)]
  near, found = np.abs(offsets) <= 1, []
  for place in range(1, PERIOD**2):
    row, column = (i * SIDE // PERIOD + offsets for i in divmod(place, PERIOD))
    block = np.ix_(row % SIDE, column % SIDE)
    around = [
      np.median(part)
      for x in (other[block] for other in others)
      for part in (x[~(near[:, None] & near)], x[np.ix_(near, ~near)], x[np.ix_(~near, near)])
    ]
    found.append(power[block][np.ix_(near, near)].mean() / max(around))
  return max(found)


def test_the_measure_sees_a_lattice_of_a_twentieth_of_the_range():
  images = smooth(96, 9)
  assert lattice(images) < 2
  for pattern in (np.indices((SIDE, SIDE)).sum(0) % 2, np.arange(SIDE)[:, None] % 4 == 0):
    assert lattice(images + 0.05 * pattern[..., None]) > 2 * BOUND


# --- toy models ---


def trained(family, words, factor, count):
  """A model after some steps on smooth images, and its variables."""
  how = f"training.steps={count} training.learning_rate=2e-3 training.warmup_steps=20"
  config = apply_overrides(base_config(family), f"{how} {words}".split())
  images = smooth(512, 0)
  spec = image_spec(images.shape[1:], None if factor == 1 else (SIDE // factor, SIDE // factor, 1))
  model, judges = build(config.model, spec), assemble.make_opponents(config, spec)
  tx = state.make_optimizer(config.training)
  step = jax.jit(
    steps.make_train_step(
      model,
      make_objective(config.objective, model.terms, len(images)),
      lambda keys, batch, frozen: batch,
      tx,
      state.make_learning_rate(config.training),
      ema_decay=0.0,
      root=jax.random.key(1),
      opponents=judges,
    )
  )
  now = jax.jit(lambda: state.init_state(model, tx, spec, jax.random.key(0), opponents=judges))()
  random = np.random.default_rng(0)
  for _ in range(count):
    now, _ = step(now, batch_of(images[random.integers(0, len(images), BATCH)], factor))
  return model, {"params": now.params, **now.rest}


def batch_of(images, factor):
  return {"image": images} if factor == 1 else {"image": images, "degraded": reduced(images, factor)}


def made(model, variables, factor=1):
  """Reconstructions or estimates of images that were not trained on, and samples or draws, by name."""
  held, found = smooth(96, 9), {}
  batch = batch_of(held, factor)

  def call(method, *args):
    return np.asarray(jax.jit(lambda v, *args: model.apply(v, *args, method=method))(variables, *args))

  found["reconstructions"] = call("reconstruct", batch)
  if {"sample", "draw"} & model.can:
    spec = image_spec(held.shape[1:], None if factor == 1 else batch["degraded"].shape[1:])
    noise = jax.vmap(lambda key: model.noise(key, spec))(jax.random.split(jax.random.key(5), len(held)))
    found["drawn"] = call("generate", noise, batch)
  return found


def peaks(family, words, factor, count):
  beside = smooth(96, 9) if "head_channels" in words else None
  images = made(*trained(family, words, factor, count), factor)
  return {name: lattice(x, beside) for name, x in images.items()}


@pytest.mark.parametrize(
  ("family", "words", "factor", "count"),
  [
    ("conv_vae", VECTOR, 1, 400),
    ("vq_vae", CODES, 1, 300),
    ("vae_gan", GAN, 1, 100),
    ("restoration_vae", RESTORER, 2, 100),
    ("restoration_vae", RESTORER, 4, 100),
    pytest.param("restoration_vae", f"{RESTORER} model.head_channels=8", 4, 100, marks=pytest.mark.slow),
  ],
)
def test_no_decoder_leaves_a_lattice(family, words, factor, count):
  found = peaks(family, words, factor, count)
  assert max(found.values()) < BOUND, found


def test_pixels_that_are_made_one_by_one_of_unrelated_kernels_are_a_lattice(monkeypatch):
  monkeypatch.setattr(blocks, "equal_kernels", lambda init, factor: init)
  assert peaks("conv_vae", f"{VECTOR} model.head_kernel=1", 1, 400)["reconstructions"] > BOUND


@pytest.mark.slow
def test_without_the_blur_a_discriminator_makes_a_lattice():
  assert min(peaks("vae_gan", f"{GAN} model.blur=false", 1, 100).values()) > BOUND


# --- the blur ---


def test_the_blur_takes_away_patterns_of_two_pixels_and_keeps_ramps():
  rows, columns = np.indices((8, 6)).astype(np.float32)
  for pattern in ((-1) ** rows, (-1) ** columns, (-1) ** (rows + columns)):
    np.testing.assert_allclose(blurred(pattern[None, ..., None])[0, 1:-1, 1:-1], 0, atol=1e-7)
  ramp = (3 * rows - 2 * columns)[None, ..., None]
  np.testing.assert_allclose(blurred(ramp)[0, 1:-1, 1:-1], ramp[0, 1:-1, 1:-1], rtol=1e-6)
  np.testing.assert_allclose(blurred(np.full((1, 3, 2, 1), 0.3, np.float32)), 0.3, rtol=1e-6)


def test_constant_features_of_any_kernel_are_no_pattern_after_the_blur():
  kernel = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
  features = jnp.broadcast_to(jnp.asarray([1.0, -2.0, 0.5, 3.0]) @ kernel, (1, 6, 6, 8))
  plain, smoothed = pixel_shuffle(features), blurred(pixel_shuffle(features))
  assert np.ptp(plain[0, 1:-1, 1:-1], axis=(0, 1)).min() > 0.1
  np.testing.assert_allclose(np.ptp(smoothed[0, 1:-1, 1:-1], axis=(0, 1)), 0, atol=1e-5)


@pytest.mark.parametrize(("family", "default"), [("vae_gan", True), ("conv_vae", False), ("vq_vae", False)])
def test_the_key_reaches_the_decoder_and_older_runs_have_no_blur(family, default):
  config = base_config(family)
  decoder = build(config.model, image_spec((SIDE, SIDE, 1))).decoder
  assert type(decoder) is ConvDecoder and decoder.blur is default and decoder.head_kernel == 3
  assert from_json(to_json(config)).model.blur is default
  older = json.loads(to_json(config))
  del older["model"]["blur"]
  assert from_json(json.dumps(older)).model.blur is False
