"""The batch on the device: probabilities and ranges against theory, keys, and the preflight."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.configuration import base_config
from vae_jax.data import degrade, prepare
from vae_jax.errors import UserError


def config(**values):
  tree = base_config().data
  tree.update_from_flattened_dict(values)
  return tree


def random_bytes(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def run(settings, batch, *, training=True, seed=0):
  keys = jax.random.split(jax.random.key(seed), len(batch["image"]))
  return jax.jit(prepare.make_prepare(settings, training))(keys, batch)


def test_plain(key):
  image = random_bytes(3, 5, 7, 3)
  batch = run(config(), {"image": image, "label": np.arange(3), "mask": np.array([True, True, False])})
  assert sorted(batch) == ["image", "label", "mask"]
  assert batch["image"].dtype == jnp.float32
  np.testing.assert_allclose(batch["image"], image / 255.0, rtol=0, atol=1e-7)
  np.testing.assert_array_equal(batch["label"], np.arange(3))


@pytest.mark.parametrize(
  "values",
  [
    {"degrade.name": "gaussian_noise", "degrade.sigma": 0.0, "degrade.sigma_max": 0.4},
    {"degrade.name": "chain", "degrade.chain": "down 2 box; noise 0..100"},
  ],
)
def test_sigma_is_that_of_the_noise_in_degraded(values):
  grey = np.full((8, 96, 96, 1), 128, np.uint8)
  batch = run(config(**values), {"image": grey, "label": np.arange(8)})
  noise = np.asarray(batch["degraded"], np.float64) - 128 / 255
  assert batch["sigma"].shape == (8,) and batch["sigma"].dtype == jnp.float32
  found = noise.reshape(8, -1)
  np.testing.assert_allclose(found.std(1), batch["sigma"], rtol=5 / math.sqrt(2 * found.shape[1]))
  assert np.ptp(batch["sigma"]) > 0.1


def test_sigma_is_left_out_where_it_is_fixed_or_the_noise_is_not_ours():
  assert "sigma" not in run(config(**{"degrade.name": "gaussian_noise"}), {"image": random_bytes(2, 4, 4, 1)})
  blind = config(**{"degrade.name": "gaussian_noise", "degrade.sigma_max": 0.4})
  pairs = {"image": random_bytes(2, 4, 4, 1), "degraded": random_bytes(2, 4, 4, 1)}
  assert "sigma" not in run(blind, pairs)


def test_all_grey_levels_stay_in_range():
  image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  result = np.asarray(run(config(), {"image": image})["image"]).ravel()
  assert result[0] == 0 and result[-1] == 1 and (np.diff(result) > 0).all()


def test_float_images_pass_through():
  image = random_bytes(2, 4, 4, 1).astype(np.float32) / 255
  np.testing.assert_array_equal(run(config(), {"image": image})["image"], image)


def test_flip_mirrors_image_and_degraded_together():
  image, degraded = random_bytes(64, 4, 6, 3), random_bytes(64, 2, 3, 1, seed=1)
  batch = run(config(flip=True), {"image": image, "degraded": degraded})
  flipped = 0
  for i in range(64):
    mirrored = np.allclose(batch["image"][i], image[i, :, ::-1] / 255.0, atol=1e-6)
    flipped += mirrored
    step = -1 if mirrored else 1
    np.testing.assert_allclose(batch["image"][i], image[i, :, ::step] / 255.0, atol=1e-6)
    np.testing.assert_allclose(batch["degraded"][i], degraded[i, :, ::step] / 255.0, atol=1e-6)
  assert 12 < flipped < 52  # 32 +- 5 * 4


def test_no_flip_outside_training():
  image = random_bytes(32, 4, 6, 1)
  batch = run(config(flip=True), {"image": image}, training=False)
  np.testing.assert_allclose(batch["image"], image / 255.0, atol=1e-6)


def test_exposure_clips_half_of_the_images_at_black_or_white():
  image = np.tile(np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16, 1), (4000, 1, 1, 1))
  exposed = np.asarray(run(config(exposure=3.0), {"image": image})["image"]).reshape(4000, 256)
  levels = image[0].ravel()
  same = np.abs(exposed - levels).max(axis=1) < 1e-6
  black, white = exposed[:, 128] < levels[128] - 1e-6, exposed[:, 128] > levels[128] + 1e-6
  assert abs(same.mean() - 0.5) < 0.04 and abs(black.mean() - 0.25) < 0.04 and abs(white.mean() - 0.25) < 0.04
  gain, most = exposed[white, 8] / levels[8], exposed[white].max(axis=1)  # not clipped below 8 times
  np.testing.assert_allclose(exposed[white], np.minimum(gain[:, None] * levels, most[:, None]), atol=1e-5)
  gain, least = (1 - exposed[black, 247]) / (1 - levels[247]), exposed[black].min(axis=1)
  np.testing.assert_allclose(
    exposed[black], np.maximum(1 - gain[:, None] * (1 - levels), least[:, None]), atol=1e-5
  )
  # half of them at white or black, the others at a level within a tenth of it
  assert abs((most == 1).mean() - 0.5) < 0.06 and abs((least == 0).mean() - 0.5) < 0.06
  assert most.min() >= 0.9 and least.max() <= 0.1001 and 0.94 < most[most < 1].mean() < 0.96
  # 2^u, u uniform in [0, 3]: half of the gains lie below 2^1.5
  assert gain.min() >= 1 and gain.max() <= 8.001 and abs((gain < 2**1.5).mean() - 0.5) < 0.06
  np.testing.assert_array_equal(
    run(config(exposure=3.0), {"image": image[:2]}, training=False)["image"], image[:2]
  )
  with pytest.raises(UserError, match=r"set data\.exposure=0"):
    run(config(exposure=3.0), {"image": image[:2], "degraded": image[:2]})


def test_turned_is_rot90():
  image = random_bytes(5, 5, 3)
  for turns in range(4):
    np.testing.assert_array_equal(jax.jit(prepare.turned)(image, turns), np.rot90(image, turns))


def test_rotate_turns_image_and_degraded_together():
  image, degraded = random_bytes(64, 6, 6, 3), random_bytes(64, 3, 3, 1, seed=1)
  batch = run(config(rotate=True), {"image": image, "degraded": degraded})
  counts = [0] * 4
  for i in range(64):
    fits = [
      k for k in range(4) if np.allclose(batch["image"][i], np.rot90(image[i], k) / 255.0, rtol=0, atol=1e-6)
    ]
    (turns,) = fits
    counts[turns] += 1
    np.testing.assert_allclose(batch["degraded"][i], np.rot90(degraded[i], turns) / 255.0, atol=1e-6)
  assert min(counts) > 2 and max(counts) < 34  # 16 +- 5 * 3.5


def test_mirrored_first_then_turned_each_by_a_key_of_its_own():
  """All eight orientations; and whether an image is mirrored does not depend on `rotate`."""
  image = random_bytes(64, 4, 4, 1)
  flipped = np.asarray(run(config(flip=True), {"image": image})["image"])
  both = np.asarray(run(config(flip=True, rotate=True), {"image": image})["image"])
  seen = set()
  for i in range(64):
    (turns,) = [k for k in range(4) if np.array_equal(both[i], np.rot90(flipped[i], k))]
    seen.add((bool(np.allclose(flipped[i], image[i] / 255.0, atol=1e-6)), turns))
  assert len(seen) == 8


def test_no_rotation_outside_training():
  image, degraded = random_bytes(16, 4, 4, 1), random_bytes(16, 2, 2, 1, seed=1)
  batch = run(config(rotate=True), {"image": image, "degraded": degraded}, training=False)
  np.testing.assert_allclose(batch["image"], image / 255.0, atol=1e-6)
  np.testing.assert_allclose(batch["degraded"], degraded / 255.0, atol=1e-6)


def test_what_is_degraded_is_the_turned_image():
  batch = run(config(**{"rotate": True, "degrade.name": "bicubic_down"}), {"image": random_bytes(8, 6, 6, 3)})
  expected = degrade.bicubic_down(jax.random.key(0), batch["image"], 2)
  np.testing.assert_allclose(batch["degraded"], expected, rtol=0, atol=1e-6)


def test_turns_depend_on_the_key_alone(key):
  function = jax.jit(prepare.make_prepare(config(rotate=True), True))
  keys, image = jax.random.split(key, 12), random_bytes(12, 5, 5, 1)
  whole = np.asarray(function(keys, {"image": image})["image"])
  np.testing.assert_array_equal(function(keys[::-1], {"image": image[::-1]})["image"][::-1], whole)
  other = function(jax.random.split(jax.random.key(1), 12), {"image": image})["image"]
  assert np.abs(np.asarray(other) - whole).max() > 0


@pytest.mark.parametrize("as_float", [False, True])
def test_dynamic_binarisation_has_the_pixel_as_probability(as_float):
  levels = np.arange(256, dtype=np.uint8)
  image = np.broadcast_to(levels[:, None, None, None], (256, 60, 60, 1))
  image = image.astype(np.float32) / 255 if as_float else image
  ones = np.asarray(run(config(binarize="dynamic"), {"image": image})["image"])
  assert set(np.unique(ones)) == {0.0, 1.0}
  p = levels / 255
  standardised = (ones.reshape(256, -1).mean(axis=1) - p)[1:255] / np.sqrt(p * (1 - p) / 3600)[1:255]
  assert np.abs(standardised).max() < 5 and abs(standardised.mean()) < 5 / 16
  assert 0.8 < standardised.std() < 1.2
  assert ones[0].max() == 0 and ones[255].min() == 1


def test_dynamic_binarisation_is_exact_to_1e_4(monkeypatch):
  # Every one of the 65,536 possible draws once: the share of ones is the probability itself.
  draws = jnp.arange(65536, dtype=jnp.float32)
  monkeypatch.setattr(prepare, "_bits16", lambda key, shape: draws.reshape(shape))
  share = jax.jit(
    lambda value: prepare.binarize_dynamic(None, jnp.broadcast_to(value, (256, 256, 1))).sum() / 65536
  )
  shares = np.array([share(np.uint8(v)) for v in range(256)])
  np.testing.assert_allclose(shares, np.arange(256) / 255, rtol=0, atol=1e-5)
  assert shares[0] == 0 and shares[255] == 1
  for value in np.random.default_rng(0).random(20, np.float32):
    assert abs(share(value) - value) < 1e-5


def test_bits_are_uniform_and_uncorrelated(key):
  bits = np.asarray(prepare._bits16(key, (401, 501, 1))).ravel()
  n = bits.size
  assert bits.min() >= 0 and bits.max() <= 65535
  for width in (1, 256):  # low byte and high byte: chi-squared over 256 bins
    counts = np.bincount((bits // width).astype(int) % 256, minlength=256)
    chi2 = ((counts - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
  for lag in (1, 2):
    assert abs(np.corrcoef(bits[:-lag], bits[lag:])[0, 1]) < 5 / math.sqrt(n)


def test_threshold():
  image = np.array([0, 127, 128, 255], np.uint8).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(
    run(config(binarize="threshold"), {"image": image})["image"].ravel(), [0, 0, 1, 1]
  )
  image = np.array([0.0, 0.5, 0.51, 1.0], np.float32).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(
    run(config(binarize="threshold"), {"image": image})["image"].ravel(), [0, 0, 1, 1]
  )


@pytest.mark.parametrize("as_float", [False, True])
def test_dequantize_stays_within_its_grey_level(as_float):
  levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 40, 40, 1))
  image = levels.astype(np.float32) / 255 if as_float else levels
  result = np.asarray(run(config(dequantize=True), {"image": image})["image"], np.float64)
  np.testing.assert_array_equal(np.floor(256 * result), levels)
  u = 256 * result - levels
  assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * u.size)
  assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / u.size)


def test_dequantize_extremes_are_exact(monkeypatch):
  for draw, u in ((0.0, 0.0), (65535.0, 65535 / 65536)):
    monkeypatch.setattr(prepare, "_bits16", lambda key, shape, draw=draw: jnp.full(shape, draw))
    for v in (0, 1, 127, 128, 255):
      result = prepare.dequantize(None, np.full((1,), v, np.uint8))
      assert float(result[0]) == (v + u) / 256


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_degraded_is_made_from_the_prepared_image(binarize):
  settings = config(**{"flip": True, "binarize": binarize, "degrade.name": "bicubic_down"})
  batch = run(settings, {"image": random_bytes(4, 8, 6, 3)})
  expected = degrade.bicubic_down(jax.random.key(0), batch["image"], 2)
  assert batch["degraded"].shape == (4, 4, 3, 3)
  np.testing.assert_allclose(batch["degraded"], expected, rtol=0, atol=1e-6)


def test_given_degraded_is_kept():
  image, degraded = random_bytes(4, 8, 8, 1), random_bytes(4, 4, 4, 1, seed=1)
  settings = config(**{"binarize": "threshold", "degrade.name": "gaussian_noise"})
  batch = run(settings, {"image": image, "degraded": degraded})
  assert batch["degraded"].dtype == jnp.float32
  np.testing.assert_allclose(batch["degraded"], degraded / 255.0, atol=1e-6)


RANDOM = [
  {"binarize": "dynamic"},
  {"dequantize": True},
  {"degrade.name": "gaussian_noise", "degrade.sigma_max": 0.5},
  {"flip": True, "binarize": "dynamic", "degrade.name": "poisson_gaussian"},
]


@pytest.mark.parametrize("values", RANDOM, ids=str)
def test_draws_depend_on_the_key_alone(key, values):
  function = jax.jit(prepare.make_prepare(config(**values), True))
  keys, image = jax.random.split(key, 6), random_bytes(6, 7, 9, 3)
  whole = function(keys, {"image": image})
  backwards = function(keys[::-1], {"image": image[::-1]})
  strangers = function(keys.at[:3].set(jax.random.split(jax.random.key(2), 3)), {"image": image})
  for entry in whole:
    np.testing.assert_allclose(backwards[entry][::-1], whole[entry], rtol=0, atol=1e-6)
    np.testing.assert_allclose(strangers[entry][3:], whole[entry][3:], rtol=0, atol=1e-6)
  again = function(keys, {"image": image})
  other = function(jax.random.split(jax.random.key(1), 6), {"image": image})
  changed = "degraded" if "degraded" in whole else "image"
  np.testing.assert_array_equal(again[changed], whole[changed])
  assert np.abs(np.asarray(other[changed] - whole[changed])).max() > 0


def test_draws_do_not_depend_on_the_batch_size(key):
  function = jax.jit(prepare.make_prepare(config(flip=True, binarize="dynamic"), True))
  keys, image = jax.random.split(key, 6), random_bytes(6, 7, 9, 3)
  whole, part = function(keys, {"image": image}), function(keys[2:3], {"image": image[2:3]})
  np.testing.assert_array_equal(part["image"], whole["image"][2:3])


def test_examples_with_equal_images_differ():
  image = np.full((2, 16, 16, 1), 128, np.uint8)
  result = run(config(binarize="dynamic"), {"image": image})["image"]
  assert abs(np.corrcoef(result[0].ravel(), result[1].ravel())[0, 1]) < 5 / 16


@pytest.mark.parametrize("values", [{"binarize": "dynamic"}, {"dequantize": True}], ids=str)
def test_each_operation_has_a_key_of_its_own(key, monkeypatch, values):
  def fingerprint(key, image):
    return jnp.full(image.shape, jax.random.uniform(key))

  for operation in ("binarize_dynamic", "dequantize"):
    monkeypatch.setattr(prepare, operation, fingerprint)
  monkeypatch.setattr(prepare, "make_degrade", lambda config: fingerprint)
  image = random_bytes(1, 2, 2, 1)
  batch = run(config(**values, **{"degrade.name": "gaussian_noise"}), {"image": image})
  alone = run(config(**{"degrade.name": "gaussian_noise"}), {"image": image})
  np.testing.assert_array_equal(batch["degraded"], alone["degraded"])
  own = jax.random.uniform(jax.random.split(key, 1)[0])
  assert len({float(own), float(batch["image"].max()), float(batch["degraded"].max())}) == 3


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"binarize": "dynamik"}, "did you mean 'dynamic'"),
    ({"binarize": "dynamic", "dequantize": True}, "data.dequantize=True"),
    ({"degrade.name": "blur"}, "data.degrade.name='blur'"),
    ({"degrade.name": "bicubic_down", "degrade.factor": 1}, "data.degrade.factor=1"),
  ],
)
def test_bad_settings(values, words):
  with pytest.raises(UserError) as error:
    prepare.make_prepare(config(**values), True)
  assert words in str(error.value) and "\n" not in str(error.value)


GREY = np.full((2, 8, 6, 3), 100, np.uint8)


@pytest.mark.parametrize(
  "batch",
  [
    {"image": GREY},
    {"image": GREY.astype(np.float32) / 255, "label": np.arange(2), "mask": np.ones(2, bool)},
    {"image": np.zeros_like(GREY)},
    {"image": GREY, "degraded": GREY},
    {"image": GREY, "degraded": GREY[:, ::2, ::2, :1]},
    {"image": GREY, "degraded": GREY[:, :2, :2]},  # ceil(8 / 4) and ceil(6 / 4)
  ],
)
def test_good_first_batches(batch):
  prepare.check_first_batch(batch, config(), (8, 6, 3))


@pytest.mark.parametrize(
  ("batch", "values", "words"),
  [
    ({"label": np.arange(2)}, {}, "no 'image'"),
    ({"image": GREY[..., 0]}, {}, "last axis of 1"),
    ({"image": GREY[:0]}, {}, "empty"),
    ({"image": GREY.astype(np.float64) / 255}, {}, "float64"),
    ({"image": GREY.astype(np.int32)}, {}, "int32"),
    ({"image": GREY.astype(np.float32)}, {"binarize": "dynamic"}, "from 100.0 to 100.0: scale it"),
    ({"image": GREY.astype(np.float32) / 255 - 0.5}, {}, "scale it"),
    ({"image": np.full((2, 8, 6, 3), np.nan, np.float32)}, {}, "nan"),
    ({"image": GREY % 2 + 1}, {}, "0 and 1 only"),
    ({"image": GREY[:, :7]}, {}, "7 x 6 pixels, expected 8 x 6"),
    ({"image": GREY[..., :1]}, {}, "1 channels, expected 3"),
    ({"image": GREY}, {"degrade.name": "blur_down", "degrade.factor": 1}, "data.degrade.factor=1"),
    ({"image": GREY, "degraded": GREY[..., 0]}, {}, "batch['degraded'] has shape"),
    ({"image": GREY, "degraded": GREY}, {"degrade.name": "gaussian_noise"}, "brings its own"),
    ({"image": GREY, "degraded": GREY[:, :4]}, {}, "4 x 6 pixels for a clean image of 8 x 6"),
    ({"image": GREY, "degraded": GREY[:1]}, {}, "batch['degraded'] has shape (1, 8, 6, 3)"),
    ({"image": GREY, "label": np.arange(3)}, {}, "batch['label'] has shape (3,)"),
  ],
)
def test_bad_first_batches(batch, values, words):
  with pytest.raises(UserError) as error:
    prepare.check_first_batch(batch, config(**values), (8, 6, 3))
  assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("image", [GREY[:, :7], GREY[..., :1]])
def test_the_remedy_of_a_trained_model_is_other_data(image):
  with pytest.raises(UserError, match="this run takes images of 8 x 6 x 3; give --data_dir of such images"):
    prepare.check_first_batch({"image": image}, config(), (8, 6, 3), trained=True)


@pytest.mark.parametrize("key", ["flip", "rotate"])
@pytest.mark.parametrize("field", ["factors", "codes"])
def test_images_that_move_away_from_their_factors_or_codes_are_refused(key, field):
  config = base_config().data
  config[key] = True
  batch = {"image": np.zeros((2, 4, 4, 1), np.uint8), field: np.zeros((2, 3), np.int32)}
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(UserError, match=rf"data\.{key}=true moves images, and their {field} stay as they are"):
    prepare.make_prepare(config, training=True)(keys, batch)
  prepare.make_prepare(config, training=False)(keys, batch)


def greys(*levels):
  """Equal numbers of pixels of each grey level."""
  return np.resize(np.array(levels, np.uint8), (3, 8, 8, 1))


@pytest.mark.parametrize("binarize", ["none", "dynamic", "threshold"])
@pytest.mark.parametrize("image", [greys(0, 255), greys(0, 0, 0, 255, 200), greys(0, 0, 90, 100)], ids=str)
def test_images_that_are_nearly_binary_raise_no_alarm(image, binarize):
  """Digits have 9 % of pixels that are neither black nor white, Fashion-MNIST below 50 %, as half of it is black."""
  assert prepare.check_likelihood(image, config(binarize=binarize), "bernoulli") == []
  assert (
    prepare.check_likelihood(image.repeat(3, 3) // 255 * 255, config(binarize=binarize), "bernoulli") == []
  )


def test_photographs_are_not_drawn_black_and_white():
  colour = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  with pytest.raises(
    UserError, match=r"binarize=dynamic .* in colour; .* --config configs/photos_vq_vae\.py, or"
  ) as error:
    prepare.check_likelihood(colour, config(binarize="dynamic"), "bernoulli")
  assert "\n" not in str(error.value)
  # A run that began before this was refused goes on.
  assert prepare.check_likelihood(colour, config(binarize="dynamic"), "bernoulli", fresh=False) == [
    str(error.value)
  ]
  (line,) = prepare.check_likelihood(colour[..., :1], config(binarize="dynamic"), "bernoulli")
  assert "are grey (" in line and "--config configs/photos_vq_vae.py --config.data.channels=1" in line
  (line,) = prepare.check_likelihood(colour, config(), "bernoulli")
  assert "are in colour: its nats are no likelihood" in line
  for likelihood in ("gaussian", "logistic_mixture", None):
    assert prepare.check_likelihood(colour, config(), likelihood) == []


def test_mutated_values_are_uniform_levels_at_that_rate_in_training_alone():
  image = np.full((200, 16, 16, 3), 77, np.uint8)
  found = np.asarray(run(config(mutate=0.3), {"image": image})["image"]) * 255
  levels = np.round(found)
  np.testing.assert_allclose(found, levels, atol=1e-3)
  changed = levels != 77
  assert abs(changed.mean() - 0.3 * 255 / 256) < 5 * math.sqrt(0.3 * 0.7 / changed.size)
  assert levels[changed].min() == 0 and levels[changed].max() == 255
  assert abs(levels[changed].mean() - 127.5) < 5 * 73.9 / math.sqrt(
    changed.sum()
  )  # a uniform level deviates by 73.9
  apart = changed[..., 0] & ~changed[..., 1]
  assert abs(apart.mean() - 0.3 * 0.7) < 0.01  # channels are drawn apart
  np.testing.assert_array_equal(
    run(config(mutate=0.3), {"image": image[:2]}, training=False)["image"], image[:2].astype(np.float32) / 255
  )
  as_floats = run(config(mutate=0.3), {"image": np.asarray(image, np.float32) / 255})["image"]
  np.testing.assert_allclose(np.asarray(as_floats) * 255, found, atol=1e-3)
  with pytest.raises(UserError, match=r"data\.mutate changes clean images.*set data\.mutate=0"):
    run(config(mutate=0.3), {"image": image[:2], "degraded": image[:2]})


def test_what_is_mutated_is_binarised_then():
  black = np.zeros((300, 8, 8, 1), np.uint8)
  found = np.asarray(run(config(mutate=0.4, binarize="dynamic"), {"image": black})["image"])
  assert set(np.unique(found)) == {0, 1}
  assert abs(found.mean() - 0.4 * 127.5 / 255) < 5 * math.sqrt(0.16 / found.size)
