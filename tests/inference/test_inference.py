"""A trained run as an object: what it draws, what it refuses, which weights it takes."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import spec_of, trained, variables

import vae_jax
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.inference import load, slerp
from vae_jax.storage.checkpoints import Checkpoints

SHAPE = (5, 4, 1)
SPEC = spec_of(SHAPE)
CONFIG = apply_overrides(base_config(), ["model.hidden=8", "model.latent_dim=3"])


def parameters(config, spec, seed):
  return variables(config, spec, seed)["params"]


def save(folder, config, scores):
  """A run as `train` leaves it; step s has params of seed s and an average of seed 100 + s."""
  meta = {"config": config.to_dict(), "image_shape": list(SHAPE), "input_shape": list(SHAPE)}
  with Checkpoints(folder / "checkpoints", keep=len(scores)) as store:
    for step, score in scores.items():
      state = {"params": parameters(config, SPEC, step), "ema": parameters(config, SPEC, 100 + step)}
      store.save(step, state, meta=meta, score=score)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  save(folder, CONFIG, {10: 3.0, 20: 1.0, 30: 2.0})
  return folder


@pytest.fixture(scope="module")
def model(run):
  return load(run)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).integers(0, 256, size=(6, *SHAPE), dtype=np.uint8)


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


# --- load ---


def test_load_takes_the_average_of_the_newest_step(model):
  assert model.step == 30 and same(model.params, parameters(CONFIG, SPEC, 130))
  assert (model.image_shape, model.input_shape, model.likelihood) == (SHAPE, SHAPE, "Bernoulli")
  assert model.config == CONFIG and model.config.is_locked


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 20), (10, 10), ("newest", 30)])
def test_load_takes_the_checkpoint_that_is_named(run, checkpoint, step):
  model = vae_jax.load(str(run), checkpoint=checkpoint)
  assert model.step == step and same(model.params, parameters(CONFIG, SPEC, 100 + step))


@pytest.mark.parametrize(("checkpoint", "message"), [(15, "10, 20, 30"), ("newst", "'newest', 'best'")])
def test_load_refuses_a_checkpoint_that_is_not_there(run, checkpoint, message):
  with pytest.raises(UserError, match=message):
    load(run, checkpoint)


def test_load_refuses_best_where_nothing_was_scored(tmp_path):
  save(tmp_path, CONFIG, {5: None})
  assert load(tmp_path).step == 5
  with pytest.raises(UserError, match="none of its checkpoints has a score"):
    load(tmp_path, "best")


def test_load_refuses_a_folder_without_a_run(tmp_path):
  with pytest.raises(UserError, match="no such run"):
    load(tmp_path / "nowhere")
  for checkpoint in ("newest", "best", 3):
    with pytest.raises(UserError, match="no checkpoint in"):
      load(tmp_path, checkpoint)
  assert not list(tmp_path.iterdir())


def truncate(folder):
  """Cuts the largest file of a checkpoint in half."""
  file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_load_passes_over_a_damaged_checkpoint_with_a_line(run, tmp_path, caplog):
  folder = shutil.copytree(run, tmp_path / "copy")
  truncate(folder / "checkpoints" / "30")
  with caplog.at_level(logging.WARNING, "vae_jax"):
    assert load(folder).step == 20
  (line,) = caplog.messages
  assert "30 is damaged" in line and line.endswith("falling back to step 20")
  with pytest.raises(UserError, match=r"30 is damaged .*; use another step: 10, 20"):
    load(folder, 30)
  for step in ("10", "20"):
    truncate(folder / "checkpoints" / step)
  with pytest.raises(UserError, match="no other can be read"):
    load(folder)


# --- encode, decode ---


def test_shapes_types_and_ranges(model, images, key):
  posterior = model.encode(images)
  assert posterior.mean.shape == posterior.logvar.shape == (6, 3)
  for out in (model.decode(posterior.mean), model.reconstruct(images), model.sample(key, 6)):
    assert out.shape == (6, *SHAPE) and out.dtype == jnp.float32
    assert 0 <= out.min() < out.max() <= 1
  pixels = model.sample(key, 6, pixels=True)
  assert set(np.unique(pixels)) == {0.0, 1.0}  # Bernoulli


def test_the_decoder_against_float64(model):
  z = np.random.default_rng(1).normal(size=(4, 3))
  layers = {
    name: {k: np.asarray(v, np.float64) for k, v in x.items()} for name, x in model.params["decoder"].items()
  }
  hidden = np.maximum(z @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"], 0)
  logits = hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]
  expected = (1 / (1 + np.exp(-logits))).reshape(4, *SHAPE)
  np.testing.assert_allclose(model.decode(z), expected, rtol=1e-4, atol=1e-6)


def test_bytes_and_floats_are_the_same_images(model, images):
  whole = model.reconstruct(images)
  for other in (images.astype(np.float32) / 255, jnp.asarray(images), (images / 255.0).astype(np.float64)):
    np.testing.assert_allclose(model.reconstruct(other), whole, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(model.reconstruct(images[:1]), whole[:1], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(model.decode(model.encode(images).mean), whole, rtol=1e-5)


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    (np.zeros((2, 4, 5, 1), np.uint8), r"\(2, 4, 5, 1\).*takes \[n, 5, 4, 1\]; crop, resize or convert"),
    (np.zeros((2, 5, 4, 3), np.uint8), r"\(2, 5, 4, 3\).*takes \[n, 5, 4, 1\]"),
    (np.zeros(SHAPE, np.uint8), "takes"),
    (np.zeros((0, *SHAPE), np.float32), r"\(0, 5, 4, 1\)"),
    (np.zeros((2, *SHAPE), np.int32), "type int32"),
    (np.zeros((2, *SHAPE), bool), "type bool"),
    (np.full((2, *SHAPE), 255.0), "from 255 to 255: give uint8"),
    (np.full((2, *SHAPE), -0.01), "from -0.01 to -0.01"),
    (np.full((2, *SHAPE), np.nan), "nan"),
    (np.full((2, *SHAPE), np.inf), "inf"),
  ],
)
def test_wrong_images_are_refused(model, bad, message):
  for method in (model.encode, model.reconstruct, lambda x: model.interpolate(x, x, 3)):
    for given in (bad, jnp.asarray(bad)):
      with pytest.raises(UserError, match=message):
        method(given)


@pytest.mark.parametrize("bad", [np.zeros((2, 4)), np.zeros(3), np.zeros((1, 1, 3))])
def test_wrong_latents_are_refused(model, bad):
  with pytest.raises(UserError, match=r"takes \[n, 3\]"):
    model.decode(bad)


def test_a_denoiser_sees_what_noise_makes_of_images(tmp_path):
  """Noise leaves [0, 1]; images scaled to 0..255 are still refused, and so is what is not finite."""
  config = apply_overrides(CONFIG, ["data.degrade.name=gaussian_noise", "data.degrade.sigma=0.5"])
  model = trained(config, SPEC)
  noisy = 0.5 * np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
  assert noisy.min() < 0 and np.isfinite(model.reconstruct(noisy)).all()
  for bad in (np.full((1, *SHAPE), 128.0), np.full((1, *SHAPE), np.nan), np.full((1, *SHAPE), np.inf)):
    with pytest.raises(UserError, match=r"values (from|that are not finite)"):
      model.reconstruct(bad)


def test_the_encoder_takes_low_resolution_where_the_run_degraded_so():
  config = apply_overrides(CONFIG, ["data.degrade.name=bicubic_down", "model.likelihood=gaussian"])
  model = trained(config, spec_of(SHAPE, (3, 2, 1)))
  assert model.reconstruct(np.zeros((2, 3, 2, 1), np.uint8)).shape == (2, *SHAPE)
  with pytest.raises(UserError, match=r"takes \[n, 3, 2, 1\]"):
    model.reconstruct(np.zeros((2, *SHAPE), np.uint8))


# --- sample ---


def test_more_samples_begin_with_fewer(model, key):
  assert same(model.latents(key, 16)[:8], model.latents(key, 8))
  np.testing.assert_allclose(model.sample(key, 16)[:8], model.sample(key, 8), rtol=1e-4, atol=1e-6)


def test_samples_are_a_function_of_the_key(model, key):
  assert same(model.sample(key, 4), model.sample(key, 4))
  assert same(model.sample(key, 4, pixels=True), model.sample(key, 4, pixels=True))
  assert not same(model.sample(key, 4), model.sample(jax.random.key(1), 4))


def test_pixels_of_later_parts_are_drawn_anew(model, key):
  """At temperature 0 all images have one density of pixels."""
  parts = [model.sample(key, 4, temperature=0.0, pixels=True, start=start) for start in (0, 4, 8)]
  assert len({np.asarray(part).tobytes() for part in parts}) == 3


def test_latents_are_standard_normal(model, key):
  z = np.asarray(model.latents(key, 4000), np.float64)
  error = 1 / np.sqrt(4000)
  assert np.abs(z.mean(0)).max() < 4.5 * error
  assert np.abs(np.cov(z.T) - np.eye(3)).max() < 4.5 * np.sqrt(2) * error


def test_temperature_scales_the_latents(model, key):
  np.testing.assert_allclose(model.latents(key, 5, 0.5), 0.5 * model.latents(key, 5), rtol=1e-6)
  zero = model.decode(np.zeros((1, 3)))
  np.testing.assert_allclose(model.sample(key, 4, temperature=0), np.repeat(zero, 4, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
  "bad", [{"num": 0}, {"num": 2, "temperature": -1.0}, {"num": 2, "temperature": np.nan}]
)
def test_wrong_requests_for_samples_are_refused(model, key, bad):
  with pytest.raises(UserError, match="num must be at least 1, temperature at least 0"):
    model.sample(key, **bad)


# --- interpolate ---


def test_slerp_against_shoemake(key):
  """q1 sin((1 - t) w) / sin w + q2 sin(t w) / sin w, written out for each vector in float64."""
  a, b = np.random.default_rng(0).normal(size=(2, 7, 5))
  t = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
  got = slerp(jnp.asarray(a), jnp.asarray(b), jnp.asarray(t))
  assert got.shape == (5, 7, 5)
  for j, (p, q) in enumerate(zip(a, b, strict=True)):
    w = np.arccos(p @ q / np.linalg.norm(p) / np.linalg.norm(q))
    for i, s in enumerate(t):
      expected = np.sin((1 - s) * w) / np.sin(w) * p + np.sin(s * w) / np.sin(w) * q
      np.testing.assert_allclose(got[i, j], expected, rtol=1e-4, atol=1e-5)


def test_slerp_keeps_the_norm_and_turns_evenly():
  a, b = jnp.array([[3.0, 0.0, 0.0]]), jnp.array([[0.0, 3.0, 0.0]])
  t = jnp.linspace(0.0, 1.0, 9)
  path = slerp(a, b, t)[:, 0]
  np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 3.0, rtol=1e-6)
  np.testing.assert_allclose(np.arctan2(path[:, 1], path[:, 0]), np.pi / 2 * t, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.0, -1.0, 1.0 + 1e-6])
def test_slerp_of_parallel_vectors_is_finite_and_ends_right(factor):
  a = jnp.array([[1.0, 2.0, -1.0]])
  path = np.asarray(slerp(a, factor * a, jnp.linspace(0.0, 1.0, 5)))[:, 0]
  assert np.isfinite(path).all()
  np.testing.assert_allclose(path[0], a[0], atol=1e-3)
  np.testing.assert_allclose(path[-1], factor * a[0], atol=1e-3)
  if factor > 0:
    np.testing.assert_allclose(path[2], (1 + factor) / 2 * a[0], rtol=1e-3)
  slope = jax.grad(lambda a, b: slerp(a, b, jnp.linspace(0.0, 1.0, 5)).sum(), argnums=(0, 1))(a, factor * a)
  assert all(np.isfinite(g).all() for g in slope)


@pytest.mark.parametrize("method", ["spherical", "linear"])
def test_interpolation_begins_and_ends_with_reconstructions(model, images, method):
  a, b = images[:2], images[2:4]
  path = model.interpolate(a, b, 5, method)
  assert path.shape == (2, 5, *SHAPE)
  np.testing.assert_allclose(path[:, 0], model.reconstruct(a), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(path[:, -1], model.reconstruct(b), rtol=1e-4, atol=1e-6)
  first, last = np.asarray(model.encode(a).mean), np.asarray(model.encode(b).mean)
  middle = (first + last) / 2
  if method == "spherical":
    cosine = (first * last).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(last, axis=-1)
    middle = middle / np.cos(np.arccos(cosine) / 2)[:, None]  # sin(w / 2) / sin(w) = 1 / (2 cos(w / 2))
  np.testing.assert_allclose(path[:, 2], model.decode(middle), rtol=1e-3, atol=1e-5)


def test_each_way_of_an_interpolation_has_its_own_label(images):
  config = apply_overrides(base_config("cvae"), ["model.hidden=8", "model.latent_dim=3", "model.classes=4"])
  model = trained(config, SPEC | {"label": jax.ShapeDtypeStruct((), np.int32)})
  path = model.interpolate(images[:2], images[2:4], 3, label=[0, 3])
  for end, some in ((0, images[:2]), (-1, images[2:4])):
    np.testing.assert_allclose(path[:, end], model.reconstruct(some, label=[0, 3]), rtol=1e-4, atol=1e-6)


def test_the_ways_of_interpolation_differ(model, images):
  a, b = images[:2], images[2:4]
  assert not np.allclose(model.interpolate(a, b, 3), model.interpolate(a, b, 3, "linear"), atol=1e-3)


@pytest.mark.parametrize(
  ("num", "method", "others", "message"),
  [
    (1, "linear", 2, "num must be at least 2"),
    (3, "cubic", 2, "method spherical or linear"),
    (3, "linear", 1, "2 images to interpolate from and 1 to"),
  ],
)
def test_wrong_requests_for_interpolation_are_refused(model, images, num, method, others, message):
  with pytest.raises(UserError, match=message):
    model.interpolate(images[:2], images[:others], num, method)


# --- a map of latents ---


def test_a_map_of_latents_is_drawn_encoded_and_interpolated(images, key):
  """dense=0: 3 latents at each of 3 x 2 positions; the prior has them all."""
  config = apply_overrides(
    base_config(), ["model.name=conv_vae", "model.channels=4", "model.dense=0", "model.latent_dim=3"]
  )
  model = trained(config, SPEC)
  assert model.latents(key, 4).shape == (4, 18) and model.sample(key, 4).shape == (4, *SHAPE)
  posterior = model.encode(images)
  assert posterior.mean.shape == posterior.logvar.shape == (6, 18)
  np.testing.assert_allclose(model.reconstruct(images), model.decode(posterior.mean), rtol=1e-4, atol=1e-6)
  path = model.interpolate(images[:2], images[2:4], 3)
  assert path.shape == (2, 3, *SHAPE)
  np.testing.assert_allclose(path[:, -1], model.reconstruct(images[2:4]), rtol=1e-4, atol=1e-6)
  with pytest.raises(UserError, match=r"takes \[n, 18\]"):
    model.decode(np.zeros((2, 3)))
  other = np.zeros((1, 10, 8, 1), np.uint8)
  for method in (model.restore, model.reconstruct, model.encode):
    with pytest.raises(UserError, match=r"takes \[n, 5, 4, 1\]"):
      method(other)
