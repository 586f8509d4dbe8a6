"""The random numbers of this library: one generator and one set of types, whatever JAX is set to.

`JAX_DEFAULT_PRNG_IMPL`, `JAX_ENABLE_X64` and `JAX_THREEFRY_PARTITIONABLE` change what `jax.random` draws, so that a run
would continue as another one. Here keys name their generator, draws name their type, and a run, like the scores of a
split, is computed within `standard()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from vae_jax.errors import UserError
from vae_jax.types import Key

GENERATOR = "threefry2x32"  # of each key made here; a batch of keys draws what each draws alone
RECORD = f"{GENERATOR}, partitionable"  # how checkpoints name it


def new_key(seed: int) -> Key:
  """The key of a seed, 0 to 2**31 - 1."""
  return jax.random.key(seed, impl=GENERATOR)


def own_key(key: Key) -> Key:
  """A key of our generator: the key itself, or one that is drawn from a key of another generator.

  Legacy keys, raw uint32 of `jax.random.PRNGKey`, are of the generator that JAX is set to. Raises UserError for one of
  another.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    try:
      key = jax.random.wrap_key_data(key)
    except TypeError as error:
      raise UserError(
        f"key: uint32{list(key.shape)} is no legacy key of the generator that JAX is set to; give a typed key, such as "
        "jax.random.key(0, impl='rbg')"
      ) from error
  if str(jax.random.key_impl(key)) == GENERATOR:
    return key
  return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl=GENERATOR)


@contextlib.contextmanager
def standard() -> Iterator[None]:
  """Has JAX compute in float32 and int32, and draw by our generator, whatever it is set to. In this thread."""
  with jax.enable_x64(False), jax.default_prng_impl(GENERATOR), jax.threefry_partitionable(True):
    yield
