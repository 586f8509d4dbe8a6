"""The VAE with a learned prior or a posterior by a flow: densities that agree with draws, terms, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from families import KEY, batch_of, filled, mode, score
from trained import spec_of, trained

from vae_jax import distributions as dist
from vae_jax import models
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.inference import export, load
from vae_jax.models.contract import Mode
from vae_jax.models.latent_priors import JITTER
from vae_jax.objectives import make_objective
from vae_jax.training import assemble
from vae_jax.types import image_spec

SHAPE, UNITS, IMAGES = (2, 3, 1), 2, 3
SMALL = "model.hidden=6 model.latent_dim=2 model.components=4 model.flow_layers=2 model.flow_hidden=5"
PRIORS = ("mixture", "vamp", "real_nvp")
CASES = {
  **{prior: f"model.prior={prior}" for prior in PRIORS},
  **{f"{flow} posterior": f"model.posterior={flow}" for flow in ("iaf", "real_nvp")},
  "both": "model.prior=mixture model.posterior=iaf",
}
X = (np.random.default_rng(0).uniform(size=(IMAGES, *SHAPE)) > 0.5).astype(np.float32)


def configured(*words, family="mlp_vae"):
  return apply_overrides(base_config(family), [*SMALL.split(), *" ".join(words).split()])


@pytest.fixture(scope="module", params=CASES)
def made(request):
  """The case, its model, and variables that are no fresh ones. Posteriors are wide, so that no draw counts for all."""
  spec = image_spec(SHAPE)
  model = models.build(configured(CASES[request.param]).model, spec)
  params = filled(model, spec, 0.4)
  params["encoder"]["posterior"]["bias"][UNITS : 2 * UNITS] = 1.0  # of log variances
  return request.param, model, params


def test_draws_of_the_prior_and_weights_of_the_posterior_give_one_evidence(made):
  """log p(x) = log E_p(z) p(x | z) = log E_q(z|x) w: so prior draws, prior density and log q belong together."""
  _, model, params = made
  draws = 30_000

  @jax.jit
  def both():
    weights = score(model, params, X, jax.random.split(KEY, IMAGES), samples=draws).log_weight
    noise = jax.vmap(lambda key: model.noise(key, image_spec(SHAPE)))(
      jax.random.split(jax.random.key(1), draws)
    )
    z = model.apply({"params": params}, noise, {}, method="latents")
    pixels = model.apply({"params": params}, z, {}, method="pixels")
    return weights, jax.vmap(lambda x: model.likelihood.log_prob(pixels, x, 0.0), out_axes=1)(X), z

  weights, likelihoods, z = (np.asarray(x, np.float64) for x in both())
  assert z.shape == (draws, UNITS) and weights.shape == likelihoods.shape == (draws, IMAGES)
  told = 0
  for x, y in zip(weights.T, likelihoods.T, strict=True):
    found, expected = (scipy.special.logsumexp(v) - np.log(draws) for v in (x, y))
    deviation = np.hypot(*(np.std(np.exp(v - v.max())) / np.mean(np.exp(v - v.max())) for v in (x, y)))
    if deviation < 3:  # of one draw, relative: else a few draws count for all
      told += 1
      assert abs(found - expected) < 5 * deviation / np.sqrt(draws)
  assert told >= 2


def test_the_rate_is_what_the_draws_say(made):
  """log_weight = log p(z) - log q - distortion of each draw; the rate is their mean, and has no KL of units."""
  case, model, params = made
  output = jax.jit(lambda: score(model, params, X, jax.random.split(KEY, IMAGES), samples=4))()
  assert output.kl_units is None and output.rates.shape == (IMAGES, 1)
  np.testing.assert_allclose(output.rates[:, 0], output.terms["rate"])
  np.testing.assert_allclose(
    -output.log_weight.mean(0), output.terms["rate"] + output.terms["distortion"], rtol=1e-5
  )
  gaussian = "posterior" not in case and case != "both"
  assert set(output.latents) == ({"z", "mean", "logvar"} if gaussian else {"z"})
  assert model.can == model.CAN if gaussian else model.can == model.CAN - {"encode"}
  assert not model.standard_prior and model.prior_words


@pytest.mark.parametrize(("case", "gradient"), [("vamp", "dreg"), ("both", "standard")])
def test_gradients_apart_are_sums_over_jacobians(case, gradient):
  """PIWAE, one draw after the other: the slope of log p(x, z) in z times dz / dposterior for the encoder, with the
  weights of its group; all else with weights over all draws. A VampPrior has its own gradient to the encoder."""
  spec, samples = image_spec(SHAPE), 4
  config = configured(CASES[case], f"objective.name=piwae objective.samples={samples} objective.groups=2")
  config = apply_overrides(config, [f"objective.gradient={gradient}"])
  validate(config)
  model = models.build(config.model, spec)
  params, keys = filled(model, spec, 0.7), jax.random.split(KEY, IMAGES)
  objective = make_objective(config.objective, model.terms)
  how = Mode(jnp.int32(0), KEY, True, samples, path=objective.path, apart=objective.apart)
  eps = jax.vmap(lambda key: jax.random.normal(key, (samples, UNITS)))(keys).swapaxes(0, 1)

  def loss(params):
    output = model.apply({"params": params}, batch_of(X), keys, how)
    return objective(output, batch_of(X), 0)[0].sum()

  def draw(params, held):
    """z and log q, with log q of `held` parameters at the draw."""
    own = model.apply({"params": params}, batch_of(X), eps, method="draw")
    if gradient == "standard":
      return own.z, own.log_q
    q = model.apply({"params": held}, batch_of(X), method="encode")
    return own.z, dist.log_prob(q, own.z)

  def joint(params, z):
    pixels = model.apply({"params": params}, z.reshape(-1, UNITS), {}, method="pixels")
    likelihood = model.likelihood.log_prob(pixels.reshape(samples, IMAGES, *SHAPE), X, 0.0)
    return likelihood + model.apply({"params": params}, z, batch_of(X), method="log_prior")

  @jax.jit
  def slow(params):
    z, log_q = draw(params, params)
    log_weight = joint(params, z) - log_q
    within = jax.nn.softmax(log_weight.reshape(2, 2, IMAGES), axis=1)
    own = (within ** (2 if gradient == "dreg" else 1) / 2).reshape(samples, IMAGES)
    others = jax.nn.softmax(log_weight, axis=0)
    slope = jax.grad(lambda z: joint(params, z).sum())(z)
    to_z, to_q = jax.jacrev(lambda p: draw(p, params))(params)
    to_joint = jax.jacrev(lambda p: joint(p, z))(params)

    def total(dz, dq, dj):
      through = jnp.einsum("sb,sbd,sbd...->...", own, slope, dz) - jnp.einsum("sb,sb...->...", own, dq)
      return -through - jnp.einsum("sb,sb...->...", others, dj)

    return jax.tree.map(total, to_z, to_q, to_joint)

  found, expected = jax.jit(jax.grad(loss))(params), slow(params)
  assert {"encoder", "decoder", "prior"} <= found.keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), found, expected)
  assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(found["encoder"]))


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_mixture_is_that_of_its_parameters_and_a_vamp_prior_that_of_posteriors(prior):
  spec = image_spec(SHAPE)
  model = models.build(configured(CASES[prior]).model, spec)
  params = filled(model, spec, 0.7)
  z = np.random.default_rng(2).normal(size=(5, 2, UNITS)).astype(np.float32)
  own = params["prior"]
  if prior == "vamp":
    means, logvars = model.apply({"params": params}, batch_of(own["inputs"]), method="encode")
    log_shares = np.full(4, -np.log(4))
  else:
    means, logvars = own["means"], dist.bound_logvar(own["logvars"])
    log_shares = scipy.special.log_softmax(own["logits"].astype(np.float64))
  each = scipy.stats.norm.logpdf(z[..., None, :], np.float64(means), np.exp(0.5 * np.float64(logvars))).sum(
    -1
  )
  expected = scipy.special.logsumexp(each + log_shares, axis=-1)
  found = model.apply({"params": params}, z, batch_of(X), method="log_prior")
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_map_of_latents_has_these_densities_too():
  """conv_vae with dense=0: the encoder's map has three moments at each position."""
  words = "model.channels=4 model.dense=0 model.likelihood=gaussian model.prior=real_nvp model.posterior=iaf"
  config = apply_overrides(base_config("conv_vae"), [*SMALL.split()[1:], *words.split()])
  spec = image_spec((4, 6, 3))
  model = models.build(config.model, spec, "bfloat16")
  params, keys = filled(model, spec), jax.random.split(KEY, 2)
  x = np.random.default_rng(0).uniform(size=(2, 4, 6, 3)).astype(np.float32)

  @jax.jit
  def run(params):
    output = model.apply({"params": params}, batch_of(x), keys, mode(3, apart=True))
    return output.log_weights["model"].sum() + output.log_weights["posterior"].sum(), output

  (_, output), grads = jax.value_and_grad(run, has_aux=True)(params)
  assert model.units == 2 * 3 * 2 and output.latents["z"].shape == (2, 12)
  for value in output.log_weights.values():
    np.testing.assert_allclose(value, output.log_weight, rtol=1e-5)
  for leaf in jax.tree.leaves((output, grads)):
    assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
  assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads)), "a parameter has no gradient"


