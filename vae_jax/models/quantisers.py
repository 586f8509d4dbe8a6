"""Quantisers: vectors at positions become codes, and codes become the vectors that a decoder sees.

A family makes one by `build`, or its own, gives it the vectors of its encoder, and adds `Quantised.terms` to its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vae_jax.keys import ABOVE_0, BELOW_1, MIN_0, WIDEST, Keys, between, counted, one_of
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import codebook
from vae_jax.models.contract import Mode
from vae_jax.types import Array, Batch, Key, Variables


class Quantised(NamedTuple):
  """What a quantiser makes of vectors [b, p, d]: `p` positions of an example, `n` codes of it.

  vectors: what the decoder sees, with the gradients that the quantiser gives.
  codes: int32 in [0, size), n = p * per_position, position by position.
  rate: nats, the KL of the posterior of the codes from equally likely ones; n log(size) for one-hot posteriors.
  terms: those that `Quantiser.terms` names, without weights, summed over positions.
  statistics: means over the examples, for `Quantiser.absorb`; () unless mode.training.
  """

  vectors: Float[Array, "b p d"]
  codes: Int[Array, "b n"]
  rate: Float[Array, " b"]
  terms: dict[str, Float[Array, " b"]]
  statistics: Any = ()


class Quantiser(nn.Module):
  """The base of all quantisers. Its variables are those of the family that calls `nn.share_scope(self, quantiser)` in
  its setup, under the same names: `absorb` finds them there."""

  @property
  def size(self) -> int:
    """Codes in a codebook: the vocabulary of a prior."""
    raise NotImplementedError

  @property
  def dim(self) -> int:
    """Channels of a vector."""
    raise NotImplementedError

  @property
  def per_position(self) -> int:
    """Codes of one position."""
    return 1

  @property
  def terms(self) -> tuple[str, ...]:
    """Names of the terms that enter the loss."""
    return ()

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    """Quantises; in training the batch has `place`, and `keys` has one key per example."""
    raise NotImplementedError

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    """The codes of vectors, position by position."""
    raise NotImplementedError

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    """What the decoder sees of codes."""
    raise NotImplementedError

  def absorb(self, variables: Variables, statistics: Any) -> Variables:
    """The family's variables after a step with these statistics. Pure."""
    return variables


class Codebook(Quantiser):
  """The nearest of `num_codes` learned vectors (van den Oord et al. 2017, arXiv:1711.00937); see `codebook`.

  Attributes: num_codes, code_dim; learning, "ema" or "gradient"; decay, kmeans_steps, revive_below: see
  `codebook.update`. Codes that gradients train are the parameter `codes`; the others are, with what they are averaged
  from, the collection `codebook`.
  """

  num_codes: int
  code_dim: int
  learning: str = "ema"
  decay: float = 0.99
  kmeans_steps: int = 10
  revive_below: float = 0.03

  @property
  def size(self) -> int:
    return self.num_codes

  @property
  def dim(self) -> int:
    return self.code_dim

  @property
  def terms(self) -> tuple[str, ...]:
    return ("commitment", "codebook") if self.learning == "gradient" else ("commitment",)

  def setup(self):
    fresh = codebook.fresh(self.num_codes, self.code_dim)
    if self.learning == "gradient":
      self.book = self.param("codes", nn.initializers.zeros_init(), fresh.codes.shape, jnp.float32)
    kept = ("counts", "updates") if self.learning == "gradient" else fresh._fields
    found = {name: self.variable("codebook", name, lambda name=name: getattr(fresh, name)) for name in kept}
    if self.learning == "ema":
      self.book = found["codes"].value

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    return codebook.nearest(x.reshape(-1, self.code_dim), self.book).reshape(x.shape[:2])

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    return codebook.lookup(self.book, codes)

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    index = self.tokens(x)
    found = self.vectors(index)
    terms = {"commitment": codebook.commitment(x, found)}
    if self.learning == "gradient":
      terms["codebook"] = codebook.codebook_loss(x, found)
    statistics: Any = ()
    if mode.training:
      place = jnp.asarray(batch["place"])
      statistics = codebook.statistics(
        x, index, place, mode.key, k=self.num_codes, batch_size=mode.batch_size
      )
    rate = jnp.full(len(x), index.shape[1] * math.log(self.num_codes), jnp.float32)
    return Quantised(codebook.straight_through(x, found), index, rate, terms, statistics)

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
  "objective.commitment": ConfigKey(0.25, "weight of the distance of vectors from their codes", MIN_0),
  "objective.codebook": ConfigKey(
    1.0, "codebook=gradient: weight of the distance of codes from vectors", ABOVE_0
  ),
}


def build(model: ConfigDict) -> Quantiser:
  """The quantiser that `config.model` describes."""
  return Codebook(
    num_codes=model.codes,
    code_dim=model.code_dim,
    learning=model.codebook,
    decay=model.decay,
    kmeans_steps=model.kmeans_steps,
    revive_below=model.revive_below,
  )
