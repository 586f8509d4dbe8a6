"""Opponents in the step: gradients, the adaptive weight, what is trained when, and runs that continue."""

import functools
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import shapes
from flax import linen as nn

from vae_jax import losses
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.inference import load
from vae_jax.models import build
from vae_jax.models.contract import Family, Output
from vae_jax.models.discriminator import PatchDiscriminator
from vae_jax.objectives import Objective
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import assemble, loop, opponents, state, steps
from vae_jax.training.writers import Writers
from vae_jax.types import image_spec

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def facing(*overrides):
  """The opponents of a config with an adversarial term: one that sees pixels."""
  given = ["weight=0.5", "channels=4,8", *overrides]
  config = apply_overrides(base_config(), [f"objective.adversarial.{o}" for o in given])
  return opponents.pixel_opponent(config.objective.adversarial)


def at(tree, path):
  """What lies at a path of names."""
  return functools.reduce(lambda node, name: node[name], path, tree)


class Head(nn.Module):
  """kernel * image + bias."""

  @nn.compact
  def __call__(self, image):
    kernel = self.param("kernel", nn.initializers.constant(0.5), (1, 1, 1, 1))
    return kernel * image + self.param("bias", nn.initializers.constant(0.1), (1, 1, 1, 1))


class Toy(Family):
  """The reconstruction is that of the head, distortion the squared error to the image."""

  last_kernel = ("head", "kernel")

  @nn.compact
  def __call__(self, batch, keys, mode):
    image = jnp.asarray(batch["image"])
    fake = Head(name="head")(image)
    return Output({"distortion": jnp.square(fake - image).sum((1, 2, 3))}, fake)


OBJECTIVE = Objective({"distortion": 1.0})


def untouched(keys, batch, frozen):
  """A preparation that leaves the batch as it is."""
  return batch


@functools.cache
def toy(*overrides, rate=0.01):
  """The first state and the compiled step, for overrides of the adversarial term."""
  judges, tx = facing(*overrides), optax.trace(0.9)
  step = steps.make_train_step(
    Toy(),
    OBJECTIVE,
    untouched,
    tx,
    lambda step: jnp.float32(rate),
    samples=1,
    ema_decay=0.9,
    root=jax.random.key(1),
    opponents=judges,
  )
  init = functools.partial(
    state.init_state, Toy(), tx, image_spec(SHAPE), jax.random.key(0), opponents=judges
  )
  return jax.jit(init)(), jax.jit(step)


def images(seed=0, n=4):
  return {"image": np.random.default_rng(seed).uniform(size=(n, *SHAPE)).astype(np.float32)}


def unlike(a, b):
  return not jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


# --- latents ---


def independence(**others):
  """The FactorVAE's discriminator of a config."""
  words = {"weight": 3, "hidden": "16", **others}
  config = apply_overrides(base_config(), [f"objective.factor_vae.{k}={v}" for k, v in words.items()])
  return opponents.latent_opponent(config.objective.factor_vae)["factor_vae"]


def test_permuted_latents_are_those_of_the_whole_batch(key):
  """What a part of the batch sees for real: its rows of the permuted whole, each latent permuted by itself."""
  z = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
  seen = []
  for rows in (slice(0, 16), slice(4, 8)):
    batch = {"place": jnp.arange(16)[rows]}
    output = Output({}, latents={"z": z[rows]})
    seen.append(opponents.permuted_and_drawn(output, batch, key, lambda x: jnp.asarray(z)))
  (real, fake), (part, same) = seen
  np.testing.assert_array_equal(np.sort(real, 0), np.sort(z, 0))
  came_from = {
    tuple(np.flatnonzero(z[:, j] == value)[0] for value in np.asarray(real[:, j])) for j in range(3)
  }
  assert len(came_from) == 3 and tuple(range(16)) not in came_from
  np.testing.assert_array_equal(part, real[4:8])
  np.testing.assert_array_equal(fake[4:8], same)


