"""Fitted priors: densities against scipy, EM against scikit-learn, RealNVP against autodiff; what cannot be fitted."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vae_jax import priors
from vae_jax.errors import UserError
from vae_jax.priors import flow, mixture
from vae_jax.priors.base import FLOOR, Prior, checked, floor
from vae_jax.priors.gaussian import GaussianPrior
from vae_jax.priors.mixture import MixturePrior
from vae_jax.priors.real_nvp import RealNVP, init_real_nvp, masks

RANDOM = np.random.default_rng(0)
FACTOR = np.array([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [-0.4, 0.3, 0.8]])
BLOB = RANDOM.normal(size=(400, 3)) @ FACTOR.T + [1.0, -2.0, 0.5]
# Two clusters that no Gaussian describes.
TWO = np.concatenate(
  [RANDOM.normal(size=(250, 2)) * [0.3, 1] + [2, 0], RANDOM.normal(size=(150, 2)) - [1, 1]]
)
KEYS = jax.random.split(jax.random.key(3), 5000)


def curved(units=2, layers=4, hidden=6, scale=0.4):
  """A flow of random numbers, in place of a fit."""
  module = RealNVP(units, layers, hidden)
  leaves, tree = jax.tree.flatten(jax.eval_shape(lambda key: init_real_nvp(module, key), KEYS[0]))
  random = np.random.default_rng(1)
  params = [jnp.asarray(scale * random.normal(size=x.shape), jnp.float32) for x in leaves]
  gaussian = GaussianPrior(
    jnp.arange(units, dtype=jnp.float32), jnp.asarray(0.7 * np.eye(units), jnp.float32)
  )
  return flow.FlowPrior(gaussian, jax.tree.unflatten(tree, params), layers, hidden)


@pytest.fixture
def quick(monkeypatch):
  """A flow that is fitted in seconds."""
  for name, value in {"LAYERS": 4, "HIDDEN": 8, "ROUND": 10, "PATIENCE": 3, "MOST_ROUNDS": 30}.items():
    monkeypatch.setattr(flow, name, value)


ONE_EACH = {
  "gaussian": lambda: priors.fit("gaussian", TWO).prior,
  "mixture": lambda: priors.fit("mixture", TWO, components=3).prior,
  "flow": curved,
}
each = pytest.mark.parametrize("kind", priors.KINDS)


def draws(prior, keys=KEYS, temperature=1.0):
  return np.asarray(prior.transform(jax.vmap(prior.noise)(keys), temperature))


# --- densities ---


def test_the_gaussian_is_that_of_the_moments():
  prior = priors.fit("gaussian", BLOB).prior
  covariance = np.cov(BLOB.T, bias=True)
  expected = multivariate_normal(BLOB.mean(axis=0), covariance + FLOOR * np.trace(covariance) / 3 * np.eye(3))
  np.testing.assert_allclose(prior.log_prob(BLOB), expected.logpdf(BLOB), rtol=1e-4, atol=1e-4)


def test_the_mixture_is_the_sum_of_its_components():
  prior = ONE_EACH["mixture"]()
  parts = [
    weight * multivariate_normal(mean, factor @ factor.T).pdf(TWO)
    for weight, mean, factor in zip(
      np.exp(np.float64(prior.log_weights)), np.float64(prior.means), np.float64(prior.choleskys), strict=True
    )
  ]
  np.testing.assert_allclose(prior.log_prob(TWO), np.log(np.sum(parts, axis=0)), rtol=1e-4, atol=1e-4)


@each
def test_the_density_integrates_to_one(kind):
  prior = ONE_EACH[kind]()
  side = np.linspace(-9, 9, 361)
  grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
  mass = np.exp(np.float64(jax.jit(prior.log_prob)(grid))).sum() * (side[1] - side[0]) ** 2
  np.testing.assert_allclose(mass, 1, atol=2e-3)


@each
def test_samples_have_the_moments_of_the_density(kind):
  prior = ONE_EACH[kind]()
  side = np.linspace(-9, 9, 361)
  grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
  weight = np.exp(np.float64(jax.jit(prior.log_prob)(grid)))
  weight /= weight.sum()
  mean = weight @ grid
  covariance = (weight[:, None] * (grid - mean)).T @ (grid - mean)
  z = draws(prior)
  assert (
    isinstance(prior, Prior) and z.shape == (len(KEYS), 2) == (len(KEYS), prior.units) and prior.kind == kind
  )
  np.testing.assert_allclose(z.mean(axis=0), mean, atol=4 * np.sqrt(covariance.max() / len(z)))
  np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.08 * covariance.max())


@each
def test_a_draw_depends_on_its_key_alone(kind):
  prior = ONE_EACH[kind]()
  np.testing.assert_allclose(draws(prior, KEYS[5:8]), draws(prior, KEYS[:9])[5:8], rtol=1e-5, atol=1e-6)


@each
def test_nan_is_not_lost_and_gradients_are_finite(kind):
  prior = ONE_EACH[kind]()
  z = jnp.asarray(TWO[:9], jnp.float32)
  assert np.isfinite(jax.jit(jax.grad(lambda z: prior.log_prob(z).sum()))(z)).all()
  assert np.isnan(prior.log_prob(z.at[4, 1].set(jnp.nan))).tolist() == [i == 4 for i in range(9)]


# --- temperature ---


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_a_temperature_scales_deviations_from_the_mean(temperature):
  prior = priors.fit("gaussian", BLOB).prior
  plain, scaled = draws(prior, KEYS[:50]), draws(prior, KEYS[:50], temperature)
  mean = BLOB.mean(axis=0)
  np.testing.assert_allclose(scaled - mean, temperature * (plain - mean), atol=1e-5)


def test_a_mixture_at_temperature_0_gives_its_means_by_weight():
  prior = ONE_EACH["mixture"]()
  z = draws(prior, temperature=0.0)
  for weight, mean in zip(np.exp(prior.log_weights), np.asarray(prior.means), strict=True):
    share = np.all(np.abs(z - mean) < 1e-6, axis=1).mean()
    np.testing.assert_allclose(share, weight, atol=0.03)


def test_the_temperature_of_a_flow_scales_its_noise():
  prior = curved()
  noise = jax.vmap(prior.noise)(KEYS[:9])
  np.testing.assert_allclose(prior.transform(noise, 0.5), prior.transform(0.5 * noise), rtol=1e-5)
  assert np.ptp(draws(prior, KEYS[:9], 0.0), axis=0).max() < 1e-6


# --- EM ---


def test_iterations_of_em_are_those_of_scikit_learn():
  sklearn = pytest.importorskip("sklearn.mixture")
  z, k, iterations = checked(TWO), 3, 6
  moments = mixture.maximise(z, mixture.start(z, k, seed=1), floor(z))
  other = sklearn.GaussianMixture(
    k,
    weights_init=moments.weights,
    means_init=moments.means,
    precisions_init=np.linalg.inv(moments.covariances),
    reg_covar=floor(z),
    tol=0,
    max_iter=iterations,
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it has not converged
    other.fit(z)
  for _ in range(iterations):
    _, responsibilities = mixture.expect(z, moments)
    moments = mixture.maximise(z, responsibilities, floor(z))
  np.testing.assert_allclose(moments.weights, other.weights_, rtol=1e-6)
  np.testing.assert_allclose(moments.means, other.means_, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(moments.covariances, other.covariances_, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(mixture.expect(z, moments)[0], other.score_samples(z), rtol=1e-6)


def test_em_reaches_the_likelihood_of_scikit_learn():
  sklearn = pytest.importorskip("sklearn.mixture")
  found = priors.fit("mixture", TWO, components=2)
  best = sklearn.GaussianMixture(2, n_init=5, tol=1e-6, max_iter=500, random_state=0).fit(TWO).score(TWO)
  np.testing.assert_allclose(float(found.prior.log_prob(TWO).mean()), best, atol=2e-3)
  facts = found.facts
  assert facts["converged"] and facts["gain"] < mixture.LEAST_GAIN and 1 < facts["iterations"] < 200
  assert 120 < facts["smallest"] < 180 and found.remarks == ()
  assert found.prior.words == "mixture of 2 components"


def test_em_that_has_not_converged_says_so(monkeypatch):
  monkeypatch.setattr(mixture, "MOST_ITERATIONS", 2)
  found = priors.fit("mixture", TWO, components=2)
  assert not found.facts["converged"] and found.facts["iterations"] == 2
  assert "EM stopped after 2 iterations" in found.remarks[0] and "has not converged" in found.remarks[0]


def test_one_component_is_the_gaussian():
  one, other = priors.fit("mixture", BLOB, components=1).prior, priors.fit("gaussian", BLOB).prior
  np.testing.assert_allclose(one.log_prob(BLOB), other.log_prob(BLOB), rtol=1e-5, atol=1e-5)


def test_a_component_of_few_images_is_named():
  far = np.concatenate([BLOB, BLOB[:2] + 100])
  found = priors.fit("mixture", far, components=2)
  assert "the smallest component stands for 2.0 images, too few" in found.remarks[0]


# --- RealNVP ---


@pytest.mark.parametrize("units", [1, 2, 5])
def test_the_log_determinant_is_that_of_the_jacobian(units):
  prior = curved(units, layers=5)
  variables, noise = {"params": prior.params}, jax.random.normal(KEYS[0], (3, units))
  z, total = prior.module.apply(variables, noise, method="forward")
  one = lambda x: prior.module.apply(variables, x[None], method="forward")[0][0]  # noqa: E731
  jacobians = np.float64(jax.vmap(jax.jacfwd(one))(noise))
  np.testing.assert_allclose(total, np.linalg.slogdet(jacobians)[1], rtol=1e-4, atol=1e-4)
  back, inverse = prior.module.apply(variables, z, method="inverse")
  np.testing.assert_allclose(back, noise, atol=1e-4)
  np.testing.assert_allclose(inverse, -total, atol=1e-4)


def test_two_layers_change_all_latents_and_a_fresh_flow_is_the_identity():
  for units in 1, 2, 3, 8:
    found = masks(units, 8)
    assert set(np.unique(found)) <= {0, 1} and found.shape == (8, units)
    np.testing.assert_array_equal(found[::2] + found[1::2], 1)
  assert masks(8, 4).astype(int).tolist()[::2] == [[1, 0] * 4, [1] * 4 + [0] * 4]
  module, noise = RealNVP(3, 4, 5), jax.random.normal(KEYS[0], (6, 3))
  variables = {"params": init_real_nvp(module, KEYS[1])}
  np.testing.assert_array_equal(module.apply(variables, noise, method="forward")[0], noise)
  expected = multivariate_normal(np.zeros(3)).logpdf(noise)
  np.testing.assert_allclose(module.apply(variables, noise), expected, rtol=1e-5)


def test_a_flow_describes_what_a_gaussian_cannot(quick, monkeypatch):
  monkeypatch.setattr(flow, "RATE", 1e-2)
  told = []
  found = priors.fit("flow", TWO, progress=lambda done, total: told.append((done, total)))
  held = TWO[np.random.default_rng(0).permutation(len(TWO))][: len(TWO) // 10]
  value = found.facts["held_out_log_likelihood"]
  np.testing.assert_allclose(value, found.prior.log_prob(held).mean(), rtol=1e-5)
  assert value > float(priors.fit("gaussian", TWO).prior.log_prob(held).mean()) + 0.1
  assert found.facts["held_out"] == 40 and 0 < found.facts["best_step"] <= found.facts["steps"] <= 300
  assert found.prior.words == "flow of 4 layers" and told[0] == (0, 30) and told[-1] == (30, 30)


def test_a_flow_that_gains_nothing_is_the_gaussian_of_its_start(quick, monkeypatch):
  monkeypatch.setattr(flow, "RATE", 1e3)  # it diverges
  found = priors.fit("flow", BLOB)
  assert found.facts["best_step"] == 0 and found.facts["steps"] == 30 and not found.remarks
  z = BLOB[np.random.default_rng(0).permutation(len(BLOB))][len(BLOB) // 10 :]
  start = priors.fit("gaussian", z).prior
  np.testing.assert_allclose(found.prior.log_prob(BLOB), start.log_prob(BLOB), rtol=1e-5, atol=1e-5)


# --- what cannot be fitted ---


@pytest.mark.parametrize(
  ("kind", "z", "options", "said"),
  [
    ("gauss", BLOB, {}, "prior 'gauss' is unknown; did you mean 'gaussian'"),
    ("gaussian", BLOB[:, 0], {}, r"latents of shape \[400\]: a prior is fitted to \[n, d\]"),
    ("gaussian", BLOB[:, :0], {}, r"latents of shape \[400, 0\]"),
    ("mixture", np.where(BLOB > 3, np.nan, BLOB), {}, "of 400 images are not finite"),
    ("gaussian", np.where(BLOB.max() <= BLOB, np.inf, BLOB), {}, "latents of 1 of 400 images are not finite"),
    ("gaussian", BLOB[:1], {}, "the latents of 1 image have no spread"),
    ("mixture", np.ones((9, 4)), {}, "the latents of all 9 images are alike"),
    ("gaussian", np.float32(1 + 1e-7 * BLOB[:9]), {}, "the latents of all 9 images are alike"),
    ("mixture", BLOB[:9], {"components": 10}, "components = 10 for the latents of 9 images"),
    ("mixture", np.tile(BLOB[:2], (9, 1)), {"components": 3}, "the latents have 2 different values"),
    ("mixture", BLOB, {"components": 0}, "components = 0: must be an integer from 1 to 1000"),
    ("mixture", BLOB, {"components": 1.5}, "components = 1.5: must be an integer"),
    (
      "mixture",
      np.eye(2, 600),
      {"components": 999},
      "999 covariances of 600 latents: more than the 268,435,456",
    ),
    ("flow", BLOB[:19], {}, "a flow needs the latents of 20 images and more, and there are 19"),
  ],
)
def test_what_cannot_be_fitted_is_one_line(kind, z, options, said):
  with pytest.raises(UserError, match=said) as error:
    priors.fit(kind, z, **options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_fewer_images_than_latents_are_fitted_and_said(kind):
  z = np.random.default_rng(0).normal(size=(5, 12))
  found = priors.fit(kind, z, components=2)
  assert np.isfinite(found.prior.log_prob(z)).all() and np.isfinite(draws(found.prior, KEYS[:4])).all()
  assert "too few" in found.remarks[0] or "the covariance is singular" in found.remarks[0]


def test_a_flow_of_fewer_images_than_latents_says_so(quick):
  found = priors.fit("flow", np.random.default_rng(0).normal(size=(20, 24)))
  assert "18 images span fewer than the 24 directions of the latents" in found.remarks[0]


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_latents_of_which_some_never_change_are_fitted(kind):
  z = np.concatenate([BLOB, np.full((len(BLOB), 1), 3.0)], axis=1)
  found = priors.fit(kind, z, components=2)
  np.testing.assert_allclose(draws(found.prior, KEYS[:20])[:, 3], 3, atol=0.05)


@pytest.mark.parametrize("seed", range(12))
def test_any_table_of_numbers_is_fitted_or_refused(seed):
  random = np.random.default_rng(seed)
  z = random.normal(size=(6, 3)) * 10.0 ** random.integers(-12, 13, size=3)
  z = z[random.integers(0, 6, size=6)] if seed % 3 == 0 else z
  z[random.uniform(size=z.shape) < 0.05 * (seed % 2)] = np.nan
  for kind in ("gaussian", "mixture"):
    try:
      prior = priors.fit(kind, z, components=2).prior
    except UserError as error:
      assert "\n" not in str(error)
    else:
      assert np.isfinite(draws(prior, KEYS[:4])).all() and not np.isnan(prior.log_prob(z)).any()


# --- numbers in files ---


@each
def test_a_prior_is_that_of_its_arrays(kind):
  prior = ONE_EACH[kind]()
  arrays = priors.to_arrays(prior)
  assert all(x.dtype == np.float32 and x.flags["C_CONTIGUOUS"] for x in arrays.values())
  again = priors.from_arrays(kind, arrays, 2)
  assert again.words == prior.words
  np.testing.assert_array_equal(again.log_prob(TWO), prior.log_prob(TWO))


def changed(arrays, name, change):
  return {**arrays, name: change(arrays[name])}


FAULTS = {
  "another number of latents": lambda a, name: {n: x for n, x in a.items() if n != name},
  "one array more": lambda a, name: {**a, "extra": np.zeros(3, np.float32)},
  "integers": lambda a, name: changed(a, name, lambda x: x.astype(np.int32)),
  "not finite": lambda a, name: changed(a, name, lambda x: x + np.float32(np.nan)),
  "another shape": lambda a, name: changed(a, name, lambda x: x[..., :1]),
  "a scalar": lambda a, name: changed(a, name, lambda x: np.float32(1)),
}


@each
@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_that_are_no_prior_are_refused(kind, fault):
  arrays = priors.to_arrays(ONE_EACH[kind]())
  for name in list(arrays)[-3:]:
    with pytest.raises(ValueError):
      priors.from_arrays(kind, FAULTS[fault](arrays, name), 2)
  with pytest.raises(ValueError):
    priors.from_arrays(kind, arrays, 3)
  with pytest.raises(ValueError):
    priors.from_arrays(next(other for other in priors.KINDS if other != kind), arrays, 2)


def test_factors_and_weights_that_are_none_are_refused():
  gaussian, mixed = (priors.to_arrays(ONE_EACH[kind]()) for kind in ("gaussian", "mixture"))
  for change in (lambda x: x.T + np.float32(0.1), np.negative, np.zeros_like):
    with pytest.raises(ValueError, match="lower triangular"):
      priors.from_arrays("gaussian", changed(gaussian, "cholesky", change), 2)
  with pytest.raises(ValueError, match="weights with the sum"):
    priors.from_arrays("mixture", changed(mixed, "log_weights", lambda x: x + 1), 2)
  with pytest.raises(ValueError, match="no kind of prior"):
    priors.from_arrays("other", gaussian, 2)
  assert isinstance(priors.from_arrays("mixture", mixed, 2), MixturePrior)
