"""VAE-GAN: which network gets which gradient, what the guard holds, what it is scored by, and runs that continue.

The losses are written out as in algorithm 1 of Larsen et al. 2016, one for each network, and each is differentiated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import filled

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.distributions import bound_logvar
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.opponent import Guard
from vae_jax.objectives import make_objective
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import assemble, scoring, state, steps
from vae_jax.types import image_spec

SHAPE, N = (8, 8, 3), 6
SPEC = image_spec(SHAPE)
SMALL = (
  "model.channels=4,6 model.dense=8 model.latent_dim=3 objective.discriminator.channels=4,6,8 "
  "objective.discriminator.dense=8 training.steps=100 training.learning_rate=1e-3"
)
GAMMA, ALPHA, BETA, LAYER = 0.3, 0.7, 1.3, 2
WEIGHED = f"objective.gamma={GAMMA} objective.alpha={ALPHA} objective.beta={BETA} objective.discriminator.layer={LAYER}"
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(N, *SHAPE)), jnp.float32)


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def configured(words=""):
  config = apply_overrides(base_config("vae_gan"), f"{SMALL} {words}".split())
  validate(config)
  return config


def parts(words=""):
  """config, model, objective and opponents."""
  config = configured(words)
  model = build(config.model, SPEC)
  objective = make_objective(config.objective, model.terms, N)
  return config, model, objective, assemble.make_opponents(config, SPEC)


@functools.cache
def trainer(words=""):
  """The first state and the compiled step."""
  config, model, objective, judges = parts(words)
  tx = state.make_optimizer(config.training)
  step = steps.make_train_step(
    model,
    objective,
    lambda keys, batch, frozen: batch,
    tx,
    state.make_learning_rate(config.training),
    ema_decay=0.9,
    root=jax.random.key(1),
    opponents=judges,
  )
  first = jax.jit(lambda: state.init_state(model, tx, SPEC, jax.random.key(0), opponents=judges))()
  return first, jax.jit(step)


def same(a, b):
  return jax.tree.map(lambda x, y: bool((x == y).all()), a, b)


def all_same(a, b):
  return all(jax.tree.leaves(same(a, b)))


# --- gradients ---


def written_out(model, judge, image, eps, prior, params, weights):
  """The losses of encoder, decoder and discriminator (algorithm 1), of the modules' plain calls."""

  def decode(z):
    return jax.nn.sigmoid(4 * model.decoder.apply({"params": params["decoder"]}, z))

  def features(x):
    return judge.apply({"params": weights}, x, method="features")

  def log_verdict(x, sign):
    return jax.nn.log_sigmoid(sign * judge.apply({"params": weights}, x)).mean()

  mean, raw = jnp.split(model.encoder.apply({"params": params["encoder"]}, image), 2, axis=-1)
  logvar = bound_logvar(raw)
  z = mean + jnp.exp(0.5 * logvar) * eps
  kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).sum(-1).mean()
  likelihood = 0.5 * jnp.square(features(image) - features(decode(z))).sum((1, 2, 3)).mean()
  game = log_verdict(image, 1) + log_verdict(decode(z), -1) + log_verdict(decode(prior), -1)
  return {
    "encoder": BETA * kl + ALPHA * likelihood,
    "decoder": GAMMA * ALPHA * likelihood + game,
    "discriminator": -game,
    "kl": kl,
    "likelihood": likelihood,
  }


def filled_state(model, judges, tx):
  """A first state with parameters of normal values, of the discriminator too."""
  params, opponent = filled(model, SPEC), judges["gan"]
  like = jax.eval_shape(opponent.module.init, jax.random.key(0), IMAGES)["params"]
  random = np.random.default_rng(1)
  weights = jax.tree.map(lambda x: random.normal(size=x.shape, scale=0.3).astype(np.float32), like)
  zero, judge = jnp.zeros((), jnp.int32), state.OpponentState(weights, opponent.tx.init(weights))
  return state.TrainState(zero, params, None, tx.init(params), zero, zero, {"gan": judge}, {})


