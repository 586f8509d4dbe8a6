"""A second stage for tests: a small Gaussian VAE over a first stage's latents, which it samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.keys import WIDEST, Key, Keys, counted
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.types import Batch, Spec


class LatentVAE(Family):
  """p(u) = N(0, I), p(latents | u) = N(mean(u), I / 16)."""

  width: int
  hidden: int
  latent_dim: int

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"sample"})
  NEEDS: ClassVar[frozenset[str]] = frozenset({"latents"})

  @property
  def units(self) -> int:
    return self.latent_dim

  def setup(self):
    self.encoder = nn.Sequential([nn.Dense(self.hidden), nn.tanh, nn.Dense(2 * self.latent_dim)])
    self.decoder = nn.Sequential([nn.Dense(self.hidden), nn.tanh, nn.Dense(self.width)])

  def noise(self, key: Any, spec: Spec, origin: Any = (0, 0)) -> Any:
    return jax.random.normal(key, (self.latent_dim,))

  def generate(self, noise: Any, condition: Batch, temperature: Any = 1.0) -> Any:
    return self.decoder(temperature * noise)

  def __call__(self, batch: Batch, keys: Any, mode: Mode) -> Output:
    mean, raw = jnp.split(self.encoder(batch["latents"]), 2, axis=-1)
    posterior = dist.Gaussian(mean, dist.bound_logvar(raw))
    eps = jax.vmap(lambda key: jax.random.normal(key, (self.latent_dim,)))(keys)
    errors = self.decoder(dist.sample(posterior, eps)) - batch["latents"]
    kl = dist.kl_standard_normal(posterior)
    return Output(
      terms={"distortion": 8.0 * jnp.square(errors).sum(axis=-1), "rate": kl.sum(axis=-1)},
      rates=kl.sum(axis=-1, keepdims=True),
      kl_units=kl,
      latents={"mean": mean, "logvar": posterior.logvar},
    )


KEYS: Keys = {
  "model.latent_dim": Key(2, "size of the latent vector", counted(WIDEST)),
  "model.units": Key(8, "width of the hidden layers", counted(WIDEST)),
}
FAMILY = LatentVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses."""
  yield from ()


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> LatentVAE:
  """The module for records of `spec`."""
  return LatentVAE(spec["latents"].shape[0], model.units, model.latent_dim)
