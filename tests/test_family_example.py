"""The worked example of docs/families.md: a family in one file, through training, scores and samples."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from trained import spec_of

import vae_jax
from vae_jax import models
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.distributions.likelihoods import MIN_SCALE
from vae_jax.models.contract import Mode
from vae_jax.training.steps import example_keys

FILE = Path(__file__).parents[1] / "docs" / "examples" / "linear_vae.py"
SHAPE, LATENTS, SIGMA = (2, 3, 1), 2, 0.3


@pytest.fixture
def name(monkeypatch):
  """The family, known by its name for one test."""
  monkeypatch.syspath_prepend(str(FILE.parent))
  monkeypatch.setitem(models.FAMILIES, "linear_vae", "linear_vae")
  return "linear_vae"


def test_it_has_under_a_hundred_lines():
  assert len(FILE.read_text().splitlines()) < 100
  assert f"in {len(FILE.read_text().splitlines())} lines" in (FILE.parents[1] / "families.md").read_text()


def test_the_config_of_the_page_fits_its_data(name):
  page = (FILE.parents[1] / "families.md").read_text()
  written: dict = {}
  exec(page.split("```python\n")[1].split("```")[0], written)
  config = written["get_config"]()
  validate(config)
  splits = {value.split("[")[0] for value in (config.data.train, config.data.validation, config.data.test)}
  assert config.data.name == "idx" and splits == {"train", "test"}  # those that idx has


def test_it_trains_scores_and_samples(name, tmp_path):
  words = [
    "data.name=digits",
    "data.train=train[:200]",
    "data.validation=train[200:260]",
    "data.test=test[:60]",
  ]
  words += ["training.steps=40", "training.batch_size=24", "training.eval_every=40", "model.latent_dim=4"]
  config = apply_overrides(base_config(name), words)
  model = vae_jax.train(config, tmp_path / "run")
  scores = vae_jax.evaluate(model, samples=20)
  assert model.step == 40 and scores["examples"] == 60
  assert scores["rate"] > 0 and scores["iwae_nll"] < scores["neg_elbo"]
  assert model.sample(0, 3).shape == (3, 28, 28, 1)
  assert model.encode(model.sample(0, 3)).mean.shape == (3, 4)


def test_with_the_exact_posterior_its_bound_is_the_likelihood_of_ppca(name, key):
  """Tipping & Bishop 1999: x ~ N(m, W W^T + sigma^2 I), and q(z | x) is exact where columns of W are orthogonal."""
  random = np.random.default_rng(0)
  w = np.linalg.qr(random.normal(size=(6, LATENTS)))[0] * [0.6, 0.25]
  mean, precision = random.uniform(0.2, 0.8, size=6), 1 + (w**2).sum(axis=0) / SIGMA**2
  x = mean + random.normal(size=(5, LATENTS)) @ w.T + SIGMA * random.normal(size=(5, 6))
  v = w / SIGMA**2 / precision
  params = {
    "encoder": {"kernel": v, "bias": -mean @ v},
    "decoder": {"kernel": w.T, "bias": mean - 0.5},  # a decoder at zero gives mid-grey
    "logvar": -12 * np.arctanh(np.log(precision) / 12),  # the inverse of bound_logvar below 0
    "log_scale": math.log(SIGMA - MIN_SCALE),  # which is added as a soft bound
  }
  model = models.build(
    apply_overrides(base_config(name), [f"model.latent_dim={LATENTS}"]).model, spec_of(SHAPE)
  )
  batch = {"image": jnp.asarray(x.reshape(5, *SHAPE), jnp.float32)}
  mode = Mode(jnp.zeros((), jnp.int32), key, samples=1)
  output = model.apply({"params": params}, batch, example_keys(key, 1, jnp.arange(5)), mode)
  expected = multivariate_normal(mean, w @ w.T + SIGMA**2 * np.eye(6)).logpdf(x)
  np.testing.assert_allclose(output.log_weight[0], expected, rtol=1e-3, atol=1e-3)
