"""Gradients of importance-weighted bounds: against formulas in float64, and their means against one another.

The model is that of linear_gaussian.py, with z = A x + a + s eps: every derivative of a log weight can be written down.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from families import KEY
from linear_gaussian import (
  IMAGE,
  IMAGES,
  LATENTS,
  MODEL,
  SIGMA,
  Decoder,
  Encoder,
  X,
  params_of,
)

from vae_jax import distributions as dist
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.models.contract import Mode
from vae_jax.models.vae import VAE
from vae_jax.objectives import make_objective
from vae_jax.training import steps
from vae_jax.training.state import TrainState

SAMPLES = 6


def objective_of(name, gradient, groups=3, share=0.3):
  words = [f"name={name}", f"gradient={gradient}", f"samples={SAMPLES}", f"elbo_share={share}"]
  words += [f"groups={groups}"] if name in ("miwae", "piwae") else []
  config = apply_overrides(base_config(), [f"objective.{word}" for word in words])
  return make_objective(config.objective, MODEL.terms)


def descent(name, gradient, samples=SAMPLES):
  """(params, images, keys) -> loss and gradients, as a training step takes them."""
  objective = objective_of(name, gradient)
  mode = Mode(jnp.int32(0), KEY, True, samples, path=objective.path, apart=objective.apart)

  def loss(params, image, keys):
    output = MODEL.apply({"params": params}, {"image": image}, keys, mode)
    return objective(output, {"image": image}, 0)[0].mean()

  return jax.jit(jax.value_and_grad(loss))


def by_hand(params, keys, name, gradient):
  """Loss and gradients in float64, by the derivatives of each log weight."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  encoder, pixels = params["encoder"], params["decoder"]["pixels"]
  eps = np.stack([jax.random.normal(key, (SAMPLES, LATENTS)) for key in keys], 1).astype(np.float64)
  logvar = 12 * np.tanh(encoder["raw"] / 12)
  s = np.exp(0.5 * logvar)
  z = (X @ encoder["mean"]["kernel"] + encoder["mean"]["bias"])[None] + s * eps  # [k, b, d]
  error = (X - 0.5 - pixels["bias"])[None] - z @ pixels["kernel"]
  log_weight = -0.5 * (error**2).sum(-1) / SIGMA**2 - 3 * np.log(2 * np.pi * SIGMA**2)
  log_weight += (-0.5 * z**2 + 0.5 * eps**2 + np.log(s)).sum(-1)
  slope = error @ pixels["kernel"].T / SIGMA**2 - z  # of log p(x, z) in z
  if gradient == "standard":  # log q of a reparameterised draw depends on s alone
    to_mean, to_s = slope, slope * eps + 1 / s
  else:
    to_mean = slope + eps / s  # log q falls along z
    to_s = to_mean * eps

  groups = {"miwae": 3, "piwae": 3}.get(name, 1)
  grouped = log_weight.reshape(groups, -1, IMAGES)
  within = scipy.special.softmax(grouped, axis=1)
  power = 2 if gradient == "dreg" else 1
  own = (within**power / groups).reshape(SAMPLES, IMAGES)  # weights of the encoder's slopes
  others = (within / groups).reshape(SAMPLES, IMAGES)
  bound = (scipy.special.logsumexp(grouped, axis=1) - np.log(SAMPLES / groups)).mean(0)
  if name == "piwae":
    others = scipy.special.softmax(log_weight, axis=0)
    bound = scipy.special.logsumexp(log_weight, axis=0) - np.log(SAMPLES)
  if name == "ciwae":
    own, others = (0.3 / SAMPLES + 0.7 * x for x in (own, others))
    bound = 0.3 * log_weight.mean(0) + 0.7 * bound
  to_mean = (own[..., None] * to_mean).sum(0) / -IMAGES  # [b, d]
  to_raw = (own[..., None] * to_s).sum((0, 1)) / -IMAGES * 0.5 * s * (1 - np.tanh(encoder["raw"] / 12) ** 2)
  to_pixels = others[..., None] * error / SIGMA**2 / -IMAGES  # [k, b, p]
  return -bound.mean(), {
    "encoder": {"mean": {"kernel": X.T @ to_mean, "bias": to_mean.sum(0)}, "raw": to_raw},
    "decoder": {"pixels": {"kernel": np.einsum("kbd,kbp->dp", z, to_pixels), "bias": to_pixels.sum((0, 1))}},
  }


CASES = [(name, how) for name in ("iwae", "miwae", "ciwae", "piwae") for how in ("standard", "dreg")]