# --- runs ---


def test_a_fresh_run_begins_its_pseudo_inputs_at_training_images(tmp_path):
  """As the encoder sees them, from all over the split; two of one image are told apart by noise."""
  images = np.random.default_rng(0).integers(0, 256, size=(3, *SHAPE), dtype=np.uint8)
  for split in ("train", "validation"):
    np.savez(tmp_path / f"{split}.npz", image=images)
  words = f"model.prior=vamp data.name=npz data.dir={tmp_path} training.batch_size=8"
  parts = assemble.assemble(configured(words), tmp_path / "run")
  state, _ = assemble.start(parts)
  inputs = np.asarray(state.params["prior"]["inputs"])
  assert np.abs(inputs - images[[0, 1, 2, 0]] / np.float32(255)).max() < 5 * JITTER
  assert np.abs(inputs[0] - inputs[3]).max() > JITTER / 10
  np.testing.assert_array_equal(state.ema["prior"]["inputs"], inputs)
  jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], parts.init().params["encoder"])


@pytest.mark.parametrize("case", ["vamp", "iaf posterior"])
def test_a_trained_model_samples_and_is_exported(tmp_path, case):
  model = trained(configured(CASES[case]), spec_of(SHAPE), scale=0.7)
  export(model, tmp_path / "model")
  again = load(tmp_path / "model")
  sample = np.asarray(model.sample(0, 5))
  np.testing.assert_array_equal(again.sample(0, 5), sample)
  np.testing.assert_array_equal(model.sample(0, 2, start=3), sample[3:])
  np.testing.assert_array_equal(model.decode(model.latents(0, 5)), sample)
  assert model.sample(0, 2, pixels=True).shape == (2, *SHAPE)
  cold = np.asarray(model.latents(0, 50, temperature=0.0))
  if case == "vamp":  # means of the posteriors of pseudo-inputs
    means = model.module.apply(
      model.variables, {"image": model.params["prior"]["inputs"]}, method="encode"
    ).mean
    assert np.abs(cold[:, None] - np.asarray(means)[None]).max(-1).min(1).max() < 1e-5
    assert len(np.unique(cold.round(4), axis=0)) == 4
    assert model.interpolate(X[:1], X[1:2], 3).shape == (1, 3, *SHAPE)
  else:
    assert np.abs(cold).max() == 0
    still = model.module.apply(
      model.variables, {"image": X}, jnp.zeros((1, *X.shape[:1], UNITS)), method="draw"
    )
    np.testing.assert_allclose(model.reconstruct(X), model.decode(still.z[0]), rtol=1e-5)
    for does in (lambda: model.encode(X), lambda: model.interpolate(X, X, 3), model.check_prior):
      with pytest.raises(
        UserError, match=r"cannot encode images.*mlp_vae with model\.posterior=gaussian can"
      ):
        does()
  assert model.reconstruct(X).shape == X.shape


