"""The conditional VAE: its prior, its terms, and labels where they belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import Mode, init_variables
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec

SHAPE, CLASSES = (5, 4, 1), 3
SPEC = image_spec(SHAPE, label=jax.ShapeDtypeStruct((), jnp.int32))
BATCH = {
  "image": jnp.asarray(np.random.default_rng(0).integers(0, 2, size=(6, *SHAPE)), jnp.float32),
  "label": jnp.asarray([0, 1, 2, 2, 1, 0], jnp.int32),
}


NETWORKS = {"cvae": "model.hidden=7,6", "conv_cvae": "model.channels=3 model.blocks=0 model.dense=6"}


@pytest.fixture(scope="module", params=NETWORKS)
def made(request):
  """A model, and variables in which no prior is standard."""
  words = f"model.classes={CLASSES} model.latent_dim=2 {NETWORKS[request.param]}"
  model = build(apply_overrides(base_config(request.param), words.split()).model, SPEC)
  variables = init_variables(model, SPEC, jax.random.key(0))
  random = np.random.default_rng(1)
  for name in ("prior_mean", "prior_logvar"):
    variables["params"][name] = jnp.asarray(random.normal(size=(CLASSES, 2)), jnp.float32)
  return model, variables


def output(made, samples=1, **others):
  model, variables = made
  keys = jax.random.split(jax.random.key(5), 6)
  mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(6), samples=samples)
  return model.apply(variables, {**BATCH, **others}, keys, mode)


def test_the_rate_is_the_divergence_from_the_prior_of_the_label(made):
  model, variables = made
  q, p = (model.apply(variables, BATCH, method=name) for name in ("encode", "prior"))
  np.testing.assert_array_equal(p.mean, variables["params"]["prior_mean"][BATCH["label"]])
  ratio = np.exp(np.float64(q.logvar) - p.logvar)
  expected = 0.5 * (
    ratio + np.square(np.float64(q.mean) - p.mean) * np.exp(-np.float64(p.logvar)) - 1 - np.log(ratio)
  )
  np.testing.assert_allclose(output(made).kl_units, expected, rtol=1e-4)
  np.testing.assert_allclose(output(made).terms["rate"], expected.sum(axis=1), rtol=1e-4)


def test_importance_weights_are_densities_of_scipy(made):
  model, variables = made
  got, q, p = output(made), *(model.apply(variables, BATCH, method=name) for name in ("encode", "prior"))
  z = np.float64(got.latents["z"])
  density = [stats.norm.logpdf(z, g.mean, np.exp(np.float64(g.logvar) / 2)).sum(axis=1) for g in (p, q)]
  np.testing.assert_allclose(got.log_weight[0], density[0] - density[1] - got.terms["distortion"], rtol=1e-4)


def test_the_importance_bound_reaches_the_likelihood_by_draws_from_the_prior(made):
  """log p(x | y) by 20,000 draws from p(z | y), in float64, against 2,000 from the posterior."""
  model, variables = made
  eps = jax.random.normal(jax.random.key(4), (20_000, 2))
  expected = []
  for image, label in zip(BATCH["image"], BATCH["label"], strict=True):
    condition = {"label": jnp.full(len(eps), label)}
    z = model.apply(variables, eps, condition, 1.0, method="latents")
    p = np.asarray(model.apply(variables, z, condition, method="decode"), np.float64)
    log_p = stats.bernoulli.logpmf(np.asarray(image)[None], p).sum(axis=(1, 2, 3))
    expected.append(special.logsumexp(log_p) - np.log(len(eps)))
  got = special.logsumexp(np.asarray(output(made, 2000).log_weight, np.float64), axis=0) - np.log(2000)
  np.testing.assert_allclose(got, expected, atol=0.1)


def test_samples_of_a_label_follow_its_prior(made):
  model, variables = made
  eps = jax.random.normal(jax.random.key(3), (4000, 2))
  label = {"label": jnp.full(4000, 2)}
  z = np.asarray(model.apply(variables, eps, label, 1.0, method="latents"), np.float64)
  params = variables["params"]
  np.testing.assert_allclose(z.mean(axis=0), params["prior_mean"][2], atol=0.1)
  np.testing.assert_allclose(np.log(z.var(axis=0)), params["prior_logvar"][2], atol=0.1)


def test_the_label_counts_in_encoder_and_decoder(made):
  model, variables = made
  other = (BATCH["label"] + 1) % CLASSES
  before, after = (
    model.apply(variables, {**BATCH, "label": x}, method="encode").mean for x in (BATCH["label"], other)
  )
  assert np.abs(before - after).min() > 0
  z = jnp.zeros((6, 2))
  images = [model.apply(variables, z, {"label": x}, method="decode") for x in (BATCH["label"], other)]
  assert np.abs(images[0] - images[1]).max(axis=(1, 2, 3)).min() > 1e-4


def test_records_without_labels_are_refused():
  with pytest.raises(
    UserError, match=r"model\.name=cvae needs the field 'label', and the records have image"
  ) as error:
    build(base_config("cvae").model, image_spec(SHAPE))
  assert "mlp_vae" in str(error.value)


def test_posteriors_are_not_compared_with_a_standard_prior(made):
  """Each label has a prior of its own, so a posterior variance of 1 says nothing here."""
  model, variables = made
  step = make_eval_step(model, lambda keys, batch, frozen: batch, root=jax.random.key(0))
  found = jax.eval_shape(step, variables, {**BATCH, "index": jnp.arange(6)})
  assert set(found["latents"]) == {"mean"} and "neg_elbo" in found
