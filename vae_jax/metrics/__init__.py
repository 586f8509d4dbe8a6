"""Metrics: pure functions of images, and accumulators of dataset scores that live on the host in float64."""

from typing import Any

from vae_jax.errors import missing
from vae_jax.metrics.accumulators import ActiveUnits, CodeUsage, Mean, Posteriors
from vae_jax.metrics.blocking import blockiness, psnr_b
from vae_jax.metrics.class_score import ClassStatistics, class_score, inception_score
from vae_jax.metrics.colour import rgb_to_y
from vae_jax.metrics.density import bits_per_dim
from vae_jax.metrics.energy import energy_distance
from vae_jax.metrics.features import FeatureSet, FeatureStatistics, Protocol
from vae_jax.metrics.fidelity import mae, mse, psnr_rgb, psnr_y
from vae_jax.metrics.fidelity import psnr_rgb as psnr
from vae_jax.metrics.frechet import fid, frechet_distance
from vae_jax.metrics.intervals import Estimate, score_intervals
from vae_jax.metrics.kernel import kernel_distance, kernel_distance_subsets, kid
from vae_jax.metrics.lattice import lattice_peak
from vae_jax.metrics.neighbours import density_coverage, precision_recall
from vae_jax.metrics.statistics_files import load_features, load_statistics, save_statistics
from vae_jax.metrics.structure import ms_ssim, ssim, ssim_y
from vae_jax.metrics.underwater import uciqe, uicm, uiconm, uiqm, uism

__all__ = [
  "ActiveUnits",
  "ClassStatistics",
  "CodeUsage",
  "Estimate",
  "FeatureSet",
  "FeatureStatistics",
  "Mean",
  "Posteriors",
  "Protocol",
  "bits_per_dim",
  "blockiness",
  "class_score",
  "density_coverage",
  "energy_distance",
  "fid",
  "frechet_distance",
  "inception_score",
  "kernel_distance",
  "kernel_distance_subsets",
  "kid",
  "lattice_peak",
  "load_features",
  "load_statistics",
  "mae",
  "ms_ssim",
  "mse",
  "precision_recall",
  "psnr",
  "psnr_b",
  "psnr_rgb",
  "psnr_y",
  "rgb_to_y",
  "save_statistics",
  "score_intervals",
  "ssim",
  "ssim_y",
  "uciqe",
  "uicm",
  "uiconm",
  "uiqm",
  "uism",
]

# What people look for here: name -> where it is.
_ELSEWHERE = {
  "lpips": "vae_jax.perceptual.load_lpips(...), or vae_jax.losses.lpips for features",
  "kl": "vae_jax.losses.kl_gaussian",
  "kl_divergence": "vae_jax.losses.kl_gaussian",
  "elbo": "vae_jax.losses.negative_elbo",
  "nll": "vae_jax.losses.bernoulli_nll, gaussian_nll, laplace_nll or logistic_mixture_nll",
  "l1": "vae_jax.metrics.mae",
  "l2": "vae_jax.metrics.mse",
  "rmse": "vae_jax.metrics.mse",
  "msssim": "vae_jax.metrics.ms_ssim",
  "inception_distance": "vae_jax.metrics.fid",
  "frechet_inception_distance": "vae_jax.metrics.fid",
}


def __getattr__(name: str) -> Any:
  raise missing("vae_jax.metrics", name, _ELSEWHERE)