def test_the_discriminator_of_latents_finds_the_total_correlation_of_a_gaussian(key):
  """-log(1 - r^2) / 2 nats of two latents of correlation r; the model is asked to lower just that."""
  judge, r = independence(learning_rate=1e-2), 0.9
  draws = np.random.default_rng(0).multivariate_normal([0, 0], [[1, r], [r, 1]], 2000).astype(np.float32)
  batch, output = {"place": jnp.arange(2000)}, Output({}, latents={"z": jnp.asarray(draws)})
  params = judge.module.init(key, draws)["params"]

  def train(trained, key):
    real, fake = judge.sees(output, batch, key, lambda x: x)
    grads = jax.grad(lambda params: judge.told_apart(params, real, fake)[0])(trained.params)
    return judge.update(trained, grads), None

  keys = jax.random.split(key, 200)
  first = opponents.OpponentState(params, judge.tx.init(params))
  trained, _ = jax.jit(lambda first: jax.lax.scan(train, first, keys))(first)

  def found(scale):
    return judge.taken(judge.logits(trained.params, draws * np.array([1, scale], np.float32))).mean()

  np.testing.assert_allclose(found(1.0), -0.5 * np.log(1 - r**2), atol=0.08)
  assert found(-1.0) < -1  # the correlation of the other sign is what it has never seen of q(z)
  assert opponents.latent_opponent(base_config().objective.factor_vae) == {}


# --- the discriminator ---


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 21)])
def test_logits_are_a_map_of_an_eighth_of_any_size(size):
  judge = PatchDiscriminator((4, 8, 8))
  made = jax.eval_shape(judge.init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))
  assert made[0].shape == (2, -(-size[0] // 8), -(-size[1] // 8), 1) and made[0].dtype == jnp.float32


def test_with_a_last_width_it_is_the_network_of_pix2pix():
  """C64-C128-C256-C512 and the logit, 4x4 each (Isola et al. 2017, 6.1.2). The published one has 2,768,705 parameters,
  for images of 6 channels; before its three normalisations it has no biases, which are parameters here."""
  judge = PatchDiscriminator((64, 128, 256), last=512)
  logits, made = jax.eval_shape(judge.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
  kernels = [made["params"][f"Conv_{i}"]["Conv_0"]["kernel"].shape for i in range(5)]
  assert kernels == [(4, 4, a, b) for a, b in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1))]
  assert sum(x.size for x in jax.tree.leaves(made)) - (128 + 256 + 512) == 2_768_705 - 3 * 16 * 64
  assert logits.shape == (2, 8, 8, 1)


def test_no_example_changes_another_ones_logits():
  judge, batch = PatchDiscriminator((4, 8)), images()["image"]
  logits, variables = jax.jit(judge.init_with_output)(jax.random.key(0), batch)
  apply = jax.jit(judge.apply)
  np.testing.assert_allclose(
    apply(variables, np.concatenate([batch[:1], 1 - batch[1:]]))[0], logits[0], atol=1e-6
  )


def test_the_discriminator_learns_to_tell_two_distributions_apart():
  """Rough images from smooth ones of the same mean: the model, which does not learn here, takes their contrast."""
  here, step = toy("learning_rate=0.01", rate=0.0)
  here = here.replace(
    params={"head": {"kernel": jnp.full((1, 1, 1, 1), 0.2), "bias": jnp.full((1, 1, 1, 1), 0.4)}}
  )
  rows = []
  for i in range(50):
    here, got = step(here, images(i))
    rows.append(got)
  late = jax.tree.map(lambda *x: np.mean(x), *rows[-20:])  # one batch alone may be hard
  assert 1.5 < rows[0]["discriminator_loss"] < 2.5 and late["discriminator_loss"] < 0.1
  assert late["real_accuracy"] > 0.9 and late["fake_accuracy"] > 0.9
  assert late["adversarial"] > 0  # it takes the reconstructions for what they are


# --- the weight ---


def test_gradients_are_those_of_the_weighted_sum():
  """Against one backward pass of loss + w * adversarial with w held constant."""
  opponent, batch = facing()["adversarial"], jnp.asarray(images()["image"])
  here, step = toy()
  after, got = step(here, {"image": batch})
  judge = here.opponents["adversarial"].params

  def both(params):
    output = Toy().apply({"params": params}, {"image": batch}, None, None)
    logits = opponent.module.apply({"params": judge}, output.reconstruction)
    return output.terms["distortion"].mean(), losses.generator_hinge_loss(logits).mean()

  first, second = jax.jit(jax.jacrev(both))(here.params)
  norms = [np.abs(np.float64(at(g, Toy.last_kernel).item())) for g in (first, second)]
  weight = 0.5 * norms[0] / (norms[1] + 1e-6)
  np.testing.assert_allclose(got["adversarial_weight"], weight, rtol=1e-3)
  expected = jax.tree.map(lambda p, a, b: p - 0.01 * (a + weight * b), here.params, first, second)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), after.params, expected)
  loss, value = both(here.params)
  np.testing.assert_allclose(got["adversarial"], value, rtol=1e-4)
  np.testing.assert_allclose(got["weighted_adversarial"], weight * value, rtol=1e-3)
  np.testing.assert_allclose(got["loss"], loss + weight * value, rtol=1e-3)
  fake = Toy().apply({"params": here.params}, {"image": batch}, None, None).reconstruction

  def told_apart(judge):
    logits = (opponent.module.apply({"params": judge}, x) for x in (batch, fake))
    return losses.discriminator_hinge_loss(*logits).mean()

  told = jax.jit(jax.grad(told_apart))(judge)
  # Adam's first step is the sign of the gradient, where that is not tiny.
  changed = after.opponents["adversarial"].params
  moved = jax.tree.map(lambda a, b: (a - b) / opponent.learning_rate, judge, changed)
  for step_, slope in zip(jax.tree.leaves(moved), jax.tree.leaves(told), strict=True):
    large = np.abs(slope) > 1e-4
    np.testing.assert_allclose(np.asarray(step_)[large], np.sign(slope)[large], atol=2e-2)


