"""The conditional VAE of structured output: what it scores and sees of an image, its terms, and completions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import mode
from scipy import special, stats
from trained import spec_of, trained

from vae_jax import pictures
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.evaluation.scores import score_split, summary
from vae_jax.evaluation.shown import completions, split_samples
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.models.structured_cvae import QUADRANTS, divided, of_pixels
from vae_jax.objectives import make_objective

SHAPE, IMAGES = (4, 5, 1), 3
SPEC = spec_of(SHAPE)
# Upper left of 2 x 2, lower left of 2 x 2 pixels are given: the first two columns.
OBSERVED = np.tile(np.arange(5) < 2, (4, 1))
SMALL = "model.observed=lower_left,upper_left model.hidden=6,5 model.latent_dim=1"
BATCH = {"image": jnp.asarray(np.random.default_rng(0).integers(0, 2, size=(IMAGES, *SHAPE)), jnp.float32)}
FLIPPED = {"image": jnp.where(OBSERVED[None, ..., None], BATCH["image"], 1 - BATCH["image"])}


def configured(kind="cvae", *words):
  return apply_overrides(base_config("structured_cvae"), [*SMALL.split(), f"model.kind={kind}", *words])


@functools.cache
def made(kind="cvae"):
  """A model, and variables in which no bias is zero."""
  loaded = trained(configured(kind), SPEC, scale=0.3)
  return loaded.module, loaded.variables


def apply(kind, method, *args):
  model, variables = made(kind)
  return model.apply(variables, *args, method=method)


def output(kind="cvae", samples=1, params=None):
  model, variables = made(kind)
  variables = variables if params is None else {"params": params}
  return model.apply(variables, BATCH, jax.random.split(jax.random.key(5), IMAGES), mode(samples))


def log_p(kind, z):
  """log p(y | x, z) of latents [n, 1] for each image, by scipy in float64: [images, n]."""
  found = []
  for image in np.asarray(BATCH["image"]):
    condition = {"image": jnp.broadcast_to(image, (len(z), *SHAPE))}
    p = np.asarray(apply(kind, "decode", jnp.asarray(z, jnp.float32), condition), np.float64)
    found.append(stats.bernoulli.logpmf(image[None], p)[:, ~OBSERVED].sum(axis=(1, 2)))
  return np.array(found)


def prior_on_a_grid(kind):
  """A grid over z [n], and log p(z | x) of its points, with the log width between them: [images, n]."""
  prior, z = apply(kind, "prior", BATCH), np.linspace(-40, 40, 8001)
  deviation = np.exp(np.float64(prior.logvar) / 2)
  return z, stats.norm.logpdf(z, np.float64(prior.mean), deviation) + np.log(z[1] - z[0])


def test_quadrants_are_counted_row_by_row():
  rows = {
    "upper_left": [0, 1],
    "upper_right": [2, 3, 4],
    "lower_left": [5, 6, 10, 11],
    "lower_right": [7, 8, 9, 12, 13, 14],
  }
  assert tuple(rows) == QUADRANTS
  for name, expected in rows.items():
    seen, hidden = divided([name], (3, 5))
    assert seen.tolist() == expected and sorted([*seen, *hidden]) == list(range(15))
  assert divided(["lower_right", "upper_right"], (2, 2))[0].tolist() == [1, 3]
  assert divided(("lower_left", "upper_left"), SHAPE[:2])[0].tolist() == np.flatnonzero(OBSERVED).tolist()


def test_the_likelihood_is_that_of_hidden_pixels_and_has_no_gradient_to_others():
  hidden = divided(("upper_left",), (3, 2))[1]
  found = of_pixels(likelihoods.bernoulli(1), hidden, 6)
  logits = np.random.default_rng(1).normal(size=(2, len(hidden), 1, 1)).astype(np.float32)
  image = np.random.default_rng(2).integers(0, 2, size=(2, 3, 2, 1)).astype(np.float32)
  expected = stats.bernoulli.logpmf(image.reshape(2, 6)[:, 1:], special.expit(logits.reshape(2, 5))).sum(
    axis=1
  )
  np.testing.assert_allclose(found.log_prob(logits, image, 0.0), expected, rtol=1e-5)
  slope = np.asarray(jax.grad(lambda x: found.log_prob(logits, x, 0.0).sum())(image)).reshape(2, 6)
  assert (slope[:, 0] == 0).all()
  np.testing.assert_allclose(slope[:, 1:], logits.reshape(2, 5), rtol=1e-6)
  assert found.describe == "Bernoulli, of the 5 hidden of 6 pixels"


def test_the_rate_is_the_divergence_of_recognition_and_prior_network():
  q, p = apply("cvae", "encode", BATCH), apply("cvae", "prior", BATCH)
  mean, logvar, other, other_logvar = (np.float64(x) for x in (*q, *p))
  expected = 0.5 * (
    other_logvar - logvar + (np.exp(logvar) + np.square(mean - other)) / np.exp(other_logvar) - 1
  )
  assert expected.min() > 0.01
  np.testing.assert_allclose(output().kl_units, expected, rtol=1e-4)
  np.testing.assert_allclose(output().terms["rate"], expected.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["cvae", "gsnn"])
def test_the_importance_bound_reaches_the_integrated_likelihood(kind):
  """log p(y | x) by the sum over a grid of the one latent, in float64, against 20,000 draws."""
  z, log_prior = prior_on_a_grid(kind)
  expected = special.logsumexp(log_prior + log_p(kind, z[:, None]), axis=1)
  bounds = [
    special.logsumexp(np.asarray(output(kind, k).log_weight, np.float64), axis=0) - np.log(k)
    for k in (1, 20_000)
  ]
  np.testing.assert_allclose(bounds[1], expected, atol=0.03)
  assert np.abs(bounds[0] - expected).max() > 0.1


def test_the_term_of_the_gsnn_is_the_expectation_over_the_prior():
  z, log_prior = prior_on_a_grid("hybrid")
  expected = -(np.exp(log_prior) * log_p("hybrid", z[:, None])).sum(axis=1)
  np.testing.assert_allclose(output("hybrid", 20_000).terms["gsnn"], expected, rtol=0.02)
  alone = output("gsnn", 20_000)
  assert (np.asarray(alone.terms["rate"]) == 0).all() and "gsnn" not in alone.terms
  np.testing.assert_allclose(alone.terms["distortion"], -alone.log_weight.mean(axis=0), rtol=1e-5)
  z, log_prior = prior_on_a_grid("gsnn")
  expected = -(np.exp(log_prior) * log_p("gsnn", z[:, None])).sum(axis=1)
  np.testing.assert_allclose(alone.terms["distortion"], expected, rtol=0.02)


def test_each_term_trains_its_own_networks():
  def reached(term):
    slopes = jax.grad(lambda params: output("hybrid", params=params).terms[term].sum())(
      made("hybrid")[1]["params"]
    )
    return {name for name, part in slopes.items() if any(np.abs(x).max() > 0 for x in jax.tree.leaves(part))}

  assert reached("guess") == {"guess_network"}
  assert reached("rate") == {"encoder", "prior_network"}
  assert reached("distortion") == {"encoder", "decoder"}
  assert reached("gsnn") == {"prior_network", "decoder"}


@pytest.mark.parametrize("kind", ["cvae", "nn"])
def test_completions_depend_on_the_given_pixels_alone_and_keep_them(kind):
  noise = jax.random.normal(jax.random.key(1), (IMAGES, 1))
  for made_of in (
    lambda batch: apply(kind, "complete", batch),
    lambda batch: apply(kind, "guessed", batch),
    lambda batch: apply(kind, "generate", noise, batch),
  ):
    image = np.asarray(made_of(BATCH))
    np.testing.assert_array_equal(made_of(FLIPPED), image)
    np.testing.assert_array_equal(image[:, OBSERVED], np.asarray(BATCH["image"])[:, OBSERVED])
    assert ((image > 0) & (image < 1))[:, ~OBSERVED].all()


def test_the_recognition_network_sees_the_hidden_pixels_and_draws_differ():
  before, after = (apply("cvae", "encode", batch).mean for batch in (BATCH, FLIPPED))
  assert np.abs(before - after).min() > 1e-3
  draws = [
    np.asarray(apply("cvae", "generate", jnp.full((IMAGES, 1), eps), BATCH)) for eps in (-1.0, 0.0, 1.0)
  ]
  np.testing.assert_array_equal(draws[1], apply("cvae", "complete", BATCH))  # at the prior's mean
  assert np.abs(draws[0] - draws[2])[:, ~OBSERVED].max() > 0.01


def test_the_deterministic_network_is_alone():
  model, variables = made("nn")
  assert set(variables["params"]) == {"guess_network"} and model.units == 0
  found = output("nn", 3)
  p = np.asarray(apply("nn", "complete", BATCH), np.float64)[:, ~OBSERVED]
  expected = -stats.bernoulli.logpmf(np.asarray(BATCH["image"])[:, ~OBSERVED], p).sum(axis=(1, 2))
  np.testing.assert_allclose(found.terms["distortion"], expected, rtol=1e-4)
  np.testing.assert_allclose(found.log_weight, np.tile(-expected, (3, 1)), rtol=1e-4)
  assert set(found.terms) == {"distortion", "rate"} and (np.asarray(found.terms["rate"]) == 0).all()


def test_the_weights_of_the_hybrid_objective():
  config = configured("hybrid", "objective.vae_weight=0.3", "objective.gsnn=0.7", "objective.guess=0.5")
  found, model = output("hybrid"), made("hybrid")[0]
  loss, _ = make_objective(config.objective, model.terms)(found, BATCH, 0)
  t = {name: np.float64(x) for name, x in found.terms.items()}
  expected = 0.3 * (t["distortion"] + t["rate"]) + 0.7 * t["gsnn"] + 0.5 * t["guess"]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert set(t) == {"distortion", "rate", "guess", "gsnn"}


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("model.observed=left", r"^model\.observed=left must be one to three of upper_left, upper_right"),
    ("model.observed=upper_left,upper_left", r"^model\.observed=upper_left,upper_left must be one to three"),
    (f"model.observed={','.join(QUADRANTS)}", r" must be one to three of upper_left"),
    ("data.degrade.name=gaussian_noise", r"gaussian_noise gives degraded images, and .*set it to identity$"),
    (
      "data.name=paired_folder data.dir=x",
      r"paired_folder gives degraded images, and .*use data\.name=folder",
    ),
    (
      "objective.free_bits=1 model.kind=nn",
      r"^objective\.free_bits=1\.0 is of a rate, and model\.kind=nn has",
    ),
    ("objective.capacity=1 model.kind=gsnn", r"^objective\.capacity=1\.0 is of a rate, and model\.kind=gsnn"),
  ],
)
def test_what_is_refused(words, message):
  with pytest.raises(UserError, match=message):
    validate(configured("cvae", *words.split()))


def test_an_image_without_quadrants_is_refused():
  with pytest.raises(UserError, match=r"^images of 1 x 8 have no quadrants.* \(data\.size\)$"):
    build(configured().model, spec_of((1, 8, 1)))


def test_fresh_variables_make_finite_terms():
  config = configured("hybrid")
  model = build(config.model, spec_of((4, 4, 3)))
  variables = init_variables(model, spec_of((4, 4, 3)), jax.random.key(0))
  images = {"image": jnp.ones((2, 4, 4, 3))}
  found = model.apply(variables, images, jax.random.split(jax.random.key(1), 2), mode())
  assert all(np.isfinite(x).all() and x.shape == (2,) for x in found.terms.values())
  assert found.reconstruction.shape == (2, 4, 4, 3) and model.scored == 24


@pytest.fixture
def stored(tmp_path):
  """A folder with binary images as test.npz."""
  images = np.random.default_rng(4).integers(0, 2, size=(6, *SHAPE[:2]), dtype=np.uint8) * np.uint8(255)
  np.savez(tmp_path / "test.npz", image=images)
  return tmp_path


@pytest.mark.parametrize("kind", ["cvae", "nn"])
def test_scores_are_of_the_hidden_pixels(stored, kind):
  model = trained(configured(kind, "data.name=npz", f"data.dir={stored}"), SPEC, scale=0.7)
  scores = score_split(model, "test", samples=5, batch_size=4)
  assert scores["bits_per_dim"] == pytest.approx(scores["iwae_nll"] / 12 / np.log(2))
  assert scores["likelihood"] == "Bernoulli, of the 12 hidden of 20 pixels"
  if kind == "nn":
    assert scores["iwae_nll"] == pytest.approx(scores["neg_elbo"], rel=1e-5) and "guess" not in scores
    assert scores["latent_units"] == 0
  else:
    guess = trained(configured("nn", "data.name=npz", f"data.dir={stored}"), SPEC)
    guess.variables = {"params": {"guess_network": model.params["guess_network"]}}
    alone = score_split(guess, "test", samples=5, batch_size=4)
    assert scores["guess"] == pytest.approx(alone["neg_elbo"], rel=1e-5)
    assert "  guess " in summary(scores)


def test_a_loaded_model_completes_images():
  model, images = trained(configured(), SPEC, scale=0.7), np.asarray(BATCH["image"])
  draws = model.complete(images, 0, samples=3)
  assert draws.shape == (3, *images.shape) and np.abs(draws[0] - draws[1]).max() > 1e-3
  np.testing.assert_allclose(model.complete(images, 0, samples=2), draws[:2], atol=1e-6)
  np.testing.assert_allclose(model.complete(images, 0, temperature=0.0)[0], model.complete(images), atol=1e-6)
  given = model.given(np.uint8(255 * images))
  np.testing.assert_array_equal(given[:, OBSERVED], images[:, OBSERVED])
  assert (given[:, ~OBSERVED] == 0.5).all()
  with pytest.raises(UserError, match=r"samples = 2, temperature = 1\.0 without a key"):
    model.complete(images, samples=2)
  with pytest.raises(UserError, match="samples = 0: must be at least 1"):
    model.complete(images, 0, samples=0)


def test_what_has_no_latents_or_no_part_says_so():
  images = np.asarray(BATCH["image"])
  with pytest.raises(
    UserError, match=r"structured_cvae with model\.kind=nn\) has no latents to draw; leave out the"
  ):
    trained(configured("nn"), SPEC).complete(images, 0)
  plain = trained(apply_overrides(base_config("mlp_vae"), ["model.hidden=4", "model.latent_dim=2"]), SPEC)
  for method in ("complete", "guessed", "given"):
    with pytest.raises(
      UserError, match="cannot complete images of which a part is given; structured_cvae can"
    ):
      getattr(plain, method)(images)


@pytest.mark.parametrize(("kind", "rows"), [("cvae", 6), ("nn", 3)])
def test_a_picture_has_a_row_for_each_completion(kind, rows):
  """What is given, two draws, the prior's mean, the guess, the image; of nn no draw and no mean."""
  model = trained(configured(kind), SPEC)
  picture = completions(model, BATCH, samples=2)
  expected = pictures.compare(*[BATCH["image"]] * rows, labels=["x"] * rows)
  assert picture.shape[0] == expected.shape[0]
  if kind == "nn":
    np.testing.assert_array_equal(split_samples(model, BATCH, 4), picture)
