"""Chains: the grammar and its errors, what is drawn, and that the steps are the functions one after another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config, from_json, to_json, validate
from vae_jax.configuration.chains import STEPS, Range, Step, parse_chain
from vae_jax.data import degrade
from vae_jax.data.degrade import chains
from vae_jax.errors import UserError


def make(text):
  return degrade.make_degrade({"name": "chain", "chain": text})


def random_image(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, dtype=np.float32)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


# The grammar.


def test_a_chain_is_read():
  text = "blur 0.2..2 @0.5;down 2 bicubic|box;\n noise 5|10; jpeg 30..95; sharpen 1; blur 1 2..2; round"
  assert parse_chain(text) == (
    Step("blur", (Range(0.2, 2), ()), 0.5),
    Step("down", ((2,), ("bicubic", "box")), 1),
    Step("noise", ((5, 10),), 1),
    Step("jpeg", (Range(30, 95), ("420",), ("aligned",)), 1),
    Step("sharpen", ((1,), (1,)), 1),
    Step("blur", ((1,), (2,)), 1),
    Step("round", (), 1),
  )
  assert set(STEPS) == set(chains._STEPS)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (" ", "data.degrade.name=chain needs steps in data.degrade.chain; set it, for instance to"),
    ("nois 5", "step 1, 'nois 5': 'nois' is not a step; did you mean 'noise'?"),
    ("round; snow", "step 2, 'snow': 'snow' is not a step; known steps: blur, camera"),
    ("round;", "step 2, '' is empty; leave out the ';' before or after it"),
    ("noise", "step 1, 'noise' has 0 values; write noise SIGMA"),
    ("jpeg 30 420 aligned 5", "has 4 values; write jpeg QUALITY [SUBSAMPLING] [GRID]"),
    ("noise 256", "SIGMA='256' must be a number >= 0 and <= 255, or a range LO..HI or choice A|B of such"),
    ("noise 1..x", "SIGMA='1..x' must be a number"),
    ("noise nan", "SIGMA='nan' must be a number"),
    ("noise 5|-1", "SIGMA='5|-1' must be a number"),
    ("noise 5..", "SIGMA='5..' must be a number"),
    ("noise 9..3", "SIGMA='9..3' must be a range LO..HI with LO below HI"),
    ("down 2..4 box", "FACTOR='2..4' must be a whole number >= 2 and <= 64"),
    ("down 2.5 box", "FACTOR='2.5' must be a whole number"),
    ("down 2|4 box", "FACTOR='2|4' must be a whole number"),
    ("down 2 box|cubic", "FILTER='box|cubic' must be one or more of nearest|box|bilinear|bicubic|lanczos"),
    ("down 2 box @0.5", "down has no probability, as all images keep one size; leave out the '@'"),
    ("down 2 box; round; down 2 box", "steps 1 and 3 are both down; give one, with the whole FACTOR"),
    ("noise 5 @0", "'@0' must be '@' and a probability > 0 and <= 1, such as @0.5"),
    ("noise 5 @1.1", "'@1.1' must be '@' and a probability"),
    ("jpeg 0..50", "QUALITY='0..50' must be a number >= 1 and <= 100"),
    ("noise \x1b[2J5", "step 1, 'noise \\x1b[2J5'"),
    ("; ".join(["round"] * 65), "has 65 steps; at most 64 are allowed"),
  ],
)
def test_what_is_wrong_is_named_in_one_line(text, message):
  with pytest.raises(UserError) as found:
    make(text)
  assert message in str(found.value) and str(found.value).isprintable()


def test_a_config_is_checked_and_kept():
  text = "noise 0..25 @0.5; jpeg 30..95 420|444"
  config = apply_overrides(base_config(), ["data.degrade.name=chain", f"data.degrade.chain={text}"])
  validate(config)
  assert from_json(to_json(config)).data.degrade.chain == text
  for overrides, message in (
    (["data.degrade.name=chain"], "data.degrade.name=chain needs steps in data.degrade.chain"),
    ([f"data.degrade.chain={text}"], "data.degrade.chain is for data.degrade.name=chain, not identity"),
    (
      ["data.degrade.name=chain", "data.degrade.chain=blur"],
      "step 1, 'blur' has 0 values; write blur SIGMA [SIGMA2]",
    ),
  ):
    with pytest.raises(UserError, match=message.replace("[", r"\[").replace(".", r"\.")):
      validate(apply_overrides(base_config(), overrides))


# What the steps do.


def test_steps_are_the_functions_one_after_another(key):
  text = "blur 0.8; down 2 lanczos; sharpen 0.5; gamma 0.9; jpeg 60 444; linear; srgb"

  @jax.jit
  def both(image):
    expected = degrade.down(degrade.gaussian_blur(image, 0.8), 2, "lanczos")
    expected = degrade.jpeg(degrade.gamma(degrade.sharpen(expected, 0.5, 1.0), 0.9), 60, "444")
    return make(text)(key, image), degrade.linear_to_srgb(degrade.srgb_to_linear(expected))

  image = random_image(24, 28, 3)
  result, expected = both(image)
  np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
  shape = degrade.degraded_shape({"name": "chain", "chain": text}, image.shape)
  assert shape == expected.shape and degrade.factor_of({"name": "chain", "chain": text}) == 2
  assert degrade.factor_of({"name": "chain", "chain": "round"}) == 1


def test_a_step_at_the_end_changes_none_before_it():
  images, first = random_image(6, 9, 8, 3), "noise 5..20 @0.7; sharpen 0..4"
  short, long = (jax.jit(jax.vmap(make(text)))(keys(6), images) for text in (first, f"{first}; gamma 2"))
  np.testing.assert_allclose(long, degrade.gamma(short, 2.0), rtol=0, atol=1e-6)


def test_noise_has_the_standard_deviation_of_its_level(key):
  grey = np.full((200, 200, 1), 0.5, np.float32)
  noise = (np.asarray(make("noise 20")(key, grey), np.float64) - 0.5) * 255
  assert abs(noise.mean()) < 5 * 20 / 200 and abs(noise.std() - 20) < 5 * 20 / math.sqrt(2 * 40_000)


def test_words_are_drawn_with_equal_chances():
  image = random_image(12, 12, 1)
  results = np.asarray(jax.jit(jax.vmap(make("down 3 nearest|box|lanczos"), (0, None)))(keys(600), image))
  seen = []
  for name in ("nearest", "box", "lanczos"):
    expected = np.asarray(degrade.down(image, 3, name))
    seen.append(np.all(np.abs(results - expected) < 1e-6, axis=(1, 2, 3)))
  np.testing.assert_array_equal(np.sum(seen, 0), 1)  # each image is one of the three
  np.testing.assert_allclose(np.mean(seen, 1), 1 / 3, atol=5 * math.sqrt(2 / 9 / 600))


def test_blocks_anywhere_are_those_of_a_part_of_a_larger_image():
  """Each is the part of one of 16 x 16 larger images, and all places are drawn alike."""
  image = random_image(10, 12, 3)
  larger = np.pad(image, ((15, 15), (15, 15), (0, 0)), mode="symmetric")
  places = [(y, x) for y in range(16) for x in range(16)]
  parts = np.stack([larger[15 - y : 40 - y, 15 - x : 42 - x] for y, x in places])
  stored = jax.jit(jax.vmap(lambda x: degrade.jpeg(x, 20, "420")))(parts)
  expected = np.stack([s[y : y + 10, x : x + 12] for s, (y, x) in zip(stored, places, strict=True)])
  found = np.asarray(jax.jit(jax.vmap(make("jpeg 20 420 anywhere"), (0, None)))(keys(2000), image))
  nearest = [int(np.abs(expected - one).max((1, 2, 3)).argmin()) for one in found]
  np.testing.assert_allclose(expected[nearest], found, atol=1e-6)
  drawn = np.array(places)[nearest]
  for axis in range(2):  # blocks of 16: 2,000 draws of 16 places, 125 each
    assert np.abs(np.bincount(drawn[:, axis], minlength=16) - 125).max() < 50
  np.testing.assert_array_equal(
    make("jpeg 20 420 aligned")(keys(1)[0], image), degrade.jpeg(image, 20, "420")
  )


def test_directions_are_drawn():
  point = np.zeros((9, 9, 1), np.float32)
  point[4, 4] = 1
  for text in ("motion 4", "blur 0.6 2"):
    found = np.asarray(jax.jit(jax.vmap(make(text), (0, None)))(keys(300), point))
    across, along = found[:, 4, 6, 0], found[:, 6, 4, 0]
    assert abs((across > along).mean() - 0.5) < 5 * math.sqrt(0.25 / 300)
    assert np.std(found[:, 5, 5, 0]) > 0.01  # not along the axes alone


def test_gradients_are_finite_and_right_where_a_step_is_smooth():
  image, direction = random_image(12, 14, 3), random_image(12, 14, 3, seed=1) - np.float32(0.5)
  smooth = "sharpen 1 1..2; blur 0.5..1 1..2; motion 1..3; linear; gamma 0.5..2; srgb; down 2 box|lanczos"

  def score(t, text):
    return jnp.mean(make(text)(jax.random.key(2), 0.2 + 0.6 * (image + t * direction)) ** 2)

  run = jax.jit(jax.value_and_grad(lambda t: score(t, smooth)))
  step = 0.02
  middle = (float(run(step)[0]) - float(run(-step)[0])) / (2 * step)
  np.testing.assert_allclose(run(0.0)[1], middle, rtol=5e-3)
  harsh = "camera 5 0; jpeg 10..90 420 aligned|anywhere; round; gamma 0.3"
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(make(harsh)(jax.random.key(2), x) ** 2)))
  for extreme in (np.zeros_like(image), np.ones_like(image), 3 * direction):
    assert np.isfinite(gradient(extreme)).all()


# The noise that was drawn.


def test_sigma_is_that_of_the_noise():
  text = "noise 50; down 2 box; noise 0..40 @0.5; noise 10|20; gamma 1"
  config = {"name": "chain", "chain": text}
  some, black = keys(64), np.zeros((64, 64, 1), np.float32)
  noisy = np.asarray(jax.jit(jax.vmap(make(text), (0, None)))(some, black), np.float64)
  noisy_without = np.asarray(
    jax.jit(jax.vmap(make(text.split(";")[0] + "; down 2 box"), (0, None)))(some, black)
  )
  sigmas = np.asarray(jax.vmap(degrade.noise_sigma(config))(some))
  found = np.sqrt(np.mean((noisy - noisy_without) ** 2, axis=(1, 2, 3)))
  np.testing.assert_allclose(found, sigmas, rtol=5 / math.sqrt(2 * 32 * 32))
  alone = np.isclose(sigmas * 255, 10) | np.isclose(sigmas * 255, 20)
  assert abs(alone.mean() - 0.5) < 5 * math.sqrt(0.25 / 64)


def test_sigma_of_a_range_is_uniform_and_0_where_there_is_no_noise():
  sigma = degrade.noise_sigma({"name": "chain", "chain": "noise 20..60 @0.75"})
  drawn = 255 * np.asarray(jax.jit(jax.vmap(sigma))(keys(4000)), np.float64)
  noisy = drawn[drawn > 0]
  assert abs(len(noisy) / 4000 - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 4000)
  assert noisy.min() >= 20 and noisy.max() <= 60
  assert abs(noisy.mean() - 40) < 5 * 40 / math.sqrt(12 * len(noisy))
  assert abs(noisy.std() - 40 / math.sqrt(12)) < 0.5


def test_sigma_of_gaussian_noise_is_the_one_that_it_draws(key):
  config = base_config().data.degrade
  config.name, config.sigma, config.sigma_max = "gaussian_noise", 0.0, 0.5
  sigma = degrade.noise_sigma(config)(key)
  grey = np.full((8, 8, 1), 0.5, np.float32)
  config.sigma, config.sigma_max = float(sigma), 0.0
  fixed = degrade.make_degrade(config)(key, grey)
  np.testing.assert_allclose(degrade.gaussian_noise(key, grey, 0.0, 0.5), fixed, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
  "values",
  [
    {"name": "identity"},
    {"name": "gaussian_noise"},
    {"name": "poisson_gaussian", "sigma_max": 0.5},
    {"name": "chain", "chain": "jpeg 50; camera 5 2"},
    {"name": "chain", "chain": "noise 5; down 2 box"},
  ],
  ids=str,
)
def test_other_degradations_have_no_sigma(values):
  config = base_config().data.degrade
  config.update(values)
  assert degrade.noise_sigma(config) is None
