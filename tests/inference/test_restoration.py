"""A restoration run as an object: tiles that fit together, draws, orientations, export, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image
from trained import shapes

import vae_jax
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.degrade import bicubic_up
from vae_jax.errors import UserError
from vae_jax.inference import TrainedVAE, export, load
from vae_jax.inference.base import PRIOR_STREAM
from vae_jax.runs import Run
from vae_jax.storage import exported as pretrained
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training.steps import example_keys
from vae_jax.types import image_spec


def make(channels=1, factor=1, widths="4", **model):
  """A restoration run with normal parameters, trained (as it were) on crops of 12 x 12."""
  names = {1: "gaussian_noise"}
  given = {
    "data.degrade.name": names.get(factor, "bicubic_down"),
    "data.degrade.factor": max(factor, 2),
    "model.name": "restoration_vae",
    "model.channels": widths,
    "model.latent_dim": 2,
    "model.likelihood": "gaussian",
    "model.activation": "silu",
  } | {f"model.{name}": value for name, value in model.items()}
  config = apply_overrides(base_config(), [f"{name}={value}" for name, value in given.items()])
  shape, low = (12, 12, channels), (12 // factor, 12 // factor, channels)
  spec = image_spec(shape, low)
  random = np.random.default_rng(1)

  def draw(path, x):
    size = 0.1 if "head" in jax.tree_util.keystr(path) or x.ndim == 1 else 1.0
    return size * random.normal(size=x.shape).astype(np.float32) / np.sqrt(np.prod(x.shape[:-1] or (1,)))

  return TrainedVAE(Run(config, jax.tree_util.tree_map_with_path(draw, shapes(config, spec)), spec, 7))


def pixels(*shape, seed=0):
  return np.random.default_rng(seed).uniform(0.2, 0.8, size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  return make()


@pytest.fixture(scope="module")
def plain():
  """A VAE of one image size."""
  config = apply_overrides(base_config(), ["model.hidden=4", "model.latent_dim=2"])
  spec = image_spec((5, 5, 1))
  tenths = jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shapes(config, spec))
  return TrainedVAE(Run(config, tenths, spec, 1))


# --- uncertainty ---


def test_deviation_is_that_of_a_laplace_density():
  """In tiles as in whole; the root of twice the square of its scale, from exp(-7) to 1 (SciPy: laplace.std)."""
  model = make(channels=3, factor=2)
  image = pixels(9, 7, 3)
  found = model.deviation(image, tile=16)
  np.testing.assert_allclose(found, model.deviation(image), rtol=1e-4)
  picture = Image.fromarray(np.uint8(np.round(255 * image)))
  np.testing.assert_array_equal(model.deviation(picture), model.deviation(np.asarray(picture)))
  assert found.shape == (18, 14, 3) and found.min() > 0 and found.max() > 1.01 * found.min()
  assert scipy.stats.laplace.std(scale=np.exp(-7)) <= found.min()
  assert found.max() <= scipy.stats.laplace.std(scale=1.0)

  def log_spread(module, degraded):
    scales, _ = module.encode_degraded(module._padded(jnp.asarray(degraded)))
    return module._log_spread(scales)

  spread = jnp.exp(model.module.apply(model.variables, image[None], method=log_spread))[0, :18, :14]
  np.testing.assert_allclose(found, scipy.stats.laplace.std(scale=np.asarray(spread)), rtol=1e-4)
  with pytest.raises(UserError, match="cannot draw restorations"):
    make(latent_dim=0).deviation(pixels(8, 8, 1))


# --- restore ---


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_restore_takes_any_size(factor, key):
  model = make(channels=3, factor=factor)
  assert model.factor == factor
  for size in (12 // factor, 12 // factor), (5, 9):
    image = pixels(2, *size, 3)
    estimate, draws = model.restore(image), model.restore(image, key, samples=3)
    expected = bicubic_up(image, factor) if factor > 1 else image
    assert estimate.shape == expected.shape and draws.shape == (3, *expected.shape)
    assert estimate.dtype == draws.dtype == jnp.float32
    assert all(0 <= x.min() < x.max() <= 1 for x in (estimate, draws))
    np.testing.assert_array_equal(model.reconstruct(image), estimate)
    assert len({x.tobytes() for x in np.asarray(draws).reshape(6, -1)}) == 6
    assert np.abs(np.asarray(draws) - np.asarray(estimate)[None]).max() > 1e-3


def test_draws_are_a_function_of_the_key_and_the_first_do_not_depend_on_their_number(model, key):
  image = pixels(2, 6, 7, 1)
  three = model.restore(image, key, samples=3)
  np.testing.assert_allclose(model.restore(image, key, samples=2), three[:2], atol=1e-6)
  np.testing.assert_allclose(model.restore(image[:1], key)[0, 0], three[0, 0], atol=1e-6)
  assert np.abs(np.asarray(model.restore(image, jax.random.key(1), samples=3) - three)).max() > 1e-3


def test_the_temperature_scales_the_noise_of_draws(model, key):
  """0 is the estimate; one key is one direction, and half of the way lies between."""
  image = pixels(1, 6, 7, 1)
  estimate, whole = model.restore(image), model.restore(image, key, temperature=1.0)[0]
  np.testing.assert_array_equal(model.restore(image, key, temperature=0.0)[0], estimate)
  half = model.restore(image, key)[0]
  np.testing.assert_array_equal(half, model.restore(image, key, temperature=0.5)[0])
  distances = [float(np.abs(np.asarray(x - estimate)).mean()) for x in (half, whole)]
  assert 0.3 * distances[1] < distances[0] < 0.7 * distances[1]
  tiled = model.restore_image(image[0], key, temperature=1.0) - model.restore_image(image[0])
  assert np.abs(tiled).mean() > 1.5 * np.abs(model.restore_image(image[0], key) - estimate[0]).mean()
  for call, x in (model.restore, image), (model.restore_image, image[0]):
    one_line(call, x, temperature=0.5, match="temperature = 0.5 has no effect without a key")
  for wrong in -1.0, float("nan"), float("inf"):
    one_line(
      model.restore, image, key, temperature=wrong, match="temperature = .*: must be at least 0 and finite"
    )


def test_bytes_are_images_too(model):
  image = np.random.default_rng(0).integers(50, 200, size=(1, 6, 5, 1), dtype=np.uint8)
  np.testing.assert_allclose(model.restore(image), model.restore(image.astype(np.float32) / 255), atol=1e-6)


def test_noise_outside_the_range_is_taken_and_other_scales_are_not(model):
  noisy = pixels(1, 8, 8, 1) + np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
  assert noisy.min() < 0 and noisy.max() > 1 and np.isfinite(model.restore(noisy)).all()
  for bad in (100 * noisy + 100, np.full((1, 4, 4, 1), np.nan)):
    with pytest.raises(UserError, match="give uint8"):
      model.restore(bad)


# --- tiles ---


@pytest.mark.parametrize(
  ("factor", "channels", "size", "values"),
  [
    (1, 1, (45, 38), {}),
    (2, 3, (37, 44), {}),
    (3, 1, (41, 33), {"likelihood": "laplace"}),
    pytest.param(1, 3, (71, 69), {"widths": "4,4"}, marks=pytest.mark.slow),
    pytest.param(2, 1, (19, 67), {"widths": "4", "unshuffle": 2}, marks=pytest.mark.slow),
    (2, 1, (38, 20), {"latent_dim": 0}),
  ],
)
def test_tiles_fit_together(factor, channels, size, values, key):
  """The estimate and a draw in tiles are those of the whole, odd sizes and borders included."""
  model = make(channels, factor, **values)
  image = pixels(*size, channels)
  seen = []

  def progress(done, total):
    seen.append((done, total))

  got = model.restore_image(image, tile=5, progress=progress)
  total = seen[-1][1]
  assert total > 1 and seen == [(i, total) for i in range(1, total + 1)]  # more than one tile
  whole = np.asarray(model.restore(image[None]))[0]
  assert isinstance(got, np.ndarray) and got.dtype == np.float32
  assert got.shape == (factor * size[0], factor * size[1], channels)
  np.testing.assert_allclose(got, whole, rtol=0, atol=1e-4)
  assert np.mean((whole > 0) & (whole < 1)) > 0.8  # clipping does not hide the rest
  if not model.module.units:
    return
  own = example_keys(jax.random.fold_in(key, 0), PRIOR_STREAM, jnp.arange(1))[0]
  drawn = np.asarray(model.restore(image[None], key))[0, 0]
  np.testing.assert_allclose(model.restore_image(image, own, tile=5), drawn, rtol=0, atol=1e-4)
  np.testing.assert_allclose(model.restore_image(image, own), drawn, rtol=0, atol=1e-4)
  for given, result in ((None, got), (own, model.restore_image(image, own, tile=5))):
    bands = list(model.restore_bands(image, given, tile=5))
    assert len(bands) > 1
    np.testing.assert_array_equal(np.concatenate(bands), result)
  bands = list(model.deviation_bands(image, tile=5))
  assert len(bands) > 1
  np.testing.assert_array_equal(np.concatenate(bands), model.deviation(image, tile=5))
  assert np.abs(drawn - whole).max() > 0.002


def test_a_smaller_halo_would_not_do(model, monkeypatch):
  """The test above can fail: without the halo the tiles show."""
  image = pixels(45, 38, 1)
  monkeypatch.setattr(type(model.module), "radius", 1)
  difference = model.restore_image(image, tile=8) - np.asarray(model.restore(image[None]))[0]
  assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("tile", [0, -3, 2.5])
def test_wrong_tiles_are_refused(model, tile):
  with pytest.raises(UserError, match=r"tile=.*integer of at least 1"):
    model.restore_image(pixels(6, 6, 1), tile=tile)


# --- orientations ---


@pytest.mark.parametrize("factor", [1, 2])
def test_the_ensemble_is_the_mean_over_orientations(factor):
  model = make(channels=3, factor=factor)
  image = pixels(7, 10, 3)

  def once(x):
    return np.asarray(model.restore(np.ascontiguousarray(x)[None]), np.float64)[0]

  # The eight, one by one: each with what undoes it.
  def transposed(x):
    return x.swapaxes(0, 1)

  pairs = [
    (lambda x: x, lambda x: x),
    (lambda x: x[::-1], lambda x: x[::-1]),
    (lambda x: x[:, ::-1], lambda x: x[:, ::-1]),
    (lambda x: x[::-1, ::-1], lambda x: x[::-1, ::-1]),
    (transposed, transposed),
    (lambda x: transposed(x)[::-1], lambda x: transposed(x[::-1])),
    (lambda x: transposed(x)[:, ::-1], lambda x: transposed(x[:, ::-1])),
    (lambda x: transposed(x)[::-1, ::-1], lambda x: transposed(x[::-1, ::-1])),
  ]
  for there, back in pairs:
    np.testing.assert_array_equal(back(there(image)), image)
  expected = np.mean([back(once(there(image))) for there, back in pairs], axis=0)
  seen = []
  got = model.restore_image(
    image, ensemble=True, tile=1000, progress=lambda done, total: seen.append((done, total))
  )
  assert seen == [(i, 8) for i in range(1, 9)]
  assert got.shape == (7 * factor, 10 * factor, 3) and got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=1e-5)
  assert np.abs(got - once(image)).max() > 1e-3
  # So it turns with the image.
  np.testing.assert_allclose(model.restore_image(image[::-1], ensemble=True), got[::-1], atol=1e-5)


# --- refusals ---


def one_line(function, *args, match, **kwargs):
  with pytest.raises(UserError, match=match) as error:
    function(*args, **kwargs)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    (pixels(1, 6, 6, 3), r"\(1, 6, 6, 3\): this model takes \[n, h, w, 1\]"),
    (pixels(6, 6, 1), r"takes \[n, h, w, 1\]"),
    (pixels(6, 6), r"takes \[n, h, w, 1\]"),
    (np.zeros((1, 0, 6, 1), np.float32), r"takes \[n, h, w, 1\]"),
    (np.zeros((0, 6, 6, 1), np.float32), r"takes \[n, h, w, 1\]"),
    (np.zeros((1, 6, 6, 1), np.int32), "type int32"),
  ],
)
def test_wrong_images_are_refused(model, bad, message):
  one_line(model.restore, bad, match=message)
  one_line(model.reconstruct, bad, match=message)


def test_wrong_single_images_are_refused(model):
  for bad in (pixels(6, 6, 3), pixels(6), pixels(1, 6, 6, 1), np.zeros((0, 6, 1), np.float32)):
    shape = str(bad.shape).replace("(", r"\(").replace(")", r"\)")
    one_line(
      model.restore_image, bad, match=rf"an image of shape {shape}: this model takes \[h, w, 1\]; crop"
    )


def test_the_remedy_for_a_wrong_shape_fits():
  model = make(channels=3)
  one_line(model.restore, pixels(6, 6, 3), match=r"takes \[n, h, w, 3\]; give one image as image\[None\]$")
  one_line(model.restore, pixels(1, 6, 6, 1), match=r"np\.repeat\(images, 3, axis=-1\) makes grey ones so$")


@pytest.mark.parametrize("channels", [1, 3])
def test_one_grey_image_with_and_without_its_channel(channels):
  model, grey = make(channels), pixels(6, 7, 1)
  expected = model.restore(np.repeat(grey, channels, axis=2)[None])[0]
  for image in grey, grey[..., 0]:
    np.testing.assert_allclose(model.restore_image(image), expected, atol=1e-6)


def test_wrong_requests_for_draws_are_refused(model, key):
  one_line(model.restore, pixels(1, 6, 6, 1), samples=2, match="samples = 2 without a key")
  one_line(model.restore, pixels(1, 6, 6, 1), key, samples=0, match="samples = 0: must be at least 1")
  words = "ensemble averages estimates, it cannot draw"
  one_line(model.restore_image, pixels(6, 6, 1), key, ensemble=True, match=words)


def test_a_model_without_latents_draws_nothing(key):
  model = make(latent_dim=0)
  assert model.restore(pixels(1, 6, 6, 1)).shape == (1, 6, 6, 1)
  for function, image in (model.restore, pixels(1, 6, 6, 1)), (model.restore_image, pixels(6, 6, 1)):
    one_line(
      function, image, key, match="cannot draw restorations; restoration_vae with model.latent_dim > 0 can"
    )


def test_what_needs_no_degraded_image_is_refused(model, key):
  words = r"this run \(restoration_vae of 12 x 12 x 1\) cannot "
  able = "; .* can; or use restore"
  one_line(model.encode, pixels(1, 12, 12, 1), match=f"{words}encode images into latents{able}")
  one_line(model.decode, np.zeros((1, 2)), match=f"{words}decode latents{able}")
  one_line(model.sample, key, 3, match=f"{words}sample new images{able}")
  one_line(model.sample, key, 3, pixels=True, match=words)
  one_line(model.latents, key, 3, match=words)
  one_line(model.interpolate, pixels(1, 12, 12, 1), pixels(1, 12, 12, 1), 3, match=words)


def test_a_plain_vae_restores_images_of_its_size_and_draws_none(plain, key):
  image = pixels(5, 5, 1)
  np.testing.assert_allclose(plain.restore_image(image), plain.reconstruct(image[None])[0], atol=1e-6)
  np.testing.assert_allclose(plain.restore(image[None]), plain.reconstruct(image[None]), atol=1e-6)
  for size in (6, 5), (10, 10):
    one_line(plain.restore, pixels(1, *size, 1), match=r"takes \[n, 5, 5, 1\]; crop, resize")
    one_line(plain.restore_image, pixels(*size, 1), match=r"takes \[5, 5, 1\]")
  one_line(plain.restore, image[None], key, match="cannot draw restorations; restoration_vae can")
  one_line(plain.restore_image, image, key, match="cannot draw restorations; restoration_vae can")
  one_line(plain.restore_image, image, ensemble=True, match="ensemble")


# --- export and load ---


def test_an_exported_model_is_the_model(tmp_path, key):
  model = make(channels=3, factor=2)
  export(model, tmp_path / "small")
  assert sorted(p.name for p in (tmp_path / "small").iterdir()) == ["config.json", "model.safetensors"]
  other = vae_jax.load(tmp_path / "small")
  assert other.config == model.config and other.config.is_locked
  assert (other.image_shape, other.input_shape, other.step) == ((12, 12, 3), (6, 6, 3), 7)
  assert jax.tree.structure(other.params) == jax.tree.structure(model.params)
  jax.tree.map(np.testing.assert_array_equal, other.params, model.params)
  image = pixels(1, 5, 7, 3)
  np.testing.assert_array_equal(other.restore(image), model.restore(image))
  np.testing.assert_array_equal(other.restore(image, key), model.restore(image, key))


def test_a_plain_vae_is_exported_too(plain, tmp_path, key):
  export(plain, tmp_path)
  np.testing.assert_array_equal(load(tmp_path).sample(key, 3), plain.sample(key, 3))


def test_a_model_is_loaded_by_name(model, plain, tmp_path, monkeypatch):
  monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "pretrained")
  monkeypatch.chdir(tmp_path)
  one_line(load, "denoise", match="denoise: no such run; give the folder of one$")
  export(model, tmp_path / "pretrained" / "denoise")
  assert load("denoise").config.model.name == "restoration_vae"
  one_line(load, "denoises", match="no such run; give the folder of one, or one of denoise$")
  for checkpoint in ("best", 3):
    one_line(load, "denoise", checkpoint, match=r"has one set of weights; leave it out")
  export(plain, tmp_path / "denoise")  # a folder here comes first
  assert load("denoise").config.model.name == "mlp_vae"
  assert load(tmp_path / "pretrained" / "denoise").config.model.name == "restoration_vae"


@pytest.mark.parametrize(
  "broken", [{"image_shape": [12, 12]}, {"input_shape": None}, {"step": ...}, {"image_shape": "abcd"}]
)
def test_a_description_that_is_none_is_refused(model, tmp_path, broken):
  meta = {
    "config": model.config.to_dict(),
    "image_shape": [12, 12, 1],
    "input_shape": [12, 12, 1],
    "step": 7,
  } | broken
  pretrained.save(tmp_path, model.variables, {k: v for k, v in meta.items() if v is not ...})
  one_line(load, tmp_path, match="does not describe a model")


def test_a_run_is_loaded_and_exported(model, tmp_path):
  """From a checkpoint, whose average counts, to a folder without the optimiser."""
  meta = {"config": model.config.to_dict(), "image_shape": [12, 12, 1], "input_shape": [12, 12, 1]}
  params = jax.device_get(model.params)
  with Checkpoints(tmp_path / "run" / "checkpoints") as store:
    store.save(5, {"params": jax.tree.map(np.zeros_like, params), "ema": params}, meta=meta, score=None)
  there = load(tmp_path / "run")
  export(there, tmp_path / "run" / "evaluation" / "export")
  again = load(tmp_path / "run" / "evaluation" / "export")
  assert there.step == again.step == 5
  jax.tree.map(np.testing.assert_array_equal, again.params, params)


# --- noise that the model is told ---


@pytest.fixture(scope="module")
def told():
  return make(noise="uniform", latent_dim=0, unshuffle=2)


def test_the_noise_of_a_picture_is_estimated_from_all_of_it(told):
  """Tiles of it are told the same sigma, so they fit together."""
  image = pixels(40, 37, 1)
  sigma = told.noise_sigma(image)
  assert told.noise_sigma(image, tile=16) == pytest.approx(sigma, rel=1e-4)
  whole = told.restore(image[None])[0]
  np.testing.assert_allclose(told.restore_image(image, tile=16), whole, atol=2e-5)
  np.testing.assert_allclose(told.restore_image(image, sigma=sigma), whole, atol=2e-5)
  np.testing.assert_allclose(told.restore(image[None], sigma=[sigma])[0], whole, atol=2e-5)
  other = told.restore_image(image, sigma=0.3, tile=16)
  np.testing.assert_allclose(other, told.restore(image[None], sigma=0.3)[0], atol=2e-5)
  assert np.abs(other - whole).max() > 1e-3
  np.testing.assert_array_equal(told.restore_image(image, sigma=0.0), image)


def test_a_map_of_the_noise_fits_in_tiles():
  local = make(noise="local", latent_dim=0, unshuffle=2)
  image = pixels(70, 37, 1)
  np.testing.assert_allclose(local.restore_image(image, tile=16), local.restore(image[None])[0], atol=2e-5)


def test_a_sigma_that_means_nothing_is_refused(told, model):
  for sigma in (-0.1, 25, float("nan"), [0.1, 0.2]):
    with pytest.raises(UserError, match=r"25 of 255 is 0\.098"):
      told.restore(pixels(1, 8, 8, 1), sigma=sigma)
  for call in (
    lambda: model.restore_image(pixels(8, 8, 1), sigma=0.1),
    lambda: model.noise_sigma(pixels(8, 8, 1)),
  ):
    with pytest.raises(UserError, match="is not told the noise of a picture"):
      call()