def test_each_network_gets_the_gradient_of_its_own_loss():
  _, model, objective, judges = parts(f"{WEIGHED} objective.discriminator.equilibrium=50")
  here, judge = filled_state(model, judges, optax.identity()), judges["gan"].module
  params, weights = here.params, here.opponents["gan"].params
  keys = jax.random.split(jax.random.key(5), N)
  drawn = jax.vmap(lambda key: jax.random.normal(key, (2, 3)))(keys)
  descend = steps.make_descent(model, objective, judges, 1, None)
  got = jax.jit(lambda: descend(here, {"image": IMAGES}, keys, keys[0], {}, N))()

  def loss(name, params, weights):
    return written_out(model, judge, IMAGES, drawn[:, 0], drawn[:, 1], params, weights)[name]

  @jax.jit
  def expected():
    of_model = {name: jax.grad(functools.partial(loss, name))(params, weights)[name] for name in params}
    of_judge = jax.grad(functools.partial(loss, "discriminator"), argnums=1)(params, weights)
    return (
      of_model,
      of_judge,
      {name: loss(name, params, weights) for name in ("kl", "likelihood", "discriminator")},
    )

  of_model, of_judge, values = expected()
  for mine, theirs in (got.grads, of_model), (got.opponent_grads["gan"], of_judge):
    assert all(float(optax.tree.norm(part)) > 1e-2 for part in theirs.values() if theirs is of_model)
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
  np.testing.assert_allclose(got.parts["rate"], values["kl"], rtol=1e-5)
  np.testing.assert_allclose(got.parts["feature_distortion"], values["likelihood"], rtol=1e-5)
  np.testing.assert_allclose(got.parts["discriminator_loss"], values["discriminator"], rtol=1e-5)
  whole = BETA * values["kl"] + ALPHA * values["likelihood"] - values["discriminator"]
  real = got.parts["real_cross_entropy"]  # which the decoder has no part in
  np.testing.assert_allclose(got.loss, whole + real, rtol=1e-5)
  assert got.moves == {"gan": 0, "decoder": 1}  # cross-entropies are below 49: the discriminator is far ahead
  assert got.parts["moved_gan"] == 0 and got.parts["moved_decoder"] == 1


# --- the guard ---


def of_python(real, fake, low, high):
  """The rule of the authors' code: (discriminator moves, decoder moves)."""
  discriminator = decoder = True
  if real < low or fake < low:
    discriminator = False
  if real > high or fake > high:
    decoder = False
  return (True, True) if not (discriminator or decoder) else (discriminator, decoder)


def test_the_guard_holds_what_the_authors_code_holds():
  low, high = 0.33, 1.03
  found = set()
  for real in (0.1, 0.33, 0.7, 1.03, 2.0):
    for fake in (0.2, 0.5, 1.5):
      moves = Guard(low, high, ("decoder",)).moves(jnp.float32(real), jnp.float32(fake))
      assert tuple(map(bool, moves)) == of_python(
        np.float32(real), np.float32(fake), np.float32(low), np.float32(high)
      )
      found.add(tuple(map(bool, moves)))
  assert found == {(True, True), (True, False), (False, True)}


def test_a_side_that_is_held_keeps_its_parameters_and_its_optimisers_state():
  config, model, _, judges = parts()
  assert judges["gan"].guard == Guard(0.68 - 0.35, 0.68 + 0.35, ("decoder",))
  tx = state.make_optimizer(config.training)
  here = filled_state(model, judges, tx)
  update, zero = jax.jit(steps.make_update(model, tx, judges, 0.9)), jnp.zeros(())
  for gan, decoder in (1, 1), (0, 1), (1, 0):
    moves = {"gan": jnp.float32(gan), "decoder": jnp.float32(decoder)}
    slopes = {"gan": here.opponents["gan"].params}
    after = update(here, steps.Descent(zero, {}, (), here.params, slopes, moves), jnp.float32(0.1))
    assert not any(jax.tree.leaves(same(after.params["encoder"], here.params["encoder"])))
    assert all_same(after.params["decoder"], here.params["decoder"]) == (not decoder)
    moments = [x for x in jax.tree_util.tree_leaves_with_path(after.opt_state) if "decoder" in str(x[0])]
    assert len(moments) == 2 * len(jax.tree.leaves(here.params["decoder"]))
    assert all(bool(x.any()) == bool(decoder) for _, x in moments)
    assert all_same(after.opponents, here.opponents) == (not gan)


