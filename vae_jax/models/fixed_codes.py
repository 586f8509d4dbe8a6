"""Quantisers whose codes stand for fixed points: `Finite` rounds each channel, `LookupFree` takes its sign."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax.models import codebook
from vae_jax.models.contract import Mode
from vae_jax.models.quantiser import Quantised, Quantiser, one_hot_rate
from vae_jax.types import Array, Batch, Key, Variables

MARGIN = 1e-3  # of FSQ: by which a bounded value stays from where it would be rounded to one level more
MOST_BITS = 10  # of LFQ: whose joint distribution is kept
LEAST_USAGE = 1e-10


def _last(values: Any, dtype: Any, ndim: int) -> np.ndarray:
  """Numbers of channels as an array of `ndim` axes, the last one theirs."""
  return np.asarray(values, dtype).reshape((1,) * (ndim - 1) + (-1,))


# --- FSQ ---


def bounded(x: Float[Array, "*s d"], levels: tuple[int, ...]) -> Float[Array, "*s d"]:
  """Each channel where rounding gives one of its `levels` integers, those around 0; -L/2, ..., L/2 - 1 for an even L.

  tanh(x + shift) h - offset, with h = (L - 1) (1 - 1e-3) / 2; for an even L the offset is 1/2 and the shift
  tan(offset / h), which brings x = 0 close to 0 (Mentzer et al. 2024, arXiv:2309.15505, appendix A.1).
  """
  count = np.asarray(levels)
  half = (count - 1) * (1 - MARGIN) / 2
  offset = np.where(count % 2, 0.0, 0.5)
  shift = np.tan(offset / half)
  shift, half, offset = (_last(value, np.float32, x.ndim) for value in (shift, half, offset))
  return jnp.tanh(x + shift) * half - offset


class Finite(Quantiser):
  """Finite scalar quantisation, FSQ (Mentzer et al. 2024, arXiv:2309.15505).

  Channel i is bounded, rounded to one of levels[i] integers, with the gradient straight through the rounding, and
  divided by levels[i] // 2. The code numbers the points; the first channel is its lowest digit. Nothing is learned and
  there are no terms.
  """

  levels: tuple[int, ...]

  @property
  def size(self) -> int:
    return math.prod(self.levels)

  @property
  def dim(self) -> int:
    return len(self.levels)

  @property
  def _digits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each digit of a code counts, how many it can be, and that of 0; int32 [1, 1, d]."""
    rows = np.cumprod([1, *self.levels[:-1]]), self.levels, np.asarray(self.levels) // 2
    basis, count, middle = (_last(row, np.int32, 3) for row in rows)
    return basis, count, middle

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    basis, count, middle = self._digits
    digits = jnp.round(bounded(x, self.levels)).astype(jnp.int32) + middle
    return jnp.sum(jnp.clip(digits, 0, count - 1) * basis, axis=-1)  # digits of NaN are of any size

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    basis, count, middle = self._digits
    return ((codes[..., None] // basis) % count - middle).astype(jnp.float32) / middle.astype(np.float32)

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    codes = self.tokens(x)
    near = bounded(x, self.levels) / self._digits[2].astype(np.float32)
    vectors = codebook.straight_through(near, self.vectors(codes))
    return Quantised(vectors, codes, one_hot_rate(codes, self.size), {})


# --- LFQ ---


def bit_blocks(bits: int) -> list[tuple[int, int]]:
  """[first, end) of blocks of bits, as equal as can be, of at most `MOST_BITS`."""
  edges = np.linspace(0, bits, -(-bits // MOST_BITS) + 1).round().astype(int)
  return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def bit_probabilities(x: Float[Array, "*s d"], temperature: float) -> Float[Array, "*s d"]:
  """Probabilities of +1 under softmax(-|x - c|^2 / temperature) over all c of {-1, 1}^d: bits are independent."""
  return jax.nn.sigmoid(4.0 * x / temperature)


def joint(p: Float[Array, "*s d"]) -> Float[Array, "*s k"]:
  """The probabilities of all k = 2^d patterns of independent bits, of which the first is a pattern's lowest."""
  q = jnp.ones((*p.shape[:-1], 1), p.dtype)
  for bit in range(p.shape[-1]):
    one = p[..., bit : bit + 1]
    q = jnp.concatenate([q * (1 - one), q * one], axis=-1)
  return q


class LookupFree(Quantiser):
  """Lookup-free quantisation, LFQ (Yu et al. 2024, arXiv:2310.05737, section 3.1): a code is the signs of channels.

  The decoder sees -1 or 1 in each channel, with the gradient straight through. The first channel is the lowest bit of
  the code. The terms are `commitment`, |x - sign(x)|^2, and the paper's entropy penalty, E[H(q)] - H(E[q]) for
  q(c | x) = softmax(-|x - c|^2 / temperature): `entropy` is the sum over positions of

      H(q) - CE(q, m) = -KL(q || m),   CE(q, m) = -sum_c q(c | x) log m(c),

  where m is a moving average of E[q] over global batches. At m = E[q] its mean and its gradient are the paper's. So it
  is a mean over examples as other terms are, and does not depend on how a batch is divided. Sets of more than 10 bits
  are cut into blocks, and m is the product of the blocks' shares: H(E[q]) is then replaced by an upper bound. The
  probabilities of a block are products of those of its lower and its higher bits, and are never written out.

  Attributes: bits, channels; decay of m; temperature. The collection `codebook` has `shares`, m block by block, which
  sum to 1 in each, and the count of `updates`.
  """

  bits: int
  decay: float = 0.99
  temperature: float = 1.0

  @property
  def size(self) -> int:
    return 2**self.bits

  @property
  def dim(self) -> int:
    return self.bits

  @property
  def terms(self) -> tuple[str, ...]:
    return ("commitment", "entropy")

  def setup(self):
    fresh = [np.full(2 ** (end - first), 2.0 ** (first - end)) for first, end in bit_blocks(self.bits)]
    self.shares = self.variable("codebook", "shares", lambda: jnp.asarray(np.concatenate(fresh), jnp.float32))
    self.updates = self.variable("codebook", "updates", lambda: jnp.zeros((), jnp.int32))

  def tokens(self, x: Float[Array, "b p d"]) -> Int[Array, "b n"]:
    return jnp.sum((x > 0) * _last(2 ** np.arange(self.bits), np.int32, 3), axis=-1)

  def vectors(self, codes: Int[Array, "b n"]) -> Float[Array, "b p d"]:
    bits = (codes[..., None] >> _last(np.arange(self.bits), np.int32, 3)) & 1
    return 2.0 * bits.astype(jnp.float32) - 1.0

  def __call__(self, x: Float[Array, "b p d"], batch: Batch, keys: Key, mode: Mode) -> Quantised:
    codes = self.tokens(x)
    found = self.vectors(codes)
    p = bit_probabilities(x, self.temperature)
    log_p = jax.nn.log_sigmoid(4.0 * x / self.temperature), jax.nn.log_sigmoid(-4.0 * x / self.temperature)
    negative_entropy = jnp.sum(p * log_p[0] + (1 - p) * log_p[1], axis=(1, 2))
    entropy, start, usage = -negative_entropy, 0, []
    for first, end in bit_blocks(self.bits):
      size, middle = 2 ** (end - first), (first + end) // 2
      low, high = joint(p[..., first:middle]), joint(p[..., middle:end])
      log_m = jnp.log(jnp.maximum(self.shares.value[start : start + size], LEAST_USAGE))
      table = log_m.reshape(high.shape[-1], low.shape[-1])
      entropy += jnp.sum(jnp.einsum("bph,hl->bpl", high, table) * low, axis=(1, 2))
      usage.append(jnp.einsum("bph,bpl->hl", high, low).reshape(-1) / (high.shape[0] * high.shape[1]))
      start += size
    terms = {"commitment": codebook.commitment(x, found), "entropy": entropy}
    statistics = jax.lax.stop_gradient(jnp.concatenate(usage)) if mode.training else ()
    vectors = codebook.straight_through(x, found)
    return Quantised(vectors, codes, one_hot_rate(codes, self.size), terms, statistics)

  def absorb(self, variables: Variables, statistics: Float[Array, " u"]) -> Variables:
    shares, updates = variables["codebook"]["shares"], variables["codebook"]["updates"]
    decay = jnp.where(updates == 0, 0.0, self.decay)
    kept = {"shares": decay * shares + (1 - decay) * statistics, "updates": updates + 1}
    return {**variables, "codebook": kept}
