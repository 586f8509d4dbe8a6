"""Images of any shape, type and value, and any degradation: a valid result, or one line that says what is wrong.

1,021 cases, of the 3,106 of the three files test_fuzz_*.py; ten times as many with -m slow. A value that is not finite
stays visible in every score: it makes the score of its image, and of no other, not finite.
"""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiles import tiled

from vae_jax import losses, metrics, pictures
from vae_jax.configuration import base_config
from vae_jax.data import degrade
from vae_jax.data.images import decode, to_channels
from vae_jax.data.pipeline import fit
from vae_jax.data.prepare import check_first_batch, make_prepare
from vae_jax.errors import UserError

TIMES = [1, pytest.param(10, marks=pytest.mark.slow)]
SEEDS = st.integers(0, 2**31)


def profile(cases):
  quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
  return settings(
    max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=quiet
  )


def one_line(error):
  assert str(error) and len(str(error).splitlines()) == 1 and len(str(error)) < 500, error


# Scores and losses.

PAIRS = {
  "mse": metrics.mse,
  "mae": metrics.mae,
  "psnr_rgb": metrics.psnr_rgb,
  "psnr_y": metrics.psnr_y,
  "psnr_b": metrics.psnr_b,
  "ssim": metrics.ssim,
  "ssim_y": metrics.ssim_y,
  "squared_error": losses.squared_error,
  "absolute_error": losses.absolute_error,
  "ssim_loss": losses.ssim_loss,
  "bernoulli_nll": losses.bernoulli_nll,
  "gaussian_nll": lambda a, b: losses.gaussian_nll(a, b, 0.0),
  "laplace_nll": lambda a, b: losses.laplace_nll(a, b, -1.0),
  "logistic_mixture_nll": lambda a, b: losses.logistic_mixture_nll(_mixture(a), b, 1),
}
SINGLES = {
  "blockiness": metrics.blockiness,
  "total_variation": losses.total_variation,
  "uicm": metrics.uicm,
  "uism": metrics.uism,
  "uiconm": metrics.uiconm,
  "uiqm": metrics.uiqm,
  "uciqe": metrics.uciqe,
}
OF_THREE = ("uicm", "uism", "uiconm", "uiqm", "uciqe")
ANY_INTEGERS = (
  "bernoulli_nll",
  "gaussian_nll",
  "laplace_nll",
  "logistic_mixture_nll",
)  # likelihoods of grey levels


