"""The linear VAE: probabilistic PCA (Tipping & Bishop 1999), trained as a VAE (Lucas et al. 2019, arXiv:1911.02469).

    p(z) = N(0, I)     p(x | z) = N(1/2 + W z + b, sigma^2 I)     q(z | x) = N(V x + v, diag s^2), one s for all images

At its best the columns of W span the principal components, and the bound is log p(x) itself.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.keys import WIDEST, Keys, counted
from vae_jax.keys import Key as ConfigKey
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.types import Array, Batch, Key, Shape, Spec, image_shape


class LinearVAE(Family):
  """Attributes: shape, (h, w, c) of the images; latent_dim; likelihood of the pixels."""

  shape: Shape
  latent_dim: int
  likelihood: dist.Likelihood

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "sample", "bound"})
  STANDARD_PRIOR: ClassVar[bool] = True

  @property
  def units(self) -> int:
    return self.latent_dim

  def setup(self):
    self.encoder = nn.Dense(self.latent_dim)
    self.decoder = nn.Dense(math.prod(self.shape))
    self.logvar = self.param("logvar", nn.initializers.zeros_init(), (self.latent_dim,), jnp.float32)
    self.log_scale = self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32)

  def pixels(self, z: Array) -> Array:
    return self.decoder(z).reshape(-1, *self.shape)

  def encode(self, batch: Batch) -> dist.Gaussian:
    image = jnp.asarray(batch["image"])
    mean = self.encoder(image.reshape(len(image), -1))
    return dist.Gaussian(mean, jnp.broadcast_to(dist.bound_logvar(self.logvar), mean.shape))

  def decode(self, z: Array, condition: Batch) -> Array:
    return self.likelihood.mean(self.pixels(z), self.log_scale)

  def reconstruct(self, batch: Batch) -> Array:
    return self.decode(self.encode(batch).mean, batch)

  def noise(self, key: Key, spec: Spec, origin: Any = (0, 0)) -> Array:
    return jax.random.normal(key, (self.latent_dim,), jnp.float32)

  def generate(self, noise: Array, condition: Batch, temperature: Any = 1.0) -> Array:
    return self.decode(temperature * noise, condition)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    posterior, image = self.encode(batch), jnp.asarray(batch["image"])
    draw = jax.vmap(lambda key: jax.random.normal(key, (mode.samples, self.latent_dim), jnp.float32))
    z = dist.sample(posterior, draw(keys).swapaxes(0, 1))  # [samples, b, latent_dim]
    pixels = self.pixels(z.reshape(-1, self.latent_dim)).reshape(*z.shape[:2], *self.shape)
    log_likelihood = self.likelihood.log_prob(pixels, image, self.log_scale)  # [samples, b], in nats
    kl = dist.kl_standard_normal(posterior)
    return Output(
      terms={"distortion": -log_likelihood.mean(axis=0), "rate": kl.sum(axis=-1)},
      reconstruction=self.likelihood.mean(pixels[0], self.log_scale),
      kl_units=kl,
      log_weight=log_likelihood + dist.standard_normal_log_prob(z) - dist.log_prob(posterior, z),
      latents={"z": z[0], "mean": posterior.mean, "logvar": posterior.logvar},
    )


KEYS: Keys = {"model.latent_dim": ConfigKey(16, "size of the latent vector", counted(WIDEST))}
FAMILY = LinearVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one: nothing."""
  yield from ()


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> LinearVAE:
  """The module that `config.model` describes, for records of `spec`. It computes in float32, whatever `dtypes` say."""
  shape = image_shape(spec)
  return LinearVAE(shape, model.latent_dim, dist.gaussian(shape[-1]))
