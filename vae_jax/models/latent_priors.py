"""Priors p(z) that are trained with a model: a mixture of Gaussians, the VampPrior, RealNVP.

Each is a module with the methods of a fitted prior (`priors.base.Prior`): `noise` draws all that `transform` needs, and
`transform` makes latents of it. The methods take `encode`, q(z | x) of images, because the VampPrior is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax import distributions as dist
from vae_jax.priors.real_nvp import RealNVP
from vae_jax.types import Array, Key, Shape

Encode = Callable[[Array], dist.Gaussian]
SPREAD = 0.5  # standard deviation of a fresh mixture's means; its own is 1
JITTER = 0.01  # noise on the images that pseudo-inputs begin at, so that no two are alike


class LatentPrior(nn.Module):
  """N(0, I) over `units` latents, and the base of the others."""

  units: int

  @property
  def words(self) -> str:
    """What it is, for a person."""
    return "N(0, I)"

  def noise(self, key: Key) -> Any:
    """All that `transform` draws for one example."""
    return jax.random.normal(key, (self.units,), jnp.float32)

  def transform(self, noise: Any, temperature: Any, encode: Encode) -> Float[Array, "n d"]:
    """Latents of noise [n, ...]."""
    return temperature * noise

  def log_prob(self, z: Float[Array, "*n d"], encode: Encode) -> Float[Array, "*n"]:
    """Log density in nats."""
    return dist.standard_normal_log_prob(z)


class MixturePrior(LatentPrior):
  """A mixture of `components` diagonal Gaussians with learned weights, means and variances."""

  components: int

  def setup(self):
    shape, zeros = (self.components, self.units), nn.initializers.zeros_init()
    self.means = self.param("means", nn.initializers.normal(SPREAD), shape, jnp.float32)
    self.logvars = self.param(
      "logvars", nn.initializers.constant(math.log(1 - SPREAD**2)), shape, jnp.float32
    )
    self.logits = self.param("logits", zeros, (self.components,), jnp.float32)

  @property
  def words(self) -> str:
    return f"learned mixture of {self.components} Gaussians"

  def noise(self, key: Key) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    """Uniform noise that chooses the component, and standard normal noise."""
    choice, normal = jax.random.split(key)
    return jax.random.uniform(choice, (), jnp.float32), super().noise(normal)

  def mixture(self, encode: Encode) -> dist.Mixture:
    """The density as numbers."""
    return dist.Mixture(jax.nn.log_softmax(self.logits), self.means, dist.bound_logvar(self.logvars))

  def transform(self, noise: Any, temperature: Any, encode: Encode) -> Float[Array, "n d"]:
    """The temperature scales deviations from the means of the components."""
    choice, eps = noise
    return dist.mixture_sample(self.mixture(encode), choice, eps, temperature)

  def log_prob(self, z: Float[Array, "*n d"], encode: Encode) -> Float[Array, "*n"]:
    return dist.mixture_log_prob(self.mixture(encode), z)


class VampPrior(MixturePrior):
  """(1 / K) sum_k q(z | u_k), the posteriors of K learned pseudo-inputs u_k (Tomczak & Welling 2018, arXiv:1705.07120).

  Fresh pseudo-inputs are grey with noise; a run begins them at training images (`FlexibleVAE.begin`). They may leave
  [0, 1].

  shape: of an image as the encoder sees it.
  """

  shape: Shape

  def setup(self):
    def grey(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
      return 0.5 + 0.1 * jax.random.normal(key, shape, dtype)

    self.inputs = self.param("inputs", grey, (self.components, *self.shape), jnp.float32)

  @property
  def words(self) -> str:
    return f"VampPrior of {self.components} pseudo-inputs"

  def mixture(self, encode: Encode) -> dist.Mixture:
    equal = jnp.full((self.components,), -math.log(self.components), jnp.float32)
    return dist.Mixture(equal, *encode(self.inputs))


class FlowPrior(LatentPrior):
  """z = f(noise), f a RealNVP, the identity at first.

  layers, hidden: of f.
  """

  layers: int
  hidden: int

  def setup(self):
    self.flow = RealNVP(self.units, self.layers, self.hidden)

  @property
  def words(self) -> str:
    return f"learned RealNVP of {self.layers} layers"

  def transform(self, noise: Any, temperature: Any, encode: Encode) -> Float[Array, "n d"]:
    """The temperature scales the noise, before the flow."""
    return self.flow.forward(temperature * noise)[0]

  def log_prob(self, z: Float[Array, "*n d"], encode: Encode) -> Float[Array, "*n"]:
    return self.flow.log_prob(z.reshape(-1, self.units)).reshape(z.shape[:-1])
