"""Model families: `build(config.model, shape, dtype)` makes one from its name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax.distributions import Likelihood, make_likelihood
from vae_jax.errors import UserError, nearest
from vae_jax.models.decoders import ConvDecoder, MLPDecoder
from vae_jax.models.encoders import ConvEncoder, MLPEncoder
from vae_jax.models.vae import VAE

Shape = tuple[int, int, int]


def _mlp_vae(config: ConfigDict, size: tuple[int, int], likelihood: Likelihood, kinds: dict[str, Any]) -> VAE:
  common = {"activation": config.activation, **kinds}
  encoder = MLPEncoder(tuple(config.hidden), config.latent_dim, **common)
  decoder = MLPDecoder(tuple(config.hidden[::-1]), size, likelihood.channels, **common)
  return VAE(encoder, decoder, likelihood, config.latent_dim)


def _conv_vae(
  config: ConfigDict, size: tuple[int, int], likelihood: Likelihood, kinds: dict[str, Any]
) -> VAE:
  common = {
    "channels": tuple(config.channels),
    "blocks": config.blocks,
    "dense": config.dense,
    "activation": config.activation,
    **kinds,
  }
  encoder = ConvEncoder(latent_dim=config.latent_dim, **common)
  decoder = ConvDecoder(size=size, out_channels=likelihood.channels, **common)
  return VAE(encoder, decoder, likelihood, config.latent_dim)


MODELS = {"mlp_vae": _mlp_vae, "conv_vae": _conv_vae}


def build(config: ConfigDict, shape: Shape, dtype: str = "float32", param_dtype: str = "float32") -> VAE:
  """The model named by `config.model` for clean images of `shape` (h, w, c).

  `dtype` is the compute type; likelihoods, KL and statistics are float32 whatever it is.
  """
  if config.name not in MODELS:
    raise UserError(f"model.name: unknown model {config.name!r}{nearest(config.name, MODELS, what='models')}")
  likelihood = make_likelihood(config.likelihood, shape[-1], config.sigma, config.mixtures)
  kinds = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
  return MODELS[config.name](config, (shape[0], shape[1]), likelihood, kinds)
