"""Quantisers whose codes stand for learned vectors: `Codebook` by distance, `Gumbel` by logits."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from vae_jax.models import codebook
from vae_jax.models.contract import Mode
from vae_jax.models.quantiser import Quantised, Quantiser, one_hot_rate, total
from vae_jax.types import Array, Batch, Key, Variables

SHARPNESS = 4.0  # deviation of the first logits of `Gumbel`, for vectors of deviation 1


class Choice(NamedTuple):
  """What one codebook does: the vectors that it is given, the number of the nearest code of each, and those codes."""

  given: Float[Array, "b p e"]
  number: Int[Array, "b p"]
  found: Float[Array, "b p e"]


class Codebook(Quantiser):
  """The nearest of learned vectors (van den Oord et al. 2017, arXiv:1711.00937), in one codebook or several.

  groups > 1: product quantisation (Jegou et al. 2011). The channels are cut into groups, each with its own codebook.
  levels > 1: residual quantisation (Zeghidour et al. 2021, arXiv:2107.03312; Lee et al. 2022, arXiv:2203.01941). A
    level quantises what the levels before it leave, with its own codebook; the decoder sees the sum.
  A position has levels * groups codes, level by level: the coarse ones come first. The terms are sums over codebooks.

  distance: "euclidean", or "cosine" (Yu et al. 2022, arXiv:2110.04627, section 3.2): vectors and codes have length 1,
    in the terms and for the decoder too.
  gradient: "straight_through" or "rotation" (see `codebook.rotation`), for each group between its vector and the sum.
  num_codes, code_dim: of a codebook; channels of all groups. learning: "ema" or "gradient". decay, kmeans_steps,
  revive_below: see `codebook.update`.

  Codes that gradients train are the parameter `codes`; the others are, with what they are averaged from, the collection
  `codebook`. With several codebooks each array has one more axis, the first.
  """

  num_codes: int
  code_dim: int
  learning: str = "ema"
  distance: str = "euclidean"
  gradient: str = "straight_through"
  groups: int = 1
  levels: int = 1
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
  def per_position(self) -> int:
    return self.levels * self.groups

  @property
  def terms(self) -> tuple[str, ...]:
    return ("commitment", "codebook") if self.learning == "gradient" else ("commitment",)

  def setup(self):
    fresh = codebook.fresh(self.num_codes, self.code_dim // self.groups)
    if self.per_position > 1:
      fresh = jax.tree.map(lambda x: jnp.zeros((self.per_position, *x.shape), x.dtype), fresh)
    if self.learning == "gradient":
      self.book = self.param("codes", nn.initializers.zeros_init(), fresh.codes.shape, jnp.float32)
    kept = ("counts", "updates") if self.learning == "gradient" else fresh._fields
    found = {name: self.variable("codebook", name, lambda name=name: getattr(fresh, name)) for name in kept}
    if self.learning == "ema":
      self.book = found["codes"].value

  @property
  def books(self) -> list[Float[Array, "k e"]]:
    """The codebooks, of level 0 first, as vectors are compared with them."""
    books = list(self.book) if self.per_position > 1 else [self.book]
    return [codebook.unit(book) for book in books] if self.distance == "cosine" else books

  def parts(self, x: Float[Array, "b p d"]) -> list[Float[Array, "b p e"]]:
    """The vectors of each group."""
    parts = jnp.split(x, self.groups, axis=-1) if self.groups > 1 else [x]
    return [codebook.unit(part) for part in parts] if self.distance == "cosine" else parts

  def choices(self, parts: list[Float[Array, "b p e"]]) -> list[Choice]:
    """The choice of each codebook. A level has no gradient to those before it."""
    chosen: list[Choice] = []
    for number, book in enumerate(self.books):
      given = parts[number]
      index = codebook.nearest(given.reshape(-1, given.shape[-1]), book).reshape(given.shape[:2])
      choice = Choice(given, index, codebook.lookup(book, index))
      chosen.append(choice)
      parts = [*parts, given - jax.lax.stop_gradient(choice.found)]
    return chosen

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    return self._codes(self.choices(self.parts(x)))

  def _codes(self, chosen: list[Choice]) -> Int[Array, "b n"]:
    index = jnp.stack([choice.number for choice in chosen], axis=-1)
    return index.reshape(len(index), -1)

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    index = codes.reshape(len(codes), -1, self.per_position)
    found = [codebook.lookup(book, index[..., number]) for number, book in enumerate(self.books)]
    return jnp.concatenate(self._sums(found), axis=-1)

  def _sums(self, found: list[Array]) -> list[Float[Array, "b p e"]]:
    """For each group the sum of its levels."""
    return [total(found[group :: self.groups]) for group in range(self.groups)]

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    parts = self.parts(x)
    chosen = self.choices(parts)
    back = codebook.rotation if self.gradient == "rotation" else codebook.straight_through
    seen = [
      back(part, summed) for part, summed in zip(parts, self._sums([c.found for c in chosen]), strict=True)
    ]
    terms = {"commitment": total(codebook.commitment(c.given, c.found) for c in chosen)}
    if self.learning == "gradient":
      terms["codebook"] = total(codebook.codebook_loss(c.given, c.found) for c in chosen)
    codes = self._codes(chosen)
    rate = one_hot_rate(codes, self.num_codes)
    statistics = self._statistics(chosen, batch, mode) if mode.training else ()
    return Quantised(jnp.concatenate(seen, axis=-1), codes, rate, terms, statistics)

  def _statistics(self, chosen: list[Choice], batch: Batch, mode: Mode) -> codebook.Statistics:
    place, many = jnp.asarray(batch["place"]), len(chosen) > 1
    keys = jax.random.split(mode.key, len(chosen)) if many else [mode.key]
    found = [
      codebook.statistics(c.given, c.number, place, key, k=self.num_codes, batch_size=mode.batch_size)
      for c, key in zip(chosen, keys, strict=True)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *found) if many else found[0]

  def absorb(self, variables: Variables, statistics: codebook.Statistics) -> Variables:
    how: Any = {"decay": self.decay, "kmeans_steps": self.kmeans_steps, "revive_below": self.revive_below}
    over_books = jax.vmap if self.per_position > 1 else lambda function: function
    kept, params = variables["codebook"], variables["params"]
    if self.learning == "ema":
      moved = over_books(functools.partial(codebook.update, **how))(codebook.Codebook(**kept), statistics)
      return {**variables, "codebook": moved._asdict()}
    revive = over_books(functools.partial(codebook.revive, **how))
    codes, counts = revive(params["codes"], kept["counts"], statistics, kept["updates"])
    kept = {"counts": counts, "updates": kept["updates"] + 1}
    return {**variables, "params": {**params, "codes": codes}, "codebook": kept}


def temperature_at(step: Array | int, end: float, steps: int, schedule: str) -> Float[Array, ""]:
  """The temperature of a relaxation, from 1 at step 0 to `end` at `steps` and later.

  cosine: half a period (Ramesh et al. 2021, arXiv:2102.12092, appendix A.2). exponential: end^(step / steps).
  """
  t = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
  if schedule == "cosine":
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * t))
  if schedule == "exponential":
    return jnp.float32(end) ** t
  raise ValueError(f"unknown schedule {schedule!r}; known: cosine, exponential")


class Gumbel(Quantiser):
  """Codes drawn by the Gumbel-softmax relaxation (Jang et al. 2017, arXiv:1611.01144), as in the dVAE of DALL-E
  (Ramesh et al. 2021, arXiv:2102.12092, appendix A).

  A dense layer gives logits of the posterior q(code | x) at each position. With g of Gumbel(0, 1), the decoder sees in
  training sum_k softmax((logits + g) / temperature)_k e_k, where e_k are the learned vectors, and the rate is the sum
  over positions of KL(q || uniform). Mixed vectors are no codes, so distortion + rate bounds nothing in training. Where
  nothing is trained, the posterior is one-hot at the largest logit: the decoder sees that vector, and the rate is
  positions * log(num_codes), so that distortion + rate is a bound.

  Fresh logits have the deviation `SHARPNESS`: those of 1 are drowned by g, whose deviation is 1.3, and fewer codes come
  into use. Fresh vectors have num_codes^-1/2, as the first layer of the dVAE's decoder, so that they soon move.

  Attributes: num_codes, code_dim; temperature, temperature_steps, temperature_schedule: see `temperature_at`.
  """

  num_codes: int
  code_dim: int
  temperature: float = 0.0625
  temperature_steps: int = 10_000
  temperature_schedule: str = "cosine"

  @property
  def size(self) -> int:
    return self.num_codes

  @property
  def dim(self) -> int:
    return self.code_dim

  @property
  def terms(self) -> tuple[str, ...]:
    return ("rate",)

  def setup(self):
    sharp = nn.initializers.variance_scaling(SHARPNESS**2, "fan_in", "truncated_normal")
    self.logits = nn.Dense(self.num_codes, kernel_init=sharp, dtype=jnp.float32)
    fresh = nn.initializers.normal(self.num_codes**-0.5)
    self.book = self.param("codes", fresh, (self.num_codes, self.code_dim), jnp.float32)

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    return jnp.argmax(self.logits(x), axis=-1).astype(jnp.int32)

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    return codebook.lookup(self.book, codes)

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    logits = self.logits(x)
    codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if not mode.training:
      rate = one_hot_rate(codes, self.num_codes)
      return Quantised(self.vectors(codes), codes, rate, {})
    log_q = jax.nn.log_softmax(logits)
    rate = jnp.sum(jnp.exp(log_q) * (log_q + math.log(self.num_codes)), axis=(1, 2))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
    t = temperature_at(mode.step, self.temperature, self.temperature_steps, self.temperature_schedule)
    return Quantised(jax.nn.softmax((logits + noise) / t) @ self.book, codes, rate, {})
