"""The second stage: its terms against scipy, its networks against numpy, and that it learns what N(0, I) is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import mode
from scipy import stats

from vae_jax import metrics
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.objectives import make_objective
from vae_jax.types import image_spec

D, B = 2, 6


def spec_of(*shape):
  return image_spec((4, 4, 1), latents=jax.ShapeDtypeStruct(shape, jnp.float32))


def model_of(hidden="5,4", activation="tanh", shape=(D,)):
  words = [f"model.hidden={hidden}", f"model.activation={activation}"]
  return build(apply_overrides(base_config("latent_vae"), words).model, spec_of(*shape))


@pytest.fixture(scope="module")
def made():
  """(model, variables with a gamma that is not 1, latents [b, d], keys)."""
  model = model_of()
  variables = init_variables(model, spec_of(D), jax.random.key(0))
  variables["params"]["log_gamma"] = jnp.float32(-0.7)
  latents = np.random.default_rng(0).normal(size=(B, D)).astype(np.float32)
  return model, variables, latents, jax.random.split(jax.random.key(1), B)


def dense_with_input(params, x):
  """The network of the authors' code, in float64."""
  y = x = np.asarray(x, np.float64)
  for name in ("Dense_0", "Dense_1"):
    y = np.tanh(y @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"]))
  both = np.concatenate([x, y], axis=-1)
  return both @ np.asarray(params["last"]["kernel"], np.float64) + np.asarray(params["last"]["bias"])


@pytest.mark.parametrize("samples", [1, 3])
def test_the_terms_are_those_of_scipy(made, samples):
  model, variables, latents, keys = made
  output = model.apply(variables, {"latents": latents}, keys, mode(samples))
  params = variables["params"]
  mean, raw = np.split(dense_with_input(params["encoder"], latents), 2, axis=-1)
  logvar = np.where(raw < 0, 12 * np.tanh(raw / 12), 8 * np.tanh(raw / 8))
  np.testing.assert_allclose(output.latents["mean"], mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(output.latents["logvar"], logvar, rtol=1e-4, atol=1e-5)
  sigma = np.exp(0.5 * 12 * np.tanh(-1.4 / 12))
  prior = [-stats.multivariate_normal(np.zeros(D), np.eye(D)).logpdf(z) for z in latents]
  np.testing.assert_allclose(output.terms["prior_nll_latents"], prior, rtol=1e-5)
  np.testing.assert_allclose(output.terms["sigma_latents"], np.full(B, sigma), rtol=1e-5)
  for i in range(B):
    eps = np.asarray(jax.random.normal(keys[i], (samples, D)))
    found = dense_with_input(params["decoder"], mean[i] + np.exp(0.5 * logvar[i]) * eps)
    nll = [-stats.multivariate_normal(row, sigma**2 * np.eye(D)).logpdf(latents[i]) for row in found]
    np.testing.assert_allclose(output.terms["distortion"][i], np.mean(nll), rtol=1e-4)
    # KL by its definition, E_q[log q - log p], the entropy from scipy and E_q[-log p] in closed form.
    entropy = stats.multivariate_normal(mean[i], np.diag(np.exp(logvar[i]))).entropy()
    cross = 0.5 * (mean[i] ** 2 + np.exp(logvar[i]) + np.log(2 * np.pi)).sum()
    np.testing.assert_allclose(output.terms["rate"][i], cross - entropy, rtol=1e-4, atol=1e-5)


def test_what_is_generated(made):
  """u and the noise of p(z | u) are both drawn; the temperature scales both."""
  model, variables, _, keys = made
  noise = jax.vmap(lambda key: model.noise(key, spec_of(D)))(keys)
  assert noise.shape == (B, 2, D) and np.unique(noise).size == 2 * B * D
  sigma = np.exp(0.5 * 12 * np.tanh(-1.4 / 12))
  for temperature in (0.0, 0.5, 1.0):
    got = model.apply(variables, noise, {}, temperature, method="generate")
    mean = dense_with_input(variables["params"]["decoder"], temperature * noise[:, 0])
    np.testing.assert_allclose(got, mean + temperature * sigma * noise[:, 1], rtol=1e-4, atol=1e-5)


def test_its_bound_has_a_name_of_its_own(made):
  model, variables, latents, keys = made
  output = model.apply(variables, {"latents": latents}, keys, mode())
  objective = make_objective(base_config("latent_vae").objective, model.terms, 9, model.bound_name)
  loss, parts = objective(output, {"latents": latents}, 0)
  assert "neg_elbo" not in parts
  np.testing.assert_allclose(parts["neg_elbo_latents"], parts["rate"] + parts["distortion"], rtol=1e-6)
  np.testing.assert_allclose(loss, parts["neg_elbo_latents"], rtol=1e-6)
  assert not model.can & {"bound", "encode", "decode"} and not model.reconstructs


def test_it_is_as_wide_as_its_first_stage():
  model = model_of("3", shape=(7,))
  shapes = jax.eval_shape(lambda key: init_variables(model, spec_of(7), key), jax.random.key(0))["params"]
  assert model.units == 7
  assert shapes["encoder"]["last"]["kernel"].shape == (7 + 3, 14)
  assert shapes["decoder"]["last"]["kernel"].shape == (7 + 3, 7)


def test_what_it_refuses():
  config = apply_overrides(base_config("latent_vae"), ["objective.name=iwae"])
  with pytest.raises(
    UserError, match=r"^objective.name=iwae bounds the likelihood of images, .*set it to elbo$"
  ):
    validate(config)
  with pytest.raises(
    UserError, match=r"latents \[d\], and those of training.first_stage are \[2, 3\]; choose"
  ):
    model_of(shape=(2, 3))


def ring(key, n):
  """Latents as a first stage with narrow posteriors has them: on a circle of radius 1.4 (variance 1 of each), +- 0.1.

  Its first two moments are those of N(0, I), which a fit of means and variances could not tell apart from it.
  """
  turn, noise = jax.random.split(key)
  angle = jax.random.uniform(turn, (n,), maxval=2 * jnp.pi)
  on = jnp.sqrt(2.0) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  return on + 0.1 * jax.random.normal(noise, (n, D))


def test_its_samples_are_closer_to_the_latents_than_the_prior_is():
  """The reason for a second stage. By the energy distance of scipy in many directions, and by ours in the plane."""
  model, batch, steps = model_of("64,64", "relu"), 128, 1500
  params = init_variables(model, spec_of(D), jax.random.key(0))["params"]
  tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

  def loss(params, key):
    data, own = jax.random.split(key)
    keys = jax.random.split(own, batch)
    terms = model.apply({"params": params}, {"latents": ring(data, batch)}, keys, mode()).terms
    return (terms["distortion"] + terms["rate"]).mean()

  @functools.partial(jax.jit, donate_argnums=0)
  def train(carry):
    def step(carry, key):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params, key), state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, jax.random.split(jax.random.key(2), steps))[0]

  params, _ = train((params, tx.init(params)))
  n = 1000
  noise = jax.vmap(lambda key: model.noise(key, spec_of(D)))(jax.random.split(jax.random.key(3), n))
  drawn = np.asarray(model.apply({"params": params}, noise, {}, method="generate"))
  held_out, prior = np.asarray(ring(jax.random.key(4), n)), np.random.default_rng(0).normal(size=(n, D))
  assert metrics.energy_distance(drawn, held_out) < 0.2 * metrics.energy_distance(prior, held_out)
  keys = jax.random.split(jax.random.key(5), n)
  terms = model.apply({"params": params}, {"latents": held_out}, keys, mode()).terms
  bound, of_prior = np.mean(terms["distortion"] + terms["rate"]), np.mean(terms["prior_nll_latents"])
  assert bound < of_prior - 0.3, (bound, of_prior)
  lines = [np.array([np.cos(t), np.sin(t)]) for t in np.linspace(0, np.pi, 8, endpoint=False)]
  far, near = (
    np.mean([stats.energy_distance(rows @ line, held_out @ line) for line in lines])
    for rows in (prior, drawn)
  )
  assert near < 0.6 * far, (near, far)
