"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): images as maps of codes from a learned codebook.

An encoder makes a map of vectors, each is replaced by the nearest of `codes` vectors e_k, and a decoder makes pixels of
those. With x_p the vector at position p, e its code and sg the stopped gradient (eq. 3 of the paper):

    loss = -log p(image | e) + commitment * sum_p |x_p - sg(e)|^2 + codebook * sum_p |sg(x_p) - e|^2

Gradients pass straight from the decoder to the encoder. Codes are moving averages of the vectors that choose them
(codebook=ema, appendix A.1), which needs no third term, or are trained by it (codebook=gradient). Both start by k-means
on the first batches and restart codes that are hardly used: see `codebook`.

The posterior is one-hot and the prior uniform, so the rate is constant, positions * log(codes), and distortion + rate
bounds -log p(image) (section 3.1). A prior over codes is a second stage; this family cannot sample without one.
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
from vae_jax.keys import ABOVE_0, BELOW_1, MIN_0, WIDEST, WIDTHS, Keys, between, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import codebook
from vae_jax.models.blocks import ACTIVATION_KEYS, REMAT_KEYS, halved
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.models.decoders import HEAD_KEYS, ConvDecoder
from vae_jax.models.encoders import downsampled
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


class VQVAE(Family):
  """Attributes: encoder, images -> maps [b, h', w', code_dim]; decoder, [n, positions * code_dim] -> likelihood
  parameters; size, (h', w') of the map; num_codes, code_dim; learning, "ema" or "gradient"; decay, kmeans_steps,
  revive_below: see `codebook.update`."""

  encoder: nn.Module
  decoder: nn.Module
  likelihood: dist.Likelihood
  size: tuple[int, int]
  num_codes: int
  code_dim: int
  learning: str
  decay: float
  kmeans_steps: int
  revive_below: float

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "commitment", "codebook")
  CAN: ClassVar[frozenset[str]] = frozenset({"bound", "tokens"})

  @property
  def terms(self) -> tuple[str, ...]:
    return self.TERMS if self.learning == "gradient" else self.TERMS[:-1]

  @property
  def codes(self) -> int:
    return self.num_codes

  @property
  def layout(self) -> tuple[tuple[int, int, int], ...]:
    return ((*self.size, 1),)

  @property
  def positions(self) -> int:
    """Codes of an image."""
    return math.prod(self.size)

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("decoder", self.decoder.last, "kernel")

  def setup(self):
    scale = self.likelihood.has_scale
    self.log_scale = (
      self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32) if scale else jnp.float32(0)
    )
    fresh = codebook.fresh(self.num_codes, self.code_dim)
    if self.learning == "gradient":
      self.book = self.param("codes", nn.initializers.zeros_init(), fresh.codes.shape, jnp.float32)
    kept = ("counts", "updates") if self.learning == "gradient" else fresh._fields
    found = {name: self.variable("codebook", name, lambda name=name: getattr(fresh, name)) for name in kept}
    if self.learning == "ema":
      self.book = found["codes"].value

  def quantise(self, batch: Batch) -> tuple[Float[Array, "b p d"], Int[Array, "b p"], Float[Array, "b p d"]]:
    """The encoder's vectors, the index of the nearest code of each, and those codes."""
    image = seen(batch)
    x = self.encoder(image).reshape(image.shape[0], self.positions, self.code_dim)
    index = codebook.nearest(x.reshape(-1, self.code_dim), self.book).reshape(x.shape[:2])
    return x, index, codebook.lookup(self.book, index)

  def pixels(self, codes: Float[Array, "b p d"]) -> Float[Array, "b h w q"]:
    """Parameters of the likelihood of each pixel."""
    return self.decoder(codes.reshape(codes.shape[0], -1))

  def tokens(self, batch: Batch) -> Int[Array, "b p"]:
    """The codes of images, row by row."""
    return self.quantise(batch)[1]

  def from_tokens(self, codes: Int[Array, "n p"], condition: Batch) -> Float[Array, "n h w c"]:
    """The mean image of p(x | codes), in [0, 1]."""
    return self.likelihood.mean(self.pixels(codebook.lookup(self.book, codes)), self.log_scale)

  def reconstruct(self, batch: Batch) -> Float[Array, "b h w c"]:
    return self.from_tokens(self.tokens(batch), batch)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    image = jnp.asarray(batch["image"])
    x, index, quantised = self.quantise(batch)
    params = self.pixels(codebook.straight_through(x, quantised))
    terms = {
      "distortion": -self.likelihood.log_prob(params, image, self.log_scale),
      "rate": jnp.full(image.shape[0], self.positions * math.log(self.num_codes), jnp.float32),
      "commitment": codebook.commitment(x, quantised),
    }
    if self.learning == "gradient":
      terms["codebook"] = codebook.codebook_loss(x, quantised)
    statistics: Any = ()
    if mode.training:
      place = jnp.asarray(batch["place"])
      statistics = codebook.statistics(
        x, index, place, mode.key, k=self.num_codes, batch_size=mode.batch_size
      )
    reconstruction = self.likelihood.mean(params, self.log_scale)
    return Output(terms, reconstruction, latents={"codes": index}, statistics=statistics)

  def absorb(self, variables: Variables, statistics: codebook.Statistics) -> Variables:
    how: Any = {"decay": self.decay, "kmeans_steps": self.kmeans_steps, "revive_below": self.revive_below}
    kept, params = variables["codebook"], variables["params"]
    if self.learning == "ema":
      moved = codebook.update(codebook.Codebook(**kept), statistics, **how)
      return {**variables, "codebook": moved._asdict()}
    codes, counts = codebook.revive(params["codes"], kept["counts"], statistics, kept["updates"], **how)
    kept = {"counts": counts, "updates": kept["updates"] + 1}
    return {**variables, "params": {**params, "codes": codes}, "codebook": kept}


