"""Densities against scipy and formulas in float64; gradients against finite differences; extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vae_jax import distributions as dist
from vae_jax.errors import UserError

NAMES = ["bernoulli", "gaussian", "laplace", "logistic_mixture", "logit_laplace"]


def normal(seed, *shape, scale=1.0):
  return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def grey_levels(seed, *shape):
  """Images on k / 255, both end levels included."""
  image = np.random.default_rng(seed).integers(0, 256, size=shape)
  image.flat[:2] = 0, 255
  return (image / 255).astype(np.float32)


def directional(function, x, seed=0, step=1e-2):
  """The derivative of a scalar function along a random direction: (by jax.grad, by central differences)."""
  function = jax.jit(function)
  direction = normal(seed, *np.shape(x))
  analytic = float(jnp.sum(jax.grad(function)(x) * direction))
  numeric = (float(function(x + step * direction)) - float(function(x - step * direction))) / (2 * step)
  return analytic, numeric


# --- bound_logvar ---


def test_bound_logvar_is_the_identity_near_zero_and_stays_inside():
  slope = jax.vmap(jax.grad(dist.bound_logvar))
  near = jnp.array([-3.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 2.0])
  np.testing.assert_allclose(dist.bound_logvar(near), near, rtol=0.021, atol=1e-6)
  np.testing.assert_allclose(slope(near[2:5]), 1.0, atol=1e-5)
  raw = jnp.concatenate([jnp.linspace(-50, 50, 1001), jnp.array([-1e6, 1e6, -3e38, 3e38])])
  out = dist.bound_logvar(raw)
  assert (out >= -12).all() and (out <= 8).all()
  assert (jnp.diff(out[:1001]) >= 0).all() and (jnp.diff(out[400:600]) > 0).all()
  assert jnp.isfinite(slope(raw)).all()


def test_bound_logvar_takes_other_bounds_and_refuses_crossed_ones():
  out = dist.bound_logvar(jnp.array([-100.0, 0.0, 100.0]), low=-1.0, high=0.5)
  np.testing.assert_allclose(out, [-1.0, 0.0, 0.5])
  with pytest.raises(ValueError, match=r"low=1\.0"):
    dist.bound_logvar(0.0, low=1.0, high=2.0)


# --- Gaussian ---


def test_gaussian_log_prob_against_scipy():
  mean, logvar, z = normal(0, 3, 5), normal(1, 3, 5), normal(2, 3, 5, scale=2)
  expected = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * logvar.astype(np.float64))).sum(-1)
  np.testing.assert_allclose(dist.log_prob(dist.Gaussian(mean, logvar), z), expected, rtol=1e-5)
  np.testing.assert_allclose(
    dist.standard_normal_log_prob(z), scipy.stats.norm.logpdf(z.astype(np.float64)).sum(-1), rtol=1e-5
  )


def test_gaussian_broadcasts_over_samples_only():
  mean, logvar, z = normal(0, 3, 5), normal(1, 3, 5), normal(2, 4, 3, 5)
  gaussian = dist.Gaussian(mean, logvar)
  each = np.stack([dist.log_prob(gaussian, z[i]) for i in range(4)])
  np.testing.assert_allclose(dist.log_prob(gaussian, z), each, rtol=1e-6)
  np.testing.assert_allclose(dist.log_prob(dist.Gaussian(mean[None], logvar[None]), z), each, rtol=1e-6)
  assert dist.sample(gaussian, z).shape == (4, 3, 5)
  for bad in [normal(0, 4, 5), normal(0, 3, 1), normal(0, 5)]:
    with pytest.raises(ValueError, match="does not fit"):
      dist.log_prob(gaussian, bad)
  with pytest.raises(ValueError, match="does not fit"):
    dist.sample(dist.Gaussian(mean, logvar[:1]), z)


def test_gaussian_sample_is_reparameterised():
  mean, logvar, eps = normal(0, 3, 5), normal(1, 3, 5), normal(2, 3, 5)
  draw = dist.sample(dist.Gaussian(mean, logvar), eps)
  np.testing.assert_allclose(draw, mean + np.exp(logvar / 2) * eps, rtol=1e-5)
  gradient = jax.grad(lambda m, lv: jnp.sum(dist.sample(dist.Gaussian(m, lv), eps)), argnums=(0, 1))(
    mean, logvar
  )
  np.testing.assert_allclose(gradient[0], 1.0)
  np.testing.assert_allclose(gradient[1], 0.5 * np.exp(logvar / 2) * eps, rtol=1e-5)


@pytest.mark.parametrize(
  "p, q", [((0.3, -1.0), (0.0, 0.0)), ((-1.0, 0.5), (0.4, -0.7)), ((2.0, 1.0), (1.0, 2.0))]
)
def test_kl_against_numeric_integration(p, q):
  densities = [scipy.stats.norm(m, np.exp(0.5 * lv)) for m, lv in (p, q)]
  expected, _ = scipy.integrate.quad(
    lambda z: densities[0].pdf(z) * (densities[0].logpdf(z) - densities[1].logpdf(z)), -15, 15
  )
  first, second = (dist.Gaussian(jnp.array([m]), jnp.array([lv])) for m, lv in (p, q))
  np.testing.assert_allclose(dist.kl(first, second), [expected], rtol=1e-5)
  if q == (0.0, 0.0):
    np.testing.assert_allclose(dist.kl_standard_normal(first), [expected], rtol=1e-5)


def test_kl_is_accurate_near_zero_and_at_the_bounds():
  logvar = np.array([1e-4, -1e-3, 0.0, -12.0, 8.0], np.float32)
  mean = np.array([1e-3, 0.0, 0.0, 3.0, -3.0], np.float32)
  exact = 0.5 * (
    mean.astype(np.float64) ** 2 + np.expm1(logvar.astype(np.float64)) - logvar.astype(np.float64)
  )
  gaussian = dist.Gaussian(mean, logvar)
  np.testing.assert_allclose(dist.kl_standard_normal(gaussian), exact, rtol=1e-5, atol=1e-10)
  standard = dist.Gaussian(np.zeros(5, np.float32), np.zeros(5, np.float32))
  np.testing.assert_allclose(dist.kl(gaussian, standard), exact, rtol=1e-5, atol=1e-10)
  np.testing.assert_array_equal(dist.kl(gaussian, gaussian), 0.0)


# --- likelihoods: what holds for all ---


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_ranges_and_types(name, c, key):
  likelihood = dist.make_likelihood(name, c, mixtures=2)
  params = jnp.asarray(normal(0, 2, 3, 4, 5, likelihood.channels, scale=3), jnp.bfloat16)
  image = jnp.asarray(grey_levels(1, 3, 4, 5, c), jnp.bfloat16)
  scale = jnp.bfloat16(-1.0)
  value, *pictures = jax.jit(
    lambda p, x, s: (likelihood.log_prob(p, x, s), likelihood.mean(p, s), likelihood.sample(key, p, s))
  )(params, image, scale)
  assert value.shape == (2, 3) and value.dtype == jnp.float32 and jnp.isfinite(value).all()
  for picture in pictures:
    assert picture.shape == (2, 3, 4, 5, c) and picture.dtype == jnp.float32
    assert (picture >= 0).all() and (picture <= 1).all()
  grey = likelihood.mean(jnp.zeros((4, 5, likelihood.channels)), 0.0)
  np.testing.assert_allclose(grey, 0.5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_are_independent(name):
  likelihood = dist.make_likelihood(name, 3, mixtures=2)
  params, image = normal(0, 2, 3, 2, 2, likelihood.channels), grey_levels(1, 3, 2, 2, 3)
  log_prob = jax.jit(likelihood.log_prob)
  whole = log_prob(params, image, -1.0)
  np.testing.assert_allclose(whole, log_prob(params, image[None], -1.0), rtol=1e-6)
  each = jax.vmap(jax.vmap(log_prob, (0, 0, None)), (0, None, None))(params, image, -1.0)
  np.testing.assert_allclose(whole, each, rtol=1e-5)
  single = log_prob(params[1, 2], image[2], -1.0)
  assert single.shape == ()
  np.testing.assert_allclose(whole[1, 2], single, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
  likelihood = dist.make_likelihood(name, 3, mixtures=2)
  params, image = jnp.asarray(normal(0, 2, 2, likelihood.channels)), grey_levels(1, 2, 2, 3)
  if name == "laplace":
    params = jnp.where(params > 0, params + 1, params - 1)  # keep clear of the kink
  analytic, numeric = directional(lambda p: likelihood.log_prob(p, image, -0.5), params, step=2e-3)
  np.testing.assert_allclose(analytic, numeric, rtol=2e-2, atol=1e-2)
  if likelihood.has_scale:
    analytic, numeric = directional(lambda s: likelihood.log_prob(params, image, s), jnp.float32(-0.5))
    np.testing.assert_allclose(analytic, numeric, rtol=1e-2)
  else:
    assert jax.grad(lambda s: likelihood.log_prob(params, image, s))(1.0) == 0.0


@pytest.mark.parametrize("sigma", ["learned", "optimal"])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_finite_at_extremes(name, sigma):
  if (name, sigma) == ("laplace", "optimal"):
    sigma = 0.1  # it has no optimal scale
  likelihood = dist.make_likelihood(name, 3, sigma=sigma, mixtures=2)
  function = jax.jit(jax.value_and_grad(lambda p, x, s: likelihood.log_prob(p, x, s), argnums=(0, 1, 2)))
  image = np.array([[[0.0, 1.0, 0.5019608]]], np.float32)
  signs = np.random.default_rng(0).choice([-1.0, 1.0], likelihood.channels)
  for size in (0.0, 1.0, 20.0, 100.0, 1e4):
    for pattern in (signs, -signs, np.ones_like(signs), -np.ones_like(signs)):
      for scale in (0.0, -1e3, 1e3) if likelihood.has_scale else (0.0,):
        result = function((size * pattern).astype(np.float32).reshape(1, 1, -1), image, jnp.float32(scale))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result)), (size, scale, pattern)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_refused(name):
  likelihood = dist.make_likelihood(name, 3, mixtures=2)
  params = jnp.zeros((2, 4, 4, likelihood.channels))
  for shape in [(3, 4, 4, 3), (2, 4, 1, 3), (2, 4, 4, 1), (5, 2, 4, 4, 3), (4, 3), ()]:
    with pytest.raises(ValueError, match="do not fit") as caught:
      likelihood.log_prob(params, jnp.zeros(shape), 0.0)
    assert str(params.shape) in str(caught.value) and str(shape) in str(caught.value)
  with pytest.raises(ValueError, match="do not fit"):
    likelihood.log_prob(params[..., :-1], jnp.zeros((2, 4, 4, 3)), 0.0)


def test_make_likelihood_names_what_is_wrong():
  with pytest.raises(UserError, match="'gausian'; did you mean 'gaussian'"):
    dist.make_likelihood("gausian", 3)
  with pytest.raises(UserError, match=r"unknown likelihood 'x'; known likelihoods: bernoulli, gaussian"):
    dist.make_likelihood("x", 3)
  for sigma in ("optimum", "nan", "inf", 0.0, -1.0, None):
    with pytest.raises(UserError, match=r"model\.sigma is .*'learned', 'optimal' or a positive number"):
      dist.make_likelihood("gaussian", 3, sigma=sigma)
  for sigma in ("optimum", "nan", -1.0):
    with pytest.raises(UserError, match=r"model\.sigma is .*a positive number"):
      dist.make_likelihood("laplace", 3, sigma=sigma)
  with pytest.raises(UserError, match=r"model\.sigma=optimal is of model\.likelihood=gaussian"):
    dist.make_likelihood("laplace", 3, sigma="optimal")
  with pytest.raises(UserError, match=r"model\.mixtures is 0"):
    dist.make_likelihood("logistic_mixture", 3, mixtures=0)


def test_facts_of_each_likelihood():
  facts = {n: dist.make_likelihood(n, 3, sigma="0.5", mixtures=5) for n in NAMES}
  assert {n: l.channels for n, l in facts.items()} == dict(zip(NAMES, [3, 3, 3, 50, 6], strict=True))
  assert {n: l.continuous for n, l in facts.items()} == dict(
    zip(NAMES, [False, True, True, False, True], strict=True)
  )
  assert not any(likelihood.has_scale for likelihood in facts.values())  # a number is given
  assert [n for n in NAMES if dist.make_likelihood(n, 3).has_scale] == ["gaussian", "laplace"]
  assert [l.name for l in facts.values()] == NAMES
  assert facts["logistic_mixture"].describe == "discretised logistic mixture (5 components, 256 levels)"
  assert facts["gaussian"].describe == "Gaussian (sigma 0.5)"
  assert dist.gaussian(1, "optimal").has_scale and dist.gaussian(1, "learned").has_scale
  assert dist.logistic_mixture(1, 10).channels == 30 and dist.logistic_mixture(3, 10).channels == 100


# --- Bernoulli ---


def test_bernoulli_against_scipy_for_binary_and_grey_pixels():
  logits = normal(0, 2, 3, 3, 2, scale=4)
  probability = scipy.special.expit(logits.astype(np.float64))
  binary = (normal(1, 2, 3, 3, 2) > 0).astype(np.float32)
  likelihood = dist.bernoulli(2)
  expected = scipy.stats.bernoulli.logpmf(binary, probability).sum((1, 2, 3))
  np.testing.assert_allclose(likelihood.log_prob(logits, binary, 0.0), expected, rtol=1e-5)
  grey = grey_levels(2, 2, 3, 3, 2).astype(np.float64)
  expected = (grey * np.log(probability) + (1 - grey) * np.log1p(-probability)).sum((1, 2, 3))
  np.testing.assert_allclose(likelihood.log_prob(logits, grey, 0.0), expected, rtol=1e-5)
  np.testing.assert_allclose(likelihood.mean(logits, 0.0), probability, rtol=1e-5)


ONE_PIXEL = jax.jit(jax.value_and_grad(dist.bernoulli(1).log_prob))


@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bernoulli_at_saturated_logits(size, x, sign):
  logit = sign * size
  exact = x * scipy.special.log_expit(logit) + (1 - x) * scipy.special.log_expit(-logit)
  value, gradient = ONE_PIXEL(np.full((1, 1, 1), logit, np.float32), np.full((1, 1, 1), x, np.float32), 0.0)
  np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-37)
  np.testing.assert_allclose(gradient[0, 0, 0], x - scipy.special.expit(logit), rtol=1e-6, atol=1e-7)


def test_bernoulli_gradient_at_zero_is_exact():
  gradient = jax.grad(lambda l: dist.bernoulli(1).log_prob(l, jnp.full((1, 1, 1), 0.9), 0.0))(
    jnp.zeros((1, 1, 1))
  )
  np.testing.assert_allclose(gradient[0, 0, 0], 0.4, rtol=1e-6)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_bernoulli_curvature_is_that_of_softplus_at_zero_too(x):
  """sigmoid(l) (1 - sigmoid(l)) in float64. A decoder that starts at zero has logits of 0 everywhere: 0.25."""
  logits = np.array([0.0, -0.0, 1e-3, -1e-3, 5.0, -5.0, 30.0])

  def nll(logit):
    return -dist.bernoulli(1).log_prob(logit.reshape(1, 1, 1), jnp.full((1, 1, 1), x), 0.0)

  got = jax.jit(jax.vmap(jax.grad(jax.grad(nll))))(jnp.asarray(logits, jnp.float32))
  probability = scipy.special.expit(logits)
  np.testing.assert_allclose(got, probability * (1 - probability), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_mixture_curvature_where_location_and_pixel_agree(level):
  """One logistic, integrated over the level by scipy in float64; second differences in its location."""
  x = 2 * level / 255 - 1
  lower, upper = (-np.inf if level == 0 else x - 1 / 255), (np.inf if level == 255 else x + 1 / 255)

  def exact(location):
    mass = scipy.stats.logistic.cdf(upper, location) - scipy.stats.logistic.cdf(lower, location)
    return -np.log(mass)

  def nll(location):
    params = jnp.stack([jnp.zeros(()), location, jnp.zeros(())]).reshape(1, 1, 3)
    return -dist.logistic_mixture(1, 1).log_prob(params, jnp.full((1, 1, 1), level / 255), 0.0)

  curvature = jax.jit(jax.vmap(jax.grad(jax.grad(nll))))
  for location in (x, x + 1 / 255, x - 1 / 255):  # in the middle of the level, and where an end level turns
    expected = (exact(location + 1e-3) - 2 * exact(location) + exact(location - 1e-3)) / 1e-6
    got = curvature(jnp.array([2 * np.float32(level / 255) - 1 + np.float32(location - x)]))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["bernoulli", "logistic_mixture"])
def test_draws_of_pixels_that_are_not_finite_are_nan(name, key):
  """A comparison with NaN is False, and a largest of NaN is some number: valid pixels, from a broken decoder."""
  likelihood = dist.make_likelihood(name, 1, mixtures=2)
  params = jnp.zeros((3, 2, likelihood.channels)).at[1, 1, 0].set(jnp.nan)
  drawn = np.asarray(likelihood.sample(key, params, 0.0))
  assert np.isnan(drawn[1, 1]).all() and np.isnan(drawn).sum() == 1


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("sigma", ["learned", "0.05"])
def test_deviation_is_that_of_draws(name, sigma, key):
  likelihood, log_scale = dist.make_likelihood(name, 1, sigma=sigma), jnp.log(0.05)
  draws = likelihood.sample(key, jnp.zeros((200, 200, 1)), log_scale)
  assert float(likelihood.deviation(log_scale)) == pytest.approx(float(draws.std()), rel=0.02)


def test_laplace_gradient_at_the_kink_is_zero():
  gradient = jax.grad(lambda p: dist.laplace(1).log_prob(p, jnp.full((1, 1, 1), 0.5), 0.0))(
    jnp.zeros((1, 1, 1))
  )
  assert gradient[0, 0, 0] == 0.0


def test_bernoulli_sample_has_the_right_frequency(key):
  draw = dist.bernoulli(1).sample(key, jnp.full((100, 100, 1), np.log(0.3 / 0.7)), 0.0)
  assert set(np.unique(draw)) == {0.0, 1.0}
  np.testing.assert_allclose(draw.mean(), 0.3, atol=5 * np.sqrt(0.21 / 1e4))


# --- Gaussian and Laplace pixels ---


def test_gaussian_and_laplace_against_scipy():
  params, image = normal(0, 4, 3, 3, 2, scale=0.3), grey_levels(1, 4, 3, 3, 2)
  location = 0.5 + params.astype(np.float64)
  for log_scale in (-3.0, 0.0, 1.0):
    for likelihood, density in ((dist.gaussian(2), scipy.stats.norm), (dist.laplace(2), scipy.stats.laplace)):
      scale = 1e-3 + np.exp(log_scale)  # log(low) + softplus(s - log(low)) = log(low + exp(s))
      expected = density.logpdf(image, location, scale).sum((1, 2, 3))
      np.testing.assert_allclose(likelihood.log_prob(params, image, log_scale), expected, rtol=1e-5)
      np.testing.assert_allclose(likelihood.mean(params, log_scale), np.clip(location, 0, 1), rtol=1e-6)
  expected = scipy.stats.norm.logpdf(image, location, 0.2).sum((1, 2, 3))
  for sigma in (0.2, "0.2"):
    np.testing.assert_allclose(dist.gaussian(2, sigma).log_prob(params, image, 7.0), expected, rtol=1e-5)
  expected = scipy.stats.laplace.logpdf(image, location, 0.05).sum((1, 2, 3))
  for sigma in (0.05, "0.05"):
    fixed = dist.laplace(2, sigma)
    np.testing.assert_allclose(fixed.log_prob(params, image, 7.0), expected, rtol=1e-5)
    assert not fixed.has_scale and fixed.continuous and fixed.describe == "Laplace (scale 0.05)"
    assert jax.grad(lambda s, fixed=fixed: fixed.log_prob(params, image, s).sum())(1.0) == 0.0
  assert dist.laplace(2).has_scale and dist.laplace(2).describe == "Laplace (scale learned)"


def test_safe_sqrt_is_the_root_with_a_gradient_that_is_finite_everywhere():
  x = jnp.array([0.0, 1e-45, 1e-39, 1.2e-38, 1e-30, 1e-6, 0.25, 1.0, 2.0, 3e38])
  normal_range = np.asarray(x) >= np.finfo(np.float32).tiny
  expected = np.where(normal_range, np.sqrt(np.asarray(x, np.float64)), 0.0)
  value, slope = jax.jit(jax.vmap(jax.value_and_grad(dist.safe_sqrt)))(x)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(slope[normal_range], 0.5 / expected[normal_range], rtol=1e-5)
  assert not np.asarray(slope)[~normal_range].any()


@pytest.mark.parametrize(
  "make, density", [(dist.gaussian, scipy.stats.norm), (dist.laplace, scipy.stats.laplace)]
)
def test_scale_never_falls_below_a_thousandth(make, density):
  params = image = jnp.full((1, 1, 1), 0.5) - 0.5
  value = make(1).log_prob(params + 0.001, image + 0.5, -1e6)
  np.testing.assert_allclose(value, density.logpdf(0.001, 0, 1e-3), rtol=1e-4)


@pytest.mark.parametrize(
  "name, sigma", [("gaussian", "learned"), ("gaussian", 0.1), ("laplace", "learned"), ("laplace", 0.1)]
)
def test_continuous_samples_have_the_right_spread(name, sigma, key):
  likelihood = dist.make_likelihood(name, 1, sigma=sigma)
  draw = np.asarray(likelihood.sample(key, jnp.zeros((100, 100, 1)), np.log(0.1 - 1e-3))).ravel()
  density = scipy.stats.laplace(0.5, 0.1) if name == "laplace" else scipy.stats.norm(0.5, 0.1)
  assert scipy.stats.kstest(draw, density.cdf).pvalue > 1e-4


def test_optimal_sigma_reports_the_shared_scale_and_learns_by_each_image():
  params, image = jnp.asarray(normal(0, 3, 4, 4, 1, scale=0.2)), grey_levels(1, 3, 4, 4, 1)
  params = params.at[0].multiply(3.0)
  optimal, learned = dist.gaussian(1, "optimal"), dist.gaussian(1, "learned")
  value, scale_gradient = jax.value_and_grad(lambda s: optimal.log_prob(params, image, s).sum())(-1.3)
  expected, expected_gradient = jax.value_and_grad(lambda s: learned.log_prob(params, image, s).sum())(-1.3)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(scale_gradient, expected_gradient, rtol=1e-5)
  # d/dmean of -D/2 log(mse_i), written out: D/2 * (2 error / D) / mse_i.
  error = image.astype(np.float64) - 0.5 - np.asarray(params, np.float64)
  by_hand = error / (error**2).mean((1, 2, 3), keepdims=True)
  gradient = jax.grad(lambda p: optimal.log_prob(p, image, -1.3).sum())(params)
  np.testing.assert_allclose(gradient, by_hand, rtol=1e-4)


def test_optimal_sigma_does_not_depend_on_the_division_of_the_batch():
  params, image = jnp.asarray(normal(0, 4, 3, 3, 1, scale=0.2)), grey_levels(1, 4, 3, 3, 1)
  likelihood = dist.gaussian(1, "optimal")
  gradient = jax.grad(lambda p, x: likelihood.log_prob(p, x, -1.0).sum())
  halves = [gradient(params[i : i + 2], image[i : i + 2]) for i in (0, 2)]
  np.testing.assert_allclose(gradient(params, image), np.concatenate(halves), rtol=1e-5)


def test_optimal_sigma_of_a_perfect_reconstruction_is_floored():
  image = jnp.full((2, 2, 1), 0.5)
  gradient = jax.grad(lambda p: dist.gaussian(1, "optimal").log_prob(p, image, 0.0))
  np.testing.assert_array_equal(gradient(jnp.zeros((2, 2, 1))), 0.0)
  # Below the floor the gradient is that at sigma = 1e-3: error / 1e-6.
  np.testing.assert_allclose(gradient(jnp.full((2, 2, 1), 1e-4)), -1e-4 / 1e-6, rtol=1e-3)


# --- logit-Laplace ---


@pytest.mark.parametrize(("mu", "log_b"), [(0.0, 0.0), (1.5, -1.0), (-2.5, 0.3)])
def test_logit_laplace_is_a_density(mu, log_b):
  """Over (-1/8, 9/8) the integral is 1; over [0, 1] it is the Laplace mass between the logits of 0.1 and 0.9."""
  likelihood, params = dist.logit_laplace(1), np.array([[[mu, log_b]]], np.float32)
  edges = np.linspace(-0.125, 1.125, 200_001)
  x = (0.5 * (edges[1:] + edges[:-1])).astype(np.float32)
  many = np.broadcast_to(params, (len(x), 1, 1, 2))
  score = jax.jit(lambda params, x: likelihood.log_prob(params, x.reshape(-1, 1, 1, 1), 0.0))
  density, width = np.exp(np.float64(score(many, x))), edges[1] - edges[0]
  np.testing.assert_allclose(density.sum() * width, 1.0, atol=5e-3)
  laplace = scipy.stats.laplace(mu, np.exp(log_b))
  inside = laplace.cdf(np.log(9.0)) - laplace.cdf(-np.log(9.0))
  np.testing.assert_allclose(density[(x > 0) & (x < 1)].sum() * width, inside, atol=1e-3)


def test_logit_laplace_draws_and_median(key):
  likelihood, params = dist.logit_laplace(1), np.array([[[0.4, -1.0]]], np.float32)
  shown = float(likelihood.mean(params, 0.0).squeeze())
  np.testing.assert_allclose(shown, (1 / (1 + np.exp(-0.4)) - 0.1) / 0.8, rtol=1e-5)
  draw = np.asarray(likelihood.sample(key, np.broadcast_to(params, (100, 100, 2)), 0.0))
  assert abs((draw < shown).mean() - 0.5) < 0.02 and draw.min() >= 0 and draw.max() <= 1


# --- discretised logistic mixture ---


def mixture_by_hand(params, levels, c, mixtures):
  """log P of one pixel with integer `levels` [c], by differences of logistic cdfs in float64."""
  params = np.asarray(params, np.float64)
  x = np.asarray(levels) / 127.5 - 1.0
  blocks = params.reshape(-1, mixtures)
  logits, means, log_scales, coefficients = np.split(blocks, [1, 1 + c, 1 + 2 * c])
  terms = logits[0] - scipy.special.logsumexp(logits[0])
  pair = 0
  for i in range(c):
    location = means[i].copy()
    for j in range(i):
      location += np.tanh(coefficients[pair]) * x[j]
      pair += 1
    scale = np.exp(np.maximum(log_scales[i], -7.0))
    # Reflect so that the difference is of two small numbers, in logs: it keeps its digits in both tails.
    side = np.where(x[i] > location, -1.0, 1.0)
    centre, low, high = side * (x[i] - location), side * x[i] < -0.999, side * x[i] > 0.999
    upper = np.where(high, 0.0, scipy.special.log_expit((centre + 1 / 255) / scale))
    lower = np.where(low, -np.inf, scipy.special.log_expit((centre - 1 / 255) / scale))
    terms = terms + upper + np.log1p(-np.exp(lower - upper))
  return scipy.special.logsumexp(terms)


@pytest.mark.parametrize("c, mixtures", [(1, 1), (1, 4), (3, 3), (4, 2)])
def test_mixture_against_differences_of_cdfs(c, mixtures):
  likelihood = dist.logistic_mixture(c, mixtures)
  image = grey_levels(1, 4, 4, c)
  image.reshape(-1, c)[2] = 0.0
  image.reshape(-1, c)[3] = 1.0
  for spread in (0.3, 2.0):
    params = normal(0, 4, 4, likelihood.channels, scale=spread)
    pixels = zip(params.reshape(16, -1), np.rint(255 * image).reshape(16, c), strict=True)
    expected = [mixture_by_hand(p, x, c, mixtures) for p, x in pixels]
    log_prob = jax.jit(likelihood.log_prob)
    each = log_prob(params.reshape(16, 1, 1, -1), image.reshape(16, 1, 1, c), 0.0)
    np.testing.assert_allclose(each, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(log_prob(params, image, 0.0), sum(expected), rtol=1e-5)


SMALL_MIXTURE = jax.jit(dist.logistic_mixture(1, 2).log_prob)
ALL_LEVELS = (np.arange(256) / 255).astype(np.float32).reshape(256, 1, 1, 1)


@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.3, 0.004, 0.99, 3.0])
@pytest.mark.parametrize("log_scale", [-20.0, -7.0, -4.0, -1.0, 2.0])
def test_probabilities_of_all_levels_sum_to_one(mean, log_scale):
  params = jnp.array([0.5, -1.0, mean, -mean, log_scale, log_scale + 0.5])
  params = jnp.broadcast_to(params, (256, 1, 1, 6))
  value = np.asarray(SMALL_MIXTURE(params, ALL_LEVELS, 0.0), np.float64)
  np.testing.assert_allclose(np.exp(value).sum(), 1.0, atol=2e-5)


def test_log_scales_are_clamped():
  at, below = (np.array([0.5, -1.0, 0.1, -0.3, s, s], np.float32).reshape(1, 1, 6) for s in (-7.0, -9.0))
  x = np.full((1, 1, 1), 140 / 255, np.float32)  # 0.002 from the first location, on the slope of its logistic
  expected = mixture_by_hand(at, [140], 1, 2)
  np.testing.assert_allclose(SMALL_MIXTURE(at, x, 0.0), expected, rtol=1e-4)
  np.testing.assert_allclose(SMALL_MIXTURE(below, x, 0.0), expected, rtol=1e-4)


def test_probabilities_of_two_channels_sum_to_one():
  likelihood = dist.logistic_mixture(2, 2)
  params = jnp.broadcast_to(normal(3, likelihood.channels), (256, 256, 1, 1, likelihood.channels))
  pairs = np.stack(np.meshgrid(ALL_LEVELS.ravel(), ALL_LEVELS.ravel()), axis=-1)
  value = likelihood.log_prob(params, pairs[:, :, None, None], 0.0)
  np.testing.assert_allclose(np.exp(np.asarray(value, np.float64)).sum(), 1.0, atol=2e-5)


def test_mixture_tails_are_linear_and_symmetric():
  x = jnp.full((1, 1, 1), np.float32(200 / 255))
  function = jax.jit(jax.value_and_grad(lambda p: dist.logistic_mixture(1, 1).log_prob(p, x, 0.0)))
  location = float(2 * np.float32(200 / 255) - 1)
  # Far out, the log-mass is -distance / scale + log(2 sinh(half / scale)), half a level being 1 / 255.
  for distance in (2.0, 100.0, 1e4):
    for side in (-1, 1):
      params = jnp.array([0.0, location + side * distance, -3.0]).reshape(1, 1, 3)
      expected = -distance * np.exp(3.0) + np.log(2 * np.sinh(np.exp(3.0) / 255))
      value, gradient = function(params)
      np.testing.assert_allclose(value, expected, rtol=1e-5)
      np.testing.assert_allclose(gradient[0, 0, 1], -side * np.exp(3.0), rtol=1e-5)


@pytest.mark.parametrize("x, side", [(0.0, 1), (1.0, -1)])
def test_mixture_gradient_at_an_end_level(x, side):
  # Location half a level inside the end, scale 1: mass sigmoid(0), so d log / d location = -side / 2.
  params = jnp.array([0.0, 2 * x - 1 + side / np.float32(255), 0.0]).reshape(1, 1, 3)
  function = jax.value_and_grad(
    lambda p: dist.logistic_mixture(1, 1).log_prob(p, jnp.full((1, 1, 1), x), 0.0)
  )
  value, gradient = function(params)
  np.testing.assert_allclose(value, np.log(0.5), rtol=1e-5)
  np.testing.assert_allclose(gradient[0, 0, 1], -side / 2, rtol=1e-4)


def test_mixture_mean_is_the_expectation():
  # Narrow components inside the range: the expectation of the discretised mixture is that of its locations.
  likelihood = dist.logistic_mixture(2, 2)
  logits, means = np.array([0.2, -0.4]), np.array([[-0.4, 0.3], [0.1, -0.2]])
  coefficient = np.array([0.5, -0.3])
  params = np.concatenate([logits, means.ravel(), np.full(4, -5.0), coefficient]).astype(np.float32)
  weights = np.exp(logits) / np.exp(logits).sum()
  expected = [weights @ means[0], weights @ (means[1] + np.tanh(coefficient) * means[0])]
  mean = likelihood.mean(params.reshape(1, 1, -1), 0.0)
  np.testing.assert_allclose(mean[0, 0], 0.5 + 0.5 * np.array(expected), rtol=1e-5)


def test_mixture_samples_follow_its_probabilities(key):
  likelihood = dist.logistic_mixture(1, 2)
  params = np.array([0.5, -0.5, -0.9, 0.4, -2.0, -5.0], np.float32)  # one broad, one of a level or two
  value = likelihood.log_prob(np.broadcast_to(params, (256, 1, 1, 6)), ALL_LEVELS, 0.0)
  draws = np.asarray(likelihood.sample(key, np.broadcast_to(params, (200, 200, 6)), 0.0)).ravel() * 255
  np.testing.assert_allclose(draws, np.rint(draws), atol=1e-4)
  counts = np.bincount(np.rint(draws).astype(int), minlength=256)
  expected = np.exp(np.asarray(value, np.float64)) * len(draws)
  frequent = expected > 5
  observed = np.append(counts[frequent], counts[~frequent].sum())
  wanted = np.append(expected[frequent], expected[~frequent].sum())
  assert scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_mixture_samples_condition_on_earlier_channels(key):
  # Second channel: location tanh(10) * x_0 = x_0 and a scale of 1e-3, so it repeats the first.
  params = np.array([0.0, 0.0, 0.0, -1.0, -7.0, 10.0], np.float32)
  draw = np.asarray(dist.logistic_mixture(2, 1).sample(key, np.broadcast_to(params, (30, 30, 6)), 0.0))
  assert draw[..., 0].std() > 0.2 and np.abs(draw[..., 1] - draw[..., 0]).max() < 0.01


# --- the importance-weighted bound ---


def test_iwae_bound_against_scipy_and_its_limits():
  weights = normal(0, 6, 4, scale=3) - 500
  expected = scipy.special.logsumexp(weights.astype(np.float64), axis=0) - np.log(6)
  np.testing.assert_allclose(dist.iwae_bound(weights), expected, rtol=1e-6)
  np.testing.assert_allclose(dist.iwae_bound(weights.T, axis=1), expected, rtol=1e-6)
  np.testing.assert_allclose(dist.iwae_bound(weights[:1]), weights[0], rtol=1e-6)
  assert dist.iwae_bound(jnp.asarray(weights, jnp.bfloat16)).dtype == jnp.float32
  gradient = jax.grad(lambda w: dist.iwae_bound(w).sum())(jnp.asarray(weights).at[0, 0].set(-jnp.inf))
  np.testing.assert_allclose(gradient.sum(0), 1.0, rtol=1e-5)
  assert gradient[0, 0] == 0.0


def test_bounds_of_groups_and_mixes_against_scipy():
  """MIWAE, CIWAE (Rainforth et al. 2018), and the squared weights of DReG, in float64; at the ends IWAE and ELBO."""
  weights = (np.random.default_rng(0).normal(size=(6, 3)) * 5 - 90).astype(np.float32)
  full = weights.astype(np.float64)
  log_mean = lambda w, axis=0: scipy.special.logsumexp(w, axis=axis) - np.log(w.shape[axis])  # noqa: E731
  grouped = log_mean(full.reshape(2, 3, 3), 1).mean(0)
  np.testing.assert_allclose(dist.miwae_bound(weights, 2), grouped, rtol=1e-6)
  np.testing.assert_allclose(dist.miwae_bound(weights, 1), log_mean(full), rtol=1e-6)
  np.testing.assert_allclose(dist.miwae_bound(weights, 6), full.mean(0), rtol=1e-6)
  mixed = 0.2 * full.mean(0) + 0.8 * log_mean(full)
  np.testing.assert_allclose(dist.ciwae_bound(weights, 0.2), mixed, rtol=1e-6)
  np.testing.assert_allclose(dist.dreg_bound(weights.T, axis=1), log_mean(full), rtol=1e-6)
  weights[0, 0] = -np.inf
  slope = jax.grad(lambda w: dist.miwae_bound(w, 2, dist.dreg_bound).sum())(jnp.asarray(weights))
  expected = scipy.special.softmax(weights.astype(np.float64).reshape(2, 3, 3), axis=1) ** 2 / 2
  np.testing.assert_allclose(slope, expected.reshape(6, 3), rtol=1e-4, atol=1e-9)
  for groups in (0, 4, 7):
    with pytest.raises(ValueError, match="must divide the samples"):
      dist.miwae_bound(weights, groups)
  for share in (-0.1, 1.1, np.nan):
    with pytest.raises(ValueError, match="elbo_share"):
      dist.ciwae_bound(weights, share)
  with pytest.raises(ValueError, match="no samples"):
    dist.dreg_bound(weights[:0])


def test_mixtures_of_diagonal_gaussians_against_scipy():
  """Densities, also far from 0, and draws by their component, share and deviation."""
  random = np.random.default_rng(0)
  shares = np.array([0.5, 0.2, 0.3])
  means, sigmas = 3 * random.normal(size=(3, 4)) + 7, random.uniform(0.1, 2, size=(3, 4))
  mixture = dist.Mixture(*(x.astype(np.float32) for x in (np.log(shares), means, 2 * np.log(sigmas))))
  z = (means[random.integers(3, size=(5, 2))] + random.normal(size=(5, 2, 4))).astype(np.float32)
  each = scipy.stats.norm.logpdf(z[..., None, :].astype(np.float64), means, sigmas).sum(-1)
  expected = scipy.special.logsumexp(each + np.log(shares), axis=-1)
  np.testing.assert_allclose(dist.mixture_log_prob(mixture, z), expected, rtol=1e-4, atol=1e-3)
  choice = np.array([0.0, 0.49, 0.51, 0.69, 0.71, 0.9999], np.float32)
  eps = random.normal(size=(6, 4)).astype(np.float32)
  component = [0, 0, 1, 1, 2, 2]
  for temperature in (0.0, 1.0, 0.5):
    drawn = dist.mixture_sample(mixture, choice, eps, temperature)
    np.testing.assert_allclose(drawn, means[component] + temperature * sigmas[component] * eps, rtol=1e-5)
  with pytest.raises(ValueError, match=r"means \(3, 4\) does not fit values \(5, 3\)"):
    dist.mixture_log_prob(mixture, z[:, 0, :3])
  with pytest.raises(ValueError, match=r"logvars \(3, 3\)"):
    dist.mixture_log_prob(mixture._replace(logvars=mixture.logvars[:, :3]), z)


def test_iwae_bound_of_a_linear_model_approaches_the_marginal():
  # z ~ N(0, 1), x | z ~ N(z, 1), so x ~ N(0, 2); q is the prior. The bound is tight for many samples.
  x, z = 0.7, normal(0, 200_000)
  weights = scipy.stats.norm.logpdf(x, z, 1.0)
  np.testing.assert_allclose(dist.iwae_bound(weights), scipy.stats.norm.logpdf(x, 0, np.sqrt(2)), atol=5e-3)


def test_streaming_logsumexp_equals_the_whole():
  terms = normal(0, 50, 3, scale=40)
  terms[:, 1] -= 1e5
  terms[0] = terms[7, 2] = -np.inf
  state, _ = jax.lax.scan(
    lambda s, t: (dist.streaming_logsumexp_update(s, t), None), dist.streaming_logsumexp_init((3,)), terms
  )
  expected = scipy.special.logsumexp(terms.astype(np.float64), axis=0)
  np.testing.assert_allclose(dist.streaming_logsumexp_value(state), expected, rtol=1e-6)


def test_streaming_logsumexp_edge_cases():
  empty = dist.streaming_logsumexp_init((4,))
  assert (dist.streaming_logsumexp_value(empty) == -jnp.inf).all()
  once = dist.streaming_logsumexp_update(empty, jnp.array([-jnp.inf, 2.0, jnp.inf, jnp.nan]))
  twice = dist.streaming_logsumexp_update(once, jnp.array([-jnp.inf, -jnp.inf, 0.0, 0.0]))
  np.testing.assert_array_equal(dist.streaming_logsumexp_value(twice), [-np.inf, 2.0, np.inf, np.nan])
  with pytest.raises(ValueError, match=r"\(3,\) does not fit a state of shape \(4,\)"):
    dist.streaming_logsumexp_update(empty, jnp.zeros(3))


def test_streaming_logsumexp_gradient_is_the_softmax():
  terms = jnp.asarray(normal(0, 5, scale=3))

  def value(terms):
    state = dist.streaming_logsumexp_init(())
    for term in terms:
      state = dist.streaming_logsumexp_update(state, term)
    return dist.streaming_logsumexp_value(state)

  np.testing.assert_allclose(
    jax.grad(value)(terms), scipy.special.softmax(np.asarray(terms, np.float64)), rtol=1e-5
  )


@pytest.mark.parametrize("name", ["gaussian", "laplace", "logistic_mixture", "logit_laplace"])
def test_a_mean_image_that_left_the_range_comes_back(name):
  """By descent on the mean image alone: both sides, and nothing is pushed further out."""
  p = dist.make_likelihood(name, 1, mixtures=1)

  def loss(params):
    return jnp.square(p.mean(params, 0.0) - 0.5).sum()

  for start in (3.0, -3.0):
    params = jnp.full((1, 1, p.channels), start)
    slope = jax.grad(loss)(params)
    location = 1 if name == "logistic_mixture" else 0
    assert np.sign(slope[0, 0, location]) == np.sign(start)
    outwards = jax.grad(lambda params, start=start: -np.sign(start) * p.mean(params, 0.0).sum())(params)
    assert (outwards == 0).all()


# --- observed_log_prob ---


@pytest.mark.parametrize("sigma", ["learned", "optimal", 0.2])
@pytest.mark.parametrize("name", NAMES)
def test_the_log_density_of_observed_pixels_is_that_of_an_image_of_them_alone(name, sigma):
  if name != "gaussian" and sigma != 0.2:
    return
  likelihood = dist.make_likelihood(name, 2, sigma, 2)
  params, image = normal(0, 3, 4, 5, likelihood.channels), grey_levels(1, 3, 4, 5, 2)
  observed = np.random.default_rng(2).random((3, 4, 5)) < 0.6
  found = dist.observed_log_prob(likelihood, params, image, -1.0, observed)
  for i, seen in enumerate(observed):
    alone = [x[i][seen][None] for x in (params, image)]
    np.testing.assert_allclose(found[i], likelihood.log_prob(*alone, -1.0), rtol=2e-5)
  shared = dist.observed_log_prob(likelihood, params, image, -1.0, observed[0])
  np.testing.assert_allclose(shared[0], found[0], rtol=2e-5)
  assert (dist.observed_log_prob(likelihood, params, image, -1.0, observed & False) == 0).all()
  other = np.where(observed[..., None], image, 1 - image)
  np.testing.assert_array_equal(dist.observed_log_prob(likelihood, params, other, -1.0, observed), found)


def test_the_gradient_of_observed_pixels_is_that_of_their_log_density():
  """Also where the likelihood's own gradient is another one."""
  likelihood, image = dist.gaussian(1, "optimal"), grey_levels(1, 4, 5, 1)
  observed = np.random.default_rng(2).random((4, 5)) < 0.6

  def scored(params):
    return dist.observed_log_prob(likelihood, params, image, -1.0, observed)

  analytic, numeric = directional(scored, normal(0, 4, 5, 1, scale=0.3))
  np.testing.assert_allclose(analytic, numeric, rtol=2e-2)
