"""Metrics: pure functions of images, and accumulators of dataset scores that live on the host in float64."""

from typing import Any

from vae_jax.errors import missing
from vae_jax.metrics.accumulators import ActiveUnits, CodeUsage, Mean, Posteriors
from vae_jax.metrics.anomaly import complexity_corrected, compressed_bits, likelihood_ratio, typicality
from vae_jax.metrics.blocking import blockiness, psnr_b
from vae_jax.metrics.class_score import ClassStatistics, class_score, inception_score
from vae_jax.metrics.clustering import KMeans, clustering_accuracy, kmeans, normalized_mutual_information
from vae_jax.metrics.colour import rgb_to_y
from vae_jax.metrics.density import bits_per_dim
from vae_jax.metrics.detection import auroc, auroc_interval, average_precision, fpr_at_tpr, percentiles
from vae_jax.metrics.disentanglement import (
  DCI,
  dci,
  factor_entropies,
  factor_vae_score,
  mig,
  mutual_information,
  sap,
)
from vae_jax.metrics.energy import energy_distance
from vae_jax.metrics.features import FeatureSet, FeatureStatistics, Protocol
from vae_jax.metrics.fidelity import mae, mse, psnr_rgb, psnr_y
from vae_jax.metrics.fidelity import psnr_rgb as psnr
from vae_jax.metrics.frechet import fid, frechet_distance
from vae_jax.metrics.intervals import Estimate, score_intervals
from vae_jax.metrics.kernel import kernel_distance, kernel_distance_subsets, kid
from vae_jax.metrics.lattice import lattice_peak
from vae_jax.metrics.neighbours import density_coverage, precision_recall
from vae_jax.metrics.probes import Probe, ProbeScore, fit_probe, linear_probe, proportion
from vae_jax.metrics.statistics_files import load_features, load_statistics, save_statistics
from vae_jax.metrics.structure import ms_ssim, ssim, ssim_y
from vae_jax.metrics.underwater import uciqe, uicm, uiconm, uiqm, uism

__all__ = [
  "DCI",
  "ActiveUnits",
  "ClassStatistics",
  "CodeUsage",
  "Estimate",
  "FeatureSet",
  "FeatureStatistics",
  "KMeans",
  "Mean",
  "Posteriors",
  "Probe",
  "ProbeScore",
  "Protocol",
  "auroc",
  "auroc_interval",
  "average_precision",
  "bits_per_dim",
  "blockiness",
  "class_score",
  "clustering_accuracy",
  "complexity_corrected",
  "compressed_bits",
  "dci",
  "density_coverage",
  "energy_distance",
  "factor_entropies",
  "factor_vae_score",
  "fid",
  "fit_probe",
  "fpr_at_tpr",
  "frechet_distance",
  "inception_score",
  "kernel_distance",
  "kernel_distance_subsets",
  "kid",
  "kmeans",
  "lattice_peak",
  "likelihood_ratio",
  "linear_probe",
  "load_features",
  "load_statistics",
  "mae",
  "mig",
  "ms_ssim",
  "mse",
  "mutual_information",
  "normalized_mutual_information",
  "percentiles",
  "precision_recall",
  "proportion",
  "psnr",
  "psnr_b",
  "psnr_rgb",
  "psnr_y",
  "rgb_to_y",
  "sap",
  "save_statistics",
  "score_intervals",
  "ssim",
  "ssim_y",
  "typicality",
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
  "mutual_information_gap": "vae_jax.metrics.mig",
  "sap_score": "vae_jax.metrics.sap",
  "nmi": "vae_jax.metrics.normalized_mutual_information",
  "normalized_mutual_info_score": "vae_jax.metrics.normalized_mutual_information",
  "roc_auc": "vae_jax.metrics.auroc",
  "roc_auc_score": "vae_jax.metrics.auroc",
  "msssim": "vae_jax.metrics.ms_ssim",
  "inception_distance": "vae_jax.metrics.fid",
  "frechet_inception_distance": "vae_jax.metrics.fid",
}


def __getattr__(name: str) -> Any:
  raise missing("vae_jax.metrics", name, _ELSEWHERE)
