"""The schedule against hand values, the optimiser against Adam written out in float64, the first state."""

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


def test_muon_trains_kernels_and_adam_the_heads_biases_and_scales():
  """A kernel's step is near an orthogonal matrix; Adam's first one is +-1 times its rate; kernels of Muon decay."""
  random = np.random.default_rng(0)
  kernel = random.normal(size=(5, 3)).astype(np.float32)
  params = {
    "a": {"kernel": kernel, "bias": kernel[0]},
    "head": {"kernel": kernel},
    "filters": {"kernel": kernel},
    "prior": {"means": kernel, "inputs": kernel},
    "codes": kernel,
    "log_scale": np.ones((), np.float32),
  }
  gradient = jax.tree.map(lambda x: np.float32(2) * x, params)

  def first(*values):
    tx = state.make_optimizer(training("optimizer=muon", *values))
    return tx.update(gradient, tx.init(params), params)[0]

  plain, slow, decayed = first(), first("adam_rate=0.1"), first("weight_decay=0.5")
  singular = np.linalg.svd(plain["a"]["kernel"], compute_uv=False)
  assert (
    singular.min() > 0.5 and singular.max() < 1.6
  )  # Newton-Schulz: not exactly 1; sqrt(5 / 3) by the shape
  for name in "a", "codes":
    x, y = (d["a"]["kernel"] if name == "a" else d["codes"] for d in (plain, slow))
    np.testing.assert_array_equal(x, y)
  adams = [
    (d["head"]["kernel"], d["filters"]["kernel"], *d["prior"].values(), d["a"]["bias"], d["log_scale"])
    for d in (plain, slow, decayed)
  ]
  for one, tenth, same, value in zip(*adams, (*(kernel,) * 4, kernel[0], 1.0), strict=True):
    np.testing.assert_allclose(one, np.sign(value) * np.abs(one).max(), rtol=1e-4)
    np.testing.assert_allclose(tenth, 0.1 * np.asarray(one), rtol=1e-5)
    np.testing.assert_array_equal(same, one)
  np.testing.assert_allclose(decayed["a"]["kernel"], plain["a"]["kernel"] + 0.5 * kernel, rtol=1e-5)
  np.testing.assert_array_equal(decayed["codes"], plain["codes"])


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


def start(given, hidden=4, ema=True):
  """A fresh state, and what `start_from` makes of it and of the variables `given(params)`."""
  config = apply_overrides(base_config(), [f"model.hidden={hidden}", "model.latent_dim=2"])
  spec = image_spec((4, 4, 1))
  model, tx = build(config.model, spec), optax.scale_by_adam()
  fresh = jax.jit(lambda key: state.init_state(model, tx, spec, key, ema=ema))(jax.random.key(0))
  return fresh, state.start_from(model, fresh, given(fresh.params), "runs/other")


def shifted(params, by):
  return jax.tree.map(lambda x: np.asarray(x) + by, params)


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_starts_from_the_variables_of_another_run(ema):
  fresh, (got, new, left) = start(lambda params: {"params": shifted(params, 1)}, ema=ema)
  assert (new, left) == ([], [])
  jax.tree.map(np.testing.assert_array_equal, got.params, shifted(fresh.params, 1))
  assert (got.ema is None) == (not ema)
  if ema:
    jax.tree.map(np.testing.assert_array_equal, got.ema, got.params)
    for a, b in zip(jax.tree.leaves(got.ema), jax.tree.leaves(got.params), strict=True):
      assert a is not b  # the state is donated: one buffer, one use
  jax.tree.map(np.testing.assert_array_equal, got.opt_state, fresh.opt_state)
  assert got.step == got.skipped == got.skipped_in_a_row == 0
  jax.block_until_ready(jax.jit(lambda s: s, donate_argnums=0)(jax.device_put(got)))


def test_parts_that_one_model_lacks_start_anew_or_are_left_out():
  def given(params):
    _, *others = sorted(params)
    return {"params": {"another": np.zeros(3), **{name: shifted(params[name], 1) for name in others}}}

  fresh, (got, new, left) = start(given)
  first, *others = sorted(fresh.params)
  assert (new, left) == ([first], ["another"])
  jax.tree.map(np.testing.assert_array_equal, got.params[first], fresh.params[first])
  for name in others:
    jax.tree.map(np.testing.assert_array_equal, got.params[name], shifted(fresh.params[name], 1))


@pytest.mark.parametrize(
  ("change", "words"),
  [("shape", r"is \[.*\], and this model has"), ("names", "has no part of"), ("none", "has no part of")],
)
def test_variables_of_another_model_are_refused(change, words):
  def given(params):
    other = jax.tree.map(lambda x: np.zeros((*x.shape, 2), np.float32), params)
    return {"params": {"shape": other, "names": {"deeper": params}, "none": {}}[change]}

  with pytest.raises(UserError, match=f"^training.init_from=runs/other: .*{words}") as error:
    start(given)
  assert "\n" not in str(error.value)
