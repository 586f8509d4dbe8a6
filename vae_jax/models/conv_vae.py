"""The convolutional VAE: strided convolutions and residual blocks down, sub-pixel convolutions up."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import WIDEST, WIDTHS, Key, Keys, between, counted
from vae_jax.models import flexible_vae
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS, halved
from vae_jax.models.decoders import HEAD_KEYS, ConvDecoder
from vae_jax.models.encoders import ConvEncoder
from vae_jax.models.vae import VAE
from vae_jax.types import Spec, image_shape, input_shape

# The keys of the networks, which other families have too.
NETWORK_KEYS: Keys = {
  "model.latent_dim": Key(
    16, "size of the latent vector; of a map of latents: at each position", counted(WIDEST)
  ),
  "model.channels": Key((32, 64), "widths at 1/2, 1/4, ... of the size", WIDTHS),
  "model.blocks": Key(1, "residual blocks at each resolution", between(0, 256)),
  "model.dense": Key(
    256, "width of the layer between feature map and latents; 0: a map of latents", between(0, WIDEST)
  ),
  **HEAD_KEYS,
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **likelihoods.KEYS,
}
KEYS: Keys = {**NETWORK_KEYS, **flexible_vae.KEYS}
FAMILY = VAE
faults = flexible_vae.faults


def networks(
  model: ConfigDict, spec: Spec, dtypes: dict[str, Any], channels: int, moments: int = 2
) -> tuple[ConvEncoder, ConvDecoder, int]:
  """Encoder, decoder, and how many latents an image has. channels: those that the decoder gives for each pixel.

  A family without the key model.head_kernel has its default.

  Raises UserError: a map of latents where input and output differ in size.
  """
  shape, given = image_shape(spec), input_shape(spec)
  height, width = (1, 1) if model.dense else halved(shape[:2], len(model.channels))
  if not model.dense and given[:2] != shape[:2]:
    raise UserError(
      f"model.dense=0 (a map of latents) needs degraded images of the size of the clean ones, not {given[:2]} "
      f"for {shape[:2]}; give model.dense a width"
    )
  common = {
    "channels": tuple(model.channels),
    "blocks": model.blocks,
    "dense": model.dense,
    "activation": model.activation,
    "remat": model.remat,
    **dtypes,
  }
  encoder = ConvEncoder(latent_dim=model.latent_dim, moments=moments, **common)
  head_kernel = model.get("head_kernel", HEAD_KEYS["model.head_kernel"].default)
  decoder = ConvDecoder(
    size=shape[:2], out_channels=channels, head_kernel=head_kernel, blur=model.blur, **common
  )
  return encoder, decoder, height * width * model.latent_dim


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VAE:
  """The module that `config.model` describes, for records of `spec`. Raises UserError as `networks` does."""
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  encoder, decoder, units = networks(model, spec, dtypes, likelihood.channels, flexible_vae.moments(model))
  return flexible_vae.assembled(model, spec, encoder, decoder, units, likelihood)
