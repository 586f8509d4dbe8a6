"""Inverse autoregressive flow (Kingma et al. 2016, arXiv:1606.04934) by masked autoencoders (Germain et al. 2015).

Draws are fast, and so is their density. The density of a given vector is not: its noise is found latent by latent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.types import Array

OPEN = 2.0  # added to the gate's logit: at first a layer keeps most of each latent


class MaskedDense(nn.Module):
  """A dense layer whose output j sees the inputs i where mask[i, j] holds. zero: all its weights begin at 0."""

  features: int
  zero: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "n i"], mask: Bool[Array, "i j"]) -> Float[Array, "n j"]:
    init = nn.initializers.zeros_init() if self.zero else nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (x.shape[1], self.features), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
    return jnp.matmul(x, jnp.where(mask, kernel, 0.0), precision="highest") + bias[None]


class MADE(nn.Module):
  """Gate logits and shifts of all latents, [n, d] each: those of latent i see the latents before it, and the context.

  Two hidden layers. A hidden unit of degree k, 0 to d - 1, sees the first k latents.
  """

  units: int
  hidden: int

  @nn.compact
  def __call__(
    self, z: Float[Array, "n d"], context: Float[Array, "n c"]
  ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    latents = 1 + jnp.arange(2 * self.units) % self.units  # of gates, then shifts
    degrees = jnp.arange(self.hidden) % self.units
    first = degrees[None] >= latents[: self.units, None]
    told = nn.Dense(self.hidden, use_bias=False, precision="highest", name="context")(context)
    x = nn.silu(MaskedDense(self.hidden, name="hidden_0")(z, first) + told)
    x = nn.silu(MaskedDense(self.hidden, name="hidden_1")(x, degrees[None] >= degrees[:, None]))
    out = MaskedDense(2 * self.units, zero=True, name="out")(x, latents[None] > degrees[:, None])
    gate, shift = jnp.split(out, 2, axis=-1)
    return gate + OPEN, shift


class IAF(nn.Module):
  """z = f(noise; context). Each layer is z' = g z + (1 - g) m with gates g and shifts m of a `MADE` of z, and has the
  log-determinant sum log g. The order of the latents is reversed from layer to layer.

  Attributes:
    units: latents of a vector, d.
    layers: of the flow.
    hidden: width of their networks.
  """

  units: int
  layers: int
  hidden: int

  def setup(self):
    self.steps = [MADE(self.units, self.hidden, name=f"made_{i}") for i in range(self.layers)]

  def forward(
    self, noise: Float[Array, "n d"], context: Float[Array, "n c"]
  ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """z of noise, and log |det dz / dnoise|."""
    z, total = noise, jnp.zeros(noise.shape[0], jnp.float32)
    for i, made in enumerate(self.steps):
      z = z[:, ::-1] if i else z
      gate, shift = made(z, context)
      open_ = jax.nn.sigmoid(gate)
      z = open_ * z + (1 - open_) * shift
      total = total + jax.nn.log_sigmoid(gate).sum(axis=-1)
    return z, total

  def inverse(
    self, z: Float[Array, "n d"], context: Float[Array, "n c"]
  ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """The noise of z, and log |det dnoise / dz|: d passes through each network, of which each gets one latent right."""
    total = jnp.zeros(z.shape[0], jnp.float32)
    for i, made in reversed(list(enumerate(self.steps))):
      noise = jnp.zeros_like(z)
      for _ in range(self.units + 1):  # the last one for the gates
        gate, shift = made(noise, context)
        open_ = jax.nn.sigmoid(gate)
        noise = (z - (1 - open_) * shift) / open_
      total = total - jax.nn.log_sigmoid(gate).sum(axis=-1)
      z = noise[:, ::-1] if i else noise
    return z, total

  def log_prob(self, z: Float[Array, "n d"], context: Float[Array, "n c"]) -> Float[Array, " n"]:
    """Log density of z, where the noise is standard normal, in nats. Slow: see `inverse`."""
    noise, log_det = self.inverse(z, context)
    return standard_normal_log_prob(noise) + log_det

  def __call__(
    self, noise: Float[Array, "n d"], context: Float[Array, "n c"]
  ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    return self.forward(noise, context)
