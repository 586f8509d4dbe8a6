"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): images as maps of codes from a learned codebook.

An encoder makes a map of vectors, each is replaced by the nearest of `codes` vectors e_k, and a decoder makes pixels of
those. With x_p the vector at position p, e its code and sg the stopped gradient (eq. 3 of the paper):

    loss = -log p(image | e) + commitment * sum_p |x_p - sg(e)|^2 + codebook * sum_p |sg(x_p) - e|^2

Gradients pass straight from the decoder to the encoder. Codes are moving averages of the vectors that choose them
(codebook=ema, appendix A.1), which needs no third term, or are trained by it (codebook=gradient). Both start by k-means
on the first batches and restart codes that are hardly used: see `codebook`. `quantisers` has what else turns vectors
into codes, each with its own terms.

The posterior is one-hot and the prior uniform, so the rate is constant, codes of an image * log(size of the codebook),
and distortion + rate bounds -log p(image) (section 3.1); `learned_codes.Gumbel` says where that is not so. A prior over
codes is a second stage; this family cannot sample without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import WIDTHS, Keys, between
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import quantisers
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS, halved
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.models.decoders import HEAD_KEYS, ConvDecoder
from vae_jax.models.encoders import downsampled
from vae_jax.models.quantisers import Quantiser
from vae_jax.types import Array, Batch, Key, Spec, Variables, image_shape, input_shape, seen


class Encoder(nn.Module):
  """Strided convolutions and residual blocks at 1/2, 1/4, ... of the size, then one vector at each position."""

  channels: tuple[int, ...]
  blocks: int
  code_dim: int
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = downsampled(image.astype(self.dtype), self.channels, self.blocks, self.activation, self.remat, dtypes)
    return nn.Dense(self.code_dim, dtype=jnp.float32, param_dtype=self.param_dtype)(x.astype(jnp.float32))


class CodedImages(Family):
  """What families with codes share: p(x | codes), the likelihood that a decoder gives the parameters of.

  A subclass has `layout`, `tokens` and `from_tokens`.
  """

  encoder: nn.Module
  decoder: nn.Module
  likelihood: dist.Likelihood

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "commitment", "codebook", "entropy")
  CAN: ClassVar[frozenset[str]] = frozenset({"bound", "tokens"})

  @property
  def positions(self) -> int:
    """Codes of an image, of all maps."""
    return sum(map(math.prod, self.layout))

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("decoder", self.decoder.last, "kernel")

  def setup(self):
    scale = self.likelihood.has_scale
    self.log_scale = (
      self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32) if scale else jnp.float32(0)
    )

  def tokens(self, batch: Batch) -> Int[Array, "b n"]:
    """The codes of images, coarse maps first, each row by row."""
    raise NotImplementedError

  def from_tokens(self, codes: Int[Array, "b n"], condition: Batch) -> Float[Array, "b h w c"]:
    """The mean image of p(x | codes), in [0, 1]."""
    raise NotImplementedError

  def reconstruct(self, batch: Batch) -> Float[Array, "b h w c"]:
    return self.from_tokens(self.tokens(batch), batch)


