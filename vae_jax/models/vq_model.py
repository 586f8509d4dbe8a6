"""The VQModel of VQGAN (Esser et al. 2021, arXiv:2012.09841): a VQ-VAE with the networks of taming-transformers.

What is new beside `vq_vae` are encoder and decoder (`vq_networks`): residual blocks with attention, 1x1 convolutions
before and after the codes. The keys have the names of the authors' configs; their `embed_dim` is `model.code_dim`, and
`n_embed` is `model.codes`. The parameters have the names of the published weights: `vq_names`.

A VQGAN is this family with `objective.perceptual` (LPIPS) and `objective.adversarial` (eq. 4 to 7); without both it is
a VQ-VAE. The paper's loss of an image is the mean of |x - x'| over its n = h w c values in [-1, 1], LPIPS, and 0.25
times the mean of the commitment's p d squares (p codes of d channels; the authors' code has the 0.25 at the codebook
term, by an error that it keeps). With model.likelihood=laplace and model.sigma=b it is

    objective.alpha = 2 b / n      objective.perceptual.weight = 1      objective.commitment = 0.25 / (p d)

as -log p(x | z) = sum |x - x'| / b + n log 2b of values in [0, 1]. So b = 1/2 is the scale at which the sum of absolute
differences of values in [-1, 1] has the weight 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import DEEPEST, LONGEST_SIDE, WIDEST, WIDTHS, Keys, Rule, between, counted
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import quantisers, vq_vae
from vae_jax.models.blocks import REMAT_KEYS
from vae_jax.models.vq_networks import Decoder, Encoder, pointwise
from vae_jax.models.vq_vae import VQVAE
from vae_jax.types import Array, Batch, Spec, image_shape, input_shape, seen


class VQModel(VQVAE):
  """`VQVAE` with 1x1 convolutions `quant_conv`, from the encoder's channels to the quantiser's, and `post_quant_conv`
  back. encoder: images -> maps [b, h', w', z]; decoder: such maps -> likelihood parameters."""

  quant_conv: nn.Module
  post_quant_conv: nn.Module

  def vectors(self, batch: Batch) -> Float[Array, "b p d"]:
    x = self.quant_conv(self.encoder(seen(batch)))
    return x.reshape(len(x), math.prod(self.size), self.quantiser.dim)

  def pixels(self, vectors: Float[Array, "b p d"]) -> Float[Array, "b h w q"]:
    return self.decoder(self.post_quant_conv(vectors.reshape(len(vectors), *self.size, self.quantiser.dim)))


SIDES = Rule(
  f"() or up to {DEEPEST} sides > 0 and <= {LONGEST_SIDE}",
  lambda v: len(v) <= DEEPEST and all(0 < side <= LONGEST_SIDE for side in v),
)
KEYS: Keys = {
  "model.ch": ConfigKey(128, "width of the first convolution; of the others its multiples", counted(WIDEST)),
  "model.ch_mult": ConfigKey(
    (1, 2, 4), "widths at 1, 1/2, ... of the size, in model.ch; codes lie at the last", WIDTHS
  ),
  "model.num_res_blocks": ConfigKey(
    2, "residual blocks of the encoder at each resolution; the decoder has one more", between(1, 64)
  ),
  "model.attn_resolutions": ConfigKey(
    (), "sides of the maps with attention after each block; the lowest resolution has one anyway", SIDES
  ),
  "model.z_channels": ConfigKey(
    256, "channels between the networks and the 1x1 convolutions", counted(WIDEST)
  ),
  "model.norm_groups": ConfigKey(32, "groups of GroupNorm", counted(WIDEST)),
  **{key: value for key, value in quantisers.KEYS.items() if key.startswith("model.")},
  **REMAT_KEYS,
  **(
    likelihoods.KEYS
    | {
      "model.likelihood": likelihoods.KEYS["model.likelihood"]._replace(default="laplace"),
      "model.sigma": likelihoods.KEYS["model.sigma"]._replace(default="0.5"),
    }
  ),
  **{key: value for key, value in quantisers.KEYS.items() if key.startswith("objective.")},
}
FAMILY = VQModel


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from vq_vae.faults(config)
  groups, widths = config.model.norm_groups, [config.model.ch * multiple for multiple in config.model.ch_mult]
  if odd := [width for width in widths if width % groups]:
    yield (
      f"model.norm_groups={groups} must divide all widths, and model.ch={config.model.ch} gives {odd[0]}; set it to "
      f"{math.gcd(groups, *widths)}"
    )


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VQModel:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: images that cannot be halved so often, attention at a resolution that there is not.
  """
  shape, given = image_shape(spec), input_shape(spec)
  if given[:2] != shape[:2]:
    raise UserError(
      f"model.name=vq_model decodes at the size of the image that it sees, and degraded images are {given[0]} x "
      f"{given[1]} for {shape[0]} x {shape[1]}; set data.degrade.name to one that keeps the size"
    )
  times = len(model.ch_mult) - 1
  if shape[0] % 2**times or shape[1] % 2**times:
    raise UserError(
      f"model.ch_mult={','.join(map(str, model.ch_mult))} halves images {times} times, and {shape[0]} x {shape[1]} are "
      f"no multiples of {2**times}; set data.size, or fewer widths"
    )
  sides = [min(shape[:2]) // 2**level for level in range(times + 1)]
  if odd := [side for side in model.attn_resolutions if side not in sides]:
    raise UserError(
      f"model.attn_resolutions={','.join(map(str, model.attn_resolutions))}: no map has the side {odd[0]}; shorter "
      f"sides here are {', '.join(map(str, sides))}"
    )
  likelihood = likelihoods.build(model, shape[-1])
  quantiser = quantisers.build(model)
  common = {
    "ch": model.ch,
    "ch_mult": tuple(model.ch_mult),
    "num_res_blocks": model.num_res_blocks,
    "attention": tuple(level for level, side in enumerate(sides) if side in model.attn_resolutions),
    "groups": model.norm_groups,
    "remat": model.remat,
    **dtypes,
  }
  # Vectors are float32 whatever the compute type, as those of `vq_vae`.
  exact = {"dtype": jnp.float32, "param_dtype": dtypes["param_dtype"], "name": None}
  return VQModel(
    encoder=Encoder(z_channels=model.z_channels, **common),
    quant_conv=pointwise(quantiser.dim, **exact),
    quantiser=quantiser,
    post_quant_conv=pointwise(model.z_channels, **exact),
    decoder=Decoder(out_channels=likelihood.channels, **common),
    likelihood=likelihood,
    size=(shape[0] // 2**times, shape[1] // 2**times),
  )
