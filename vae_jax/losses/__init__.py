"""Losses as pure functions: one value per example, in a stated unit; the caller averages.

Needs jax only. `...` are any leading axes, usually the batch. Inputs of any float type; results are float32.
Shapes that do not fit raise ValueError: nothing is broadcast silently.
"""

from vae_jax.losses.pixels import (
  absolute_error,
  bernoulli_nll,
  gaussian_nll,
  laplace_nll,
  logistic_mixture_nll,
  squared_error,
)
from vae_jax.losses.variational import free_bits, iwae_loss, kl_gaussian, negative_elbo

__all__ = [
  "absolute_error",
  "bernoulli_nll",
  "free_bits",
  "gaussian_nll",
  "iwae_loss",
  "kl_gaussian",
  "laplace_nll",
  "logistic_mixture_nll",
  "negative_elbo",
  "squared_error",
]
