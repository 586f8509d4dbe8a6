"""VQ-VAE-2 (Razavi et al. 2019, arXiv:1906.00446): images as two or three maps of codes, coarse to fine.

The encoder gives features at the size of each map (section 3.1, algorithm 1). From the coarsest to the finest, level i
makes vectors of its features and of what coarser levels have decoded, and quantises them with codes of its own:

    c_1 = nothing     e_i = quantise_i(head_i(features_i, c_i))     c_(i+1) = enlarge_i(e_i, c_i)

So a finer code says what the coarser ones leave open. The decoder makes pixels of all codes: of e of the finest level
and its c. Here c serves both ends, where the paper has one network for the encoder's side and one for the decoder's.

The terms are those of `vq_vae`, each summed over the levels, and so is the rate, the number of codes of all maps times
log(codes): distortion + rate bounds -log p(image). Codes of an image come as one row, coarse maps first; `layout` has
the maps. A prior over them is a second stage (section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.errors import UserError
from vae_jax.keys import Key as ConfigKey
from vae_jax.keys import Keys, one_of
from vae_jax.models import quantisers, vq_vae
from vae_jax.models.blocks import ACTIVATIONS, Conv, Norm, ResidualBlock, Upsample, halved
from vae_jax.models.contract import Mode, Output
from vae_jax.models.encoders import downsampled
from vae_jax.models.quantiser import total
from vae_jax.models.quantisers import Quantised, Quantiser
from vae_jax.types import Array, Batch, Key, Spec, Variables, image_shape, input_shape, seen


class Encoder(nn.Module):
  """Images -> features at the size of each map, coarse first. The finest lies at 1/2^len(channels) of the size, each
  other one at half the size of the next."""

  channels: tuple[int, ...]
  blocks: int
  levels: int
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b ..."], ...]:
    how: Any = (
      self.blocks,
      self.activation,
      self.remat,
      {"dtype": self.dtype, "param_dtype": self.param_dtype},
    )
    found = [downsampled(image.astype(self.dtype), self.channels, *how)]
    for _ in range(self.levels - 1):
      found.append(downsampled(found[-1], self.channels[-1:], *how))
    return tuple(reversed(found))


class Enlarge(nn.Module):
  """Codes and what coarser ones have decoded, [b, h, w, d] -> features of the next level, [b, *size, features]."""

  features: int
  blocks: int
  size: tuple[int, int]
  activation: str = "relu"
  remat: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 c"]:
    act, dtypes = ACTIVATIONS[self.activation], {"dtype": self.dtype, "param_dtype": self.param_dtype}
    x = Conv(self.features, **dtypes)(x.astype(self.dtype))
    for _ in range(self.blocks):
      x = ResidualBlock(self.activation, self.remat, **dtypes)(x)
    return act(Upsample(self.features, self.size, **dtypes)(act(Norm(**dtypes)(x))))


class Level(nn.Module):
  """One map of codes. size: (h, w) of it. enlarge: for the next level; None: there is none."""

  quantiser: Quantiser
  size: tuple[int, int]
  enlarge: Enlarge | None = None

  def setup(self):
    self.head = nn.Dense(self.quantiser.dim, dtype=jnp.float32)
    nn.share_scope(self, self.quantiser)

  @property
  def layout(self) -> tuple[int, int, int]:
    return (*self.size, self.quantiser.per_position)

  def vectors(self, features: Float[Array, "b h w c"], context: Array | None) -> Float[Array, "b p d"]:
    """What is quantised, row by row."""
    x = self.head(_joined(features, context))
    return x.reshape(len(x), math.prod(self.size), self.quantiser.dim)

  def quantise(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    """What the quantiser makes of vectors; it is called through its level, whose scope it shares."""
    return self.quantiser(x, batch, keys, mode)

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    return self.quantiser.tokens(x)

  def of_codes(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    """The vectors of codes."""
    return self.quantiser.vectors(codes)

  def decoded(self, vectors: Float[Array, "b p d"], context: Array | None) -> Array:
    """Features for the next level, or what the decoder of pixels sees: [b, h, w, ...]."""
    x = _joined(vectors.reshape(len(vectors), *self.size, self.quantiser.dim), context)
    return x if self.enlarge is None else self.enlarge(x)


def _joined(x: Array, context: Array | None) -> Array:
  x = x.astype(jnp.float32)
  return x if context is None else jnp.concatenate([x, context.astype(jnp.float32)], axis=-1)


# (number of the level, level, its vectors or None) -> (vectors that go on, anything).
Take = Callable[[int, Level, Any], tuple[Array, Any]]


class VQVAE2(vq_vae.CodedImages):
  """Attributes: encoder, images -> features by level; levels, coarse first, in variables `levels_0`, `levels_1`, ...;
  decoder, [n, h' w' d] of the finest level -> likelihood parameters."""

  levels: tuple[Level, ...]

  @property
  def terms(self) -> tuple[str, ...]:
    return ("distortion", *self.levels[0].quantiser.terms)

  @property
  def codes(self) -> int:
    return self.levels[0].quantiser.size

  @property
  def layout(self) -> tuple[tuple[int, int, int], ...]:
    return tuple(level.layout for level in self.levels)

  def descend(self, features: Sequence[Any], take: Take) -> tuple[Float[Array, "b h w q"], list[Any]]:
    """Parameters of the likelihood of each pixel, and what `take` gives beside vectors, by level.

    features: by level; None where `take` needs no vectors.
    """
    context: Array | None = None
    found: list[Any] = []
    for number, (level, x) in enumerate(zip(self.levels, features, strict=True)):
      vectors, other = take(number, level, None if x is None else level.vectors(x, context))
      context = level.decoded(vectors, context)
      found.append(other)
    assert context is not None, "there is a level"
    return self.decoder(context.reshape(len(context), -1)), found

  def tokens(self, batch: Batch) -> Int[Array, "b n"]:
    def take(number: int, level: Level, x: Array) -> tuple[Array, Array]:
      codes = level.tokens(x)
      return level.of_codes(codes), codes

    return jnp.concatenate(self.descend(self.encoder(seen(batch)), take)[1], axis=1)

  def code_vectors(self, batch: Batch) -> Float[Array, "b e"]:
    """The vectors of the codes of images, coarse maps first, each position by position."""

    def take(number: int, level: Level, x: Array) -> tuple[Array, Array]:
      vectors = level.of_codes(level.tokens(x))
      return vectors, vectors.reshape(len(vectors), -1)

    return jnp.concatenate(self.descend(self.encoder(seen(batch)), take)[1], axis=1)

  def from_tokens(self, codes: Int[Array, "b n"], condition: Batch) -> Float[Array, "b h w c"]:
    parts = jnp.split(codes, np.cumsum([math.prod(part) for part in self.layout])[:-1], axis=1)

    def take(number: int, level: Level, x: None) -> tuple[Array, None]:
      return level.of_codes(parts[number]), None

    return self.likelihood.mean(self.descend([None] * len(self.levels), take)[0], self.log_scale)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    def take(number: int, level: Level, x: Array) -> tuple[Array, Quantised]:
      own = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
      found = level.quantise(x, batch, own, mode._replace(key=jax.random.fold_in(mode.key, number)))
      return found.vectors, found

    params, found = self.descend(self.encoder(seen(batch)), take)
    terms = {
      "distortion": -self.likelihood.log_prob(params, jnp.asarray(batch["image"]), self.log_scale),
      "rate": total(part.rate for part in found),
      **{name: total(part.terms[name] for part in found) for name in found[0].terms},
    }
    return Output(
      terms,
      self.likelihood.mean(params, self.log_scale),
      latents={"codes": jnp.concatenate([part.codes for part in found], axis=1)},
      statistics=tuple(part.statistics for part in found) if mode.training else (),
    )

  def absorb(self, variables: Variables, statistics: Any) -> Variables:
    for number, (level, found) in enumerate(zip(self.levels, statistics, strict=True)):
      name = f"levels_{number}"  # as Flax calls the modules of a tuple
      own = {kind: parts[name] for kind, parts in variables.items() if name in parts}
      moved = level.quantiser.absorb(own, found)
      variables = {
        kind: {**parts, name: moved[kind]} if name in parts else parts for kind, parts in variables.items()
      }
    return variables


KEYS: Keys = {
  "model.maps": ConfigKey(
    2, "maps of codes: at the last of model.channels, and at half its size, and at a quarter", one_of(2, 3)
  ),
  **vq_vae.KEYS,
  "model.channels": vq_vae.KEYS["model.channels"]._replace(
    meaning="widths at 1/2, 1/4, ... of the size; the finest codes lie at the last, which is that of coarser ones too"
  ),
}
FAMILY = VQVAE2
faults = vq_vae.faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> VQVAE2:
  """The module that `config.model` describes, for records of `spec`.

  Raises UserError: maps of another size than the decoder's, or too small to be halved.
  """
  shape, given = image_shape(spec)[:2], input_shape(spec)[:2]
  channels = tuple(model.channels)
  sizes = [halved(shape, len(channels) + finer) for finer in reversed(range(model.maps))]
  if [halved(given, len(channels) + finer) for finer in reversed(range(model.maps))] != sizes:
    raise UserError(
      f"model.name=vq_vae_2 decodes codes at the size of the image that it sees, and degraded images are {given[0]} x "
      f"{given[1]} for {shape[0]} x {shape[1]}; set data.degrade.name to one that keeps the size"
    )
  if len(set(sizes)) < len(sizes):
    raise UserError(
      f"model.maps={model.maps}: images of {shape[0]} x {shape[1]} have the finest codes at {sizes[-1][0]} x "
      f"{sizes[-1][1]}, not to be halved {model.maps - 1} times; set fewer model.channels, or a larger data.size"
    )
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  common = {"activation": model.activation, "remat": model.remat, **dtypes}
  levels = [
    Level(
      quantisers.build(model),
      size,
      None if finer is None else Enlarge(channels[-1], model.blocks, finer, **common),
    )
    for size, finer in zip(sizes, [*sizes[1:], None], strict=True)
  ]
  return VQVAE2(
    encoder=Encoder(channels, model.blocks, model.maps, **common),
    levels=tuple(levels),
    decoder=vq_vae.decoder_of(model, shape, likelihood, dtypes),
    likelihood=likelihood,
  )
