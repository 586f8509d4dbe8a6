"""How far a decoder's output is from an image: summed over pixels and channels, never averaged over them.

Images are floats in [0, 1]. Integers raise ValueError: 0..255 would be scored as if white were 1.
"""

from __future__ import annotations

import jax.numpy as jnp

from vae_jax import distributions as dist
from vae_jax.metrics.fidelity import image_pair
from vae_jax.types import Array, ArrayLike


def bernoulli_nll(logits: ArrayLike, image: ArrayLike) -> Array:
  """-log p(image | logits), in nats: [..., h, w, c] each -> [...]. Cross-entropy for an image in [0, 1]."""
  return _nll(dist.bernoulli(_channels(logits, image)), logits, image, 0.0)


def gaussian_nll(
  params: ArrayLike, image: ArrayLike, log_scale: ArrayLike | float, sigma: str | float = "learned"
) -> Array:
  """-log N(image; 0.5 + params, sigma^2), in nats of a density over [0, 1]: [..., h, w, c] each -> [...].

  log_scale is a scalar; sigma is "learned" (sigma = 1e-3 + exp(log_scale)), "optimal" or a number (log_scale is then
  ignored), as in `vae_jax.distributions.gaussian`. Raises UserError for any other sigma.
  """
  return _nll(dist.gaussian(_channels(params, image), sigma), params, image, log_scale)


def laplace_nll(params: ArrayLike, image: ArrayLike, log_scale: ArrayLike | float) -> Array:
  """-log Laplace(image; 0.5 + params, b), in nats of a density over [0, 1]: [..., h, w, c] each -> [...].

  log_scale is a scalar; b = 1e-3 + exp(log_scale).
  """
  return _nll(dist.laplace(_channels(params, image)), params, image, log_scale)


def logistic_mixture_nll(params: ArrayLike, image: ArrayLike, mixtures: int = 10) -> Array:
  """-log p(image | params) of a discretised logistic mixture, in nats: [..., h, w, p] -> [...].

  Image on the levels k / 255; p = mixtures * (1 + 2c + c(c-1)/2), laid out as
  `vae_jax.distributions.logistic_mixture` states (Salimans et al. 2017).
  """
  return _nll(dist.logistic_mixture(_channels(params, image), mixtures), params, image, 0.0)


def squared_error(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Sum over h, w, c of (prediction - target)^2, in squared units of the images: [..., h, w, c] -> [...]."""
  prediction, target = image_pair(prediction, target)
  return jnp.sum(jnp.square(prediction - target), axis=(-3, -2, -1))


def absolute_error(prediction: ArrayLike, target: ArrayLike) -> Array:
  """Sum over h, w, c of |prediction - target|, in units of the images: [..., h, w, c] -> [...]."""
  prediction, target = image_pair(prediction, target)
  return jnp.sum(dist.absolute(prediction - target), axis=(-3, -2, -1))


def _nll(
  likelihood: dist.Likelihood, params: ArrayLike, image: ArrayLike, log_scale: ArrayLike | float
) -> Array:
  return -likelihood.log_prob(params, image, log_scale)


def _channels(params: ArrayLike, image: ArrayLike) -> int:
  """The image's channels, once params and image agree on every axis but the last, and have pixels."""
  if jnp.ndim(image) < 3 or jnp.shape(params)[:-1] != jnp.shape(image)[:-1]:
    raise ValueError(f"params of shape {jnp.shape(params)} do not fit an image of shape {jnp.shape(image)}")
  if 0 in jnp.shape(image)[-3:]:
    raise ValueError(f"images of shape {jnp.shape(image)} have no pixels")
  return jnp.shape(image)[-1]