def test_scores_say_what_they_leave_out(tmp_path):
  from vae_jax import evaluation

  np.savez(tmp_path / "test.npz", image=(X * 255).astype(np.uint8))
  words = f"data.name=npz data.dir={tmp_path}"
  found = {}
  for case in ("mixture", "iaf posterior"):
    model = trained(configured(CASES[case], words), spec_of(SHAPE), scale=0.7)
    found[case] = evaluation.score_split(model, "test", samples=3, batch_size=3)
    assert np.isfinite(found[case]["iwae_nll"]) and "prior_gap" not in found[case]
    assert "prior_gap" in evaluation.summary(found[case])
  assert found["mixture"]["absent"] == {
    "prior_gap": "the prior is a learned mixture of 4 Gaussians, not N(0, I)"
  }
  assert "active_units" in found["mixture"] and "active_units" not in found["iaf posterior"]
  assert set(found["iaf posterior"]["absent"]) == {"prior_gap", "active_units"}


# --- what is refused ---


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("model.prior=vamp model.posterior=iaf", "model.prior=vamp is a mixture of Gaussian posteriors, and"),
    ("model.prior=vamp objective.free_bits=0.1", "free_bits=0.1 needs the KL of each latent"),
    ("model.prior=real_nvp objective.mmd=1", "objective.mmd=1.0 compares latents with N(0, I)"),
    ("model.posterior=iaf objective.dip=1", "objective.dip=1.0 needs Gaussian posteriors"),
    ("model.posterior=iaf objective.name=iwae objective.gradient=stl", "set model.posterior=gaussian, or"),
    (
      "objective.gradient=dreg",
      "objective.gradient=dreg is one of importance weights, and objective.name=elbo",
    ),
    (
      "objective.name=miwae objective.samples=6",
      "objective.groups=1 must be above 1 and divide objective.samples",
    ),
    ("objective.name=piwae objective.samples=6 objective.groups=4", "objective.groups=4 must be above 1"),
    ("objective.groups=2", "objective.groups=2 is of objective.name=miwae and piwae, not elbo"),
    ("objective.name=ciwae objective.beta=2", "objective.beta=2.0 must be 1.0 for objective.name=ciwae"),
    (
      "objective.name=piwae objective.samples=4 objective.groups=2 objective.ssim=1",
      "objective.ssim=1.0 compares reconstructions, which lead no gradient to the encoder with objective.name=piwae",
    ),
  ],
)
def test_contradictions_are_one_line(words, said):
  with pytest.raises(UserError) as error:
    validate(configured(words))
  assert said in str(error.value) and "\n" not in str(error.value)


def test_remedies_work():
  """What the refusals above advise is accepted: `validate` raises for what is not."""
  for words in (
    "model.prior=vamp objective.free_bits=0.1 objective.free_bits_over=group",
    "objective.name=iwae objective.gradient=dreg",
    "objective.name=piwae objective.samples=16 objective.groups=4",
    "model.prior=mixture model.posterior=iaf objective.name=iwae objective.samples=3",
  ):
    assert validate(configured(words)) is None, words
