"""Degradations against theory, SciPy, Pillow, and MATLAB's algorithm written out in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from vae_jax.configuration import base_config
from vae_jax.data import degrade
from vae_jax.errors import UserError


def config(**values):
  tree = base_config().data.degrade
  tree.update(values)
  return tree


def random_image(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, dtype=np.float32)


# MATLAB's imresize, one output pixel at a time, one axis after the other, in 1-based indices as its source
# documents them: the reference that the matrices of `degrade` are held against. Older releases clamped indices beyond
# the border, newer ones mirror them. Images of uint8 are rounded and clipped after each axis.


def keys_kernel(x):
  x = abs(x)
  if x <= 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  if x <= 2:
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return 0.0


def reference_line(line, n_out, scale, border="mirror"):
  n = len(line)
  mirror = [*range(1, n + 1), *range(n, 0, -1)]
  width, shrink = (4 / scale, scale) if scale < 1 else (4.0, 1.0)
  result = []
  for x in range(1, n_out + 1):
    u = x / scale + 0.5 * (1 - 1 / scale)
    left = math.floor(u - width / 2)
    total = norm = 0.0
    for index in range(left, left + math.ceil(width) + 2):
      weight = shrink * keys_kernel(shrink * (u - index))
      place = mirror[(index - 1) % (2 * n)] if border == "mirror" else min(max(index, 1), n)
      total += weight * float(line[place - 1])
      norm += weight
    result.append(total / norm)
  return result


def reference_imresize(image, out_h, out_w, scale_h, scale_w, border="mirror"):
  def stored(values):
    return np.clip(np.floor(values + 0.5), 0, 255) if image.dtype == np.uint8 else values

  tall = np.zeros((out_h, *image.shape[1:]))
  for column in range(image.shape[1]):
    for channel in range(image.shape[2]):
      tall[:, column, channel] = reference_line(image[:, column, channel], out_h, scale_h, border)
  tall = stored(tall)
  result = np.zeros((out_h, out_w, image.shape[2]))
  for row in range(out_h):
    for channel in range(image.shape[2]):
      result[row, :, channel] = reference_line(tall[row, :, channel], out_w, scale_w, border)
  return stored(result)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("shape", [(12, 24, 1), (13, 17, 3), (11, 10, 4), (1, 2, 1), (3, 5, 2)])
def test_bicubic_down_agrees_with_imresize(key, factor, shape):
  image = random_image(*shape)
  h, w, _ = shape
  expected = reference_imresize(image, math.ceil(h / factor), math.ceil(w / factor), 1 / factor, 1 / factor)
  result = jax.jit(degrade.bicubic_down, static_argnums=2)(key, image, factor)
  assert result.dtype == jnp.float32 and result.shape == expected.shape
  np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("shape", [(6, 8, 1), (5, 7, 3), (1, 2, 4)])
def test_bicubic_up_agrees_with_imresize(factor, shape):
  image = random_image(*shape)
  expected = reference_imresize(image, factor * shape[0], factor * shape[1], factor, factor)
  np.testing.assert_allclose(degrade.bicubic_up(image, factor), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(13, 17, 3), (1, 2, 1)])
def test_borders_can_be_replicated_as_older_imresize_does(key, shape):
  image, (h, w, _) = random_image(*shape), shape
  expected = reference_imresize(image, math.ceil(h / 3), math.ceil(w / 3), 1 / 3, 1 / 3, "replicate")
  np.testing.assert_allclose(degrade.bicubic_down(key, image, 3, "replicate"), expected, rtol=0, atol=1e-5)
  np.testing.assert_allclose(degrade.blur_down(key, image, 3, 0.0, "replicate"), expected, rtol=0, atol=1e-5)
  expected = reference_imresize(image, 2 * h, 2 * w, 2, 2, "replicate")
  np.testing.assert_allclose(degrade.bicubic_up(image, 2, "replicate"), expected, rtol=0, atol=1e-5)
  blurred = scipy.ndimage.gaussian_filter(
    image.astype(np.float64), 1.3, mode="nearest", radius=6, axes=(0, 1)
  )
  np.testing.assert_allclose(degrade.gaussian_blur(image, 1.3, "replicate"), blurred, rtol=0, atol=1e-6)


def test_the_border_is_a_key_and_matters_at_borders_alone(key):
  image = random_image(48, 40, 1)
  mirrored, replicated = (
    np.asarray(degrade.make_degrade(config(name="bicubic_down", border=border))(key, image))
    for border in ("mirror", "replicate")
  )
  np.testing.assert_array_equal(mirrored, degrade.bicubic_down(key, image, 2))
  np.testing.assert_array_equal(replicated, degrade.bicubic_down(key, image, 2, "replicate"))
  np.testing.assert_array_equal(mirrored[2:-2, 2:-2], replicated[2:-2, 2:-2])
  assert np.abs(mirrored - replicated).max() > 0.02
  np.testing.assert_array_equal(
    degrade.make_degrade({"name": "bicubic_down", "factor": 2})(key, image), mirrored
  )


@pytest.mark.parametrize("border", ["mirror", "replicate"])
def test_how_far_uint8_results_are(key, border):
  """What docs/degradations.md says: MATLAB clips uint8 between the two axes, which shows where black meets white."""
  random = np.random.default_rng(0)
  pictures = {
    "black and white": (255 * (random.random((24, 24, 1)) > 0.5)).astype(np.uint8),
    "all levels": random.integers(64, 192, (24, 24, 1), dtype=np.uint8),
  }
  found = {}
  for name, image in pictures.items():
    ours = np.asarray(degrade.bicubic_down(key, image / np.float32(255), 2, border))
    expected = reference_imresize(image, 12, 12, 0.5, 0.5, border)
    found[name] = np.abs(np.rint(255 * np.clip(ours, 0, 1)) - expected).max()
  assert found["all levels"] <= 1 and 5 <= found["black and white"] <= 15


@pytest.mark.parametrize("size", [(7, 20), (20, 7), (9, 11), (1, 1)])
def test_resize_bicubic_to_any_size_agrees_with_imresize(size):
  image = random_image(9, 11, 3)
  expected = reference_imresize(image, *size, size[0] / 9, size[1] / 11)
  np.testing.assert_allclose(degrade.resize_bicubic(image, *size), expected, rtol=0, atol=1e-5)


def test_bicubic_weights_by_hand():
  # Factor 2: half the Keys kernel at 1/4, 3/4, 5/4 and 7/4, which are 111/256, 29/256, -9/256, -3/256.
  by_hand = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
  np.testing.assert_array_equal(degrade.bicubic_weights(20, 10, 0.5)[5, 7:15], by_hand)
  # At the border the taps at -3, -2, -1 mirror onto pixels 2, 1, 0: 111 + 29, 111 - 9, 29 - 3.
  np.testing.assert_array_equal(degrade.bicubic_weights(20, 10, 0.5)[0, :5] * 256, [140, 102, 26, -9, -3])


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
def test_down_agrees_with_pillow_away_from_borders(name):
  image = random_image(48, 60, 1)
  inside = slice(4, -4)  # Pillow cuts the kernel off at the border, MATLAB mirrors
  for factor in (2, 3, 4):
    pillow = Image.fromarray(image[..., 0]).resize(
      (60 // factor, 48 // factor), Image.Resampling[name.upper()]
    )
    result = degrade.down(image, factor, name)[..., 0]
    np.testing.assert_allclose(result[inside, inside], np.asarray(pillow)[inside, inside], rtol=0, atol=1e-5)


def test_where_the_pixels_of_each_filter_lie(key):
  """On a slope, each pixel has the value of its place: (i + 0.5) * factor - 0.5, of nearest the one at or after it."""
  slope = np.broadcast_to(np.arange(60, dtype=np.float32)[:, None, None] / 60, (60, 7, 1))
  for factor in (2, 3, 4):
    places = (np.arange(60 // factor) + 0.5) * factor - 0.5
    for name in ("box", "bilinear", "bicubic", "lanczos"):
      result = degrade.down(slope, factor, name)[4:-4, 0, 0]
      np.testing.assert_allclose(result, places[4:-4] / 60, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
      degrade.down(slope, factor, "nearest")[:, 0, 0], np.ceil(places) / 60, rtol=1e-6
    )
  image = random_image(13, 10, 2)
  np.testing.assert_array_equal(degrade.down(image, 3, "bicubic"), degrade.bicubic_down(key, image, 3))
  with pytest.raises(UserError, match="filter='cubic' is unknown; did you mean 'bicubic'"):
    degrade.down(image, 2, "cubic")


def test_resize_keeps_the_image_at_its_own_size_and_leading_axes(key):
  image = random_image(2, 3, 5, 6, 4)
  np.testing.assert_allclose(degrade.resize_bicubic(image, 5, 6), image, rtol=0, atol=1e-6)
  small = degrade.bicubic_down(key, image, 2)
  assert small.shape == (2, 3, 3, 3, 4)
  np.testing.assert_allclose(small[1, 2], degrade.bicubic_down(key, image[1, 2], 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.3, 5.0])
@pytest.mark.parametrize("shape", [(16, 21, 3), (3, 5, 1)])
def test_blur_agrees_with_scipy(sigma, shape):
  image = random_image(*shape)
  expected = scipy.ndimage.gaussian_filter(
    image.astype(np.float64), sigma, mode="reflect", radius=math.ceil(4 * sigma), axes=(0, 1)
  )
  np.testing.assert_allclose(degrade.gaussian_blur(image, sigma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 20, 3), (9, 13, 1)])
def test_blur_down_is_scipy_blur_then_bicubic(key, shape):
  image = random_image(*shape)
  blurred = scipy.ndimage.gaussian_filter(
    image.astype(np.float64), 1.3, mode="reflect", radius=6, axes=(0, 1)
  )
  h, w, _ = shape
  expected = reference_imresize(blurred, math.ceil(h / 3), math.ceil(w / 3), 1 / 3, 1 / 3)
  np.testing.assert_allclose(degrade.blur_down(key, image, 3, 1.3), expected, rtol=0, atol=1e-5)


def test_no_blur_is_bicubic_down(key):
  image = random_image(9, 8, 1)
  np.testing.assert_array_equal(degrade.blur_down(key, image, 2, 0.0), degrade.bicubic_down(key, image, 2))
  np.testing.assert_allclose(degrade.gaussian_blur(image, 0.0), image, rtol=0, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (17, 30)])
def test_constant_images_stay_constant(key, value, size):
  image = np.full((*size, 3), value, np.float32)
  for result in (
    degrade.bicubic_down(key, image, 3),
    degrade.bicubic_up(image, 2),
    degrade.resize_bicubic(image, 7, 9),
    degrade.blur_down(key, image, 2, 1.5),
    degrade.gaussian_blur(image, 2.0),
    *(degrade.down(image, 3, name) for name in ("nearest", "box", "bilinear", "lanczos")),
  ):
    np.testing.assert_allclose(result, value, rtol=0, atol=1e-6)


def test_resize_is_not_clipped():
  step = np.zeros((8, 8, 1), np.float32)
  step[:, 4:] = 1
  result = degrade.bicubic_up(step, 2)
  assert result.min() < -0.02 and result.max() > 1.02


# Noise. Means and variances of 40,000 draws have to lie within five of their standard errors.


def moments(draws, mean, variance, excess_kurtosis=0.0):
  draws = np.asarray(draws, np.float64).ravel()
  assert abs(draws.mean() - mean) < 5 * math.sqrt(variance / draws.size)
  tolerance = 5 * variance * math.sqrt((2 + excess_kurtosis) / draws.size)
  assert abs(draws.var() - variance) < tolerance


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gaussian_noise_moments_without_clipping(key, value):
  image = np.full((200, 200, 1), value, np.float32)
  moments(degrade.gaussian_noise(key, image, 0.1), value, 0.01)


def test_gaussian_noise_draws_one_sigma_per_image(key):
  images = np.zeros((400, 20, 20, 1), np.float32)
  noise = jax.vmap(lambda k, x: degrade.gaussian_noise(k, x, 0.1, 0.5))(jax.random.split(key, 400), images)
  scales = np.asarray(noise, np.float64).reshape(400, -1).std(axis=1)
  # Uniform on [0.1, 0.5]: mean 0.3, standard deviation 0.4 / sqrt(12) = 0.115; measured to 3.5% each.
  assert abs(scales.mean() - 0.3) < 5 * 0.115 / 20
  assert 0.11 < scales.std() < 0.125
  assert 0.08 < scales.min() < 0.12 and 0.46 < scales.max() < 0.58


def test_fixed_sigma_has_no_spread(key):
  image = np.zeros((4, 4, 1), np.float32)
  fixed = degrade.gaussian_noise(key, image, 0.2)
  np.testing.assert_array_equal(fixed, degrade.gaussian_noise(key, image, 0.2, 0.2))
  np.testing.assert_allclose(degrade.gaussian_noise(key, image, 0.4), 2 * fixed, rtol=1e-6)
  np.testing.assert_array_equal(degrade.gaussian_noise(key, image + 0.5, 0.0), image + 0.5)


@pytest.mark.parametrize(
  ("value", "peak", "sigma"), [(1, 30, 0), (0.5, 4, 0.05), (0.1, 1, 0), (0.7, 10_000, 0.01)]
)
def test_poisson_gaussian_moments(key, value, peak, sigma):
  image = np.full((200, 200, 1), value, np.float32)
  variance = value / peak + sigma**2
  kurtosis = value / peak**3 / variance**2  # Poisson's fourth cumulant is its mean
  moments(degrade.poisson_gaussian(key, image, peak, sigma), value, variance, kurtosis)


def test_poisson_counts_have_the_poisson_distribution(key):
  image = np.full((200, 200, 1), 0.5, np.float32)
  counts = np.asarray(degrade.poisson_gaussian(key, image, 6.0, 0.0)) * 6
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)
  for k in range(8):
    p = math.exp(-3) * 3**k / math.factorial(k)
    assert abs((np.round(counts) == k).mean() - p) < 5 * math.sqrt(p * (1 - p) / counts.size)


def test_poisson_gaussian_at_and_below_black(key):
  dark = np.zeros((200, 200, 1), np.float32)
  np.testing.assert_array_equal(degrade.poisson_gaussian(key, dark, 30.0, 0.0), dark)
  np.testing.assert_allclose(degrade.poisson_gaussian(key, dark - 0.1, 30.0, 0.0), 0, atol=1e-7)


ALL = [
  {"name": "identity"},
  {"name": "gaussian_noise"},
  {"name": "gaussian_noise", "sigma_max": 0.5},
  {"name": "poisson_gaussian"},
  {"name": "blur_down", "factor": 3},
  {"name": "bicubic_down"},
  {"name": "chain", "chain": "blur 0.2..1 1..2 @0.5; down 2 box|lanczos; camera 0..5 2 0..1"},
]


@pytest.mark.parametrize("values", ALL, ids=str)
@pytest.mark.parametrize("shape", [(7, 9, 1), (8, 6, 3), (5, 5, 4), (1, 1, 2)])
def test_shapes(key, values, shape):
  settings = config(**values)
  result = jax.eval_shape(degrade.make_degrade(settings), key, jnp.zeros(shape))
  assert result.dtype == jnp.float32 and result.shape == degrade.degraded_shape(settings, shape)


@pytest.mark.parametrize("values", ALL, ids=str)
def test_values_gradients_and_independence_of_the_batch(key, values):
  function = degrade.make_degrade(config(**values))

  def score(key, image):
    result = function(key, image)
    return jnp.sum(result**2), result

  compiled = jax.jit(jax.vmap(jax.grad(score, argnums=1, has_aux=True)))
  keys, images = jax.random.split(key, 5), random_image(5, 7, 9, 3)
  gradient, whole = compiled(keys, images)
  assert np.isfinite(whole).all() and np.isfinite(gradient).all()
  assert np.abs(gradient).max(axis=(1, 2, 3)).min() > 0

  _, again = compiled(keys, images)
  np.testing.assert_array_equal(again, whole)
  _, reversed_ = compiled(keys[::-1], images[::-1])
  np.testing.assert_allclose(reversed_[::-1], whole, rtol=0, atol=1e-6)
  strangers = images.copy()
  strangers[:3] = 1 - images[:3]
  _, among_strangers = compiled(keys.at[:3].set(jax.random.split(jax.random.key(1), 3)), strangers)
  np.testing.assert_allclose(among_strangers[3:], whole[3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian_noise", "poisson_gaussian"])
def test_another_key_gives_other_noise(key, name):
  function = degrade.make_degrade(config(name=name))
  image = random_image(200, 200, 1)
  a, b = (np.asarray(function(jax.random.fold_in(key, i), image)) - image for i in (0, 1))
  assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 200


def test_gradient_of_photon_counts_is_that_of_their_mean(key):
  image = jnp.asarray(random_image(200, 200, 1)).at[0, 0].set(0.0)
  gradient = jax.grad(lambda x: degrade.poisson_gaussian(key, x, 30.0, 0.1).sum())(image)
  np.testing.assert_array_equal(gradient, np.ones((200, 200, 1)))


def test_degraded_shape_rounds_up():
  assert degrade.degraded_shape(config(name="blur_down", factor=4), (9, 32, 3)) == (3, 8, 3)
  assert degrade.degraded_shape(config(name="identity", factor=4), (9, 32, 3)) == (9, 32, 3)


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
    ({"name": "gaussian_noise", "sigma": -0.1}, "data.degrade.sigma=-0.1"),
    ({"name": "gaussian_noise", "sigma": math.nan}, "data.degrade.sigma=nan"),
    ({"name": "gaussian_noise", "sigma": 0.5, "sigma_max": 0.1}, "sigma_max=0.1 is below"),
    ({"name": "gaussian_noise", "sigma_max": -1.0}, "sigma_max=-1"),
    ({"name": "poisson_gaussian", "peak": 0.0}, "data.degrade.peak=0"),
    ({"name": "poisson_gaussian", "peak": math.inf}, "data.degrade.peak=inf"),
    ({"name": "poisson_gaussian", "sigma": -1.0}, "data.degrade.sigma=-1"),
    ({"name": "blur_down", "blur": -1.0}, "data.degrade.blur=-1"),
    ({"name": "blur_down", "factor": 1}, "data.degrade.factor=1"),
    ({"name": "bicubic_down", "factor": 0}, "data.degrade.factor=0"),
    (
      {"name": "bicubic_down", "border": "reflect"},
      "data.degrade.border='reflect' must be mirror | replicate",
    ),
  ],
)
def test_bad_settings(values, words):
  for refuse in (degrade.make_degrade, lambda c: degrade.degraded_shape(c, (8, 8, 1))):
    with pytest.raises(UserError) as error:
      refuse(config(**values))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_settings_of_other_degradations_are_not_looked_at():
  image, key = np.random.default_rng(0).uniform(size=(4, 4, 1)).astype(np.float32), jax.random.key(0)
  degraded = degrade.make_degrade(config(name="bicubic_down", sigma=-1.0, peak=-1.0))(key, image)
  np.testing.assert_array_equal(degraded, degrade.make_degrade(config(name="bicubic_down"))(key, image))


def test_bad_images(key):
  with pytest.raises(UserError, match="divide uint8 by 255"):
    degrade.gaussian_noise(key, np.zeros((4, 4, 1), np.uint8), 0.1)
  with pytest.raises(UserError, match="last axis of 1"):
    degrade.bicubic_down(key, np.zeros((4, 4), np.float32), 2)
  with pytest.raises(UserError, match="at least 1"):
    degrade.resize_bicubic(np.zeros((4, 4, 1), np.float32), 0, 4)
