"""Likelihoods p(x | z) of images, in nats: Bernoulli, Gaussian, Laplace, logit-Laplace, mixture of logistics."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.checks import float_image
from vae_jax.distributions.latents import LOG_2PI, leads
from vae_jax.distributions.stable import absolute, as_float32, at_least, magnitude
from vae_jax.errors import UserError, nearest
from vae_jax.keys import SIGMA, Keys, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.types import Array, ArrayLike, Key

MIN_SCALE = 1e-3  # lower bound of the scales of gaussian and laplace, in units of the [0, 1] range
MIN_MSE = MIN_SCALE**2
LEVELS = 256
LOGIT_MARGIN = 0.1  # logit_laplace: [0, 1] is mapped to (0.1, 0.9)
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 40.0  # clamp of the logistic mixture's log-scales, images in [-1, 1]


NAMES = ("bernoulli", "gaussian", "laplace", "logistic_mixture", "logit_laplace")
# Config keys of every family whose pixels have any of these likelihoods.
KEYS: Keys = {
  "model.likelihood": ConfigKey("bernoulli", "p(x | z) of a pixel", one_of(*NAMES)),
  "model.sigma": ConfigKey(
    "learned", "gaussian, laplace: one scale; optimal: Rybkin et al. 2021, gaussian", SIGMA
  ),
  "model.mixtures": ConfigKey(10, "logistic_mixture: number of components", counted(1000)),
}


def faults(config: Mapping[str, Any]) -> Iterator[str]:
  """What these keys contradict."""
  if config["model"]["likelihood"] == "laplace" and config["model"]["sigma"] == "optimal":
    yield "model.sigma=optimal must be learned or a number > 0 for model.likelihood=laplace"


@dataclass(frozen=True)
class Likelihood:
  """p(image | params), where `params` is what a decoder gives for every pixel and images are in [0, 1].

  name: as in the configuration.
  channels: output channels that the decoder must give.
  log_prob: (params [..., h, w, channels], image [..., h, w, c], log_scale) -> [...], summed over h, w, c.
  mean: (params, log_scale) -> [..., h, w, c] in [0, 1].
  sample: (key, params, log_scale) -> [..., h, w, c] in [0, 1], a draw of the pixels; NaN where params are.
  continuous: whether log_prob is a density over [0, 1]; bits per dimension of such a likelihood add log2(256)
    to count in grey levels.
  has_scale: whether `log_scale`, a scalar parameter of the model, is used. The others ignore it.
  describe: the likelihood in words, for logs and tables.
  deviation: log_scale -> the standard deviation of a pixel, where it is the same for all.
  plain: the likelihood of the same values whose gradients are theirs, where those of this one are others.
  """

  name: str
  channels: int
  log_prob: Callable[[ArrayLike, ArrayLike, ArrayLike | float], Array]
  mean: Callable[[ArrayLike, ArrayLike | float], Array]
  sample: Callable[[Key, ArrayLike, ArrayLike | float], Array]
  continuous: bool
  has_scale: bool
  describe: str
  deviation: Callable[[ArrayLike | float], Array] | None = None
  plain: Likelihood | None = None


def bernoulli(c: int) -> Likelihood:
  """Independent Bernoulli pixels; params are logits. Values between 0 and 1 are scored as cross-entropy."""

  def log_prob(params, image, log_scale):
    logits, image = _flat(params, image, c)
    # x * l - softplus(l), arranged so that a saturated pixel suffers no cancellation. Both parts of softplus take the
    # branch of l > 0 at a logit of 0, so that all derivatives are those of softplus there too.
    positive = jnp.where(logits < 0.0, 0.0, logits)
    terms = image * logits - positive - jnp.log1p(jnp.exp(-magnitude(logits)))
    return jnp.sum(terms, axis=-1)

  def mean(params, log_scale):
    return jax.nn.sigmoid(as_float32(params))

  def sample(key, params, log_scale):
    probability = mean(params, log_scale)  # a draw compares it, which would make 0 of NaN
    return jnp.where(jnp.isnan(probability), jnp.nan, as_float32(jax.random.bernoulli(key, probability)))

  return Likelihood("bernoulli", c, log_prob, mean, sample, False, False, "Bernoulli")


def gaussian(c: int, sigma: str | float = "learned") -> Likelihood:
  """Independent Gaussian pixels of mean 0.5 + params (a decoder at zero gives mid-grey) and one shared sigma.

  sigma, a number: fixed, in units of the [0, 1] range.
  sigma, "learned": exp(log_scale), softly bounded below by 1e-3, trained by the likelihood.
  sigma, "optimal": the sigma-VAE (Rybkin et al. 2021, arXiv:2006.13202), which sets sigma^2 analytically to
    the mean squared error. The paper takes that error over the minibatch; here it is each image's own, mse_i,
    because per-example terms do not depend on how a batch is divided over devices. The VALUE of log_prob is
    that of "learned", with the decoder's mean held constant: it trains log_scale, and it is an honest
    density, where one with a sigma that has seen its image would not be. To it is added a term of value zero
    that alone carries the decoder's gradient: that of the log-likelihood at sigma_i^2 = max(mse_i, 1e-6), or
    of -0.5 D log(mse_i).

  Raises UserError where sigma is none of these.
  """
  fixed = None if sigma in ("learned", "optimal") else _positive_number(sigma)
  optimal = sigma == "optimal"

  def log_density(difference, log_sigma):
    dims = difference.shape[-1]
    error = jnp.sum(jnp.square(difference), axis=-1)
    constant = jax.lax.stop_gradient(error) if optimal else error
    value = -0.5 * constant * jnp.exp(-2.0 * log_sigma) - dims * (log_sigma + 0.5 * LOG_2PI)
    if optimal:
      carrier = -0.5 * error / jax.lax.stop_gradient(at_least(error / dims, MIN_MSE))
      value = value + (carrier - jax.lax.stop_gradient(carrier))
    return value

  words = f"Gaussian (sigma {sigma})" if fixed is None else f"Gaussian (sigma {fixed:g})"
  made = _location_scale("gaussian", c, fixed, log_density, jax.random.normal, 1.0, words)
  return dataclasses.replace(made, plain=gaussian(c)) if optimal else made


def laplace(c: int, sigma: str | float = "learned") -> Likelihood:
  """Independent Laplace pixels, exp(-|x - mu| / b) / 2b, of location mu = 0.5 + params, and one shared b.

  sigma, a number: b is fixed, in units of the [0, 1] range. "learned": exp(log_scale), softly bounded below by 1e-3,
  trained by the likelihood. Raises UserError for anything else.
  """
  if sigma == "optimal":
    raise UserError("model.sigma=optimal is of model.likelihood=gaussian; use learned or a positive number")
  fixed = None if sigma == "learned" else _positive_number(sigma)

  def log_density(difference, log_b):
    error = jnp.sum(absolute(difference), axis=-1)
    return -error * jnp.exp(-log_b) - difference.shape[-1] * (log_b + math.log(2.0))

  words = "Laplace (scale learned)" if fixed is None else f"Laplace (scale {fixed:g})"
  return _location_scale("laplace", c, fixed, log_density, jax.random.laplace, math.sqrt(2), words)


def _location_scale(
  name: str,
  c: int,
  fixed: float | None,
  log_density: Callable[[Array, Array], Array],
  noise: Callable[..., Array],
  deviation: float,
  words: str,
) -> Likelihood:
  """Makes a likelihood of independent pixels of location 0.5 + params and one shared scale.

  fixed: the scale; None: exp(log_scale), softly bounded below.
  log_density: (image - location [..., n], log of the scale) -> [...], summed over the n pixels.
  noise: (key, shape, dtype) -> draws at location 0 and scale 1, of the standard deviation `deviation`.
  """

  def log_of_scale(log_scale):
    if jnp.ndim(log_scale):
      raise ValueError(f"log_scale must be a scalar; got shape {jnp.shape(log_scale)}")
    return as_float32(math.log(fixed)) if fixed is not None else _bounded_log_scale(log_scale)

  def log_prob(params, image, log_scale):
    params, image = _flat(params, image, c)
    return log_density(image - (0.5 + params), log_of_scale(log_scale))

  def mean(params, log_scale):
    return _clip(0.5 + as_float32(params), 0.0, 1.0)

  def sample(key, params, log_scale):
    centre = 0.5 + as_float32(params)
    return jnp.clip(
      centre + jnp.exp(log_of_scale(log_scale)) * noise(key, centre.shape, jnp.float32), 0.0, 1.0
    )

  def deviation_of(log_scale):
    return deviation * jnp.exp(log_of_scale(log_scale))

  return Likelihood(name, c, log_prob, mean, sample, True, fixed is None, words, deviation_of)


def logistic_mixture(c: int, mixtures: int = 10) -> Likelihood:
  """Mixture of logistics integrated over 256 grey levels (Salimans et al. 2017, PixelCNN++, eqs. 2 and 3).

  Images sit on k / 255. Channel i of a component has location mean_i + sum_{j<i} tanh(coefficient_ij) * x_j:
  linear in the earlier channels of the same pixel. The first and last level take the tails, so the levels sum
  to one.

  params, per pixel, in blocks of `mixtures`: logits; means of each of the c channels; log-scales of each;
  coefficients of the pairs (i, j) = (1, 0), (2, 0), (2, 1), ...: mixtures * (1 + 2c + c(c-1)/2) in all. Means
  and log-scales refer to pixels rescaled to [-1, 1]; log-scales are clamped at -7.

  mean() gives every channel its expectation under each component, conditioned on the expectations of the
  earlier ones and clipped to the range, and mixes; sample() draws exact grey levels.
  """
  if mixtures < 1:
    raise UserError(f"model.mixtures is {mixtures}; logistic_mixture needs at least 1")
  channels = mixtures * (1 + 2 * c + len(_pairs(c)))

  def log_prob(params, image, log_scale):
    params, image = _fit(params, image, channels, c)
    logits, means, scales, coefficients = mixture_parts(params, c, mixtures)
    x = [2.0 * image[..., i : i + 1] - 1.0 for i in range(c)]
    joint = logits
    for i in range(c):
      location = means[i]
      for j in range(i):
        location = location + coefficients[i, j] * x[j]
      joint = joint + _log_bin_mass(x[i], location, scales[i])
    pixels = jax.nn.logsumexp(joint, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    return jnp.sum(pixels.reshape(*pixels.shape[:-2], math.prod(pixels.shape[-2:])), axis=-1)

  def mean(params, log_scale):
    logits, means, _, coefficients = mixture_parts(as_float32(params), c, mixtures)
    centres: list[Array] = []
    for i in range(c):
      location = means[i]
      for j in range(i):
        location = location + coefficients[i, j] * centres[j]
      centres.append(_clip(location, -1.0, 1.0))
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = jnp.stack([jnp.sum(weights * centre, axis=-1) for centre in centres], axis=-1)
    return _clip(0.5 * mixed + 0.5, 0.0, 1.0)

  def sample(key, params, log_scale):
    logits, means, scales, coefficients = mixture_parts(as_float32(params), c, mixtures)
    component_key, noise_key = jax.random.split(key)
    component = jax.random.categorical(component_key, logits, axis=-1)[..., None]

    def pick(block):
      return jnp.take_along_axis(block, component, axis=-1)[..., 0]

    noise = jax.random.logistic(noise_key, (*logits.shape[:-1], c), jnp.float32)
    pixels: list[Array] = []
    for i in range(c):
      location = pick(means[i])
      for j in range(i):
        location = location + pick(coefficients[i, j]) * (2.0 * pixels[j] - 1.0)
      x = location + jnp.exp(pick(scales[i])) * noise[..., i]
      level = jnp.round((LEVELS - 1) * (0.5 * jnp.clip(x, -1.0, 1.0) + 0.5))
      pixels.append(level / (LEVELS - 1))
    damaged = jnp.isnan(as_float32(params)).any(axis=-1, keepdims=True)  # a component was picked all the same
    return jnp.where(damaged, jnp.nan, jnp.stack(pixels, axis=-1))

  words = f"discretised logistic mixture ({mixtures} components, {LEVELS} levels)"
  return Likelihood("logistic_mixture", channels, log_prob, mean, sample, False, False, words)


def logit_laplace(c: int) -> Likelihood:
  """Independent pixels whose logits are Laplace (Ramesh et al. 2021, arXiv:2102.12092, appendix A.3).

  A pixel x of [0, 1] is first moved to y = 0.8 x + 0.1, whose logit is finite. With location mu and scale b,

      p(x) = 0.8 exp(-|logit(y) - mu| / b) / (2 b y (1 - y)).

  The factor 0.8 makes it a density over x; the paper leaves this constant out. The density is of x in (-1/8, 9/8), as
  that of a Gaussian reaches beyond [0, 1] too. params, per pixel: mu of each of the c channels, then log b of each,
  softly bounded below by log(1e-3). mean() is the image at logit mu, which is the median, clipped to [0, 1].
  """
  span = 1.0 - 2.0 * LOGIT_MARGIN

  def split(params):
    params = as_float32(params)
    log_b = _bounded_log_scale(params[..., c:])
    return params[..., :c], jnp.where(log_b > MAX_LOG_SCALE, MAX_LOG_SCALE, log_b)

  def image_at(logit):
    return (jax.nn.sigmoid(logit) - LOGIT_MARGIN) / span

  def log_prob(params, image, log_scale):
    params, image = _fit(params, image, 2 * c, c)
    mu, log_b = split(params)
    y = span * image + LOGIT_MARGIN
    log_y, log_rest = jnp.log(y), jnp.log1p(-y)
    terms = -absolute(log_y - log_rest - mu) * jnp.exp(-log_b) - log_b - log_y - log_rest
    terms = terms + (math.log(span) - math.log(2.0))
    return jnp.sum(terms.reshape(*terms.shape[:-3], math.prod(terms.shape[-3:])), axis=-1)

  def mean(params, log_scale):
    return _clip(image_at(split(params)[0]), 0.0, 1.0)

  def sample(key, params, log_scale):
    mu, log_b = split(params)
    noise = jax.random.laplace(key, mu.shape, jnp.float32)
    return jnp.clip(image_at(mu + jnp.exp(log_b) * noise), 0.0, 1.0)

  return Likelihood("logit_laplace", 2 * c, log_prob, mean, sample, True, False, "logit-Laplace")


def make_likelihood(name: str, c: int, sigma: str | float = "learned", mixtures: int = 10) -> Likelihood:
  """The likelihood called `name` for images of `c` channels; raises UserError for an unknown name."""
  makers: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": lambda: bernoulli(c),
    "gaussian": lambda: gaussian(c, sigma),
    "laplace": lambda: laplace(c, sigma),
    "logistic_mixture": lambda: logistic_mixture(c, mixtures),
    "logit_laplace": lambda: logit_laplace(c),
  }
  if name not in makers:
    raise UserError(f"unknown likelihood {name!r}{nearest(name, makers, what='likelihoods')}")
  return makers[name]()


def build(model: Mapping[str, Any], c: int) -> Likelihood:
  """The likelihood that `model`, the section of a config with these keys, describes, for images of c channels."""
  return make_likelihood(model["likelihood"], c, model["sigma"], model["mixtures"])


def observed_log_prob(
  likelihood: Likelihood,
  params: ArrayLike,
  image: ArrayLike,
  log_scale: ArrayLike | float,
  observed: ArrayLike,
) -> Array:
  """log p(observed pixels of image | params) in nats, summed over them: [...]. The gradient is that of this value.

  params, image, log_scale: as `Likelihood.log_prob` takes them; hidden pixels of an image have no effect, and are
  finite. observed: bool, [h, w] or with leading axes of `params`; all channels of a pixel are observed or hidden.
  """
  likelihood, params, image = likelihood.plain or likelihood, as_float32(params), float_image(image)
  observed = jnp.asarray(observed, bool)
  params, image = (x.reshape(*x.shape[:-3], -1, 1, 1, x.shape[-1]) for x in (params, image))
  each = likelihood.log_prob(params, image, log_scale)  # [..., h w]
  observed = jnp.broadcast_to(observed.reshape(*observed.shape[:-2], -1), each.shape)
  return jnp.sum(jnp.where(observed, each, 0.0), axis=-1)


def _fit(params: ArrayLike, image: ArrayLike, channels: int, c: int) -> tuple[Array, Array]:
  """Both in float32, the image with the leading axes of `params`. Raises ValueError: integers, or other shapes."""
  if jnp.issubdtype(jnp.result_type(params), jnp.integer):
    raise ValueError(
      f"params of type {jnp.result_type(params)}: give what a decoder makes, floats; the image comes after them"
    )
  params, image = as_float32(params), float_image(image)
  fits = params.shape[-3:] == (*image.shape[-3:-1], channels) and image.shape[-1:] == (c,)
  if not (fits and leads(params.shape[:-3], image.shape[:-3])):
    raise ValueError(
      f"params of shape {params.shape} do not fit an image of shape {image.shape}; "
      f"expected [..., h, w, {channels}] and [..., h, w, {c}]"
    )
  return params, jnp.broadcast_to(image, (*params.shape[:-1], c))


def _flat(params: ArrayLike, image: ArrayLike, c: int) -> tuple[Array, Array]:
  """As `_fit` where the decoder gives one channel a channel, with h, w, c as one axis.

  XLA on CPUs sums a function of the pixels over three short axes up to 40 times slower than over one long axis.
  """
  params, image = _fit(params, image, c, c)
  flat = math.prod(image.shape[-3:])  # not -1, which no images have no length for
  return params.reshape(*params.shape[:-3], flat), image.reshape(*image.shape[:-3], flat)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _clip(x: Array, low: float, high: float) -> Array:
  """x within [low, high], where a gradient still leads back into the range.

  The gradient of jnp.clip is zero outside, so a loss on the mean image alone could never correct a pixel outside.
  """
  return jnp.clip(x, low, high)


def _clip_forward(x: Array, low: float, high: float) -> tuple[Array, Array]:
  return jnp.clip(x, low, high), x


def _clip_backward(low: float, high: float, x: Array, slope: Array) -> tuple[Array]:
  outwards = ((x > high) & (slope < 0)) | ((x < low) & (slope > 0))  # descent goes against the slope
  return (jnp.where(outwards, 0.0, slope),)


_clip.defvjp(_clip_forward, _clip_backward)


def _bounded_log_scale(log_scale: ArrayLike | float) -> Array:
  low = math.log(MIN_SCALE)
  return low + jax.nn.softplus(as_float32(log_scale) - low)


def _positive_number(sigma: str | float) -> float:
  try:
    number = float(sigma)
  except (TypeError, ValueError):
    number = math.nan
  if not (math.isfinite(number) and number > 0.0):
    raise UserError(f"model.sigma is {sigma!r}; use 'learned', 'optimal' or a positive number")
  return number


def _pairs(c: int) -> list[tuple[int, int]]:
  """Lists the channels i and the earlier ones j that they depend on: (1, 0), (2, 0), (2, 1), ..."""
  return [(i, j) for i in range(c) for j in range(i)]


def mixture_parts(
  params: Array, c: int, mixtures: int
) -> tuple[Array, list[Array], list[Array], dict[tuple[int, int], Array]]:
  """Splits params of `logistic_mixture`, float32, into logits, c means, c log-scales, which are clamped, and
  coefficients by pair (i, j), those of x_j in the location of channel i; each [..., h, w, mixtures]."""
  pairs = _pairs(c)
  blocks = [params[..., k * mixtures : (k + 1) * mixtures] for k in range(1 + 2 * c + len(pairs))]
  scales = [jnp.clip(b, MIN_LOG_SCALE, MAX_LOG_SCALE) for b in blocks[1 + c : 1 + 2 * c]]
  coefficients = {pair: jnp.tanh(b) for pair, b in zip(pairs, blocks[1 + 2 * c :], strict=True)}
  return blocks[0], blocks[1 : 1 + c], scales, coefficients


def _log_bin_mass(x: Array, location: Array, log_scale: Array) -> Array:
  """Log of the mass that a logistic gives to the grey level of `x`, all in [-1, 1] units, broadcast.

  With u = (x - location) / scale and a = (half a level) / scale, sigmoid(u + a) - sigmoid(u - a) is exactly
  sinh(a) / (cosh(a) + cosh(u)). Factoring exp(|u|) out of the denominator leaves nothing that overflows,
  cancels or vanishes, so the far tails need no approximation. The end levels are sigmoid(a + u) and sigmoid(a
  - u).
  """
  half = 1.0 / (LEVELS - 1)
  inverse = jnp.exp(-log_scale)
  u, a = inverse * (x - location), inverse * half
  low, high = x < -1.0 + half, x > 1.0 - half
  edge = low | high
  v = a + jnp.where(low, u, -u)  # argument of the sigmoid at an end level
  t = jnp.exp(-magnitude(jnp.where(edge, v, u)))
  growth = jnp.expm1(a)
  shrink = growth / (1.0 + growth)  # 1 - exp(-a)
  sinh, cosh = 0.5 * (growth + shrink), 1.0 + 0.5 * (growth - shrink)
  mass = jnp.where(edge, 1.0 / (1.0 + t), sinh / (cosh * t + 0.5 * (1.0 + jnp.square(t))))
  return jnp.where(edge, jnp.where(v < 0.0, v, 0.0), -magnitude(u)) + jnp.log(mass)
