"""Bits-back coding with ANS (Townsend, Bird & Barber 2019, arXiv:1901.04866): images to a stack of bits, and back.

To encode an image x, a latent z is decoded from the bits that are there, under q(z | x), which takes bits away. Then x
is encoded under p(x | z), and z under p(z). The cost is -log2 p(x | z) - log2 p(z) + log2 q(z | x), on average the
negative evidence bound in bits. The decoder does the steps backwards, and gives the bits back.

The images of a lane share a stack, so each finds the bits of those before. The first finds random words, which count.
Image i is in lane i % lanes. A row is one image of each lane. All networks run on whole rows, in both directions, so
that they give the same floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from vae_jax.compression.ans import Stack
from vae_jax.compression.symbols import PRECISION, LatentGrid, Posterior, Symbols, find, intervals
from vae_jax.errors import UserError


class Coder(NamedTuple):
  """A model as numbers.

  encode: levels of a row, uint8 [lanes, h, w, c] -> mean and logvar of q(z | x), [lanes, d].
  decode: latents, float32 [lanes, d] -> parameters of p(x | z), arrays [lanes, ...].
  pixels: parameters [n, ...] of the first n lanes -> distributions of their pixels.
  shape: (h, w, c). latents: d. grid: their buckets.
  """

  encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  decode: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  pixels: Callable[..., Symbols]
  shape: tuple[int, ...]
  latents: int
  grid: LatentGrid


Followed = Callable[[Iterable[int]], Iterable[int]]  # shows how far a loop over rows is


def compress(coder: Coder, levels: np.ndarray, lanes: int, followed: Followed = iter) -> Stack:
  """Encodes images, uint8 [n, h, w, c] of levels; 1 <= lanes <= n. Raises UserError: values that are not finite."""
  stack = Stack.initial(lanes)
  for first in followed(range(0, len(levels), lanes)):
    row = levels[first : first + lanes]
    posterior = _posterior(coder, row, lanes)
    z = np.stack([_pop(stack, posterior, j, len(row)) for j in range(coder.latents)])
    stack.push(*intervals(_pixels(coder, z, lanes), _flat(row)), PRECISION)
    stack.push(z, np.ones_like(z), coder.grid.bits)
  return stack


def decompress(coder: Coder, stack: Stack, count: int, followed: Followed = iter) -> np.ndarray:
  """The `count` images, uint8 [count, h, w, c], of a stack that `compress` made; it is used up.

  Raises UserError where the stack is not one of these images and this model."""
  lanes, rows = len(stack.head), []
  for first in followed(range(0, count, lanes)[::-1]):
    n = min(lanes, count - first)
    z = np.empty((coder.latents, n), np.int64)
    for j in range(coder.latents):
      z[j] = stack.peek(n, coder.grid.bits)
      stack.pop(z[j], np.ones_like(z[j]), coder.grid.bits)
    pixels = _pixels(coder, z, lanes)
    row = np.stack([_pop(stack, pixels, j, n) for j in range(pixels.count)], axis=1)
    row = row.astype(np.uint8).reshape(n, *coder.shape)
    stack.push(*intervals(_posterior(coder, row, lanes), z), PRECISION)
    rows.append(row)
  if not (stack.head == Stack.initial(lanes).head).all():
    raise UserError("the stack does not end where it began")
  return np.concatenate(rows[::-1])


def _posterior(coder: Coder, row: np.ndarray, lanes: int) -> Posterior:
  mean, logvar = coder.encode(_padded(row, lanes))
  return Posterior(coder.grid, mean[: len(row)], logvar[: len(row)])


def _pixels(coder: Coder, z: np.ndarray, lanes: int) -> Symbols:
  params = coder.decode(_padded(coder.grid.centres[z.T], lanes))
  return coder.pixels(*(x[: z.shape[1]] for x in params))


def _pop(stack: Stack, symbols: Symbols, j: int, n: int) -> np.ndarray:
  value, start, frequency = find(symbols, j, stack.peek(n, PRECISION))
  stack.pop(start, frequency, PRECISION)
  return value


def _flat(row: np.ndarray) -> np.ndarray:
  """[n, h, w, c] -> int64 [h * w * c, n]."""
  return np.ascontiguousarray(row.reshape(len(row), -1).T, np.int64)


def _padded(x: np.ndarray, lanes: int) -> np.ndarray:
  """With zeros for the lanes that a last row lacks."""
  return np.concatenate([x, np.zeros((lanes - len(x), *x.shape[1:]), x.dtype)])
