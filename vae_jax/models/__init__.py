"""Model families: `build(config.model, shape, dtype)` makes one from its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax.distributions import Likelihood, make_likelihood
from vae_jax.errors import UserError, nearest
from vae_jax.models.blocks import halved
from vae_jax.models.decoders import ConvDecoder, MLPDecoder
from vae_jax.models.encoders import ConvEncoder, MLPEncoder
from vae_jax.models.restoration_vae import RestorationVAE
from vae_jax.models.transformation_net import TransformationNet
from vae_jax.models.vae import VAE
from vae_jax.types import Array, Params

Shape = tuple[int, int, int]
Model = VAE | RestorationVAE | TransformationNet


def _mlp_vae(
  config: ConfigDict, shape: Shape, input_shape: Shape, likelihood: Likelihood, kinds: dict[str, Any]
) -> VAE:
  common = {"activation": config.activation, **kinds}
  encoder = MLPEncoder(tuple(config.hidden), config.latent_dim, **common)
  decoder = MLPDecoder(tuple(config.hidden[::-1]), shape[:2], likelihood.channels, **common)
  return VAE(encoder, decoder, likelihood, config.latent_dim)


def _conv_vae(
  config: ConfigDict, shape: Shape, input_shape: Shape, likelihood: Likelihood, kinds: dict[str, Any]
) -> VAE:
  height, width = (1, 1) if config.dense else halved(shape[:2], len(config.channels))
  if not config.dense and input_shape[:2] != shape[:2]:
    raise UserError(
      f"model.dense=0 (a map of latents) needs degraded images of the size of the clean ones, not {input_shape[:2]} "
      f"for {shape[:2]}; give model.dense a width"
    )
  common = {
    "channels": tuple(config.channels),
    "blocks": config.blocks,
    "dense": config.dense,
    "activation": config.activation,
    "remat": config.remat,
    **kinds,
  }
  encoder = ConvEncoder(latent_dim=config.latent_dim, **common)
  decoder = ConvDecoder(size=shape[:2], out_channels=likelihood.channels, **common)
  return VAE(encoder, decoder, likelihood, height * width * config.latent_dim)


def _factor(shape: Shape, input_shape: Shape) -> int:
  """The least whole number by which sides of `input_shape` were divided, rounding up, from those of `shape`."""
  sides = list(zip(shape[:2], input_shape[:2], strict=True))
  for factor in range(1, max(shape[:2]) + 1):
    if all(-(-side // factor) == small for side, small in sides):
      return factor
  raise UserError(
    f"degraded images of {input_shape[0]} x {input_shape[1]} for clean ones of {shape[0]} x {shape[1]}: "
    "they must be smaller by one whole factor; give another data.size or data.degrade.factor"
  )


def _restoration_vae(
  config: ConfigDict, shape: Shape, input_shape: Shape, likelihood: Likelihood, kinds: dict[str, Any]
) -> RestorationVAE:
  multiple, side = config.unshuffle * 2 ** (len(config.channels) - 1), max(input_shape[:2])
  if multiple > 16 * side:
    raise UserError(
      f"model.channels={','.join(map(str, config.channels))} with model.unshuffle={config.unshuffle} would pad "
      f"images of {input_shape[0]} x {input_shape[1]} to multiples of {multiple}; give fewer widths, or larger images"
    )
  return RestorationVAE(
    channels=tuple(config.channels),
    blocks=config.blocks,
    latent_channels=tuple(max(c // 3, 8) for c in config.channels),
    latent_dim=config.latent_dim,
    factor=_factor(shape, input_shape),
    unshuffle=config.unshuffle,
    likelihood=likelihood,
    point_likelihood=make_likelihood(config.likelihood, shape[-1]),
    image_channels=shape[-1],
    activation=config.activation,
    remat=config.remat,
    **kinds,
  )


def _transformation_net(
  config: ConfigDict, shape: Shape, input_shape: Shape, likelihood: Likelihood, kinds: dict[str, Any]
) -> TransformationNet:
  return TransformationNet(
    channels=tuple(config.channels),
    blocks=config.blocks,
    factor=_factor(shape, input_shape),
    likelihood=likelihood,
    image_channels=shape[-1],
    activation=config.activation,
    remat=config.remat,
    **kinds,
  )


MODELS: dict[str, Callable[..., Model]] = {
  "mlp_vae": _mlp_vae,
  "conv_vae": _conv_vae,
  "restoration_vae": _restoration_vae,
  "transformation_net": _transformation_net,
}


def build(
  config: ConfigDict,
  shape: Shape,
  dtype: str = "float32",
  param_dtype: str = "float32",
  input_shape: Shape | None = None,
) -> Model:
  """The model named by `config.model` for clean images of `shape` (h, w, c).

  `dtype` is the compute type; likelihoods, KL and statistics are float32 whatever it is. `input_shape`: of what the
  encoder sees, where that is not the image itself. Raises UserError: an unknown name, shapes that do not go together.
  """
  if config.name not in MODELS:
    raise UserError(f"model.name: unknown model {config.name!r}{nearest(config.name, MODELS, what='models')}")
  likelihood = make_likelihood(config.likelihood, shape[-1], config.sigma, config.mixtures)
  kinds = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
  return MODELS[config.name](config, shape, input_shape or shape, likelihood, kinds)


def last_kernel(params: Params) -> Array:
  """The kernel of the layer that makes the image, of any family: `head`, or the last dense layer of the decoder."""
  if "head" in params:
    return params["head"]["kernel"]
  decoder = params["decoder"]
  return decoder[f"Dense_{max(int(name[6:]) for name in decoder if name.startswith('Dense_'))}"]["kernel"]
