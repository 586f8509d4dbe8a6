"""Likelihood scores in units that compare over image sizes."""

from __future__ import annotations

import math
from typing import TypeVar

import jax
import numpy as np

Number = TypeVar("Number", float, np.ndarray, jax.Array)


def bits_per_dim(nats: Number, dims: int, continuous: bool) -> Number:
  """Bits per dimension of a negative log-likelihood (or bound) in nats; `dims` is h * w * c.

  nats / (dims * ln 2) for a probability of grey levels or binary pixels. A density over [0, 1] (`continuous`,
  as in `vae_jax.distributions.Likelihood`) gains log2(256) = 8 bits: it is then a density over grey levels,
  and bounds the score of a discrete model only for dequantised images. Raises ValueError for dims < 1.
  """
  if dims < 1:
    raise ValueError(f"bits_per_dim needs dims of at least 1; got {dims}")
  return nats / (dims * math.log(2.0)) + (8.0 if continuous else 0.0)
