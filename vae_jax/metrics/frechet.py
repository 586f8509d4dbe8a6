"""The Fréchet distance between two sets of features, and the FID: that distance on the Inception network.

At a finite number of examples it is biased upwards, by an amount that depends on the model: compare at one count only.
"""

from __future__ import annotations

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import (
  FID_LAYER,
  FeatureStatistics,
  check_dimensions,
  check_inception,
  check_same,
)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
  """The Fréchet distance of two Gaussians, squared, in float64 (Dowson & Landau 1982, equation 4).

  |mean_a - mean_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)). The trace of the root is the sum of the singular values of
  R_a^T R_b for any S = R R^T, which is real, and exact for singular covariances too (fewer examples than
  dimensions): nothing is added to the diagonal. Directions with less than d * 2^-52 of the largest variance are
  rounding and count as none. A result that rounding made negative is 0.

  Returns:
    At least 0; nan where the statistics are not finite, or so large that float64 overflows.

  Raises:
    UserError: protocols or dimensions differ; fewer than two examples; a covariance with negative variances.
  """
  check_same(a, b)
  covariances = a.covariance, b.covariance
  check_dimensions(a.mean.shape[0], b.mean.shape[0])
  if not all(np.isfinite(part).all() for part in (a.mean, b.mean, *covariances)):
    return float("nan")
  root_a, root_b = (_root(covariance) for covariance in covariances)
  with np.errstate(over="ignore", invalid="ignore"):
    cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    distance = np.square(a.mean - b.mean).sum() + (traces - 2 * cross)
  return float(np.maximum(0.0, distance))  # nan stays nan, which Python's max would make 0


def fid(a: FeatureStatistics, b: FeatureStatistics) -> float:
  """The Fréchet inception distance (Heusel et al. 2017): `frechet_distance` on the Inception pool features only.

  Published values are for 50,000 generated images, mostly against all training images. Raises as
  `frechet_distance`; UserError for any other network or layer.
  """
  check_inception(a.protocol, FID_LAYER, "fid", "call frechet_distance, and do not call the result FID")
  return frechet_distance(a, b)


def _root(covariance: np.ndarray) -> np.ndarray:
  """R [d, r] of full column rank r with R R^T = covariance."""
  variances, axes = np.linalg.eigh(covariance)
  lowest, largest = variances[0], max(variances[-1], 0.0)
  if lowest < -1e-3 * largest:
    raise UserError(
      f"a covariance with variances from {lowest:g} to {largest:g} is none; compute the statistics again"
    )
  kept = variances > len(variances) * np.finfo(np.float64).eps * largest
  return axes[:, kept] * np.sqrt(variances[kept])
