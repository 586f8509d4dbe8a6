"""RealNVP on vectors (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 3): an invertible network of
coupling layers, whose log-determinant is a sum.

A module of its own, so that it can be fitted to latents (`priors.flow`) or be part of a model that is trained with it.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.types import Array, Key

MOST_SCALED = 2.0  # a layer scales a latent by exp(-2) to exp(2): enough in some layers, and finite in all


def masks(units: int, layers: int) -> Float[np.ndarray, "l d"]:
  """1 where a layer keeps a latent, 0 where it changes it: every other one, then the rest, then by halves.

  So two layers in a row change all latents, and neighbours meet distant ones.
  """
  index, layer = np.arange(units)[None], np.arange(layers)[:, None]
  length = np.where(layer // 2 % 2 == 0, 1, max(1, -(-units // 2)))
  return ((index // length + layer) % 2 == 0).astype(np.float32)


class Coupling(nn.Module):
  """Log scales (bounded by tanh) and shifts of all latents, [n, d] each, from the kept ones and the context: a
  perceptron with two hidden layers. At first both are 0."""

  units: int
  hidden: int

  @nn.compact
  def __call__(
    self, kept: Float[Array, "n d"], context: Float[Array, "n c"] | None = None
  ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    kept = kept if context is None else jnp.concatenate([kept, context], axis=-1)
    # With fewer bits, as accelerators multiply by default, `inverse` would not undo `forward`.
    dense = partial(nn.Dense, precision="highest")
    x = nn.silu(dense(self.hidden, name="hidden_0")(kept))
    x = nn.silu(dense(self.hidden, name="hidden_1")(x))
    out = dense(2 * self.units, kernel_init=nn.initializers.zeros_init(), name="out")(x)
    raw, shift = jnp.split(out, 2, axis=-1)
    return MOST_SCALED * jnp.tanh(raw / MOST_SCALED), shift


class RealNVP(nn.Module):
  """z = f(noise), noise ~ N(0, I). At first f is the identity.

  Each layer keeps the latents of a mask m, and changes the others by them:
  z' = m z + (1 - m) (z exp(s(m z)) + t(m z)), with log-determinant sum (1 - m) s(m z).

  Methods take a context [n, c] too, which s and t then see: the flow is one for each row.

  Attributes:
    units: latents of a vector, d.
    layers: coupling layers.
    hidden: width of their networks.
  """

  units: int
  layers: int = 8
  hidden: int = 128

  def setup(self):
    self.couplings = [Coupling(self.units, self.hidden, name=f"coupling_{i}") for i in range(self.layers)]

  def forward(
    self, noise: Float[Array, "n d"], context: Float[Array, "n c"] | None = None
  ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """z of noise, and log |det dz / dnoise|."""
    z, total = noise, jnp.zeros(noise.shape[0], jnp.float32)
    for mask, coupling in zip(masks(self.units, self.layers)[:, None], self.couplings, strict=True):
      scale, shift = coupling(mask * z, context)
      z = mask * z + (1 - mask) * (z * jnp.exp(scale) + shift)
      total = total + ((1 - mask) * scale).sum(axis=-1)
    return z, total

  def inverse(
    self, z: Float[Array, "n d"], context: Float[Array, "n c"] | None = None
  ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """The noise of z, and log |det dnoise / dz|."""
    noise, total = z, jnp.zeros(z.shape[0], jnp.float32)
    both = list(zip(masks(self.units, self.layers)[:, None], self.couplings, strict=True))
    for mask, coupling in reversed(both):
      scale, shift = coupling(mask * noise, context)
      noise = mask * noise + (1 - mask) * (noise - shift) * jnp.exp(-scale)
      total = total - ((1 - mask) * scale).sum(axis=-1)
    return noise, total

  def log_prob(
    self, z: Float[Array, "n d"], context: Float[Array, "n c"] | None = None
  ) -> Float[Array, " n"]:
    """Log density in nats."""
    noise, log_det = self.inverse(z, context)
    return standard_normal_log_prob(noise) + log_det

  def __call__(self, z: Float[Array, "n d"]) -> Float[Array, " n"]:
    return self.log_prob(z)


def init_real_nvp(module: RealNVP, key: Key) -> dict:
  """Fresh parameters."""
  return dict(module.init(key, jnp.zeros((1, module.units), jnp.float32))["params"])