KEYS: Keys = {
  "model.channels": ConfigKey(
    (64, 128), "widths at 1/2, 1/4, ... of the size; codes lie at the last", WIDTHS
  ),
  "model.blocks": ConfigKey(2, "residual blocks at each resolution", between(0, 256)),
  "model.codes": ConfigKey(512, "size of the codebook", between(2, WIDEST)),
  "model.code_dim": ConfigKey(64, "channels of a code", counted(WIDEST)),
  "model.codebook": ConfigKey(
    "ema", "how codes learn: moving averages, or gradients of the codebook term", one_of("ema", "gradient")
  ),
  "model.decay": ConfigKey(0.99, "of the codes' moving averages and of their usage", BELOW_1),
  "model.kmeans_steps": ConfigKey(10, "steps of k-means, one a batch, with which codes begin", MIN_0),
  "model.revive_below": ConfigKey(
    0.03, "codes used less than this share of the mean usage restart at a vector of the batch", BELOW_1
  ),
  **HEAD_KEYS,
  **REMAT_KEYS,
  **ACTIVATION_KEYS,
  **(
    likelihoods.KEYS | {"model.likelihood": likelihoods.KEYS["model.likelihood"]._replace(default="gaussian")}
  ),
  "objective.commitment": ConfigKey(0.25, "weight of the distance of vectors from their codes", MIN_0),
  "objective.codebook": ConfigKey(
    1.0, "codebook=gradient: weight of the distance of codes from vectors", ABOVE_0
  ),
}
FAMILY = VQVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from likelihoods.faults(config.model)


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
  likelihood = likelihoods.make_likelihood(model.likelihood, shape[-1], model.sigma, model.mixtures)
  common = {"activation": model.activation, "remat": model.remat, **dtypes}
  channels = tuple(model.channels)
  return VQVAE(
    encoder=Encoder(channels, model.blocks, model.code_dim, **common),
    decoder=ConvDecoder(
      channels,
      model.blocks,
      dense=0,
      size=shape[:2],
      out_channels=likelihood.channels,
      head_kernel=model.head_kernel,
      blur=model.blur,
      **common,
    ),
    likelihood=likelihood,
    size=halved(given[:2], len(channels)),
    num_codes=model.codes,
    code_dim=model.code_dim,
    learning=model.codebook,
    decay=model.decay,
    kmeans_steps=model.kmeans_steps,
    revive_below=model.revive_below,
  )
