"""Completions by chains, against probabilistic PCA, where p(z | observed) and p(hidden | observed) are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import MODEL, MU, SHAPE, SIGMA, W, params_of
from linear_gaussian import X as UNBOUNDED
from trained import spec_of, trained

from vae_jax import priors
from vae_jax.cli.evaluate import parse_evaluate
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.inference import export, inpaint

X = np.clip(UNBOUNDED, 0, 1)
IMAGES = X.reshape(-1, *SHAPE).astype(np.float32)
MASK = np.array([[0, 0, 1], [0, 1, 1]], bool)
SEEN = ~MASK.ravel()
COVARIANCE = np.linalg.inv(np.eye(2) + W[SEEN].T @ W[SEEN] / SIGMA**2)
MANY = 3000


def mean_of(x):
  return COVARIANCE @ W[SEEN].T @ (x[SEEN] - MU[SEEN]) / SIGMA**2


def model_of(name="mlp_vae", *words, shape=SHAPE, spec=None, scale=0.5):
  return trained(apply_overrides(base_config(name), words), spec_of(shape) | (spec or {}), scale=scale)


@pytest.fixture(scope="module")
def pca():
  """The model of linear_gaussian.py, as if it had been loaded."""
  words = ("model.hidden=4", "model.latent_dim=2", "model.likelihood=gaussian", f"model.sigma={SIGMA}")
  model = model_of("mlp_vae", *words, "data.binarize=none")
  model.module, model.variables = MODEL, {"params": params_of()}
  return model


@pytest.fixture(scope="module")
def found(pca):
  return pca.inpaint(IMAGES[:1], MASK, 0, samples=MANY, steps=60)


def check_moments(values, mean, covariance):
  """Means and covariances of independent draws of a Gaussian, within 4.5 of their standard errors."""
  values = np.asarray(values, np.float64)
  variances = np.diag(covariance)
  errors = np.sqrt((np.outer(variances, variances) + covariance**2) / len(values))
  assert np.abs((values.mean(axis=0) - mean) / np.sqrt(variances / len(values))).max() < 4.5
  assert np.abs((np.cov(values.T) - covariance) / errors).max() < 4.5


def test_latents_have_the_posterior_of_the_observed_pixels(found):
  check_moments(found.z[:, 0], mean_of(X[0]), COVARIANCE)


def test_hidden_pixels_have_their_density_given_the_observed_ones(found):
  """p(hidden | observed) = N(mu + W m, W S W^T + sigma^2 I); by Gaussian conditioning of x itself, without z."""
  joint = W @ W.T + SIGMA**2 * np.eye(6)
  gain = joint[~SEEN][:, SEEN] @ np.linalg.inv(joint[SEEN][:, SEEN])
  mean = MU[~SEEN] + gain @ (X[0] - MU)[SEEN]
  covariance = joint[~SEEN][:, ~SEEN] - gain @ joint[SEEN][:, ~SEEN]
  noise = SIGMA * np.random.default_rng(0).normal(size=(MANY, 3))
  check_moments(MU[~SEEN] + np.asarray(found.z[:, 0]) @ W[~SEEN].T + noise, mean, covariance)


def test_images_are_the_observed_pixels_and_what_the_latents_decode_to(pca, found):
  images = np.asarray(found.images)
  assert images.shape == (MANY, 1, *SHAPE) and images.dtype == np.float32
  np.testing.assert_array_equal(images[:, 0][:, ~MASK], np.broadcast_to(IMAGES[0][~MASK], (MANY, 3, 1)))
  np.testing.assert_allclose(images[:, 0][:, MASK], pca.decode(found.z[:, 0])[:, MASK], atol=1e-5)
  error = X[0][SEEN] - MU[SEEN] - np.asarray(found.z[:, 0], np.float64) @ W[SEEN].T
  by_hand = -0.5 * np.square(error / SIGMA).sum(axis=1) - 3 * np.log(SIGMA * np.sqrt(2 * np.pi))
  np.testing.assert_allclose(found.log_likelihood[:, 0], by_hand, atol=2e-3)
  assert found.acceptance.shape == (MANY, 1) and 0.6 < found.acceptance.mean() <= 1
  assert found.rhat.shape == (1,) and 1 <= found.rhat[0] < 1.3


def test_hidden_pixels_have_no_effect_and_an_image_does_not_depend_on_others(pca):
  changed = np.where(MASK[..., None], 1 - IMAGES, IMAGES)
  whole = pca.inpaint(IMAGES, MASK, 7, samples=2, steps=20)
  again = pca.inpaint(changed, MASK, 7, samples=2, steps=20)
  for one, other in zip(whole, again, strict=True):
    np.testing.assert_array_equal(one, other)
  last = pca.inpaint(IMAGES[1:], np.stack([MASK, MASK]), 7, samples=2, steps=20, start=1)
  np.testing.assert_allclose(last.z, whole.z[:, 1:], rtol=1e-4, atol=1e-5)
  first = pca.inpaint(IMAGES, MASK, 7, samples=1, steps=20)
  np.testing.assert_allclose(first.z[0], whole.z[0], rtol=1e-4, atol=1e-5)
  other = pca.inpaint(IMAGES, MASK, 8, samples=1, steps=20)
  assert np.abs(np.asarray(other.z - first.z)).min() > 1e-4


def test_with_all_hidden_draws_are_those_of_the_prior(pca):
  """Also of one with two parts, between which chains do not move: a third of the draws lies in the smaller one."""
  all_hidden = np.ones(SHAPE[:2], bool)
  found = pca.inpaint(IMAGES[:1], all_hidden, 0, samples=MANY, steps=20)
  check_moments(found.z[:, 0], np.zeros(2), np.eye(2))
  assert (np.asarray(found.log_likelihood) == 0).all()
  random = np.random.default_rng(0)
  parts = np.concatenate([random.normal(-5, 0.3, (200, 2)), random.normal(5, 0.6, (100, 2))])
  prior = priors.fit("mixture", parts, components=2).prior
  z = np.asarray(pca.inpaint(IMAGES[:1], all_hidden, 0, samples=MANY, steps=20, prior=prior).z[:, 0])
  right = z[:, 0] > 0
  assert abs(right.mean() - 1 / 3) < 4.5 * np.sqrt(2 / 9 / MANY)
  check_moments(z[right], parts[200:].mean(axis=0), np.cov(parts[200:].T, bias=True))


FAMILIES = {
  "cvae": (("model.hidden=4", "model.latent_dim=2", "model.classes=3"), {"label": [0, 2]}),
  "vae_gan": (("model.channels=2", "model.latent_dim=2", "model.dense=3"), {}),
  "rae": (("model.channels=2", "model.latent_dim=2", "model.dense=3"), {"prior": "gaussian"}),
  "conv_vae": (
    (
      *("model.channels=2", "model.latent_dim=2", "model.dense=3", "model.blocks=0", "model.posterior=iaf"),
      *("model.likelihood=gaussian", "model.sigma=optimal", "data.binarize=none"),
    ),
    {},
  ),
  "mlp_vae": (
    (
      *("model.hidden=4", "model.latent_dim=2", "model.prior=vamp", "model.components=3"),
      *("model.likelihood=logistic_mixture", "model.mixtures=2", "data.binarize=none"),
    ),
    {},
  ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_other_likelihoods_priors_and_posteriors(name):
  words, given = FAMILIES[name]
  spec = {"label": jax.ShapeDtypeStruct((), np.int32)} if name == "cvae" else {}
  model = model_of(name, *words, shape=(8, 8, 1), spec=spec, scale=0.3)
  images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
  mask = np.zeros((8, 8), bool)
  mask[:, 5:] = True
  if "prior" in given:
    given = {"prior": priors.fit("gaussian", np.random.default_rng(0).normal(size=(20, 2))).prior}
  found = model.inpaint(images, mask, 0, samples=2, steps=40, **given)
  assert found.images.shape == (2, 2, 8, 8, 1) and all(np.isfinite(x).all() for x in found)
  assert 0.2 < np.asarray(found.acceptance).mean() <= 1
  shown = np.rint(255 * np.asarray(found.images))[:, :, ~mask]
  np.testing.assert_array_equal(shown, np.broadcast_to(images[:, ~mask], shown.shape))
  fields = {"label": jnp.asarray(given["label"])} if name == "cvae" else {}
  batch = {"image": jnp.asarray(images / 255, jnp.float32), **fields}
  observed = jnp.broadcast_to(~mask, (2, 8, 8))
  again = model.module.apply(model.variables, found.z[1], batch, observed, method="log_observed")
  np.testing.assert_allclose(found.log_likelihood[1], again, rtol=1e-3, atol=1e-2)


def test_requests_that_do_not_fit(pca):
  damaged = IMAGES.copy()
  damaged[0, 1, 2] = np.nan  # a hidden pixel
  cases = [
    ((damaged, MASK, 0), {}, "images have values that are not finite"),
    ((IMAGES, np.zeros((2, 3), bool), 0), {}, "a mask that hides no pixel leaves nothing to fill in"),
    ((IMAGES, MASK.T, 0), {}, r"a mask of shape \[3, 2\]: this model takes \[2, 3\], or \[3, 2, 3\] for 3"),
    ((IMAGES, MASK * 255, 0), {}, "with values other than 0 and 1; give bool"),
    ((IMAGES, MASK * np.nan, 0), {}, "with values other than 0 and 1; give bool"),
    ((IMAGES, MASK, 0), {"samples": 0}, "samples = 0, steps = 300: samples must be at least 1"),
    ((IMAGES, MASK, 0), {"steps": 5}, "steps from 20 to 1000000"),
    ((IMAGES, MASK, 0), {"label": 1}, "knows no label"),
    ((IMAGES, MASK, 0), {"prior": "mixtur"}, "prior 'mixtur' is unknown; did you mean 'mixture'"),
  ]
  for given, how, message in cases:
    with pytest.raises(UserError, match=message):
      pca.inpaint(*given, **how)


def test_models_that_cannot_and_weights_that_are_damaged(pca):
  small = ("model.hidden=4", "model.latent_dim=2")
  image, mask = np.zeros((1, 4, 4, 1), np.uint8), np.eye(4, dtype=bool)
  codes = model_of("vq_vae", "model.channels=4,4", "model.codes=6", "model.code_dim=2", shape=(8, 8, 1))
  completes = model_of("structured_cvae", *small, shape=(4, 4, 1))
  rae = model_of("rae", "model.channels=2", "model.latent_dim=2", "model.dense=3", shape=(8, 8, 1))
  noisy = model_of("mlp_vae", *small, "data.degrade.name=gaussian_noise", shape=(4, 4, 1))
  for model, message in (
    (codes, r"\(vq_vae of 8 x 8 x 1\) cannot fill in pixels that a mask hides; .*mlp_vae.* can"),
    (completes, r"cannot fill in pixels that a mask hides; .* can; or use complete \(--mode complete\)"),
    (rae, r"cannot sample new images; .* can; or fit a prior to its latents"),
    (noisy, r"was trained with data\.degrade\.name=gaussian_noise"),
  ):
    with pytest.raises(UserError, match=message):
      model.inpaint(image, mask, 0)
  with pytest.raises(UserError, match=r"of which a part is given; structured_cvae can; or use inpaint"):
    pca.complete(IMAGES)
  bad = model_of("mlp_vae", *small, shape=(4, 4, 1))
  bad.variables = jax.tree.map(lambda x: x * np.nan, bad.variables)
  with pytest.raises(UserError, match=r"log p\(observed pixels \| z\) is not finite"):
    bad.inpaint(image, mask, 0, samples=1, steps=20)


def test_the_default_steps_of_the_command_are_those_of_the_method(tmp_path):
  export(model_of("mlp_vae", "model.hidden=4", "model.latent_dim=2"), tmp_path / "model")
  args = parse_evaluate(["--workdir", str(tmp_path / "model"), "--mode", "inpaint", "--box", "0,0,1,1"])
  assert args.steps == inpaint.STEPS and args.samples == 4 and args.num == 8
