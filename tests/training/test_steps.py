"""The step against formulas in float64, what it does with bad numbers, and scores that need no neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from families import filled, mode

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.models import build
from vae_jax.models.contract import Family, Output
from vae_jax.objectives import Objective, make_objective
from vae_jax.training import state, steps
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec

SHAPE = (4, 4, 1)
CONFIG = apply_overrides(
  base_config(), ["model.hidden=8", "model.latent_dim=2", "data.binarize=dynamic", "training.adam_eps=1e-3"]
)
MODEL = build(CONFIG.model, image_spec(SHAPE))
PREPARE = make_prepare(CONFIG.data, training=True)
OBJECTIVE = make_objective(CONFIG.objective, MODEL.terms)
RATE = state.make_learning_rate(CONFIG.training)
ROOT = jax.random.key(5)


def pixels(seed, *leading):
  return np.random.default_rng(seed).integers(0, 256, size=(*leading, *SHAPE), dtype=np.uint8)


@functools.cache
def parameters():
  return jax.tree.map(jnp.asarray, filled(MODEL, image_spec(SHAPE)))


def untouched(keys, batch, frozen):
  """A preparation that leaves the batch as it is."""
  return batch


def start(params, tx):
  zero = jnp.zeros((), jnp.int32)
  return state.TrainState(zero, params, jax.tree.map(jnp.copy, params), tx.init(params), zero, zero)


def assert_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


# --- keys ---


def test_example_keys_depend_on_key_stream_and_id_alone():
  def bits(key, stream, ids):
    return [int(jax.random.bits(k)) for k in steps.example_keys(key, stream, jnp.array(ids))]

  a, b, c = bits(ROOT, 0, [7, 3, 9])
  assert bits(ROOT, 0, [9, 7]) == [c, a]
  everything = [a, b, c, *bits(ROOT, 1, [7, 3, 9]), *bits(jax.random.key(6), 0, [7, 3, 9])]
  assert len(set(everything)) == len(everything)


# --- the training step, on the model ---


@pytest.fixture(scope="module")
def trainer():
  """The first state, the compiled call of many steps, and the shapes with which it was traced."""
  tx = state.make_optimizer(CONFIG.training)
  step = steps.make_train_step(
    MODEL, OBJECTIVE, PREPARE, tx, RATE, samples=1, ema_decay=CONFIG.training.ema_decay, root=ROOT
  )
  call, traces = steps.make_train_call(step), []

  def traced(state, stored, batches):
    traces.append(batches["image"].shape)
    return call(state, stored, batches)

  return start(parameters(), tx), jax.jit(traced), traces


def test_many_steps_in_one_call_equal_single_calls_compiled_once(trainer):
  first, call, traces = trainer
  images, here, rows = pixels(0, 3, 4), first, []
  for i in range(3):
    here, got = call(here, {}, {"image": images[i : i + 1]})
    rows.append(got)
  there, together = call(first, {}, {"image": images})
  assert traces == [(1, 4, *SHAPE), (3, 4, *SHAPE)]  # once for each number of steps
  assert int(there.step) == 3 and int(there.skipped) == 0
  assert_close(here, there, rtol=1e-6, atol=1e-6)
  assert_close(jax.tree.map(lambda *x: np.concatenate(x), *rows), together, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(together["learning_rate"], [RATE(i) for i in range(3)], rtol=1e-5)
  np.testing.assert_allclose(together["neg_elbo"], together["distortion"] + together["rate"], rtol=1e-6)
  assert {v.dtype for v in together.values()} == {np.dtype(np.float32)}


def test_each_step_draws_anew_and_a_restart_repeats_it(trainer):
  first, call, _ = trainer
  batch = {"image": pixels(0, 1, 4)}
  _, a = call(first, {}, batch)
  _, again = call(first, {}, batch)
  _, later = call(first.replace(step=jnp.int32(1)), {}, batch)
  assert a["loss"] == again["loss"] and a["loss"] != later["loss"]


def test_a_stored_split_is_gathered_by_index():
  call = jax.jit(steps.make_train_call(lambda s, batch, frozen: (s, batch)))
  stored = {"image": pixels(0, 10), "label": np.arange(10, dtype=np.int32)}
  index = np.array([[3, 9], [0, 3]], np.int32)
  _, got = call(state.TrainState(*[jnp.zeros(())] * 6), stored, {"index": index})
  np.testing.assert_array_equal(got["image"], stored["image"][index])
  np.testing.assert_array_equal(got["label"], index)
  np.testing.assert_array_equal(got["index"], index)


# --- the training step, on a model whose gradient is known ---


class Toy(Family):
  """distortion_i = sum_pixels (w - x_i)^2, rate_i = 0."""

  def setup(self):
    self.w = self.param("w", lambda key: jnp.full((1, 1, 1, 1), 0.5))

  def __call__(self, batch, keys, mode):
    image, zero = jnp.asarray(batch["image"]), jnp.zeros((keys.shape[0], 1))
    distortion = jnp.square(self.w - image).sum((1, 2, 3))
    return Output({"distortion": distortion, "rate": zero[:, 0]}, image, zero, zero, -distortion[None])


def toy_step(objective=OBJECTIVE, ema_decay=0.999, tx=None):
  tx = optax.identity() if tx is None else tx
  step = steps.make_train_step(
    Toy(),
    objective,
    untouched,
    tx,
    lambda step: 0.01 * (step + 1),
    samples=1,
    ema_decay=ema_decay,
    root=ROOT,
  )
  return start({"w": jnp.array([[[[0.5]]]])}, tx), jax.jit(step)


def toy_images(seed):
  return {"image": np.random.default_rng(seed).uniform(size=(3, *SHAPE)).astype(np.float32)}


@pytest.mark.parametrize("ema_decay", [0.0, 0.15, 0.999])
def test_the_step_moves_against_the_mean_gradient_and_the_average_follows(ema_decay):
  here, step = toy_step(ema_decay=ema_decay)
  w = ema = 0.5
  for i in range(4):
    batch = toy_images(i)
    x = batch["image"].astype(np.float64)
    here, got = step(here, batch)
    gradient = 2 * (w - x).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(got["loss"], ((w - x) ** 2).sum((1, 2, 3)).mean(), rtol=1e-5)
    np.testing.assert_allclose(got["gradient_norm"], abs(gradient), rtol=1e-4)
    w -= 0.01 * (i + 1) * gradient
    decay = min(ema_decay, (1 + i) / (10 + i))
    ema = decay * ema + (1 - decay) * w
    np.testing.assert_allclose(here.params["w"].item(), w, rtol=1e-5)
    np.testing.assert_allclose(here.ema["w"].item(), ema, rtol=1e-5)


# A loss that is finite where its gradient is not.
SQRT_AT_ZERO = Objective({"distortion": 1.0}, bound=lambda output: jnp.sqrt(0.0 * output.terms["distortion"]))


@pytest.mark.parametrize("bad", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(bad):
  objective = SQRT_AT_ZERO if bad == "gradient" else OBJECTIVE
  here, step = toy_step(objective, tx=optax.scale_by_adam())
  batch = toy_images(0)
  if bad != "gradient":
    here, _ = step(here, toy_images(0))  # so that the optimiser's state is not zero
    batch["image"][1, 2, 3, 0] = float(bad)
  before = int(here.step)
  for i in (1, 2):
    after, got = step(here, batch)
    for name in ("params", "ema", "opt_state"):
      jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(here, name))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (before + i, i, i)
    assert got["skipped"] == i
    here = after
  if bad != "gradient":
    after, got = step(here, toy_images(1))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (before + 3, 2, 0)
    assert (
      after.params["w"] != here.params["w"] and int(after.opt_state.count) == int(here.opt_state.count) + 1
    )
    np.testing.assert_allclose(got["learning_rate"], 0.01 * (before + 3), rtol=1e-6)  # counts skipped steps


# --- evaluation ---


def evaluator(samples, chunk):
  prepare = make_prepare(CONFIG.data, training=False)
  return jax.jit(make_eval_step(MODEL, prepare, root=ROOT, iwae_samples=samples, chunk=chunk))


def test_scores_do_not_depend_on_the_batch_size_and_padding():
  images, step, tables = pixels(1, 10), evaluator(4, 2), []
  for size in (3, 8):
    parts = []
    for begin in range(0, 10, size):
      index = np.arange(begin, begin + size)
      mask, index = index < 10, np.minimum(index, 9)
      batch = {"image": images[index], "index": index.astype(np.int32), "mask": mask}
      scores = step({"params": parameters()}, batch)
      np.testing.assert_array_equal(scores.pop("mask"), mask)
      latents = scores.pop("latents")
      assert set(latents) == {"mean", "logvar"}
      scores["mean"] = latents["mean"]
      assert {v.dtype for v in scores.values()} == {np.dtype(np.float32)}
      parts.append({name: np.asarray(v)[mask] for name, v in scores.items()})
    tables.append(jax.tree.map(lambda *x: np.concatenate(x), *parts))
  assert set(tables[0]) == {"distortion", "rate", "neg_elbo", "mse", "psnr", "mean", "iwae_nll"}
  assert_close(*tables, rtol=1e-5, atol=1e-6)


def test_scores_against_float64_for_the_same_draws():
  """12 importance samples in two blocks of 5 and one of 2; draw 0 is that of the other scores."""
  index = np.array([4, 0, 17], np.int32)
  image, params = pixels(2, 3), parameters()
  got = evaluator(12, 5)({"params": params}, {"image": image, "index": index})
  prepared = PREPARE(steps.example_keys(ROOT, steps.PREPARE_STREAM, jnp.asarray(index)), {"image": image})[
    "image"
  ]
  keys = steps.example_keys(ROOT, steps.MODEL_STREAM, jnp.asarray(index))

  @functools.partial(jax.jit, static_argnums=1)
  def score(draw, samples):
    drawn = jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys)
    return MODEL.apply({"params": params}, {"image": prepared}, drawn, mode(samples))

  weights = np.concatenate([score(1 + i, n).log_weight for i, n in enumerate([5, 5, 2])]).astype(np.float64)
  assert weights.shape == (12, 3) and len(np.unique(weights)) == 36
  expected = -(scipy.special.logsumexp(weights, axis=0) - np.log(12))
  np.testing.assert_allclose(got["iwae_nll"], expected, rtol=1e-6)

  output = score(0, 1)
  error = ((np.asarray(output.reconstruction, np.float64) - prepared) ** 2).mean((1, 2, 3))
  distortion, rate = output.terms["distortion"], output.terms["rate"]
  np.testing.assert_allclose(got["distortion"], distortion, rtol=1e-6)
  np.testing.assert_allclose(got["rate"], rate, rtol=1e-6)
  np.testing.assert_allclose(got["neg_elbo"], distortion + rate, rtol=1e-6)
  np.testing.assert_allclose(got["mse"], error, rtol=1e-5)
  np.testing.assert_allclose(got["psnr"], -10 * np.log10(error), rtol=1e-5)
  np.testing.assert_allclose(got["latents"]["mean"], output.latents["mean"], rtol=1e-6)


def test_the_importance_bound_is_tighter_on_average():
  batch = {"image": pixels(3, 200), "index": np.arange(200, dtype=np.int32)}
  scores = evaluator(20, 50)({"params": parameters()}, batch)
  gain = np.asarray(scores["neg_elbo"] - scores["iwae_nll"], np.float64)
  assert gain.mean() > 3 * gain.std() / np.sqrt(200)


def test_losses_of_a_split_do_not_depend_on_the_step():
  """A linear schedule of beta begins at 0, which would leave the rate out of every validation loss."""
  given = ["objective.beta=4", "objective.beta_schedule=linear", "objective.beta_steps=10"]
  made = make_objective(apply_overrides(base_config(), given).objective, MODEL.terms)
  step = jax.jit(make_eval_step(MODEL, make_prepare(CONFIG.data, training=False), root=ROOT, objective=made))
  scores = step({"params": parameters()}, {"image": pixels(3, 5), "index": np.arange(5, dtype=np.int32)})
  np.testing.assert_allclose(scores["loss"], scores["distortion"] + 4 * scores["rate"], rtol=1e-6)
  assert np.min(scores["rate"]) > 0


def test_without_importance_samples_there_is_no_bound():
  batch = {"image": jnp.zeros((2, *SHAPE), jnp.uint8), "index": jnp.arange(2)}
  step = make_eval_step(MODEL, make_prepare(CONFIG.data, training=False), root=ROOT)
  assert "iwae_nll" not in jax.eval_shape(step, {"params": parameters()}, batch)
