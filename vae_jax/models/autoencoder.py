"""What the families `rae`, `wae` and `aae` share: a distortion, and no KL for each image.

The encoder is deterministic, z = f(x), or Gaussian. The distortion is -log p(x | z) in nats, summed over pixels. The
default likelihood is a Gaussian of variance 1/2, so the distortion is |x - g(z)|^2, the cost of the three papers, plus
a constant. Where the batch carries a degraded image, the encoder sees that, and the clean one is scored.

A deterministic encoder is a posterior without variance: `encode` gives logvar = -inf, and draws are the mean. Its KL to
any density is infinite, so there is no rate and no bound of the likelihood. The networks are those of `conv_vae`.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.keys import Key as ConfigKey
from vae_jax.keys import Keys, one_of
from vae_jax.models import conv_vae
from vae_jax.models.contract import Mode, Output
from vae_jax.models.vae import VAE
from vae_jax.types import Batch, Key, Spec, image_shape, seen

Kind = TypeVar("Kind", bound="Autoencoder")


class Autoencoder(VAE):
  """A `vae.VAE` whose only term of its own is the distortion.

  Attributes, beside those of `VAE`:
    stochastic: whether the encoder is Gaussian; else it gives the mean alone, [b, latent_dim] or a map.
  """

  stochastic: bool

  TERMS: ClassVar[tuple[str, ...]] = ("distortion",)
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "sample", "inpaint"})
  STANDARD_PRIOR: ClassVar[bool] = False  # no posterior is drawn to it
  UNBOUNDED: ClassVar[str] = (
    "no rate: it compares latents with the prior as a set, which bounds no likelihood"
  )

  def encode(self, batch: Batch) -> dist.Gaussian:
    """The posterior; logvar is -inf, a variance of 0, where the encoder is deterministic."""
    if self.stochastic:
      return super().encode(batch)
    image = seen(batch)
    mean = self.encoder(image).reshape(image.shape[0], -1)
    return dist.Gaussian(mean, jnp.full_like(mean, -jnp.inf))

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    posterior = self.encode(batch)
    z, latents = posterior.mean, {"mean": posterior.mean}
    if self.stochastic:
      eps = jax.vmap(lambda key: jax.random.normal(key, (self.latent_dim,), jnp.float32))(keys)
      z, latents = dist.sample(posterior, eps), latents | {"logvar": posterior.logvar}
    params = self.pixels(z, batch)
    distortion = -self.likelihood.log_prob(params, jnp.asarray(batch["image"]), self.log_scale)
    reconstruction = self.likelihood.mean(params, self.log_scale)
    return Output({"distortion": distortion}, reconstruction, latents={"z": z, **latents})


KEYS: Keys = {
  **conv_vae.NETWORK_KEYS,
  "model.likelihood": likelihoods.KEYS["model.likelihood"]._replace(default="gaussian"),
  "model.sigma": likelihoods.KEYS["model.sigma"]._replace(default="0.7071"),
}
ENCODER_KEYS: Keys = {
  "model.encoder": ConfigKey(
    "deterministic", "z = f(x), or gaussian: z is drawn", one_of("deterministic", "gaussian")
  )
}


def build(
  kind: type[Kind], model: ConfigDict, spec: Spec, dtypes: dict[str, Any], stochastic: bool, **others: Any
) -> Kind:
  """A module of `kind`, with its `others` attributes. Raises UserError as `conv_vae.networks` does."""
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  encoder, decoder, latent_dim = conv_vae.networks(
    model, spec, dtypes, likelihood.channels, moments=2 if stochastic else 1
  )
  return kind(encoder, decoder, latent_dim, likelihood, stochastic=stochastic, **others)
