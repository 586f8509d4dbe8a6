"""The restoration VAE: where it starts, its terms against float64, how far it sees, which draws belong where."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from families import score, shapes
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax import models
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.degrade import bicubic_weights
from vae_jax.errors import UserError
from vae_jax.models.blocks import equal_kernels, pixel_shuffle
from vae_jax.models.contract import init_variables
from vae_jax.models.ladder import Ladder
from vae_jax.models.noise_level import pooled, to_sigma
from vae_jax.types import image_spec

NHWC = ("NHWC", "HWIO", "NHWC")


def make(*overrides, shape=(8, 8, 1), factor=1, dtype="float32", **values):
  """The model for clean images of `shape`, as `build` makes it from a config, and what it is built for."""
  defaults = {"channels": "4,6", "latent_dim": 2, "likelihood": "gaussian", "activation": "silu"}
  given = [f"model.{k}={v}" for k, v in (defaults | values).items()]
  config = apply_overrides(base_config(), ["model.name=restoration_vae", *given, *overrides]).model
  low = (-(-shape[0] // factor), -(-shape[1] // factor), shape[2])
  return models.build(config, image_spec(shape, low), dtype), low


def filled(model, shape, low, seed=0):
  """Parameters without a zero: kernels that keep the size of what they see, pixels that stay near the base."""
  random = np.random.default_rng(seed)

  def draw(path, x):
    size = 0.1 if "head" in jax.tree_util.keystr(path) or x.ndim == 1 else 1.0
    fan_in = math.prod(x.shape[:-1]) if x.ndim > 1 else 1
    values = size * random.normal(size=x.shape) / math.sqrt(fan_in)
    return jnp.asarray(values - 2.0 if x.ndim == 0 else values, x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes(model, image_spec(shape, low)))


def pixels(seed, *shape):
  return np.random.default_rng(seed).uniform(0.2, 0.8, size=shape).astype(np.float32)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def noise_of(model, key, size, origin=(0, 0)):
  """Noise for a degraded image of a height and width."""
  c = model.image_channels
  return model.noise(key, image_spec((model.factor * size[0], model.factor * size[1], c), (*size, c)), origin)


def normal_noise(model, size, batch, seed=0):
  """Noise for `restore`, one key an example."""
  return jax.vmap(lambda key: noise_of(model, key, size))(keys(batch, seed))


def arrays(output):
  """Its leaves by name."""
  names = ("rates", "kl_units", "log_weight", "reconstruction")
  return output.terms | output.latents | {name: getattr(output, name) for name in names}


def enlarged(x, factor):
  """Bicubic interpolation of [b, h, w, c], as MATLAB's."""
  rows, columns = (bicubic_weights(n, factor * n, factor) for n in x.shape[1:3])
  return np.einsum("ph,bhwc,qw->bpqc", rows, x, columns) if factor > 1 else x


def mirrored(x, height, width):
  pads = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
  return np.pad(x, pads, mode="symmetric")


# --- the beginning ---


