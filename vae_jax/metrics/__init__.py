"""Metrics: pure functions of images, and accumulators of dataset scores that live on the host in float64."""

from vae_jax.metrics.accumulators import ActiveUnits, CodeUsage, Mean
from vae_jax.metrics.blocking import psnr_b
from vae_jax.metrics.class_score import ClassStatistics, class_score, inception_score
from vae_jax.metrics.colour import rgb_to_y
from vae_jax.metrics.density import bits_per_dim
from vae_jax.metrics.features import FeatureSet, FeatureStatistics, Protocol
from vae_jax.metrics.fidelity import mae, mse, psnr_rgb, psnr_y
from vae_jax.metrics.frechet import fid, frechet_distance
from vae_jax.metrics.kernel import kernel_distance, kernel_distance_subsets, kid
from vae_jax.metrics.statistics_files import load_features, load_statistics, save_statistics
from vae_jax.metrics.structure import ms_ssim, ssim, ssim_y
from vae_jax.metrics.underwater import uciqe, uicm, uiconm, uiqm, uism

__all__ = [
  "ActiveUnits",
  "ClassStatistics",
  "CodeUsage",
  "FeatureSet",
  "FeatureStatistics",
  "Mean",
  "Protocol",
  "bits_per_dim",
  "class_score",
  "fid",
  "frechet_distance",
  "inception_score",
  "kernel_distance",
  "kernel_distance_subsets",
  "kid",
  "load_features",
  "load_statistics",
  "mae",
  "ms_ssim",
  "mse",
  "psnr_b",
  "psnr_rgb",
  "psnr_y",
  "rgb_to_y",
  "save_statistics",
  "ssim",
  "ssim_y",
  "uciqe",
  "uicm",
  "uiconm",
  "uiqm",
  "uism",
]