@pytest.mark.parametrize(("name", "gradient"), [*CASES, ("iwae", "stl")])
def test_loss_and_gradients_are_those_of_the_formulas(name, gradient):
  params, keys = params_of(), jax.random.split(jax.random.key(3), IMAGES)
  loss, grads = descent(name, gradient)(params, IMAGE, keys)
  expected, slopes = by_hand(params, keys, name, gradient)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), grads, slopes)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_the_encoder_stands_still_where_the_posterior_is_exact(gradient):
  """Both gradients then have no noise (Roeder et al. 2017, section 3); the standard one does."""
  params, keys = params_of(0.0, 0.0), jax.random.split(jax.random.key(3), IMAGES)
  encoder = descent("iwae", gradient)(params, IMAGE, keys)[1]["encoder"]
  assert max(np.abs(x).max() for x in jax.tree.leaves(encoder)) < 1e-3
  standard = descent("iwae", "standard")(params, IMAGE, keys)[1]["encoder"]
  assert max(np.abs(x).max() for x in jax.tree.leaves(standard)) > 0.05


def test_dreg_has_the_mean_of_the_standard_gradient_and_stl_has_another():
  """Means over 60,000 draws of 4 samples each (Tucker et al. 2019)."""
  params, draws = params_of(), 20_000
  many = np.tile(IMAGE, (draws, 1, 1, 1))
  keys = jax.random.split(jax.random.key(5), len(many))
  rows = {}
  for gradient in ("standard", "dreg", "stl"):
    objective = objective_of("iwae", gradient)
    mode = Mode(jnp.int32(0), KEY, True, 4, path=objective.path, apart=objective.apart)

    def loss(moved, objective=objective, mode=mode):
      """Each example with a posterior mean of its own, whose gradients are so told apart."""
      model = Moved(Encoder(), Decoder(), LATENTS, dist.gaussian(1, SIGMA))
      output = model.apply({"params": params}, {"image": many, "latents": moved}, keys, mode)
      return objective(output, {"image": many}, 0)[0].sum()

    rows[gradient] = np.asarray(jax.jit(jax.grad(loss))(jnp.zeros((len(many), LATENTS))), np.float64)
  mean = {name: x.mean(0) for name, x in rows.items()}
  error = {name: x.std(0) / math.sqrt(len(many)) for name, x in rows.items()}
  assert (np.abs(mean["dreg"] - mean["standard"]) < 5 * np.hypot(error["dreg"], error["standard"])).all()
  assert (np.abs(mean["dreg"]) > 20 * error["dreg"]).all()
  assert (np.abs(mean["stl"] - mean["dreg"]) > 10 * np.hypot(error["stl"], error["dreg"])).all()
  assert (error["dreg"] < 0.7 * error["standard"]).all()


class Moved(VAE):
  """The posterior's mean is moved by the batch's `latents`."""

  def encode(self, batch):
    mean, logvar = super().encode(batch)
    return dist.Gaussian(mean + batch["latents"], logvar)


def test_a_single_sample_is_the_evidence_bound_whatever_the_name():
  """In evaluation there is one, and no group of samples."""
  params, keys = params_of(), jax.random.split(jax.random.key(3), IMAGES)
  mode = Mode(jnp.int32(0), KEY)
  output = MODEL.apply({"params": params}, {"image": IMAGE}, keys, mode)
  for name, gradient in CASES[::2]:
    loss, parts = objective_of(name, gradient).at_the_end()(output, {"image": IMAGE}, 0)
    np.testing.assert_allclose(loss, -output.log_weight[0], rtol=1e-6)
    assert f"neg_{name}" in parts


@pytest.mark.parametrize(("name", "gradient"), [("iwae", "stl"), ("piwae", "dreg")])
def test_a_training_step_takes_the_gradient_of_its_objective(name, gradient):
  """With the keys of its first step, and an optimiser that goes down the gradient itself."""
  step = steps.make_train_step(
    MODEL,
    objective_of(name, gradient),
    lambda keys, batch, frozen: batch,
    optax.identity(),
    lambda step: jnp.float32(0.1),
    samples=SAMPLES,
    ema_decay=0.9,
    root=KEY,
  )
  params, zero = params_of(), jnp.zeros((), jnp.int32)
  before = TrainState(zero, params, None, optax.identity().init(params), zero, zero)
  after, metrics = jax.jit(step)(before, {"image": IMAGE})
  keys = steps.example_keys(jax.random.fold_in(KEY, 0), steps.MODEL_STREAM, jnp.arange(IMAGES))
  loss, slopes = by_hand(params, keys, name, gradient)
  taken = jax.tree.map(lambda a, b: 10.0 * (a - b), params, after.params)
  np.testing.assert_allclose(metrics[f"neg_{name}"], loss, rtol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), taken, slopes)