class VQVAE(CodedImages):
  """One map of codes.

  Attributes: encoder, images -> maps [b, h', w', d]; quantiser, of their vectors [b, h' w', d]; decoder,
  [n, h' w' d] -> likelihood parameters; size, (h', w') of the map.
  """

  quantiser: Quantiser
  size: tuple[int, int]

  @property
  def terms(self) -> tuple[str, ...]:
    return ("distortion", *self.quantiser.terms)

  @property
  def codes(self) -> int:
    return self.quantiser.size

  @property
  def layout(self) -> tuple[tuple[int, int, int], ...]:
    return ((*self.size, self.quantiser.per_position),)

  def setup(self):
    super().setup()
    nn.share_scope(self, self.quantiser)

  def vectors(self, batch: Batch) -> Float[Array, "b p d"]:
    """The encoder's vectors, row by row."""
    image = seen(batch)
    return self.encoder(image).reshape(image.shape[0], math.prod(self.size), self.quantiser.dim)

  def pixels(self, vectors: Float[Array, "b p d"]) -> Float[Array, "b h w q"]:
    """Parameters of the likelihood of each pixel."""
    return self.decoder(vectors.reshape(vectors.shape[0], -1))

  def tokens(self, batch: Batch) -> Int[Array, "b n"]:
    return self.quantiser.tokens(self.vectors(batch))

  def code_vectors(self, batch: Batch) -> Float[Array, "b e"]:
    """The vectors of the codes of images, as the decoder sees them, position by position."""
    return self.quantiser.vectors(self.tokens(batch)).reshape(len(seen(batch)), -1)

  def from_tokens(self, codes: Int[Array, "b n"], condition: Batch) -> Float[Array, "b h w c"]:
    return self.likelihood.mean(self.pixels(self.quantiser.vectors(codes)), self.log_scale)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    image = jnp.asarray(batch["image"])
    found = self.quantiser(self.vectors(batch), batch, keys, mode)
    params = self.pixels(found.vectors)
    terms = {
      "distortion": -self.likelihood.log_prob(params, image, self.log_scale),
      "rate": found.rate,
      **found.terms,
    }
    reconstruction = self.likelihood.mean(params, self.log_scale)
    return Output(terms, reconstruction, latents={"codes": found.codes}, statistics=found.statistics)

  def absorb(self, variables: Variables, statistics: Any) -> Variables:
    return self.quantiser.absorb(variables, statistics)


KEYS: Keys = {
  "model.channels": ConfigKey(
    (64, 128), "widths at 1/2, 1/4, ... of the size; codes lie at the last", WIDTHS
  ),
  "model.blocks": ConfigKey(2, "residual blocks at each resolution", between(0, 256)),
  **{key: value for key, value in quantisers.KEYS.items() if key.startswith("model.")},
  **HEAD_KEYS,
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **(
    likelihoods.KEYS | {"model.likelihood": likelihoods.KEYS["model.likelihood"]._replace(default="gaussian")}
  ),
  **{key: value for key, value in quantisers.KEYS.items() if key.startswith("objective.")},
}
FAMILY = VQVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from likelihoods.faults(config)
  yield from quantisers.faults(config)


def decoder_of(
  model: ConfigDict, size: tuple[int, int], likelihood: dist.Likelihood, dtypes: dict[str, Any]
) -> ConvDecoder:
  """The decoder of maps of vectors, [n, h' w' d] -> likelihood parameters of images of that size."""
  return ConvDecoder(
    tuple(model.channels),
    model.blocks,
    dense=0,
    size=size,
    out_channels=likelihood.channels,
    activation=model.activation,
    remat=model.remat,
    head_kernel=model.head_kernel,
    blur=model.blur,
    **dtypes,
  )


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VQVAE:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: codes that are no map of the size that the decoder takes.
  """
  shape, given = image_shape(spec), input_shape(spec)
  if halved(given[:2], len(model.channels)) != halved(shape[:2], len(model.channels)):
    raise UserError(
      f"model.name=vq_vae decodes codes at the size of the image that it sees, and degraded images are {given[0]} x "
      f"{given[1]} for {shape[0]} x {shape[1]}; set data.degrade.name to one that keeps the size"
    )
  likelihood = likelihoods.build(model, shape[-1])
  quantiser = quantisers.build(model)
  common = {"activation": model.activation, "remat": model.remat, **dtypes}
  channels = tuple(model.channels)
  return VQVAE(
    encoder=Encoder(channels, model.blocks, quantiser.dim, **common),
    quantiser=quantiser,
    decoder=decoder_of(model, shape[:2], likelihood, dtypes),
    likelihood=likelihood,
    size=halved(given[:2], len(channels)),
  )
