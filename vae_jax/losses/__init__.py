"""Losses as pure functions: one value per example, in a stated unit; the caller averages.

Those of `losses.batch` are the exception: on the latents of a whole batch, one scalar each.

Needs jax only, and jaxtyping for annotations. `...` are any leading axes, usually the batch. Inputs of any float type;
results are float32. Shapes that do not fit raise ValueError: nothing is broadcast silently.
"""

from vae_jax.losses.adversarial import discriminator_hinge_loss, generator_hinge_loss
from vae_jax.losses.batch import (
  Decomposition,
  decompose_kl,
  dip_penalty,
  free_bits_of_batch,
  mmd,
  total_correlation,
)
from vae_jax.losses.perceptual import (
  PRESETS,
  Preset,
  gram,
  lpips,
  normalize_channels,
  perceptual_loss,
  style_loss,
)
from vae_jax.losses.pixels import (
  absolute_error,
  bernoulli_nll,
  gaussian_nll,
  laplace_nll,
  logistic_mixture_nll,
  squared_error,
)
from vae_jax.losses.structure import ms_ssim_loss, ssim_loss, total_variation
from vae_jax.losses.variational import free_bits, iwae_loss, kl_gaussian, negative_elbo

__all__ = [
  "PRESETS",
  "Decomposition",
  "Preset",
  "absolute_error",
  "bernoulli_nll",
  "decompose_kl",
  "dip_penalty",
  "discriminator_hinge_loss",
  "free_bits",
  "free_bits_of_batch",
  "gaussian_nll",
  "generator_hinge_loss",
  "gram",
  "iwae_loss",
  "kl_gaussian",
  "laplace_nll",
  "logistic_mixture_nll",
  "lpips",
  "mmd",
  "ms_ssim_loss",
  "negative_elbo",
  "normalize_channels",
  "perceptual_loss",
  "squared_error",
  "ssim_loss",
  "style_loss",
  "total_correlation",
  "total_variation",
]