def test_the_weight_counts_from_its_start_and_the_discriminator_learns_before():
  here, step = toy("start=2")
  plain, plain_step = toy("weight=0")
  for i in range(4):
    judge = here.opponents["adversarial"]
    here, got = step(here, images(i))
    plain, _ = plain_step(plain, images(i))
    assert unlike(judge.params, here.opponents["adversarial"].params)
    assert (got["adversarial_weight"] > 0) == (i >= 2)
    for a, b in zip(jax.tree.leaves(here.params), jax.tree.leaves(plain.params), strict=True):
      assert np.allclose(a, b, rtol=1e-6, atol=0) == (i < 2)


def test_the_weight_is_bounded():
  here, step = toy("max_weight=0.25")
  _, got = step(here, images())
  np.testing.assert_allclose(got["adversarial_weight"], 0.5 * 0.25)
  assert np.isfinite(list(got.values())).all()


def test_a_model_without_a_gradient_there_gets_a_finite_weight():
  """A kernel that sees black images has no gradient of either kind: 0 / (0 + 1e-6)."""
  here, step = toy()
  after, got = step(here, {"image": np.zeros((2, *SHAPE), np.float32)})
  assert got["adversarial_weight"] == 0 and got["skipped"] == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


def test_a_step_that_is_not_finite_leaves_both_sides_as_they_were():
  here, step = toy()
  here, _ = step(here, images())
  batch = images(1)
  batch["image"][1, 2, 3, 0] = np.nan
  after, got = step(here, batch)
  for name in ("params", "ema", "opt_state", "opponents"):
    assert not unlike(getattr(after, name), getattr(here, name))
  assert got["skipped"] == 1 and int(after.step) == 2


def test_a_discriminator_that_is_not_finite_spoils_nothing(monkeypatch):
  gradients = opponents.gradients

  def spoiled(*args):
    *model_side, judge = gradients(*args)
    return *model_side, jax.tree.map(lambda g: g * jnp.nan, judge)

  monkeypatch.setattr(opponents, "gradients", spoiled)
  here, step = toy.__wrapped__()
  after, got = step(here, images())
  assert got["skipped"] == 1 and np.isfinite(got["gradient_norm"])
  assert not unlike((after.params, after.opponents), (here.params, here.opponents))


