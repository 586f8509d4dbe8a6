"""Transformers (Vaswani et al. 2017, arXiv:1706.03762) with normalisation before each part (Xiong et al. 2020).

The same layers run in two ways: over whole sequences, for training; or over a few new positions at a time, with the
keys and values of the earlier ones in a `Cache`, for sampling. A cache is an argument and a result, so it can be the
carry of a `jax.lax.scan`. The softmax is float32 whatever the compute type.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from vae_jax.types import Array

MASKED = -1e30  # finite: a row without any key would be NaN


class Cache(NamedTuple):
  """Keys and values of the positions so far, of one layer; `m` positions at most. What is not written yet is zeros."""

  keys: Float[Array, "b h m d"]
  values: Float[Array, "b h m d"]


def empty_caches(
  batch: int, length: int, layers: int, width: int, heads: int, dtype: Any
) -> tuple[Cache, ...]:
  """A cache for each layer, for `length` positions."""
  shape = (batch, heads, length, width // heads)
  return tuple(Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(layers))


def attend(
  q: Float[Array, "b h n d"],
  k: Float[Array, "b h m d"],
  v: Float[Array, "b h m d"],
  seen: Bool[Array, "n m"] | None = None,
) -> Float[Array, "b h n d"]:
  """softmax(q k^T / sqrt(d)) v, the softmax in float32. seen: which keys each query sees; None: all."""
  logits = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  if seen is not None:
    logits = jnp.where(seen[None, None], logits, MASKED)
  return jnp.einsum("bhnm,bhmd->bhnd", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


class Attention(nn.Module):
  """Multi-head attention of a sequence to itself.

  Attributes: width, of the input and the output, a multiple of heads; causal: a position sees itself and earlier ones.
  """

  width: int
  heads: int
  causal: bool
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    self.projection = nn.Dense(3 * self.width, dtype=self.dtype, param_dtype=self.param_dtype)
    self.out = nn.Dense(self.width, dtype=self.dtype, param_dtype=self.param_dtype)

  def _projected(self, x: Float[Array, "b n w"]) -> tuple[Array, Array, Array]:
    """Queries, keys and values, [b, h, n, d] each."""
    b, n, _ = x.shape
    found = self.projection(x).reshape(b, n, 3, self.heads, self.width // self.heads)
    q, k, v = found.transpose(2, 0, 3, 1, 4)
    return q, k, v

  def _merged(self, y: Float[Array, "b h n d"]) -> Float[Array, "b n w"]:
    return self.out(y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], self.width))

  def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
    n = x.shape[1]
    return self._merged(attend(*self._projected(x), jnp.tri(n, dtype=bool) if self.causal else None))

  def step(self, x: Float[Array, "b n w"], cache: Cache, at: Any) -> tuple[Float[Array, "b n w"], Cache]:
    """The output at the positions `at`, at + 1, ... of a causal sequence, and the cache with them in it.

    Positions before `at` are in the cache; at + n is at most its length, which nothing checks."""
    q, k, v = self._projected(x)
    cache = Cache(
      *(jax.lax.dynamic_update_slice(old, new, (0, 0, at, 0)) for old, new in zip(cache, (k, v), strict=True))
    )
    queries = at + jnp.arange(x.shape[1])
    seen = jnp.arange(cache.keys.shape[2])[None, :] <= queries[:, None]
    return self._merged(attend(q, cache.keys, cache.values, seen)), cache


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)) with a hidden layer of 4 times the width and GELU."""

  width: int
  heads: int
  causal: bool
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    self.norm_attention, self.norm_mlp = nn.LayerNorm(**dtypes), nn.LayerNorm(**dtypes)
    self.attention = Attention(self.width, self.heads, self.causal, **dtypes)
    self.up, self.down = nn.Dense(4 * self.width, **dtypes), nn.Dense(self.width, **dtypes)

  def _mlp(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
    return x + self.down(jax.nn.gelu(self.up(self.norm_mlp(x))))

  def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
    return self._mlp(x + self.attention(self.norm_attention(x)))

  def step(self, x: Float[Array, "b n w"], cache: Cache, at: Any) -> tuple[Float[Array, "b n w"], Cache]:
    """See `Attention.step`."""
    y, cache = self.attention.step(self.norm_attention(x), cache, at)
    return self._mlp(x + y), cache


class Transformer(nn.Module):
  """Blocks, and a last normalisation. `step` gives what the whole sequence would at the same positions."""

  layers: int
  width: int
  heads: int
  causal: bool
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    self.blocks = [Block(self.width, self.heads, self.causal, **dtypes) for _ in range(self.layers)]
    self.norm = nn.LayerNorm(**dtypes)

  def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
    for block in self.blocks:
      x = block(x)
    return self.norm(x)

  def step(
    self, x: Float[Array, "b n w"], caches: tuple[Cache, ...], at: Any
  ) -> tuple[Float[Array, "b n w"], tuple[Cache, ...]]:
    """See `Attention.step`; the blocks must be causal."""
    moved = []
    for block, cache in zip(self.blocks, caches, strict=True):
      x, cache = block.step(x, cache, at)
      moved.append(cache)
    return self.norm(x), tuple(moved)
