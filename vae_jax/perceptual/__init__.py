"""Frozen feature networks, their weights, LPIPS, and distances between sets of images.

Images are in [0, 1] unless another range is said. Feature networks were trained on normalised images; that
normalisation happens inside, once (`preprocessing`).
"""

from vae_jax.perceptual.distances import (
  Reference,
  compare,
  feature_protocol,
  image_features,
  load_reference,
  save_reference,
  score_names,
)
from vae_jax.perceptual.extractor import LPIPS, LPIPS_LAYERS, NETWORKS, Extractor, load, load_lpips
from vae_jax.perceptual.networks import taps

__all__ = [
  "LPIPS",
  "LPIPS_LAYERS",
  "NETWORKS",
  "Extractor",
  "Reference",
  "compare",
  "feature_protocol",
  "image_features",
  "load",
  "load_lpips",
  "load_reference",
  "save_reference",
  "score_names",
  "taps",
]