@pytest.mark.parametrize(
  ("shape", "factor", "values"),
  [
    pytest.param((7, 5, 1), 1, {"channels": "4,4,4"}, marks=pytest.mark.slow),
    ((9, 7, 3), 2, {"unshuffle": 2, "channels": "4,4"}),
    pytest.param((15, 9, 1), 3, {"channels": "4,4"}, marks=pytest.mark.slow),
    ((13, 8, 3), 4, {"channels": "4", "likelihood": "laplace", "latent_dim": 0}),
  ],
)
def test_the_first_restoration_is_the_base(shape, factor, values):
  """Bicubic interpolation as MATLAB's, or the degraded image: with and without latents, of any size."""
  model, low = make(shape=shape, factor=factor, **values)
  assert model.factor == factor
  spec = image_spec(shape, low)
  params = jax.jit(lambda key: init_variables(model, spec, key))(jax.random.key(3))["params"]
  image, degraded = pixels(0, 2, *shape), pixels(1, 2, *low)
  h, w = (factor * n for n in low[:2])
  # The network sees the image continued by mirroring to a multiple of its strides, and interpolates that.
  high = [-(-n // model.multiple) * model.multiple for n in low[:2]]
  expected = np.clip(enlarged(mirrored(degraded.astype(np.float64), *high), factor), 0, 1)[:, :h, :w]
  # The kernel reaches two pixels: but for the last one at such a border it is that of the image itself.
  inside = (slice(None), slice(h - factor), slice(w - factor))
  exact = np.clip(enlarged(degraded.astype(np.float64), factor), 0, 1)
  np.testing.assert_allclose(expected[inside], exact[inside], atol=1e-12)

  @jax.jit
  def run(params):
    eps = normal_noise(model, low[:2], 2)
    estimate = model.apply({"params": params}, degraded, method="restore")
    drawn = model.apply({"params": params}, degraded, eps, method="restore")
    return estimate, drawn, score(model, params, image, keys(2), degraded)

  estimate, drawn, output = run(params)
  for restored in (estimate, drawn):
    assert restored.shape == (2, factor * low[0], factor * low[1], shape[2]) and restored.dtype == jnp.float32
    np.testing.assert_allclose(restored, expected, rtol=0, atol=2e-6 if factor > 1 else 6e-8)
  np.testing.assert_array_equal(output.reconstruction, estimate[:, : shape[0], : shape[1]])
  if factor == 1:  # to the grey level, exactly
    np.testing.assert_array_equal(np.round(np.asarray(estimate) * 65535), np.round(degraded * 65535))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(output))


def test_without_a_degraded_image_the_image_is_the_input():
  model, low = make(shape=(6, 5, 1))
  params, image = filled(model, (6, 5, 1), low), pixels(0, 2, 6, 5, 1)
  compiled = jax.jit(lambda *batch: score(model, params, *batch))
  jax.tree.map(np.testing.assert_array_equal, compiled(image, keys(2)), compiled(image, keys(2), image))


# --- the terms ---


def shuffled(x, factor):
  """[b, h, w, f * f * c] -> [b, f * h, f * w, c], pixel by pixel."""
  b, h, w, channels = x.shape
  c = channels // factor**2
  out = np.zeros((b, factor * h, factor * w, c))
  for i in range(factor):
    for j in range(factor):
      start = (i * factor + j) * c
      out[:, i::factor, j::factor] = x[..., start : start + c]
  return out


@pytest.mark.parametrize(
  ("shape", "factor", "values"),
  [
    ((5, 7, 3), 1, {"channels": "4,4,4", "sigma": "0.2"}),
    ((7, 6, 1), 2, {"unshuffle": 2, "latent_dim": 3}),
    ((8, 9, 1), 3, {"likelihood": "laplace", "channels": "4"}),
  ],
)
def test_terms_against_float64_from_the_layers(shape, factor, values):
  """Everything after the convolutions: bases, images, likelihoods, KL, weights, sums and the order of draws."""
  model, low = make(shape=shape, factor=factor, **values)
  params = filled(model, shape, low)
  image, degraded, s, b = pixels(0, 2, *shape), pixels(1, 2, *low), 3, 2

  @jax.jit
  def run(params):
    ladder, heads = [], {"head": [], "latent_head": [], "spread_head": []}

    def spy(function, args, kwargs, context):
      out = function(*args, **kwargs)
      if isinstance(context.module, Ladder) and context.method_name == "__call__":
        ladder.append((out[0], args[2]))
      if context.module.name in heads and isinstance(context.module, nn.Conv):
        heads[context.module.name].append(out)
      return out

    with nn.intercept_methods(spy):
      output = score(model, params, image, keys(2), degraded, s)
    return output, ladder, heads

  output, ladder, heads = jax.tree.map(lambda x: np.asarray(x, np.float64), run(params))
  (point_layers, _), (layers, eps) = ladder
  high = [-(-n // model.multiple) * model.multiple for n in low[:2]]
  base = enlarged(mirrored(degraded.astype(np.float64), *high), factor)
  upscale = factor * model.unshuffle
  estimate = base + shuffled(heads["head"][0], upscale)
  point = estimate[:, : shape[0], : shape[1]]
  usual, detail = (shuffled(x, upscale) for x in heads["latent_head"])
  away = (detail - np.tile(usual, (s, 1, 1, 1)))[:, : shape[0], : shape[1]].reshape(s, b, *shape)
  spread = np.exp(3.5 * np.tanh(shuffled(heads["spread_head"][0], upscale)) - 3.5)[:, : shape[0], : shape[1]]

  def scale(name):
    low = math.log(1e-3)
    return math.exp(low + math.log1p(math.exp(float(params[name]) - low)))

  density = scipy.stats.laplace if values.get("likelihood") == "laplace" else scipy.stats.norm
  sigma = float(values["sigma"]) if "sigma" in values else scale("log_scale")
  distortion = -density.logpdf(image, point + spread * away, spread * sigma).sum((-3, -2, -1))
  np.testing.assert_allclose(output.terms["distortion"], distortion.mean(0), rtol=1e-4)
  np.testing.assert_allclose(output.reconstruction, np.clip(point, 0, 1), atol=1e-5)
  restoration = -density.logpdf(image, point, scale("point_log_scale")).sum((-3, -2, -1))
  np.testing.assert_allclose(output.terms["restoration"], restoration, rtol=1e-4)

  assert len(layers) == len(eps) == len(model.channels)
  rates, units, ratio, shift = [], [], np.zeros((s, b)), []
  for (prior, posterior, z), e in zip(layers, eps, strict=True):
    assert prior.mean.shape == (s * b, *z.shape[1:3], model.latent_dim) and z.shape == e.shape
    m, v, n, u = posterior.mean, np.exp(posterior.logvar), prior.mean, np.exp(prior.logvar)
    np.testing.assert_allclose(z, m + np.sqrt(v) * e, rtol=1e-4, atol=1e-5)
    kl = 0.5 * (np.log(u / v) + (v + (m - n) ** 2) / u - 1)
    assert kl.max() > 0.01  # not trivially zero
    units.append(kl.sum((1, 2)).reshape(s, b, -1).mean(0))
    rates.append(units[-1].sum(-1))
    middle = tuple(size // 2 for size in m.shape[1:3])
    shift.append((m - n)[:, middle[0], middle[1]].reshape(s, b, -1).mean(0))
    log_ratio = scipy.stats.norm.logpdf(z, n, np.sqrt(u)) - scipy.stats.norm.logpdf(z, m, np.sqrt(v))
    ratio += log_ratio.sum((1, 2, 3)).reshape(s, b)
  np.testing.assert_allclose(output.kl_units, np.concatenate(units, -1), rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(output.rates, np.stack(rates, -1), rtol=1e-3)
  np.testing.assert_allclose(output.rates.sum(-1), output.kl_units.sum(-1), rtol=1e-5)
  np.testing.assert_allclose(output.terms["rate"], output.kl_units.sum(-1), rtol=1e-5)
  np.testing.assert_allclose(output.log_weight, ratio - distortion, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(output.latents["mean"], np.concatenate(shift, -1), rtol=1e-3, atol=1e-5)
  assert output.kl_units.shape == output.latents["mean"].shape == (b, model.units)
  for prior, posterior, z in point_layers:  # the point estimate takes the prior's means
    np.testing.assert_array_equal(z, prior.mean)
    np.testing.assert_array_equal(posterior.mean, prior.mean)
  coarse, fine = layers[0].z, layers[-1].z
  assert fine.shape[1] == high[0] // model.unshuffle and fine.shape[1] >= coarse.shape[1]


@pytest.fixture(scope="module")
def small():
  """A model with latents at two scales and a wide likelihood, whose evidence draws from the prior can tell."""
  model, low = make(shape=(2, 4, 1), latent_dim=1, sigma=10)
  params = filled(model, (2, 4, 1), low)
  params["latent_head"]["kernel"] *= 15
  return model, params, pixels(0, 2, 4, 1), 0.5 + (pixels(1, 2, 4, 1) - 0.5) / 4


def scored(small, params, num, samples=64, seed=0):
  model, _, image, degraded = small
  images, inputs = (jnp.broadcast_to(x, (num, *x.shape)) for x in (image, degraded))
  compiled = jax.jit(lambda params: score(model, params, images, keys(num, seed), inputs, samples))
  return jax.tree.map(lambda x: np.asarray(x, np.float64), compiled(params))


def test_the_rate_is_the_expectation_of_the_log_ratio(small):
  """-ELBO two ways: with the KL of each layer in closed form, and by the sampled weights alone."""
  output = scored(small, small[1], 256)
  gap = output.log_weight.mean(0) + output.terms["distortion"] + output.terms["rate"]
  error = gap.std() / math.sqrt(len(gap))
  assert abs(gap.mean()) < 5 * error and error < 0.05 * output.terms["rate"].mean()


def test_the_elbo_is_below_the_iwae_bound(small):
  output = scored(small, small[1], 256)
  elbo = output.log_weight.mean(0)
  bounds = [elbo]
  for k in (4, 64):
    groups = output.log_weight.reshape(-1, k, 256)
    bounds.append((scipy.special.logsumexp(groups, axis=1) - math.log(k)).mean(0))
  for looser, tighter in itertools.pairwise(bounds):
    gap = tighter - looser
    assert gap.mean() > 5 * gap.std() / math.sqrt(len(gap)) > 0


@pytest.mark.slow
def test_the_weights_give_the_evidence_of_the_prior(small):
  """p(x | y) from posterior weights, of two posteriors, and from draws of `restore`: all three the same."""
  model, params, image, degraded = small
  num = 256 * 64
  eps = tuple(jax.random.normal(jax.random.key(i), (num, *n, 1)) for i, n in enumerate([(1, 2), (2, 4)]))
  restore = jax.jit(
    lambda p: model.apply({"params": p}, jnp.broadcast_to(degraded, (num, 2, 4, 1)), eps, method="restore")
  )
  drawn = np.asarray(restore(params), np.float64)
  assert drawn.min() > 0 and drawn.max() < 1 and drawn.std(0).min() > 0.005  # nothing was clipped

  def spread(model, degraded):
    return jnp.exp(model._log_spread(model.encode_degraded(degraded)[0]))

  sigma = 10 * np.asarray(
    model.apply({"params": params}, jnp.asarray(degraded)[None], method=spread), np.float64
  )
  terms = {"prior": scipy.stats.norm.logpdf(image, drawn, sigma).sum((1, 2, 3))}
  other = jax.tree.map(jnp.copy, params)
  for level in (0, 1):
    other["ladder"][f"posterior{level}"]["kernel"] *= 0.5
  for name, p in ("posterior", params), ("other", other):
    terms[name] = scored(small, p, 256).log_weight.ravel()
  estimates = {}
  for name, log_weights in terms.items():
    weights = np.exp(log_weights - terms["prior"].max())
    estimates[name] = weights.mean(), weights.std() / math.sqrt(weights.size)
  mean, error = estimates["prior"]
  for name in ("posterior", "other"):
    value, other_error = estimates[name]
    assert abs(value - mean) < 5 * math.hypot(error, other_error), estimates
    assert other_error < 0.1 * mean


# --- gradients ---


@pytest.mark.parametrize(
  ("factor", "values"),
  [
    pytest.param(1, {"channels": "4,4,4"}, marks=pytest.mark.slow),
    (2, {"unshuffle": 2, "likelihood": "laplace"}),
    (1, {"latent_dim": 0}),
    (1, {"latent_dim": 0, "noise": "uniform"}),
    pytest.param(1, {"noise": "local", "unshuffle": 2}, marks=pytest.mark.slow),
    (2, {"latent_dim": 0, "head_channels": 4}),
  ],
)
def test_the_gradient_reaches_every_parameter(factor, values):
  shape = (8 + factor, 8, 1)
  model, low = make(shape=shape, factor=factor, **values)
  image, degraded = pixels(0, 2, *shape), pixels(1, 2, *low)

  @jax.jit
  def gradient(params):
    def loss(params):
      terms = score(model, params, image, keys(2), degraded, 2).terms
      return sum(term.mean() for term in terms.values())

    return jax.grad(loss)(params)

  params = filled(model, shape, low)
  for path, slope in jax.tree_util.tree_leaves_with_path(gradient(params)):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(slope).all(), name
    assert np.any(np.asarray(slope) != 0), f"{name} has no gradient"

  # At the beginning, with the zeros where they are: finite, and the heads can leave zero.
  zeros = ("_b'", "prior", "out'" if model.head_channels else "head")
  fresh = jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.zeros_like(x) if any(z in jax.tree_util.keystr(path) for z in zeros) else x, params
  )
  slopes = gradient(fresh)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
  for head in ("head", "latent_head") if model.latent_dim else ("head",):
    kernel = slopes[f"fine_{head}"]["out"]["kernel"] if model.head_channels else slopes[head]["kernel"]
    assert np.any(np.asarray(kernel) != 0)


def test_latents_cost_the_estimate_nothing():
  """The trunk learns from its own estimate alone, which is that of the same network without latents."""
  shape = (8, 8, 1)
  (model, low), (plain, _) = make(shape=shape), make(shape=shape, latent_dim=0)
  params, image, degraded = filled(model, shape, low), pixels(0, 2, *shape), pixels(1, 2, *low)
  same = {"trunk": params["trunk"], "head": params["head"], "log_scale": params["point_log_scale"]}

  @jax.jit
  def gradients(params, same):
    def bound(params):
      terms = score(model, params, image, keys(2), degraded).terms
      return terms["distortion"].mean() + terms["rate"].mean(), terms

    def whole(params):
      total, terms = bound(params)
      return total + terms["restoration"].mean(), terms["restoration"]

    def alone(same):
      distortion = score(plain, same, image, keys(2), degraded).terms["distortion"]
      return distortion.mean(), distortion

    runs = (bound, params), (whole, params), (alone, same)
    return [jax.value_and_grad(f, has_aux=True)(at) for f, at in runs]

  (_, of_bound), ((_, ours), of_whole), ((_, theirs), of_plain) = gradients(params, same)
  np.testing.assert_array_equal(ours, theirs)
  for part in "trunk", "head":
    assert not any(np.any(x) for x in jax.tree.leaves(of_bound[part]))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
    jax.tree.map(close, of_whole[part], of_plain[part])


# --- noise that the network is told ---


@pytest.mark.parametrize("noise", ["uniform", "local"])
def test_a_picture_without_noise_comes_back_as_it_is(noise):
  """Told 0, and else as the level of the noise: half a level, half of the change."""
  shape = (9, 8, 1)
  model, low = make(shape=shape, noise=noise, latent_dim=0, unshuffle=2)
  params, degraded = {"params": filled(model, shape, low)}, pixels(1, 2, *low)

  @jax.jit
  def restored(sigma):
    return model.apply(params, degraded, None, sigma, method="restore")

  np.testing.assert_array_equal(restored(jnp.zeros(2)), degraded)
  changes = np.abs(restored(jnp.asarray([0.01, 0.1])) - degraded).max(axis=(1, 2, 3))
  assert 0 < changes[0] < changes[1]
  estimates = model.apply(params, degraded, method="noise_estimates")
  assert estimates.shape == (2, 9, 8, 2)
  with_own = model.apply(params, degraded, None, None, method="restore")
  if noise == "uniform":
    own = to_sigma(pooled(estimates))
    np.testing.assert_allclose(restored(own), with_own, atol=2e-6)
  else:
    assert np.any(np.abs(with_own - degraded) > 1e-4)


def test_the_estimate_of_the_noise_learns_from_its_own_term_alone():
  """And no gradient of that term reaches the rest of the network."""
  shape = (8, 8, 1)
  model, low = make(shape=shape, noise="uniform", latent_dim=0)
  params, image, degraded = filled(model, shape, low), pixels(0, 2, *shape), pixels(1, 2, *low)

  def term(name):
    return lambda params: score(model, params, image, keys(2), degraded).terms[name].mean()

  of_pixels, of_noise = (jax.jit(jax.grad(term(name)))(params) for name in ("distortion", "noise"))
  assert not any(np.any(x) for x in jax.tree.leaves(of_pixels["estimator"]))
  assert all(np.any(x) for x in jax.tree.leaves(of_noise["estimator"]))
  assert not any(np.any(x) for name in ("trunk", "head") for x in jax.tree.leaves(of_noise[name]))


def test_the_scale_follows_the_noise():
  """-log p(clean | y) by SciPy: a Laplace density of scale b (255 sigma + 1/2)^0.7."""
  shape = (6, 4, 1)
  model, low = make(shape=shape, noise="uniform", latent_dim=0, likelihood="laplace")
  params, image, degraded = filled(model, shape, low), pixels(0, 2, *shape), pixels(1, 2, *low)
  output = score(model, params, image, keys(2), degraded)
  sigma = to_sigma(pooled(model.apply({"params": params}, degraded, method="noise_estimates")))
  restored = np.asarray(output.reconstruction, np.float64)
  log_scale = float(params["log_scale"])
  unit = (255 * np.asarray(sigma, np.float64) + 0.5) ** 0.7
  b = dist.laplace(1).deviation(log_scale) / np.sqrt(2)
  for i in range(2):
    density = scipy.stats.laplace.logpdf(image[i], restored[i], b * unit[i]).sum()
    np.testing.assert_allclose(output.terms["distortion"][i], -density, rtol=1e-4)


def test_the_scale_of_pixels_has_the_name_that_the_model_gives_it():
  """It is log_scale without latents, and point_log_scale beside the ladder's log_scale with them."""
  plain, latent = (make(latent_dim=dim, likelihood="laplace")[0] for dim in (0, 2))
  one, two = {"trunk": 1, "log_scale": -3.0}, {"trunk": 1, "log_scale": 0.5, "point_log_scale": -2.0}
  assert plain.adopt(one) == one and latent.adopt(two) == two
  assert latent.adopt(one) == {"trunk": 1, "point_log_scale": -3.0}
  assert plain.adopt(two) == {"trunk": 1, "log_scale": -2.0}


COLOURS = [(1, {"unshuffle": 2, "noise": "uniform"}), (2, {"head_channels": 3}), (2, {"latent_dim": 0})]


@pytest.mark.parametrize(("factor", "values"), COLOURS)
def test_a_model_of_colours_starts_one_of_grey_as_it_treats_equal_channels(factor, values):
  of_colours, low = make(shape=(16, 16, 3), factor=factor, **values)
  of_grey, _ = make(shape=(16, 16, 1), factor=factor, **values)
  params = filled(of_colours, (16, 16, 3), low)
  params = {
    part: jax.tree.map(lambda x: 0.2 * x, tree) if "head" in part else tree for part, tree in params.items()
  }
  adopted = of_grey.adopt(params)
  mine = shapes(of_grey, image_spec((16, 16, 1), (*low[:2], 1)))
  assert jax.tree.map(jnp.shape, adopted) == jax.tree.map(jnp.shape, mine)
  degraded = pixels(0, 2, *low[:2], 1)  # nothing is clipped
  equal = np.repeat(degraded, 3, axis=-1)
  expected = of_colours.apply({"params": params}, equal, method="restore").mean(axis=-1, keepdims=True)
  found = of_grey.apply({"params": adopted}, degraded, method="restore")
  assert float(jnp.abs(expected - enlarged(degraded, factor)).max()) > 1e-4  # the network does something
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, of_grey.adopt(adopted), adopted))


def test_noise_of_enlarged_pictures_is_refused():
  with pytest.raises(UserError, match=r"model.noise=local .* 2 times as large; set model.noise=none"):
    make(factor=2, noise="local")


@pytest.mark.parametrize("factor", [2, 4])
def test_pixels_of_a_block_start_alike(factor):
  """No lattice at the beginning: a flat picture stays flat (Aitken et al. 2017)."""
  x = jnp.ones((1, 5, 5, 3))
  kernel = equal_kernels(nn.initializers.he_normal(), factor)(jax.random.key(0), (3, 3, 3, 2 * factor**2))
  enlarged = pixel_shuffle(
    jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC), factor
  )
  np.testing.assert_allclose(enlarged, jnp.broadcast_to(enlarged[:, :1, :1], enlarged.shape), rtol=1e-6)
  assert kernel.std() == pytest.approx(np.sqrt(2 / 27), rel=0.3)  # He et al. 2015


# --- how far it sees ---


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
  ("factor", "values"),
  [
    (1, {"channels": "4"}),
    (2, {"channels": "4", "blocks": 2, "latent_dim": 0}),
    (2, {"channels": "4,4"}),
    (1, {"channels": "4,4", "unshuffle": 2, "latent_dim": 0}),
    (3, {"channels": "4,4", "unshuffle": 2, "blocks": 2}),
    (1, {"channels": "4", "latent_dim": 0, "noise": "local"}),
    (4, {"channels": "4", "latent_dim": 0, "head_channels": 4}),
    pytest.param(1, {"channels": "4,4,4", "latent_dim": 1, "blocks": 0}, marks=pytest.mark.slow),
    pytest.param(1, {"channels": "4,4,4", "latent_dim": 1}, marks=pytest.mark.slow),
  ],
)
def test_the_radius_bounds_what_a_pixel_depends_on(factor, values, axis):
  """One input pixel changed, at each place relative to the strides: what is farther away stays, to the bit."""
  if axis and (factor > 2 or "noise" in values or values.get("blocks") == 0):
    pytest.skip("one axis is enough for these")
  # The model is built for small images, and used on a strip.
  model, low = make(shape=(4 * factor, 4 * factor, 1), factor=factor, **values)
  params = filled(model, (4 * factor, 4 * factor, 1), low)
  for head in {"head", "latent_head"} & set(params):
    params[head] = jax.tree.map(lambda x: 0.1 * x, params[head])
  radius, multiple = model.radius, model.multiple
  length = -(-(2 * radius + 3 * multiple) // multiple) * multiple
  strip = pixels(0, 1, length, multiple, 1)
  strip = strip.swapaxes(1, 2) if axis else strip
  eps = normal_noise(model, strip.shape[1:3], 1) if model.latent_dim else None

  @jax.jit
  def run(degraded):
    mean = model.apply({"params": params}, degraded, method="restore")
    return mean, mean if eps is None else model.apply({"params": params}, degraded, eps, method="restore")

  before = run(strip)
  assert all(x.min() > 0 and x.max() < 1 for x in before)  # clipping would hide changes
  farthest = 0
  for place in range(length // 2, length // 2 + multiple):
    changed = strip.copy()
    changed[(0, slice(None), place) if axis else (0, place)] += 0.1
    for a, b in zip(before, run(changed), strict=True):
      differs = np.any(np.asarray(a) != np.asarray(b), axis=(0, 1, 3) if axis else (0, 2, 3))
      places = np.flatnonzero(differs) // factor
      assert places.size and np.abs(places - place).max() <= radius
      farthest = max(farthest, np.abs(places - place).max())
  assert farthest >= radius / 3, "the bound is far too wide"


# --- noise ---


@pytest.mark.parametrize("values", [{"channels": "4,4,4"}, {"unshuffle": 2, "channels": "4,4"}])
def test_noise_of_a_window_is_that_part_of_the_whole(values, key):
  model, _ = make(**values)
  multiple = model.multiple
  size, origin, part = (
    (5 * multiple - 1, 4 * multiple),
    (2 * multiple, multiple),
    (2 * multiple, 3 * multiple),
  )
  whole = jax.jit(lambda: noise_of(model, key, size))()
  window = jax.jit(lambda origin: noise_of(model, key, part, origin))(jnp.asarray(origin))
  assert len(whole) == len(model.channels)
  for i, (full, cut) in enumerate(zip(whole, window, strict=True)):
    stride = model.unshuffle * 2 ** (len(whole) - 1 - i)
    assert full.shape == (5 * multiple // stride, 4 * multiple // stride, model.latent_dim)
    top, left = (n // stride for n in origin)
    assert cut.shape == (part[0] // stride, part[1] // stride, model.latent_dim)
    expected = full[top : top + cut.shape[0], left : left + cut.shape[1]]
    np.testing.assert_array_equal(cut, expected)


def test_noise_is_standard_normal_and_nothing_repeats(key):
  model, _ = make(channels="4,4", latent_dim=3)
  noise = jax.jit(lambda key: noise_of(model, key, (40, 40)))
  values = np.concatenate([np.ravel(x) for x in noise(key)])
  assert scipy.stats.kstest(values, "norm").pvalue > 1e-3
  assert np.unique(values).size > 0.999 * values.size
  fine = np.asarray(noise(key)[-1])
  for a, b in (fine[1:], fine[:-1]), (fine[:, 1:], fine[:, :-1]), (fine, fine.swapaxes(0, 1)):
    off = ~np.eye(40, dtype=bool) if a.shape == fine.shape else np.ones(a.shape[:2], bool)
    assert abs(np.corrcoef(a[off].ravel(), b[off].ravel())[0, 1]) < 5 / math.sqrt(off.sum() * 3)
  other = np.concatenate([np.ravel(x) for x in noise(jax.random.key(1))])
  assert abs(np.corrcoef(values, other)[0, 1]) < 5 / math.sqrt(values.size)


# --- batches, samples, types ---


@pytest.fixture(scope="module")
def pair():
  """A model, its parameters, two examples and compiled functions."""
  shape = (7, 9, 3)
  model, low = make(shape=shape, factor=2)
  params = filled(model, shape, low)
  image, degraded = pixels(0, 2, *shape), pixels(1, 2, *low)
  compiled = jax.jit(
    lambda *batch, samples=1: score(model, params, *batch, samples), static_argnames="samples"
  )
  restore = jax.jit(lambda *args: model.apply({"params": params}, *args, method="restore"))
  return model, params, image, degraded, compiled, restore


def test_examples_do_not_mix(pair):
  model, _, image, degraded, score, restore = pair
  both = arrays(score(image, keys(2), degraded, samples=2))
  eps = normal_noise(model, degraded.shape[1:3], 2)
  drawn = restore(degraded, eps)
  for i in range(2):
    one = slice(i, i + 1)
    alone = arrays(score(image[one], keys(2)[one], degraded[one], samples=2))
    for name, a in alone.items():
      b = np.take(both[name], [i], 1 if name == "log_weight" else 0)
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(restore(degraded[one]), restore(degraded)[one], atol=1e-5)
    part = jax.tree.map(lambda e, one=one: e[one], eps)
    np.testing.assert_allclose(restore(degraded[one], part), drawn[one], atol=1e-5)
  turned = score(image[::-1], keys(2)[::-1], degraded[::-1], samples=2)
  np.testing.assert_allclose(turned.log_weight[:, ::-1], both["log_weight"], rtol=1e-4, atol=1e-3)


def test_draws_differ_by_sample_and_by_key(pair):
  model, _, image, degraded, score, restore = pair
  output = score(image, keys(2), degraded, samples=5)
  expected = {
    "distortion": (2,),
    "rate": (2,),
    "rates": (2, 2),
    "log_weight": (5, 2),
    "kl_units": (2, 4),
    "mean": (2, 4),
    "reconstruction": (2, 7, 9, 3),
    "restoration": (2,),
  }
  assert {name: x.shape for name, x in arrays(output).items()} == expected and output.statistics == ()
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(output))
  assert np.unique(output.log_weight).size == 10
  draws = [score(image, keys(2, seed), degraded).terms["distortion"] for seed in range(5)]
  assert np.unique(draws).size == 10
  again, other = score(image, keys(2), degraded, samples=5), score(image, keys(2, 1), degraded, samples=5)
  np.testing.assert_array_equal(again.log_weight, output.log_weight)
  assert (other.log_weight != output.log_weight).all()
  np.testing.assert_array_equal(other.reconstruction, output.reconstruction)  # a function of the input
  eps = normal_noise(model, degraded.shape[1:3], 2)
  assert not np.allclose(restore(degraded, eps), restore(degraded), atol=1e-4)
  np.testing.assert_array_equal(restore(degraded, eps), restore(degraded, eps))
  zero = jax.tree.map(jnp.zeros_like, eps)
  np.testing.assert_allclose(restore(degraded, zero), restore(degraded), atol=1e-6)


def test_the_estimate_does_not_see_the_clean_image(pair):
  _, _, image, degraded, score, _ = pair
  output, other = score(image, keys(2), degraded), score(1 - image, keys(2), degraded)
  np.testing.assert_array_equal(output.reconstruction, other.reconstruction)
  assert (output.latents["mean"] != other.latents["mean"]).all() and (output.rates != other.rates).all()


def test_without_latents_there_is_no_rate_and_no_draw():
  shape = (6, 5, 1)
  model, low = make(shape=shape, latent_dim=0, sigma=0.1)
  params, image = filled(model, shape, low), pixels(0, 2, *shape)
  assert set(params) == {"trunk", "head"} and model.units == 0
  assert "draw" not in model.can and "restore" in model.can and model.terms == ("distortion", "rate")
  compiled = jax.jit(lambda: score(model, params, image, keys(2), samples=3))
  restore = jax.jit(lambda eps: model.apply({"params": params}, image, eps, method="restore"))
  output = compiled()
  distortion = output.terms["distortion"]
  assert set(output.terms) == set(model.terms) and output.log_weight.shape == (3, 2)
  assert not output.terms["rate"].any() and output.kl_units is None and output.latents["mean"].shape == (2, 0)
  np.testing.assert_array_equal(output.log_weight, np.stack([-distortion] * 3))
  expected = -scipy.stats.norm.logpdf(image, np.asarray(restore(None), np.float64), 0.1).sum((1, 2, 3))
  np.testing.assert_allclose(distortion, expected, rtol=1e-4)
  eps = normal_noise(model, (6, 5), 2)
  assert all(e.shape[-1] == 0 for e in eps)
  np.testing.assert_array_equal(restore(eps), restore(None))


def test_bfloat16_stays_near_float32():
  shape = (8, 7, 1)
  (full, low), (half, _) = (make(shape=shape, factor=2, dtype=t) for t in ("float32", "bfloat16"))
  params = filled(full, shape, low)
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
  image, degraded = pixels(0, 2, *shape), pixels(1, 2, *low)
  eps = normal_noise(full, low[:2], 2)
  outputs, images = [], []
  for model in (full, half):
    compiled = jax.jit(lambda model=model: score(model, params, image, keys(2), degraded))
    restore = jax.jit(
      lambda eps, model=model: model.apply({"params": params}, degraded, eps, method="restore")
    )
    outputs.append(compiled())
    images.append([restore(None), restore(eps)])
  for x in jax.tree.leaves((outputs, images)):
    assert x.dtype == jnp.float32 and np.isfinite(x).all()
  for a, b in zip(*images, strict=True):
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.02)
  full, half = (output.terms["distortion"] for output in outputs)
  np.testing.assert_allclose(full, half, rtol=0.05)
  np.testing.assert_allclose(outputs[0].rates, outputs[1].rates, rtol=0.1)
