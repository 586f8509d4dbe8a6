"""Distributions of a VAE: diagonal Gaussians of latents and their mixtures, likelihoods of images, importance bounds.

All arithmetic is float32 whatever the input type. Everything is pure and safe under jit, vmap and grad.
Log-probabilities are in nats. Shapes: `d` latents; `h w c` an image; `...` any leading axes (samples, batch).
Where a draw is scored, its distribution may lack leading axes of the draw or have them with size 1, and an
image likewise those of its params; every other difference of shape raises ValueError.
"""

from vae_jax.distributions.importance import (
  StreamingLogSumExp,
  ciwae_bound,
  dreg_bound,
  iwae_bound,
  miwae_bound,
  streaming_logsumexp_init,
  streaming_logsumexp_update,
  streaming_logsumexp_value,
)
from vae_jax.distributions.latents import (
  LOG_2PI,
  Gaussian,
  bound_logvar,
  kl,
  kl_standard_normal,
  log_prob,
  sample,
  standard_normal_log_prob,
)
from vae_jax.distributions.likelihoods import (
  LEVELS,
  MIN_MSE,
  MIN_SCALE,
  Likelihood,
  bernoulli,
  gaussian,
  laplace,
  logistic_mixture,
  logit_laplace,
  make_likelihood,
  observed_log_prob,
)
from vae_jax.distributions.mixtures import Mixture, mixture_log_prob, mixture_sample
from vae_jax.distributions.stable import absolute, at_least, safe_sqrt

__all__ = [
  "LEVELS",
  "LOG_2PI",
  "MIN_MSE",
  "MIN_SCALE",
  "Gaussian",
  "Likelihood",
  "Mixture",
  "StreamingLogSumExp",
  "absolute",
  "at_least",
  "bernoulli",
  "bound_logvar",
  "ciwae_bound",
  "dreg_bound",
  "gaussian",
  "iwae_bound",
  "kl",
  "kl_standard_normal",
  "laplace",
  "log_prob",
  "logistic_mixture",
  "logit_laplace",
  "make_likelihood",
  "miwae_bound",
  "mixture_log_prob",
  "mixture_sample",
  "observed_log_prob",
  "safe_sqrt",
  "sample",
  "standard_normal_log_prob",
  "streaming_logsumexp_init",
  "streaming_logsumexp_update",
  "streaming_logsumexp_value",
]
