"""What a quantiser is: vectors at positions in, codes and the vectors that a decoder sees out. See `quantisers`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

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


def one_hot_rate(codes: Int[Array, "b n"], size: int) -> Float[Array, " b"]:
  """The rate of one-hot posteriors: n log(size) nats, for codebooks of `size` codes."""
  return jnp.full(len(codes), codes.shape[1] * math.log(size), jnp.float32)


def total(arrays: Iterable[Array]) -> Array:
  """The sum of one array or more of one shape."""
  return functools.reduce(jnp.add, arrays)
