"""Frozen feature networks, their weights, and LPIPS. Images are in [0, 1] unless another range is said.

Feature networks were trained on normalised images; that normalisation happens inside, once (`preprocessing`).
"""

from vae_jax.perceptual.extractor import LPIPS, LPIPS_LAYERS, NETWORKS, Extractor, load, load_lpips
from vae_jax.perceptual.networks import taps

__all__ = ["LPIPS", "LPIPS_LAYERS", "NETWORKS", "Extractor", "load", "load_lpips", "taps"]