# --- training ---


def test_some_dozen_steps_are_finite_and_a_run_continues_bit_for_bit(tmp_path):
  """And, after a checkpoint at the middle, the other half of the steps is that of one run."""
  here, step = trainer("objective.gamma=0.01")
  random = np.random.default_rng(3)
  batches = [{"image": random.uniform(0.2, 0.8, size=(N, *SHAPE)).astype(np.float32)} for _ in range(30)]
  rows = []
  for at, batch in enumerate(batches):
    here, got = step(here, batch)
    rows.append(got)
    if at == 19:
      with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(20, here, meta={}, score=None)
  assert int(here.skipped) == 0 and all(np.isfinite(list(row.values())).all() for row in rows)
  first, last = rows[0]["feature_distortion"], np.mean([row["feature_distortion"] for row in rows[-5:]])
  assert last != first and rows[0]["discriminator_loss"] == pytest.approx(3 * np.log(2), rel=0.1)
  continued, _ = Checkpoints(tmp_path).restore(like=jax.eval_shape(lambda: here))
  for batch in batches[20:]:
    continued, _ = step(continued, batch)
  assert all_same(continued, here)


# --- scores, and what is refused ---


def test_a_split_is_scored_by_its_reconstructions_and_the_rate_and_has_no_loss():
  _, model, objective, _ = parts()
  step = scoring.make_eval_step(
    model, lambda keys, batch, frozen: batch, root=jax.random.key(0), objective=objective
  )
  batch = {"image": IMAGES, "index": jnp.arange(N), "mask": jnp.ones(N, bool)}
  scores = jax.jit(lambda params: step({"params": params}, batch))(filled(model, SPEC))
  assert set(scores) == {"rate", "weighted_rate", "mse", "psnr", "latents", "mask"}
  assert model.RATED in scores and "bound" not in model.can


def test_images_are_those_of_the_decoder_whichever_way_they_are_asked_for():
  model = parts()[1]
  params, z = filled(model, SPEC), jax.random.normal(jax.random.key(2), (N, 3))

  @jax.jit
  def everything(params):
    def call(*args, method):
      return model.apply({"params": params}, *args, method=method)

    plain = [
      jax.nn.sigmoid(4 * model.decoder.apply({"params": params["decoder"]}, x)) for x in (z, mean(call))
    ]
    asked = [
      call(z, {}, method="decode"),
      call(z, {}, 1.0, method="generate"),
      *call(z, z, method="views").values(),
    ]
    return plain, asked, call({"image": IMAGES}, method="reconstruct")

  def mean(call):
    return call({"image": IMAGES}, method="encode").mean

  (decoded, of_mean), asked, reconstruction = everything(params)
  assert len(asked) == 5
  for image in asked:
    np.testing.assert_allclose(image, decoded, atol=1e-6)
  np.testing.assert_allclose(reconstruction, of_mean, atol=1e-6)
  assert reconstruction.shape == IMAGES.shape and 0 < reconstruction.min() <= reconstruction.max() < 1


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("objective.name=iwae", "objective.name=iwae must be elbo for model.name=vae_gan"),
    ("objective.samples=2", "objective.samples=2 must be 1"),
    ("objective.discriminator.layer=4", "objective.discriminator.layer=4 must be at most 3"),
    ("objective.adversarial.weight=1", "objective.adversarial.weight=1.0 must be 0"),
    ("training.accumulate=2", "training.accumulate=2 must be 1 with"),
  ],
)
def test_what_it_cannot_be_trained_by_is_refused(words, message):
  with pytest.raises(UserError) as error:
    configured(words)
  assert str(error.value).startswith(message) and "\n" not in str(error.value)