def _mixture(image):
  c = image.shape[-1]
  return np.tile(np.asarray(image, np.float32), 5)[..., : 1 + 2 * c + c * (c - 1) // 2]


def score(name, images, targets):
  return PAIRS[name](images, targets) if name in PAIRS else SINGLES[name](images)


def drawn(seed, shape, low, high, dtype):
  values = np.random.default_rng(seed).uniform(low, high, shape)
  return (255 * np.clip(values, 0, 1)).astype(dtype) if dtype == np.uint8 else values.astype(dtype)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", [*PAIRS, *SINGLES])
def test_scores_and_losses(name, times):
  """Per image, float32; finite for finite images, whatever their range. A nan or inf is neither hidden nor spread."""
  finite = set()

  @profile(10 * times)
  @given(
    st.sampled_from([(1, 1, 1), (16, 19, 3), (16, 19, 3), (12, 40, 1)]),
    st.sampled_from([np.float32] * 8 + [np.float64, np.uint8, np.bool_]),
    st.sampled_from([(0, 1), (0, 0), (1, 1), (-2, 3), (0, 1e-30)]),
    st.sampled_from([None, math.nan, math.inf]),
    st.tuples(st.integers(0, 1), st.integers(0, 7), st.integers(0, 7)),
    SEEDS,
  )
  def check(shape, dtype, bounds, bad, place, seed):
    images, targets = (drawn(seed + i, (2, *shape), *bounds, dtype) for i in (0, 1))
    which, row, column = place
    if dtype in (np.uint8, np.bool_):
      bad = None
    if bad and name == "logistic_mixture_nll":
      bad = math.nan  # its scales are clamped: there an inf is a number
    if bad is not None:
      images[which, row % shape[0], column % shape[1], seed % shape[2]] = bad
    try:
      with np.errstate(all="ignore"):
        result = np.asarray(score(name, images, targets))
    except (UserError, ValueError) as error:
      one_line(error)
      small = min(shape[:2]) < 11 or name in OF_THREE or name.endswith("_y")
      assert small or (dtype == np.uint8 and name not in ANY_INTEGERS), (name, shape, error)
      return
    assert result.shape == (2,) and result.dtype == np.float32
    assert dtype != np.uint8 or name in ANY_INTEGERS
    expected = [bad is None or which != i for i in (0, 1)]
    assert np.isfinite(result).tolist() == expected, (name, result)
    finite.update(expected)

  check()
  assert finite == {True, False}


@pytest.mark.parametrize("name", [n for n in (*PAIRS, *SINGLES) if n not in ANY_INTEGERS])
def test_no_images_have_no_scores(name):
  empty = np.zeros((0, 16, 16, 3), np.float32)
  assert score(name, empty, empty).shape == (0,)


@pytest.mark.parametrize("name", [n for n in (*PAIRS, *SINGLES) if n not in ANY_INTEGERS])
def test_integers_are_refused(name):
  """0..255 would be scored as if white were 1."""
  image = np.zeros((1, 16, 16, 3), np.uint8)
  with pytest.raises(ValueError, match=r"image of type uint8 .* divide uint8 by 255"):
    score(name, image, image)


@pytest.mark.parametrize("name", ["mse", "psnr_rgb", "ssim", "squared_error", "ssim_loss"])
def test_images_without_pixels_are_refused(name):
  with pytest.raises(ValueError, match=r"have no pixels"):
    score(name, *2 * [np.zeros((2, 0, 16, 3), np.float32)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ms_ssim_hides_nothing(bad):
  images = np.full((2, 176, 177, 1), 0.5, np.float32)
  targets = images.copy()
  images[1, 3, 4] = bad
  assert np.isfinite(metrics.ms_ssim(images, targets)).tolist() == [True, False]


@pytest.mark.parametrize("times", TIMES)
def test_accumulated_scores(times):
  """Means over any batches, with any mask: a nan that counts is seen, one that does not is not."""
  values = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, 0.0])
  rows = st.lists(st.tuples(values, st.booleans()), max_size=8)

  @profile(60 * times)
  @given(st.lists(rows, max_size=4))
  def check(batches):
    mean, units, counted = metrics.Mean(), metrics.ActiveUnits(), []
    for batch in batches:
      value, mask = np.array([v for v, _ in batch]), np.array([m for _, m in batch], bool)
      mean, units = mean.update(value, mask), units.update(value[:, None], mask)
      counted += value[mask].tolist()
    if not counted:
      for empty in (lambda: mean.value, lambda: units.variance):
        with pytest.raises(ValueError, match="of no examples"):
          empty()
      return
    with np.errstate(invalid="ignore"):
      np.testing.assert_allclose(mean.value, np.mean(counted), rtol=1e-9, atol=1e-9)
      assert np.isfinite(units.variance[0]) == np.isfinite(counted).all()

  check()


# Pictures and tiles.


@pytest.mark.parametrize("times", TIMES)
def test_pictures(times):
  counts, sides = st.integers(0, 5), st.sampled_from([0, 1, 2, 7, 60, 300])
  kinds = st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.bool_, np.int32])

  @profile(80 * times)
  @given(
    counts, sides, sides, st.integers(0, 5), kinds, st.none() | st.integers(-1, 7), st.integers(0, 3), SEEDS
  )
  def check(n, h, w, c, dtype, columns, pad, seed):
    images = np.random.default_rng(seed).normal(0.5, 1, (n, h, w, c)).astype(dtype)
    if images.size and np.issubdtype(dtype, np.floating):
      images.flat[seed % images.size] = [math.nan, math.inf, -math.inf][seed % 3]
    for draw in (pictures.grid, lambda *a, **k: pictures.compare(a[0], a[0], labels=("one", "two"), **k)):
      try:
        picture = draw(images, columns=columns, pad=pad, scale=None if h * w < 500 else 1)
      except (UserError, ValueError) as error:
        one_line(error)
        integers = np.issubdtype(dtype, np.integer) and dtype != np.uint8
        assert 0 in images.shape or c not in (1, 3, 4) or integers or (columns is not None and columns < 1), (
          error
        )
        continue
      assert picture.dtype == np.uint8 and picture.shape[2] == (1 if c == 1 else 3)
      assert picture.shape[0] >= h and picture.shape[1] >= w

  check()


@pytest.mark.parametrize("times", TIMES)
def test_tiles(times):
  """Windows of any size give what the whole gives, for images of any size; or one line."""
  numbers = st.integers(-1, 9) | st.sampled_from([1000, True, 2.0])

  @profile(80 * times)
  @given(st.tuples(*3 * [st.integers(0, 20)]), numbers, numbers, numbers, st.integers(0, 3), SEEDS)
  def check(shape, tile, halo, multiple, factor, seed):
    image = np.random.default_rng(seed).random(shape, np.float32)

    def enlarge(window, place):
      return window.repeat(factor, 0).repeat(factor, 1)

    try:
      result = tiled(enlarge, image, factor=factor, tile=tile, halo=halo, multiple=multiple)
    except UserError as error:
      one_line(error)
      least = [(tile, 1), (multiple, 1), (factor, 1), (halo, 0)]
      assert 0 in shape or any(type(v) is not int or v < low for v, low in least), error
      return
    np.testing.assert_array_equal(result, enlarge(image, None))

  check()