@pytest.mark.parametrize(
  "overrides",
  [
    ["model.name=mlp_vae", f"model.hidden={','.join(['2'] * 11)}"],  # Dense_11 is the last, not Dense_9
    ["model.name=conv_vae", "model.dense=4"],
    ["model.name=conv_vae", "model.dense=0"],
    ["model.name=restoration_vae"],
    ["model.name=transformation_net"],
  ],
)
def test_the_last_kernel_of_every_family_makes_the_image(overrides):
  config, spec = apply_overrides(base_config(), overrides), image_spec(SHAPE)
  model = build(config.model, spec)
  shape = at(shapes(model, spec), model.last_kernel).shape
  mlp = config.model.name == "mlp_vae"
  assert shape[-1] == (64 if mlp else 1)
  assert not mlp or shape == (2, 64)


# --- runs ---


def test_a_run_without_it_has_no_such_arrays():
  assert opponents.pixel_opponent(base_config().objective.adversarial) == {}
  here, _ = toy("weight=0")
  assert here.opponents == {}
  # Two counters and the step; parameters, their average and their momentum.
  assert len(jax.tree.leaves(here)) == 3 + 3 * len(jax.tree.leaves(here.params))


def test_a_start_that_never_comes_is_refused():
  given = ["objective.adversarial.weight=1", "objective.adversarial.start=7", "training.steps=7"]
  with pytest.raises(UserError, match=r"objective.adversarial.start=7 must be < training.steps=7"):
    validate(apply_overrides(base_config(), given))


def test_parts_of_a_batch_and_an_opponent_are_refused():
  given = ["objective.adversarial.weight=1", "training.accumulate=2"]
  config = apply_overrides(base_config(), given)
  with pytest.raises(UserError, match=r"training.accumulate=2 must be 1 with an adversarial term"):
    validate(config)
  with pytest.raises(UserError, match=r"accumulate=2 must be 1 with the opponent 'adversarial'"):
    assemble.make_opponents(config, image_spec(SHAPE))


class Stop(BaseException):
  """As KeyboardInterrupt, which pytest would take for one of its own."""


@pytest.mark.slow
def test_a_run_with_it_continues_bit_for_bit_and_is_compiled_once(tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  for split, n in ("train", 16), ("validation", 8), ("test", 8):
    np.savez(tmp_path / f"{split}.npz", image=random.integers(0, 256, size=(n, *SHAPE), dtype=np.uint8))
  given = [
    "data.name=npz",
    f"data.dir={tmp_path}",
    "model.hidden=8",
    "model.latent_dim=2",
    "model.likelihood=gaussian",
    "objective.adversarial.weight=0.5",
    "objective.adversarial.start=3",
    "objective.adversarial.channels=4",
    "training.steps=8",
    "training.batch_size=8",
    "training.log_every=2",
    "training.eval_every=8",
    "training.checkpoint_every=4",
    "training.steps_per_call=2",
    "evaluation.batch_size=8",
    "evaluation.pictures=2",
  ]
  config, traced, original = apply_overrides(base_config(), given), Counter(), steps.make_train_call

  def counting(step):
    call = original(step)

    def traced_call(*args):
      traced["call"] += 1
      return call(*args)

    return traced_call

  with monkeypatch.context() as patch:
    patch.setattr(steps, "make_train_call", counting)
    whole = loop.train(config, tmp_path / "whole")
  assert traced == {"call": 1} and int(whole.skipped) == 0

  scalars = Writers.scalars

  def stop(self, at, to, *args):
    if at == 6:
      raise Stop
    scalars(self, at, to, *args)

  with monkeypatch.context() as patch:
    patch.setattr(Writers, "scalars", stop)
    with pytest.raises(Stop):
      loop.train(config, tmp_path / "stopped")
  assert Checkpoints(tmp_path / "stopped" / "checkpoints").steps() == [4]
  continued = loop.train(config, tmp_path / "stopped")
  assert jax.tree.structure(continued) == jax.tree.structure(whole) and set(whole.opponents) == {
    "adversarial"
  }
  assert not unlike(continued, whole)

  lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  weights = [row["adversarial_weight"] for row in rows if row["split"] == "train"]
  assert weights[0] == 0 and min(weights[1:]) > 0  # rows are means over two steps
  names = {"adversarial", "weighted_adversarial", "discriminator_loss", "real_accuracy", "fake_accuracy"}
  assert names <= set(rows[0]) and not names & set(rows[-1])  # the last row is of the validation split
  assert load(tmp_path / "whole").sample(jax.random.key(0), 2).shape == (2, *SHAPE)  # needs no discriminator
