"""The families of models/autoencoder.py in the step: what each term reaches, and that they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import aae, build
from vae_jax.models.contract import Output
from vae_jax.objectives import make_objective
from vae_jax.training import assemble, state, steps
from vae_jax.types import image_spec

SHAPE, BATCH = (8, 8, 1), 16
SPEC = image_spec(SHAPE)
# Images of one bright square each.
IMAGES = np.zeros((BATCH, *SHAPE), np.uint8)
for number in range(BATCH):
  row, column = 2 * (number // 4), 2 * (number % 4)
  IMAGES[number, row : row + 2, column : column + 2] = 255
SMALL = "model.channels=4 model.blocks=0 model.dense=16 model.latent_dim=2"
QUICK = "training.learning_rate=1e-2 training.warmup_steps=1"


def configured(family, *words):
  config = apply_overrides(
    base_config(family), [*SMALL.split(), *QUICK.split(), f"training.batch_size={BATCH}", *words]
  )
  validate(config)
  return config


@functools.cache
def parts(family, *words):
  """Config, model, objective, opponents and a first state."""
  config = configured(family, *words)
  model, tx = build(config.model, SPEC), state.make_optimizer(config.training)
  opponents = assemble.make_opponents(config, SPEC)
  objective = make_objective(config.objective, model.terms, BATCH)
  make = functools.partial(state.init_state, model, tx, SPEC, jax.random.key(0), opponents=opponents)
  return config, model, objective, opponents, jax.device_get(jax.jit(make)())


@pytest.mark.parametrize(
  ("family", "words"),
  [
    ("rae", ("model.regulariser=sn",)),
    ("aae", ("model.encoder=gaussian", "objective.latent_adversarial.hidden=8")),
  ],
)
def test_a_few_steps_lower_the_distortion(family, words):
  config, model, objective, opponents, first = parts(family, *words)
  step = steps.make_train_step(
    model,
    objective,
    make_prepare(config.data, training=True),
    state.make_optimizer(config.training),
    state.make_learning_rate(config.training),
    ema_decay=0.9,
    root=jax.random.key(1),
    opponents=opponents,
  )
  call = jax.jit(steps.make_train_call(step))
  _, metrics = call(first, {"image": IMAGES}, {"index": np.tile(np.arange(BATCH), (60, 1))})
  curve = np.asarray(metrics["distortion"]) - 32 * np.log(np.pi)  # squared errors
  assert curve[-5:].mean() < 0.8 * curve[:2].mean(), curve
  assert int(metrics["skipped"][-1]) == 0


@pytest.mark.parametrize("encoder", ["deterministic", "gaussian"])
def test_the_mmd_of_a_wae_is_that_of_the_paper(encoder):
  """Algorithm 2 of Tolstikhin et al. 2018 with the kernel of its appendix, pair by pair, on latents of the model."""
  config, model, objective, _, first = parts("wae", f"model.encoder={encoder}")
  keys = jax.random.split(jax.random.key(3), BATCH)
  mode = steps.Mode(jnp.zeros((), jnp.int32), jax.random.key(2), training=True)
  batch = {"image": IMAGES / np.float32(255)}
  output = jax.jit(model.apply)(first.variables, batch, keys, mode)
  z = np.float64(output.latents["z"])
  if encoder == "gaussian":
    eps = [np.float64(jax.random.normal(key, (2,))) for key in keys]
    np.testing.assert_allclose(
      z, output.latents["mean"] + np.exp(output.latents["logvar"] / 2) * np.array(eps), rtol=1e-4, atol=1e-5
    )
  else:
    np.testing.assert_array_equal(z, output.latents["mean"])
  _, found = objective.over_batch(output, jax.random.key(5), 0)
  prior = np.float64(jax.random.normal(jax.random.fold_in(jax.random.key(5), 0), z.shape))

  def k(x, y):
    return sum(s * 4 / (s * 4 + np.square(x - y).sum()) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))  # C = 2 d s

  pairs = [(i, j) for i in range(BATCH) for j in range(BATCH)]
  unlike = sum(k(z[i], z[j]) + k(prior[i], prior[j]) for i, j in pairs if i != j) / (BATCH * (BATCH - 1))
  expected = unlike - 2 * sum(k(z[i], prior[j]) for i, j in pairs) / BATCH**2
  np.testing.assert_allclose(found["mmd"], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found["weighted_mmd"], config.objective.mmd * expected, rtol=1e-4, atol=1e-4)


def test_a_wae_without_its_penalty_and_a_batch_of_one_are_refused():
  with pytest.raises(UserError, match=r"objective\.mmd=0\.0 must be > 0"):
    configured("wae", "objective.mmd=0")
  with pytest.raises(UserError, match=r"training\.batch_size=1 must be at least 2 with objective\.mmd"):
    configured("wae", "training.batch_size=1")


def test_a_discriminator_of_latents_sees_draws_of_the_prior_by_place():
  z, key = jnp.full((4000, 2), 7.0), jax.random.key(0)
  output = Output({}, latents={"z": z})
  real, fake = aae.prior_and_latents(output, {"place": jnp.arange(4000)}, key, lambda x: x)
  np.testing.assert_array_equal(fake, z)
  for column in np.asarray(real).T:
    assert stats.kstest(column, "norm").pvalue > 1e-3
  assert abs(np.corrcoef(np.asarray(real).T)[0, 1]) < 0.06
  part = output._replace(latents={"z": z[:3]})
  some, _ = aae.prior_and_latents(part, {"place": jnp.arange(5, 8)}, key, lambda x: x)
  np.testing.assert_array_equal(some, real[5:8])
  other, _ = aae.prior_and_latents(part, {"place": jnp.arange(5, 8)}, jax.random.key(1), lambda x: x)
  assert np.abs(other - some).min() > 1e-4


def test_the_verdict_trains_the_encoder_alone_and_the_discriminator_by_its_own_loss():
  _, model, objective, opponents, first = parts("aae", "objective.latent_adversarial.hidden=8")
  batch = {"image": jnp.asarray(IMAGES / np.float32(255)), "place": jnp.arange(BATCH)}
  keys, key = jax.random.split(jax.random.key(3), BATCH), jax.random.key(4)

  def descent(opponents):
    descend = steps.make_descent(model, objective, opponents, 1, None)
    return jax.jit(lambda state: descend(state, batch, keys, key, {}, BATCH))(first)

  with_it, without = descent(opponents), descent({})
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    with_it.grads["decoder"],
    without.grads["decoder"],
  )
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), with_it.grads["encoder"], without.grads["encoder"])
  assert min(jax.tree.leaves(moved["posterior"])) > 1e-3
  judge, weights = opponents["latent_adversarial"], first.opponents["latent_adversarial"].params
  z = jax.jit(lambda v: model.apply(v, batch, method="encode").mean)(first.variables)
  real = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, 0), i), (2,)))(
    batch["place"]
  )

  def told_apart(weights):
    p, q = (jax.nn.sigmoid(judge.logits(weights, x)) for x in (real, z))
    return -(jnp.log(p) + jnp.log(1 - q)).mean()

  expected = jax.jit(jax.grad(told_apart))(weights)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    with_it.opponent_grads["latent_adversarial"],
    expected,
  )
  np.testing.assert_allclose(
    with_it.parts["latent_adversarial"],
    -jnp.log(jax.nn.sigmoid(judge.logits(weights, z))).mean(),
    rtol=1e-4,
  )
  np.testing.assert_allclose(with_it.loss - without.loss, 10 * with_it.parts["latent_adversarial"], rtol=1e-3)
