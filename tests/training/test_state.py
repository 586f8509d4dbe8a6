"""The schedule against hand values, the optimiser against Adam written out in float64, the first state."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import Family, Output
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import state
from vae_jax.types import image_spec


def training(*overrides):
  return apply_overrides(base_config(), [f"training.{o}" for o in overrides]).training


def test_the_learning_rate_warms_up_peaks_and_decays():
  rate = state.make_learning_rate(
    training("steps=100", "warmup_steps=20", "learning_rate=0.01", "final_learning_rate=0.1")
  )
  half = 0.001 + 0.5 * (0.01 - 0.001)  # the middle of the cosine
  expected = {
    0: 0.01 / 20,
    10: 0.01 / 20 + 0.5 * (0.01 - 0.01 / 20),
    20: 0.01,
    60: half,
    100: 0.001,
    150: 0.001,
  }
  for step, value in expected.items():
    np.testing.assert_allclose(rate(step), value, rtol=1e-5, err_msg=f"step {step}")
  quarter = 0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * 0.25))
  np.testing.assert_allclose(rate(jnp.int32(40)), quarter, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("warmup", [0, 1, 100])
def test_the_learning_rate_is_above_zero_however_short_the_run(steps, warmup):
  rate = state.make_learning_rate(training(f"steps={steps}", f"warmup_steps={warmup}", "learning_rate=0.01"))
  values = np.array([rate(step) for step in range(steps)])
  assert (values > 0).all() and (values <= 0.01 * (1 + 1e-6)).all()
  if warmup == 0:
    np.testing.assert_allclose(values[0], 0.01, rtol=1e-6)


def directions(tx, gradients, params):
  opt_state, out = tx.init(params), []
  update = jax.jit(tx.update)
  for gradient in gradients:
    direction, opt_state = update(gradient, opt_state, params)
    out.append(np.asarray(direction))
  return np.stack(out)


def adam(gradients, eps):
  m = v = 0.0
  for t, g in enumerate(np.asarray(gradients, np.float64), start=1):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    yield (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + eps)


def test_the_optimiser_is_adam_with_decoupled_weight_decay():
  random = np.random.default_rng(0)
  gradients, kernel = random.normal(size=(4, 6)).astype(np.float32), random.normal(size=6).astype(np.float32)
  expected = np.stack(list(adam(gradients, 1e-3)))
  plain = directions(state.make_optimizer(training("adam_eps=1e-3")), gradients, kernel)
  np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-6)
  params = {"a": {"kernel": kernel, "bias": kernel}, "log_scale": kernel}
  for decayed, names in ("kernels", ["kernel"]), ("all", ["kernel", "bias", "log_scale"]):
    tx = state.make_optimizer(training("adam_eps=1e-3", "weight_decay=0.1", f"decayed={decayed}"))
    opt_state = tx.init(params)
    for gradient, adams in zip(gradients, expected, strict=True):
      direction, opt_state = tx.update(jax.tree.map(lambda _, g=gradient: g, params), opt_state, params)
      found = direction["a"] | {"log_scale": direction["log_scale"]}
      for name, x in found.items():
        np.testing.assert_allclose(x, adams + 0.1 * kernel * (name in names), rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_global_norm_before_adam():
  gradients = np.array([[3.0, 4.0], [0.03, 0.04], [-30.0, 40.0]], np.float32)  # norms 5, 0.05, 50
  clipped = gradients / np.maximum(np.linalg.norm(gradients, axis=-1, keepdims=True) / 0.5, 1.0)
  got = directions(
    state.make_optimizer(training("clip_norm=0.5", "adam_eps=0.1")), gradients, np.zeros(2, np.float32)
  )
  np.testing.assert_allclose(got, np.stack(list(adam(clipped, 0.1))), rtol=1e-4)


def test_the_first_state():
  config = apply_overrides(
    base_config(), ["model.hidden=4", "model.latent_dim=2", "model.likelihood=gaussian"]
  )
  spec = image_spec((4, 4, 1), (2, 2, 1))
  model, tx = build(config.model, spec), optax.scale_by_adam()

  @jax.jit
  def init(key):
    return state.init_state(model, tx, spec, key)

  first, again, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, first.params, first.ema)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernel = first.params["encoder"]["Dense_0"]["kernel"]
  assert kernel.shape == (4, 4)  # 2 x 2 pixels of the encoder's input
  assert not np.array_equal(kernel, other.params["encoder"]["Dense_0"]["kernel"])
  for counter in (first.step, first.skipped, first.skipped_in_a_row):
    assert counter.dtype == jnp.int32 and counter == 0
  assert first.rest == first.opponents == {}
  assert first.variables == {"params": first.params} and first.averaged == {"params": first.ema}


def test_a_first_state_made_outside_jit_can_be_donated():
  class Fresh(Family):
    def setup(self):
      self.w = self.param("w", lambda key: jnp.ones(3))
      self.mean = self.variable("stats", "mean", lambda: jnp.zeros(2))

    def __call__(self, batch, keys, mode):
      return Output({})

  first = state.init_state(Fresh(), optax.scale_by_adam(), image_spec((2, 2, 1)), jax.random.key(0))
  buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(first)]
  assert len(set(buffers)) == len(buffers)  # one buffer is donated only once
  np.testing.assert_array_equal(first.ema["w"], np.ones(3))
  assert first.variables == {"params": first.params, "stats": first.rest["stats"]}
  assert first.averaged == {"params": first.ema, "stats": first.rest["stats"]}


# --- parameters of another run ---


def start(tmp_path, saved, hidden=4, ema=True, **shapes):
  """A fresh state, and what `start_from` makes of it from a run that saved `saved(params)`."""
  config = apply_overrides(base_config(), [f"model.hidden={hidden}", "model.latent_dim=2"])
  spec = image_spec((4, 4, 1))
  model, tx = build(config.model, spec), optax.scale_by_adam()
  fresh = jax.jit(lambda key: state.init_state(model, tx, spec, key, ema=ema))(jax.random.key(0))
  with Checkpoints(tmp_path / "checkpoints") as store:
    store.save(3, saved(fresh), meta={}, score=None)
  return fresh, state.start_from(fresh, Checkpoints(tmp_path / "checkpoints"))


def shifted(params, by):
  return jax.tree.map(lambda x: np.asarray(x) + by, params)


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_starts_from_the_average_of_another_run(tmp_path, ema):
  def saved(fresh):
    moved = jax.tree.map(lambda x: x + 1, fresh.opt_state)
    old = dataclasses.replace(
      fresh, params=shifted(fresh.params, 9), ema=shifted(fresh.params, 1), opt_state=moved
    )
    return dataclasses.replace(old, step=fresh.step + 3)

  fresh, got = start(tmp_path, saved, ema=ema)
  jax.tree.map(np.testing.assert_array_equal, got.params, shifted(fresh.params, 1))
  assert (got.ema is None) == (not ema)
  if ema:
    jax.tree.map(np.testing.assert_array_equal, got.ema, got.params)
    for a, b in zip(jax.tree.leaves(got.ema), jax.tree.leaves(got.params), strict=True):
      assert a is not b  # the state is donated: one buffer, one use
  jax.tree.map(np.testing.assert_array_equal, got.opt_state, fresh.opt_state)
  assert got.step == got.skipped == got.skipped_in_a_row == 0
  jax.block_until_ready(jax.jit(lambda s: s, donate_argnums=0)(jax.device_put(got)))


def test_a_state_starts_from_a_run_without_an_average(tmp_path):
  def saved(fresh):
    return dataclasses.replace(fresh, params=shifted(fresh.params, 2), ema=None)

  fresh, got = start(tmp_path, saved)
  for params in (got.params, got.ema):
    jax.tree.map(np.testing.assert_array_equal, params, shifted(fresh.params, 2))


@pytest.mark.parametrize("change", ["shape", "names", "none"])
def test_a_state_of_another_model_is_refused(tmp_path, change):
  def saved(fresh):
    if change == "none":
      return {"other": np.zeros(3)}
    other = jax.tree.map(lambda x: np.zeros((*x.shape, 2), np.float32), fresh.params)
    return {"params": other if change == "shape" else {"deeper": fresh.params}}

  with pytest.raises(UserError) as error:
    start(tmp_path, saved)
  assert "\n" not in str(error.value)


def test_a_state_without_a_run_is_refused(tmp_path):
  fresh = state.TrainState(*[jnp.zeros(())] * 6)
  with pytest.raises(UserError, match="no checkpoint in"):
    state.start_from(fresh, Checkpoints(tmp_path / "nowhere"))
  assert not list(tmp_path.iterdir())
