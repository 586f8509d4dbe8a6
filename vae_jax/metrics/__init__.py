"""Metrics: pure functions of images, and accumulators of dataset scores that live on the host in float64."""

from vae_jax.metrics.accumulators import ActiveUnits, Mean
from vae_jax.metrics.density import bits_per_dim
from vae_jax.metrics.fidelity import mae, mse, psnr_rgb

__all__ = ["ActiveUnits", "Mean", "bits_per_dim", "mae", "mse", "psnr_rgb"]
