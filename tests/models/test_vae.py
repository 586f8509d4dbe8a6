"""The VAE: shapes and types of every family, its terms against float64, its bounds against a known evidence.

The evidence is that of a linear Gaussian model, probabilistic PCA (Tipping & Bishop 1999). Its images
x = mu + W z + sigma e have log p(x) = log N(x; mu, W W^T + sigma^2 I), and where the columns of W are
orthogonal the latents are independent under the posterior.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from families import filled, mode, score
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax import models
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models.contract import init_variables
from vae_jax.models.vae import VAE
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec

FAMILIES = ["mlp_vae", "conv_vae"]
LIKELIHOODS = ["bernoulli", "gaussian", "laplace", "logistic_mixture"]
SMALL = {"mlp_vae": ["hidden=8,6"], "conv_vae": ["channels=4,8", "dense=8"]}


def small(family, *overrides):
  given = (*SMALL[family], "latent_dim=3", "mixtures=2", *overrides)
  return apply_overrides(base_config(family), [f"model.{o}" for o in given]).model


def build(config, shape, dtype="float32", degraded=None):
  """The model, and the spec that it is built for."""
  spec = image_spec(shape, degraded)
  return models.build(config, spec, dtype), spec


def arrays(output):
  """Its leaves by name, without statistics."""
  return (
    output.terms
    | output.latents
    | {n: getattr(output, n) for n in ("rates", "kl_units", "log_weight", "reconstruction")}
  )


def shapes_of(output):
  return {name: x.shape for name, x in arrays(output).items()}


def promised(samples, n, units, shape):
  """The shapes of an output of `n` images with one layer of latents."""
  each = {"distortion": (n,), "rate": (n,), "rates": (n, 1), "log_weight": (samples, n)}
  return (
    each | dict.fromkeys(("kl_units", "z", "mean", "logvar"), (n, units)) | {"reconstruction": (n, *shape)}
  )


def grey_levels(seed, *shape):
  return (np.random.default_rng(seed).integers(0, 256, size=shape) / 255).astype(np.float32)


# --- shapes and types ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(7, 5, 1), (6, 9, 3), (5, 5, 4)])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_float32_of_the_promised_shapes(family, likelihood, shape, dtype):
  model, spec = build(small(family, f"likelihood={likelihood}"), shape, dtype)

  def everything(key, image, keys):
    output, variables = model.init_with_output(key, {"image": image}, keys, mode(2))
    noise = jax.vmap(lambda key: model.noise(key, spec))(keys)
    z = model.apply(variables, noise, {}, method="latents")
    mean = model.apply(variables, z, {}, method="decode")
    return output, variables, z, mean, model.apply(variables, z, {}, key, method="draw_pixels")

  keys = jax.random.split(jax.random.key(0), 3)
  output, variables, z, *images = jax.eval_shape(everything, keys[0], jnp.zeros((3, *shape)), keys)
  assert shapes_of(output) == promised(2, 3, 3, shape) and output.statistics == ()
  assert set(output.terms) == set(model.terms)
  assert z.shape == (3, 3) and [x.shape for x in images] == [(3, *shape)] * 2
  assert {x.dtype for x in jax.tree.leaves((output, z, images))} == {np.dtype(np.float32)}
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
  assert ("log_scale" in variables["params"]) == (likelihood in ("gaussian", "laplace"))


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_map_of_latents(dtype):
  """dense=0: `latent_dim` at each position of the last feature map, none of them behind a dense layer."""
  shape, units = (7, 5, 3), 2 * 2 * 3  # halved twice, rounded up: 2 x 2
  model, spec = build(small("conv_vae", "likelihood=gaussian", "dense=0"), shape, dtype)
  assert model.units == model.latent_dim == units
  params = filled(model, spec)
  image, keys = jnp.asarray(grey_levels(0, 4, *shape)), jax.random.split(jax.random.key(0), 4)

  @jax.jit
  def run(params):
    def loss(params):
      output = score(model, params, image, keys, samples=2)
      return (output.terms["distortion"] + output.terms["rate"]).mean(), output

    (_, output), grads = jax.value_and_grad(loss, has_aux=True)(params)
    noise = jax.vmap(lambda key: model.noise(key, spec))(keys)
    z = model.apply({"params": params}, noise, {}, method="latents")
    posterior = model.apply({"params": params}, {"image": image}, method="encode")
    as_map = model.apply({"params": params}, image, method=lambda model, x: model.encoder(x))
    images = [
      model.apply({"params": params}, z, {}, method="decode"),
      model.apply({"params": params}, z, {}, keys[0], method="draw_pixels"),
      model.apply({"params": params}, {"image": image}, method="reconstruct"),
    ]
    return output, grads, z, posterior, as_map, images

  output, grads, z, posterior, as_map, images = run(params)
  assert shapes_of(output) == promised(2, 4, units, shape)
  assert z.shape == posterior.mean.shape == posterior.logvar.shape == (4, units)
  assert as_map.shape == (4, 2, 2, 6) and all(x.shape == (4, *shape) for x in images)
  np.testing.assert_array_equal(posterior.mean.reshape(4, 2, 2, 3), as_map[..., :3])
  for leaf in jax.tree.leaves((output, grads, z, images)):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
  assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads)), "a parameter has no gradient"
  mean, logvar = (np.asarray(x, np.float64) for x in posterior)
  np.testing.assert_allclose(
    output.kl_units, 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar), rtol=1e-3, atol=1e-5
  )
  names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
  assert len(names) < len(jax.tree.leaves(filled(*build(small("conv_vae", "likelihood=gaussian"), shape))))


def test_latents_of_a_map_lie_where_their_pixels_are():
  """One position of the map changed: there, or beside it, the image changes most."""
  shape = (16, 16, 1)
  words = ("dense=0", "blocks=0", "latent_dim=2", "likelihood=gaussian", "head_kernel=1")
  model, spec = build(small("conv_vae", *words), shape)
  params = filled(model, spec)
  decode = jax.jit(lambda z: model.apply({"params": params}, z.reshape(1, -1), {}, method="pixels"))
  before = np.asarray(decode(jnp.zeros((4, 4, 2))))[0, ..., 0]
  for row, column in (0, 3), (3, 1), (1, 3):
    after = np.asarray(decode(jnp.zeros((4, 4, 2)).at[row, column].set(3.0)))[0, ..., 0]
    blocks = np.abs(after - before).reshape(4, 4, 4, 4).sum((1, 3))
    place = np.unravel_index(blocks.argmax(), (4, 4))
    assert max(abs(place[0] - row), abs(place[1] - column)) <= 1


def test_a_map_of_latents_refuses_smaller_inputs():
  config = small("conv_vae", "dense=0")
  with pytest.raises(
    UserError, match=r"model\.dense=0 .* not \(4, 4\) for \(8, 8\); give model\.dense a width"
  ) as e:
    build(config, (8, 8, 1), degraded=(4, 4, 1))
  assert "\n" not in str(e.value)
  assert build(config, (8, 8, 1), degraded=(8, 8, 1))[0].units == 12
  assert build(small("conv_vae"), (8, 8, 1), degraded=(4, 4, 1))[0].units == 3


@pytest.mark.parametrize(
  ("likelihood", "dtype"),
  [pytest.param("gaussian", "bfloat16", marks=pytest.mark.slow), ("logistic_mixture", "float32")],
)
def test_values_and_gradients_are_finite_in_both_compute_types(likelihood, dtype):
  shape = (7, 5, 3)
  model, spec = build(small("conv_vae", f"likelihood={likelihood}", "channels=4"), shape, dtype)
  image, keys = jnp.asarray(grey_levels(0, 4, *shape)), jax.random.split(jax.random.key(0), 4)

  @jax.jit
  def values(params):
    def loss(params):
      output = score(model, params, image, keys)
      return (output.terms["distortion"] + output.terms["rate"]).mean(), output

    return jax.value_and_grad(loss, has_aux=True)(params)

  (_, output), grads = values(filled(model, spec))
  for leaf in jax.tree.leaves((output, grads)):
    assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()
  assert (output.reconstruction >= 0).all() and (output.reconstruction <= 1).all()
  moved = [bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)]
  assert all(moved), "a parameter has no gradient"


def test_bfloat16_is_used_and_costs_little_accuracy():
  shape = (6, 6, 1)
  image, keys = jnp.asarray(grey_levels(0, 4, *shape)), jax.random.split(jax.random.key(0), 4)
  (full, spec), (half, _) = (build(small("mlp_vae"), shape, dtype) for dtype in ("float32", "bfloat16"))
  params = filled(full, spec)
  a, b = (jax.jit(lambda m=m: score(m, params, image, keys))().terms["distortion"] for m in (full, half))
  assert not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, rtol=0.02)


def test_a_fresh_model_is_tame(key):
  shape = (7, 5, 1)
  model, spec = build(small("mlp_vae", "likelihood=gaussian", "hidden=8"), shape)
  params = jax.jit(lambda key: init_variables(model, spec, key))(key)["params"]
  image, keys = jnp.asarray(grey_levels(0, 4, *shape)), jax.random.split(key, 4)
  rate = jax.jit(lambda: score(model, params, image, keys))().terms["rate"]
  assert (rate < 10.0).all() and (rate >= 0).all()
  assert params["log_scale"] == -2.0


def test_build_refuses_an_unknown_family():
  config = small("mlp_vae").copy_and_resolve_references()
  config.name = "mlp_vea"
  with pytest.raises(UserError, match=r"mlp_vea.*did you mean 'mlp_vae'"):
    build(config, (4, 4, 1))


# --- the terms ---


@pytest.fixture(scope="module")
def scored():
  """A model, its parameters, a batch with a 2x smaller encoder input, keys and the compiled score."""
  shape, low = (4, 6, 1), (2, 3, 1)
  model, spec = build(small("mlp_vae"), shape, degraded=low)
  compiled = jax.jit(lambda params, *batch: score(model, params, *batch, samples=3))
  batch = grey_levels(0, 5, *shape), jax.random.split(jax.random.key(1), 5), grey_levels(1, 5, *low)
  return model, filled(model, spec), batch, compiled


def test_terms_against_float64_for_the_same_latents(scored):
  model, params, (image, keys, degraded), score = scored
  output = score(params, image, keys, degraded)
  mean, logvar = model.apply({"params": params}, {"image": image, "degraded": degraded}, method="encode")
  eps = jnp.stack([jax.random.normal(key, (3, 3)) for key in keys], axis=1)
  mean, logvar, eps = (np.asarray(x, np.float64) for x in (mean, logvar, eps))
  z = mean + np.exp(0.5 * logvar) * eps  # [s, b, d]
  logits = jnp.stack(
    [model.apply({"params": params}, each, {}, method="pixels") for each in jnp.asarray(z, jnp.float32)]
  )

  p = scipy.special.expit(np.asarray(logits, np.float64))
  log_likelihood = (image * np.log(p) + (1 - image) * np.log1p(-p)).sum((-3, -2, -1))
  log_prior = scipy.stats.norm.logpdf(z).sum(-1)
  log_posterior = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * logvar)).sum(-1)
  kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
  np.testing.assert_allclose(output.terms["distortion"], -log_likelihood.mean(0), rtol=1e-5)
  np.testing.assert_allclose(output.log_weight, log_likelihood + log_prior - log_posterior, rtol=1e-5)
  np.testing.assert_allclose(output.kl_units, kl, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(output.rates, output.kl_units.sum(-1, keepdims=True), rtol=1e-6)
  np.testing.assert_allclose(output.terms["rate"], output.kl_units.sum(-1), rtol=1e-6)
  np.testing.assert_allclose(output.latents["mean"], mean, rtol=1e-6)
  np.testing.assert_allclose(output.latents["logvar"], logvar, rtol=1e-6)
  np.testing.assert_allclose(output.latents["z"], z[0], rtol=1e-5)
  np.testing.assert_allclose(output.reconstruction, p[0], rtol=1e-4)


def test_an_example_does_not_depend_on_its_neighbours(scored):
  _, params, (image, keys, degraded), score = scored
  whole = arrays(score(params, image, keys, degraded))
  for chosen in (np.array([3, 0, 4, 1, 2]), np.array([2, 4])):
    part = arrays(score(params, image[chosen], keys[chosen], degraded[chosen]))
    for name, a in part.items():
      b = np.take(np.asarray(whole[name]), chosen, 1 if name == "log_weight" else 0)
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_conv_examples_do_not_depend_on_their_neighbours():
  shape = (5, 4, 1)
  model, spec = build(small("conv_vae", "channels=4"), shape)
  params, image, keys = filled(model, spec), grey_levels(0, 4, *shape), jax.random.split(jax.random.key(0), 4)
  compiled = jax.jit(lambda image, keys: score(model, params, image, keys))
  whole, chosen = compiled(image, keys), np.array([2, 0, 2, 2])
  others = compiled(image[chosen], keys[chosen])
  np.testing.assert_allclose(others.log_weight, whole.log_weight[:, chosen], rtol=1e-5)
  np.testing.assert_allclose(others.reconstruction, whole.reconstruction[chosen], rtol=1e-4, atol=1e-6)


def test_the_encoder_sees_the_degraded_image_and_the_likelihood_the_clean_one(scored):
  _, params, (image, keys, degraded), score = scored
  output = score(params, image, keys, degraded)
  other_target = score(params, 1 - image, keys, degraded)
  np.testing.assert_array_equal(output.latents["mean"], other_target.latents["mean"])
  np.testing.assert_array_equal(output.reconstruction, other_target.reconstruction)
  assert (output.terms["distortion"] != other_target.terms["distortion"]).all()
  other_input = score(params, image, keys, 1 - degraded)
  assert (output.latents["mean"] != other_input.latents["mean"]).all()


@pytest.mark.parametrize("low", [(3, 4, 1), (5, 7, 1)])
def test_conv_vae_takes_low_resolution_inputs(low):
  shape = (5, 7, 1)
  model, spec = build(small("conv_vae"), shape, degraded=low)
  params = filled(model, spec)
  image, keys, degraded = jnp.zeros((2, *shape)), jax.random.split(jax.random.key(0), 2), jnp.zeros((2, *low))
  output = jax.eval_shape(lambda: score(model, params, image, keys, degraded))
  assert output.reconstruction.shape == (2, *shape)


def test_without_a_degraded_image_the_encoder_sees_the_image():
  shape = (4, 4, 1)
  model, spec = build(small("mlp_vae"), shape)
  params, image, keys = filled(model, spec), grey_levels(0, 2, *shape), jax.random.split(jax.random.key(0), 2)
  compiled = jax.jit(lambda *batch: score(model, params, *batch))
  jax.tree.map(np.testing.assert_array_equal, compiled(image, keys), compiled(image, keys, image))


def test_prior_samples_scale_with_temperature(scored):
  model, params, _, _ = scored
  keys = jax.random.split(jax.random.key(0), 4000)
  noise = jax.vmap(lambda key: model.noise(key, image_spec((4, 6, 1))))(keys)
  draw = jax.jit(lambda t: model.apply({"params": params}, noise, {}, t, method="latents"))
  z = draw(1.0)
  assert scipy.stats.kstest(np.ravel(z), "norm").pvalue > 1e-3
  np.testing.assert_allclose(draw(0.5), 0.5 * z, rtol=1e-6)
  images = model.apply({"params": params}, noise[:3], {}, 0.5, method="generate")
  decoded = model.apply({"params": params}, 0.5 * z[:3], {}, method="decode")
  np.testing.assert_allclose(images, decoded, rtol=1e-5)


# --- the bounds, against a model whose evidence is known ---

SHAPE, LATENTS, SIGMA = (2, 3, 1), 2, 0.3
W = np.linalg.qr(np.random.default_rng(0).normal(size=(6, LATENTS)))[0] * [0.6, 0.25]  # orthogonal columns
MU = np.random.default_rng(1).uniform(0.2, 0.8, size=6)
PRECISION = 1 + (W**2).sum(0) / SIGMA**2  # of the exact posterior, which is diagonal


class LinearEncoder(nn.Module):
  """Affine posterior mean and a constant log-variance."""

  @nn.compact
  def __call__(self, image):
    mean = nn.Dense(LATENTS)(image.reshape(image.shape[0], -1))
    raw = self.param("raw", nn.initializers.zeros_init(), (LATENTS,), jnp.float32)
    return jnp.concatenate([mean, jnp.broadcast_to(raw, mean.shape)], axis=-1)


class LinearDecoder(nn.Module):
  @nn.compact
  def __call__(self, z):
    return nn.Dense(math.prod(SHAPE))(z).reshape(-1, *SHAPE)


PPCA = VAE(LinearEncoder(), LinearDecoder(), LATENTS, dist.gaussian(1, SIGMA))


def ppca_params(shift=0.0, widen=0.0):
  """Parameters whose posterior is off the exact one: `shift` deviations in mean, `widen` in log-variance."""
  logvar = widen - np.log(PRECISION)
  raw = 12 * np.arctanh(logvar / 12)  # the inverse of `bound_logvar` below zero
  assert (logvar < 0).all()
  kernel = W / SIGMA**2 / PRECISION
  bias = shift / np.sqrt(PRECISION) - MU @ kernel
  params = {
    "encoder": {"Dense_0": {"kernel": kernel, "bias": bias}, "raw": raw},
    "decoder": {"Dense_0": {"kernel": W.T, "bias": MU - 0.5}},  # the likelihood's mean is 0.5 + params
  }
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


score_ppca = jax.jit(
  lambda params, image, keys, samples: score(PPCA, params, image, keys, samples=samples),
  static_argnums=3,
)


def ppca_data(n):
  """Images [n, h, w, 1] of the model and their log-evidence in nats, float64 [n]."""
  evidence = scipy.stats.multivariate_normal(MU, W @ W.T + SIGMA**2 * np.eye(6))
  x = evidence.rvs(n, random_state=2).astype(np.float32)
  return x.reshape(-1, *SHAPE), evidence.logpdf(x)


def posterior_gap(shift, widen):
  """KL(q || p(z | x)) in nats, alike for every x."""
  return LATENTS * 0.5 * (shift**2 + math.exp(widen) - 1 - widen)


def iwae(params, image, samples, chunk=50):
  def prepare(keys, batch, frozen):
    return batch

  root, chunk = jax.random.key(3), min(chunk, samples)
  step = make_eval_step(PPCA, prepare, root=root, iwae_samples=samples, chunk=chunk)
  return jax.jit(step)({"params": params}, {"image": image, "index": jnp.arange(len(image))})


def test_with_the_exact_posterior_every_weight_is_the_evidence():
  image, evidence = ppca_data(64)
  output = score_ppca(ppca_params(), image, jax.random.split(jax.random.key(0), 64), 20)
  np.testing.assert_allclose(output.log_weight, np.broadcast_to(evidence, (20, 64)), atol=1e-3)
  bound = -iwae(ppca_params(), image, 12, chunk=5)["iwae_nll"]
  np.testing.assert_allclose(bound, evidence, atol=1e-3)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 0.0), (0.3, 0.2), (-0.5, 0.4), (0.2, -0.3)])
def test_the_elbo_is_the_evidence_less_the_posterior_gap(shift, widen):
  image, evidence = ppca_data(4)
  params, expected = ppca_params(shift, widen), evidence - posterior_gap(shift, widen)
  draws = 20_000
  # Each draw is an example: an output has the mean distortion of an example's draws.
  keys = jax.random.split(jax.random.key(0), draws * 4)
  output = score_ppca(params, np.tile(image, (draws, 1, 1, 1)), keys, 1)
  distortion, rates = (
    np.asarray(output.terms[name], np.float64).reshape(draws, 4) for name in ("distortion", "rate")
  )
  rate = rates[0]
  error = 5 * distortion.std(0) / math.sqrt(draws)  # the rate is analytic
  assert (np.abs(-distortion.mean(0) - rate - expected) < error + 1e-4).all()
  assert (error < 0.06).all()
  # Exactly: the expected squared error of a linear decoder under q.
  mean, logvar = (
    np.asarray(x, np.float64) for x in PPCA.apply({"params": params}, {"image": image}, method="encode")
  )
  residual = image.reshape(4, 6) - MU - mean @ W.T
  squared = (residual**2).sum(-1) + (np.exp(logvar) * (W**2).sum(0)).sum(-1)
  exact = 0.5 * squared / SIGMA**2 + 3 * math.log(2 * math.pi * SIGMA**2)
  np.testing.assert_allclose(-exact - rate, expected, atol=1e-4)
  # The sampled form of the bound is less noisy, since log q and log p(x, z) vary together.
  weights = np.asarray(output.log_weight, np.float64).reshape(draws, 4)
  assert (np.abs(weights.mean(0) - expected) < 5 * weights.std(0) / math.sqrt(draws) + 1e-4).all()


def test_the_iwae_bound_converges_to_the_evidence():
  image, evidence = ppca_data(256)
  nll = np.asarray(iwae(ppca_params(0.3, 0.2), image, 5000, chunk=500)["iwae_nll"], np.float64)
  assert posterior_gap(0.3, 0.2) > 0.1  # what the bound has to close
  error = -nll - evidence
  assert abs(error.mean()) < 1e-3
  assert np.abs(error).max() < 0.05


def test_the_iwae_bound_rises_with_the_number_of_samples():
  image, evidence = ppca_data(2048)
  params, n = ppca_params(0.4, 0.4), 2048
  gaps = []
  for samples in (1, 4, 16):
    gap = np.asarray(evidence + iwae(params, image, samples)["iwae_nll"], np.float64)
    gaps.append((gap.mean(), gap.std() / math.sqrt(n)))
  expected = posterior_gap(0.4, 0.4)
  assert abs(gaps[0][0] - expected) < 4 * gaps[0][1]  # K = 1 is the evidence bound
  for (looser, error), (tighter, other) in itertools.pairwise(gaps):
    assert looser - tighter > -3 * math.hypot(error, other)
  assert gaps[0][0] > gaps[1][0] > gaps[2][0] > -3 * gaps[2][1]