# Files.

KINDS = {
  "PNG": ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"],
  "JPEG": ["L", "RGB", "CMYK"],
  "TIFF": ["1", "L", "LA", "P", "I", "I;16", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"],
  "WEBP": ["RGB", "RGBA"],
  "BMP": ["1", "L", "P", "RGB"],
  "GIF": ["L", "P", "RGB"],
  "PPM": ["1", "L", "RGB"],
  "AVIF": ["RGB", "RGBA"],
  "JPEG2000": ["L", "RGB", "RGBA"],
}
MODES = [(kind, mode) for kind, modes in KINDS.items() for mode in modes]


def encoded(kind, mode, height, width, seed):
  """A file of noise in this mode."""
  draw = np.random.default_rng(seed)
  channels = {"LA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 1)
  shape = (height, width, channels)[: 2 if channels == 1 else 3]
  if mode == "F":
    values = draw.uniform(*[(0, 1), (-1, 2)][seed % 2], shape).astype(np.float32)
    if seed % 5 == 0:
      values[0, 0] = math.nan
    image = Image.fromarray(values)
  elif mode == "I;16":
    image = Image.fromarray(draw.integers(0, 2**16, shape, np.uint16))
  elif mode == "I":
    image = Image.fromarray(draw.integers(-5 if seed % 3 == 0 else 0, 2**16, shape, np.int32))
  else:
    source = {"1": "L", "P": "L"}.get(mode, mode)
    image = Image.frombytes(
      source, (width, height), draw.integers(0, 256, shape, np.uint8).tobytes()
    ).convert(mode)
  out = io.BytesIO()
  image.save(out, kind)
  return out.getvalue()


@pytest.mark.parametrize("times", TIMES)
def test_decoded_files(times):
  """Every mode of every format, whole or damaged: uint8 [h, w, 1 or 3], or one line with the file's name.

  Of a PNG, which has checksums, the pixels are those of the whole file.
  """

  @profile(200 * times)
  @given(
    st.sampled_from(MODES),
    st.tuples(*2 * [st.sampled_from([1, 2, 7, 16])]),
    st.sampled_from([0, 1, 3, 2]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
    st.none() | st.integers(0, 200),
    SEEDS,
  )
  def check(kind, size, channels, damage, cut, seed):
    whole = encoded(*kind, *size, seed)
    data = bytearray(whole)
    for place, byte in damage:
      data[place % len(data)] = byte
    content = bytes(data if cut is None else data[:cut])
    try:
      image = decode(content, channels, name="photo")
    except UserError as error:
      one_line(error)
      out_of_range = kind[1] in ("F", "I") and "outside" in str(error)
      assert damage or cut is not None or channels == 2 or out_of_range, (kind, error)
      assert "photo" in str(error) or channels == 2
      return
    assert (
      image.dtype == np.uint8
      and image.ndim == 3
      and image.shape[2] in ({0: (1, 3)}.get(channels) or (channels,))
    )
    assert damage or image.shape[:2] == size
    if kind[0] == "PNG":
      np.testing.assert_array_equal(image, decode(whole, channels))

  check()


@pytest.mark.parametrize("times", TIMES)
def test_fitted_records(times):
  """Images and pairs of any size, cut or scaled to any size: exactly that size, or one line."""
  sides = st.integers(1, 24)

  @profile(150 * times)
  @given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([1, 3]),
    st.sampled_from(["crop", "resize"]),
    st.sampled_from([None, 1, 2, 3]),
    st.booleans(),
    SEEDS,
  )
  def check(shape, size, channels, stored, mode, factor, random, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*shape, stored), np.uint8)
    assert to_channels(image, channels).shape == (*shape, channels or stored)
    record = {"image": image}
    if factor:
      assume(min(shape) >= factor**2)  # below, two factors can explain one pair
      record["degraded"] = image[::factor, ::factor]
    try:
      got = fit(record, size, mode, np.random.default_rng(seed) if random else None)
    except UserError as error:
      one_line(error)
      assert factor, error
      return
    assert got["image"].shape == (*size, stored) and got["image"].dtype == np.uint8
    if factor:
      assert got["degraded"].shape[:2] == tuple(-(-n // factor) for n in size)

  check()


@pytest.mark.parametrize("channels", [-1, 2, 4, 5])
def test_channels_that_nothing_has(channels):
  with pytest.raises(UserError, match="must be 0"):
    to_channels(np.zeros((2, 2, 3), np.uint8), channels)


# Degradations.

NUMBERS = st.floats(0, 3) | st.sampled_from(
  [-1.0, 0.0, 5e-324, 1e-270, 1e-40, 1e-7, 99.0, 100.0, 101.0, 1e300, math.nan, math.inf]
)
FACTORS = st.sampled_from(
  [2, 3, 5, 64, 2, 3, 5, 64, 1, 0, -2, 65, 2**31, 2.5, 3.0, math.nan, None, "2", True]
)
SHAPES = st.sampled_from([(1, 1, 1), (5, 7, 3), (8, 8, 1), (1, 30, 2)])
STEPS = st.sampled_from(
  [
    *("noise 0..9 @0.5", "down 3 box|lanczos", "down 64 nearest", "blur 0", "blur 0|2 0..9", "motion 0..9"),
    *("sharpen 10 0..1", "jpeg 1..100 420|444", "jpeg 1", "gamma 0.1", "linear", "srgb", "camera 9 0 0..1"),
    *("round", "round", "snow", "down 1 box", "noise nan", ""),
  ]
)
CHAINS = st.lists(STEPS, min_size=1, max_size=2).map("; ".join)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", sorted(degrade.DEGRADATIONS))
def test_degradations(name, times):
  """The shape that was announced, finite, within what kernel and noise can do, alike for one key; or one line."""
  finished = 0

  @profile(34 * times)
  @given(
    st.fixed_dictionaries(
      {
        **{"sigma": NUMBERS, "sigma_max": NUMBERS, "peak": NUMBERS, "blur": NUMBERS, "factor": FACTORS},
        "chain": CHAINS,
      }
    ),
    SHAPES,
    st.sampled_from([(0, 1), (0, 0), (1, 1)]),
    SEEDS,
  )
  def check(values, shape, bounds, seed):
    nonlocal finished
    config, key = {"name": name, **values}, jax.random.key(seed)
    image = drawn(seed, shape, *bounds, np.float32)
    try:
      function, announced = degrade.make_degrade(config), degrade.degraded_shape(config, shape)
      result = np.asarray(function(key, image))
    except UserError as error:
      one_line(error)
      assert "data.degrade." in str(error)
      return
    assert result.shape == announced and result.dtype == np.float32 and np.isfinite(result).all()
    np.testing.assert_array_equal(result, function(key, image))
    if name in ("bicubic_down", "blur_down"):  # negative lobes: an eighth of white at most, along each axis
      assert result.min() > -0.3 and result.max() < 1.3
    if bounds[0] == bounds[1] and name in ("bicubic_down", "blur_down", "identity"):
      np.testing.assert_allclose(result, bounds[0], atol=1e-5)
    finished += 1

  check()
  assert finished


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ["identity", "gaussian_noise", "bicubic_down"])
def test_prepared_batches(name, times):
  """What passes `check_first_batch` becomes float32, finite, of the announced shapes; the rest gets one line."""
  images = st.sampled_from([np.uint8, np.uint8, np.uint8, np.float32, np.float64, np.int32, np.bool_])
  passed = 0

  @profile(27 * times)
  @given(
    images,
    st.sampled_from(
      [(2, 6, 6, 3)] * 12 + [(0, 6, 6, 3), (2, 6, 5, 3), (2, 6, 6, 1), (6, 6, 3), (2, 0, 6, 3)]
    ),
    st.sampled_from([1.0] * 8 + [0.004, 2.0, math.nan]),
    st.sampled_from(["none", "none", "dynamic", "threshold", "other"]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.booleans(),
    SEEDS,
  )
  def check(dtype, shape, scale, binarize, ways, training, seed):
    nonlocal passed
    data = base_config().data
    data.flip, data.rotate, data.dequantize = ways
    data.binarize, data.degrade.name, data.degrade.factor = binarize, name, 3
    values = np.random.default_rng(seed).random(shape) * scale
    with np.errstate(invalid="ignore"):
      image = (values * 255).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)
    try:
      check_first_batch({"image": image, "index": np.arange(shape[0])}, data, (6, 6, 3))
      prepare = make_prepare(data, training)
    except UserError as error:
      one_line(error)
      return
    got = prepare(jax.random.split(jax.random.key(seed), 2), {"image": jnp.asarray(image)})
    assert got["image"].shape == (2, 6, 6, 3) and got["image"].dtype == jnp.float32
    assert bool(((got["image"] >= 0) & (got["image"] <= 1)).all())
    assert ("degraded" in got) == (name != "identity")
    assert "degraded" not in got or got["degraded"].shape[1:] == degrade.degraded_shape(
      data.degrade, (6, 6, 3)
    )
    passed += 1

  check()
  assert passed
