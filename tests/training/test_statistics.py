"""What a model keeps beside its parameters: moved on by each accepted step, alike on all devices, in checkpoints."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import models
from vae_jax.configuration import base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models.contract import Family, Output
from vae_jax.objectives import Objective
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import parallel, state, steps
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec

SHAPE, STEPS, BATCH = (4, 3, 1), 5, 16
SPEC = image_spec(SHAPE)
DEVICES = jax.devices("cpu")  # eight, see conftest
IMAGES = np.random.default_rng(0).uniform(size=(STEPS, BATCH, *SHAPE)).astype(np.float32)


class Centred(Family):
  """scale * image against the running mean of the images, which it keeps. limit: statistics above it are infinite."""

  limit: float = 1e3

  TERMS = ("distortion",)

  def setup(self):
    self.scale = self.param("scale", lambda key: jnp.float32(0.5))
    self.mean = self.variable("stats", "mean", lambda: jnp.zeros(SHAPE))

  def __call__(self, batch, keys, mode):
    image = jnp.asarray(batch["image"])
    distortion = jnp.square(self.scale * image - self.mean.value[None]).sum((1, 2, 3))
    statistics = {"mean": jnp.where(image < self.limit, image, jnp.inf).mean(0)}
    return Output({"distortion": distortion}, self.scale * image, statistics=statistics)

  def absorb(self, variables, statistics):
    kept = 0.9 * variables["stats"]["mean"] + 0.1 * statistics["mean"]
    return {**variables, "stats": {"mean": kept}}


def untouched(keys, batch, frozen):
  """A preparation that leaves the batch as it is."""
  return batch


def made(model, accumulate=1, axis_name=None):
  """The step of many steps, and the first state."""
  tx = optax.identity()
  step = steps.make_train_step(
    model,
    Objective({"distortion": 1.0}),
    untouched,
    tx,
    lambda step: jnp.float32(1e-3),
    ema_decay=0.9,
    root=jax.random.key(1),
    accumulate=accumulate,
    axis_name=axis_name,
  )
  return steps.make_train_call(step), state.init_state(model, tx, SPEC, jax.random.key(0))


@functools.cache
def trained(count=1, way="jit", fsdp=False, accumulate=1):
  """The state after some steps, and their losses."""
  placement = parallel.make_placement(BATCH, DEVICES[:count], way, fsdp)
  call, first = made(Centred(), accumulate, placement.axis_name)
  run = parallel.compile_train_call(call, placement, first)
  first = jax.device_put(first, placement.state(first))
  after, metrics = run(first, {}, placement.put_batch({"image": IMAGES}, axis=1))
  return jax.device_get((after, metrics["loss"]))


def test_the_running_mean_and_the_losses_are_those_of_float64():
  after, losses = trained()
  mean, scale = np.zeros(SHAPE), 0.5
  for image, loss in zip(IMAGES.astype(np.float64), losses, strict=True):
    error = scale * image - mean
    np.testing.assert_allclose(loss, (error**2).sum((1, 2, 3)).mean(), rtol=1e-5)
    scale -= 1e-3 * 2 * (error * image).sum((1, 2, 3)).mean()
    mean = 0.9 * mean + 0.1 * image.mean(0)
  np.testing.assert_allclose(after.rest["stats"]["mean"], mean, rtol=1e-5)
  np.testing.assert_allclose(after.params["scale"], scale, rtol=1e-5)
  assert set(after.variables) == set(after.averaged) == {"params", "stats"}


@pytest.mark.parametrize(
  ("count", "way", "fsdp", "accumulate"),
  [
    (1, "jit", False, 2),
    (8, "jit", False, 1),
    (8, "jit", False, 2),
    (8, "jit", True, 1),
    (8, "pmap", False, 1),
    (8, "pmap", False, 2),
  ],
)
def test_the_running_mean_is_the_same_on_one_device_and_on_eight(count, way, fsdp, accumulate):
  (one, losses), (many, others) = trained(), trained(count, way, fsdp, accumulate)
  assert int(many.step) == STEPS and int(many.skipped) == 0
  np.testing.assert_allclose(others, losses, rtol=1e-5)
  np.testing.assert_allclose(many.rest["stats"]["mean"], one.rest["stats"]["mean"], rtol=1e-5)
  np.testing.assert_allclose(many.params["scale"], one.params["scale"], rtol=1e-5)


@pytest.mark.parametrize("bad", ["image", "statistics"])
def test_a_step_that_is_skipped_keeps_the_running_mean(bad):
  """An image that is not a number is one case, an infinite statistic beside a finite loss and gradients the other."""
  call, first = made(Centred(limit=1.0))
  call, images = jax.jit(call), IMAGES[:2].copy()
  here, _ = call(first, {}, {"image": IMAGES[:2]})
  images[:, 1, 2, 1, 0] = np.nan if bad == "image" else 1.5
  after, metrics = call(here, {}, {"image": images})
  assert int(after.skipped) == 2 and int(after.step) == 4
  assert np.isfinite(metrics["loss"]).all() == (bad == "statistics")
  for name in ("params", "ema", "rest"):
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(here, name))
  later, _ = call(after, {}, {"image": IMAGES[:2]})
  assert int(later.skipped_in_a_row) == 0
  assert (later.rest["stats"]["mean"] != here.rest["stats"]["mean"]).all()


def test_the_running_mean_is_saved_restored_and_started_from(tmp_path):
  after, _ = trained()
  with Checkpoints(tmp_path / "checkpoints") as store:
    store.save(STEPS, after, meta={}, score=None)
  store = Checkpoints(tmp_path / "checkpoints")
  _, first = made(Centred())
  again, _ = store.restore(like=jax.eval_shape(lambda: first))
  assert jax.tree.structure(again) == jax.tree.structure(after)
  jax.tree.map(np.testing.assert_array_equal, again, after)
  assert store.has(STEPS, "rest")
  rest, _ = store.restore(only="rest")
  np.testing.assert_array_equal(rest["stats"]["mean"], after.rest["stats"]["mean"])
  fresh, _, _ = state.start_from(Centred(), first, after.averaged, "runs/other")
  assert int(fresh.step) == 0
  np.testing.assert_array_equal(fresh.rest["stats"]["mean"], after.rest["stats"]["mean"])
  np.testing.assert_array_equal(fresh.params["scale"], after.ema["scale"])


def test_a_continued_run_is_a_whole_one(tmp_path):
  call, first = made(Centred())
  call = jax.jit(call)
  half, _ = call(first, {}, {"image": IMAGES[:2]})
  with Checkpoints(tmp_path / "checkpoints") as store:
    store.save(2, half, meta={}, score=None)
  restored, _ = Checkpoints(tmp_path / "checkpoints").restore(like=jax.eval_shape(lambda: first))
  continued, _ = call(jax.device_put(restored), {}, {"image": IMAGES[2:4]})
  whole, _ = call(half, {}, {"image": IMAGES[2:4]})
  jax.tree.map(np.testing.assert_array_equal, continued, whole)


def test_scores_are_made_with_the_running_mean():
  after, _ = trained()
  step = make_eval_step(Centred(), untouched, root=jax.random.key(0))
  scores = jax.jit(step)(after.averaged, {"image": IMAGES[0], "index": np.arange(BATCH)})
  error = after.ema["scale"] * IMAGES[0] - after.rest["stats"]["mean"][None]
  np.testing.assert_allclose(scores["distortion"], np.square(error).sum((1, 2, 3)), rtol=1e-5)
  assert "neg_elbo" not in scores and scores["latents"] == {}


# --- fields of a batch ---


def test_a_field_that_is_not_declared_is_refused_by_name():
  prepare = make_prepare(base_config().data, training=True)
  batch = {"image": np.zeros((2, *SHAPE), np.uint8), "weight": np.zeros(2, np.float32)}
  with pytest.raises(
    UserError, match="a batch has the field 'weight', which is none of image, degraded"
  ) as e:
    prepare(jax.random.split(jax.random.key(0), 2), batch)
  assert "\n" not in str(e.value)


def test_a_field_that_a_family_needs_and_records_lack_is_refused_by_name(monkeypatch):
  class Captioned(Centred):
    NEEDS = frozenset({"text"})

  module = types.SimpleNamespace(FAMILY=Captioned, build=lambda model, spec, dtypes: Captioned())
  known = models.family
  monkeypatch.setattr(models, "family", lambda name: module if name == "captioned" else known(name))
  given = {"name": "captioned"}
  with pytest.raises(
    UserError, match=r"captioned needs the field 'text', and the records have image; .*mlp_vae"
  ):
    models.build(given, SPEC)
  text = jax.ShapeDtypeStruct((5,), jnp.int32)
  assert isinstance(models.build(given, image_spec(SHAPE, text=text)), Captioned)
