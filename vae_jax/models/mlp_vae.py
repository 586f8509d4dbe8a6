"""The VAE of fully connected layers: the networks of Kingma & Welling 2014 and of Burda et al. 2016."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.keys import WIDEST, WIDTHS, Key, Keys, counted
from vae_jax.models import flexible_vae
from vae_jax.models.blocks import ACTIVATION_KEYS
from vae_jax.models.decoders import MLPDecoder
from vae_jax.models.encoders import MLPEncoder
from vae_jax.models.vae import VAE
from vae_jax.types import Spec, image_shape

# The keys of the networks, which `cvae` has too.
NETWORK_KEYS: Keys = {
  "model.latent_dim": Key(16, "size of the latent vector", counted(WIDEST)),
  "model.hidden": Key((512,), "widths of the encoder's layers; the decoder mirrors them", WIDTHS),
  **ACTIVATION_KEYS,
  **likelihoods.KEYS,
}
KEYS: Keys = {**NETWORK_KEYS, **flexible_vae.KEYS}
FAMILY = VAE
faults = flexible_vae.faults


def networks(
  model: ConfigDict, spec: Spec, dtypes: dict[str, Any], channels: int, moments: int = 2
) -> tuple[MLPEncoder, MLPDecoder]:
  """Encoder and decoder. channels: those that the decoder gives for each pixel."""
  hidden, common = tuple(model.hidden), {"activation": model.activation, **dtypes}
  encoder = MLPEncoder(hidden, model.latent_dim, moments=moments, **common)
  return encoder, MLPDecoder(hidden[::-1], image_shape(spec)[:2], channels, **common)


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VAE:
  """The module that `config.model` describes, for records of `spec`."""
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  encoder, decoder = networks(model, spec, dtypes, likelihood.channels, flexible_vae.moments(model))
  return flexible_vae.assembled(model, spec, encoder, decoder, model.latent_dim, likelihood)
