"""The variational autoencoder (Kingma & Welling 2014): one layer of Gaussian latents; any encoder and likelihood.

Where the batch carries a degraded image (noisy, low-resolution), the encoder sees that and the likelihood scores the
clean one: log p(x) >= E_q(z|y)[log p(x|z)] - KL(q(z|y) || p(z)) holds for any q. The families `mlp_vae` and `conv_vae`
are this module with different encoders and decoders.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from vae_jax import distributions as dist
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.types import Array, Batch, Key, Spec, seen


class GaussianLatents(Family):
  """p(z) = N(0, I) and q(z | x) = N(mean(x), diag exp(logvar(x))); what `decode` makes of z is the family's.

  Attributes:
    encoder: images [b, h, w, c] -> [b, 2 * latent_dim], or a map [b, h', w', 2 * d] with h' * w' * d = latent_dim.
    decoder: latents [n, latent_dim] -> what the family makes its images of, [n, h, w, p].
    latent_dim: number of latents.
  """

  encoder: nn.Module
  decoder: nn.Module
  latent_dim: int

  @property
  def units(self) -> int:
    """Latents of an image."""
    return self.latent_dim

  @property
  def last_kernel(self) -> tuple[str, ...]:
    return ("decoder", self.decoder.last, "kernel")

  def encode(self, batch: Batch) -> dist.Gaussian:
    """The posterior q(z | image); mean and logvar float32 [b, latent_dim]."""
    image = seen(batch)
    mean, raw = (half.reshape(image.shape[0], -1) for half in jnp.split(self.encoder(image), 2, axis=-1))
    return dist.Gaussian(mean, dist.bound_logvar(raw))

  def reconstruct(self, batch: Batch) -> Float[Array, "b h2 w2 c"]:
    """The image of the posterior's mean."""
    return self.decode(self.encode(batch).mean, batch)

  def noise(self, key: Key, spec: Spec, origin: tuple[int, int] | Array = (0, 0)) -> Float[Array, " d"]:
    return jax.random.normal(key, (self.latent_dim,), jnp.float32)

  def latents(self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0) -> Array:
    """Latents drawn from the prior, N(0, temperature^2 I), from standard normal noise."""
    return temperature * noise

  def generate(
    self, noise: Float[Array, "n d"], condition: Batch, temperature: Any = 1.0
  ) -> Float[Array, "n h w c"]:
    return self.decode(self.latents(noise, condition, temperature), condition)


class VAE(GaussianLatents):
  """Beside p(z) and q(z | x) of `GaussianLatents`: p(x | z) = likelihood(decoder(z)).

  Attributes, beside those of `GaussianLatents`:
    likelihood: of the pixels; see `vae_jax.distributions`. The decoder gives its parameters.
  """

  likelihood: dist.Likelihood

  TERMS: ClassVar[tuple[str, ...]] = ("distortion", "rate")
  CAN: ClassVar[frozenset[str]] = frozenset({"encode", "decode", "sample", "bound"})
  STANDARD_PRIOR: ClassVar[bool] = True

  def setup(self):
    # One scale for all pixels, starting at sigma = e^-2 of the grey range.
    self.log_scale = (
      self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32)
      if self.likelihood.has_scale
      else jnp.zeros((), jnp.float32)
    )

  def pixels(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w p"]:
    """Parameters of the likelihood of each pixel."""
    return self.decoder(z)

  def decode(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w c"]:
    return self.likelihood.mean(self.pixels(z, condition), self.log_scale)

  def draw_pixels(self, z: Float[Array, "n d"], condition: Batch, key: Key) -> Float[Array, "n h w c"]:
    """Images drawn from p(x | z), in [0, 1]."""
    return self.likelihood.sample(key, self.pixels(z, condition), self.log_scale)

  def __call__(self, batch: Batch, keys: Key, mode: Mode) -> Output:
    image, samples = jnp.asarray(batch["image"]), mode.samples
    posterior = self.encode(batch)
    eps = jax.vmap(lambda key: jax.random.normal(key, (samples, self.latent_dim), jnp.float32))(keys)
    z = dist.sample(posterior, eps.swapaxes(0, 1))  # [s, b, d]
    params = self.pixels(z.reshape(-1, self.latent_dim), batch)
    params = params.reshape(samples, image.shape[0], *params.shape[1:])
    distortion = -self.likelihood.log_prob(params, image, self.log_scale)
    kl_units = dist.kl_standard_normal(posterior)
    rates = kl_units.sum(axis=-1, keepdims=True)
    return Output(
      terms={"distortion": distortion.mean(axis=0), "rate": rates.sum(axis=-1)},
      reconstruction=self.likelihood.mean(params[0], self.log_scale),
      rates=rates,
      kl_units=kl_units,
      log_weight=dist.standard_normal_log_prob(z) - dist.log_prob(posterior, z) - distortion,
      latents={"z": z[0], "mean": posterior.mean, "logvar": posterior.logvar},
    )
