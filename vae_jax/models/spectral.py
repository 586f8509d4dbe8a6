"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): kernels divided by their largest singular value.

A kernel [..., inputs, outputs] is seen as the matrix [outputs, all the rest], as in section 2 of the paper, for dense
layers and convolutions alike. For a convolution, that matrix's singular value is not the norm of the map of images.

The value comes from one power iteration a step (algorithm 1): from a vector u that is kept beside the parameters, v is
W^T u and the next u is W v, each of length 1, and sigma = u^T W v. Gradients see u and v as constants. A kernel of
zeros stays as it is, and so does its u.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from vae_jax.types import Array, ArrayLike, Key, Params

HIGHEST = jax.lax.Precision.HIGHEST
Vectors = dict[str, Any]  # u of each layer that has a kernel, float32 [outputs], in the tree of layers


def matrix(kernel: Float[ArrayLike, "*rest outputs"]) -> Float[Array, "outputs inputs"]:
  """A kernel in float32 with a row for each output."""
  return jnp.asarray(kernel, jnp.float32).reshape(-1, kernel.shape[-1]).T


def fresh(params: Params, key: Key) -> Vectors:
  """Random vectors of length 1 for the kernels among `params`, of which shapes will do."""
  sizes = {path[:-1]: x.shape[-1] for path, x in flatten_dict(params).items() if path[-1] == "kernel"}
  drawn = {
    layer: jax.random.normal(jax.random.fold_in(key, number), (size,), jnp.float32)
    for number, (layer, size) in enumerate(sizes.items())
  }
  return unflatten_dict({layer: u / jnp.linalg.norm(u) for layer, u in drawn.items()})


def iterated(params: Params, vectors: Vectors) -> Vectors:
  """The vectors after a power iteration."""
  kernels = flatten_dict(params)
  moved = {
    layer: _step(matrix(kernels[(*layer, "kernel")]), u)[0] for layer, u in flatten_dict(vectors).items()
  }
  return unflatten_dict(moved)


def sigma(kernel: Float[ArrayLike, "*rest outputs"], u: Float[ArrayLike, " outputs"]) -> Float[Array, ""]:
  """The largest singular value of a kernel's matrix, by a power iteration from `u`; at most the true one."""
  w = matrix(kernel)
  u, v = _step(w, u)
  return jnp.dot(u, jnp.dot(w, v, precision=HIGHEST), precision=HIGHEST)


def normalised(params: Params, vectors: Vectors) -> Params:
  """The parameters, each kernel that has a vector divided by its `sigma`."""
  flat = flatten_dict(params)
  for layer, u in flatten_dict(vectors).items():
    kernel = flat[(*layer, "kernel")]
    value = sigma(kernel, u)
    flat[(*layer, "kernel")] = (kernel / jnp.where(value > 0, value, 1.0)).astype(kernel.dtype)
  return unflatten_dict(flat)


def _step(w: Float[Array, "outputs inputs"], u: Float[ArrayLike, " outputs"]) -> tuple[Array, Array]:
  """The next u, and v; constants for gradients."""
  w, u = jax.lax.stop_gradient((w, u))
  v = _unit(jnp.dot(u, w, precision=HIGHEST), 0.0)
  return _unit(jnp.dot(w, v, precision=HIGHEST), u), v


def _unit(x: Array, otherwise: ArrayLike | float) -> Array:
  norm = jnp.linalg.norm(x)
  return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1.0), otherwise)
