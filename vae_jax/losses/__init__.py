"""Losses as pure functions: one value per example, in a stated unit; the caller averages.

Those of `losses.batch` are the exception: on the latents of a whole batch, one scalar each.

Needs jax only, and jaxtyping for annotations. `...` are any leading axes, usually the batch. Inputs of any float type;
results are float32. Shapes that do not fit raise ValueError: nothing is broadcast silently.
"""

from typing import Any

from vae_jax.errors import missing
from vae_jax.losses.adversarial import discriminator_hinge_loss, generator_hinge_loss, verdict_cross_entropy
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
from vae_jax.losses.variational import (
  ciwae_loss,
  free_bits,
  iwae_loss,
  kl_gaussian,
  miwae_loss,
  negative_elbo,
)

__all__ = [
  "PRESETS",
  "Decomposition",
  "Preset",
  "absolute_error",
  "bernoulli_nll",
  "ciwae_loss",
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
  "miwae_loss",
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
  "verdict_cross_entropy",
]

# What people look for here: name -> where it is.
_ELSEWHERE = {
  "kl": "vae_jax.losses.kl_gaussian",
  "kl_divergence": "vae_jax.losses.kl_gaussian",
  "elbo": "vae_jax.losses.negative_elbo",
  "iwae": "vae_jax.losses.iwae_loss",
  "mse": "vae_jax.losses.squared_error (a sum, not a mean), or vae_jax.metrics.mse",
  "l1": "vae_jax.losses.absolute_error",
  "l2": "vae_jax.losses.squared_error",
  "mae": "vae_jax.losses.absolute_error, or vae_jax.metrics.mae",
  "bce": "vae_jax.losses.bernoulli_nll; of a discriminator, vae_jax.losses.verdict_cross_entropy",
  "ssim": "vae_jax.losses.ssim_loss, or vae_jax.metrics.ssim",
  "ms_ssim": "vae_jax.losses.ms_ssim_loss, or vae_jax.metrics.ms_ssim",
  "psnr": "vae_jax.metrics.psnr",
  "style": "vae_jax.losses.style_loss",
  "gram_matrix": "vae_jax.losses.gram",
  "tv": "vae_jax.losses.total_variation",
  "hinge": "vae_jax.losses.discriminator_hinge_loss or generator_hinge_loss",
}


def __getattr__(name: str) -> Any:
  raise missing("vae_jax.losses", name, _ELSEWHERE)
