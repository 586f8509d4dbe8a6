"""The variational autoencoder (Kingma & Welling 2014): one layer of Gaussian latents; any encoder and likelihood.

Where the batch carries a degraded image (noisy, low-resolution), the encoder sees that and the likelihood scores the
clean one: log p(x) >= E_q(z|y)[log p(x|z)] - KL(q(z|y) || p(z)) holds for any q.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax.types import Array, Key, VAEOutput


class VAE(nn.Module):
  """p(z) = N(0, I), q(z | x) = N(mean(x), diag exp(logvar(x))), p(x | z) = likelihood(decoder(z)).

  Attributes:
    encoder: images [b, h, w, c] -> [b, 2 * latent_dim], or a map [b, h', w', 2 * d] with h' * w' * d = latent_dim.
    decoder: latents [n, latent_dim] -> likelihood parameters [n, h, w, likelihood.channels].
    likelihood: of the pixels; see `vae_jax.distributions`.
    latent_dim: number of latents.
  """

  encoder: nn.Module
  decoder: nn.Module
  likelihood: dist.Likelihood
  latent_dim: int

  unconditional = True  # its prior needs no image

  @property
  def units(self) -> int:
    """Latents of an image."""
    return self.latent_dim

  def setup(self):
    # One scale for all pixels, starting at sigma = e^-2 of the grey range.
    self.log_scale = (
      self.param("log_scale", nn.initializers.constant(-2.0), (), jnp.float32)
      if self.likelihood.has_scale
      else jnp.zeros((), jnp.float32)
    )

  def encode(self, image: Array) -> dist.Gaussian:
    """The posterior q(z | image); mean and logvar float32 [b, latent_dim]."""
    mean, raw = (half.reshape(image.shape[0], -1) for half in jnp.split(self.encoder(image), 2, axis=-1))
    return dist.Gaussian(mean, dist.bound_logvar(raw))

  def decode(self, z: Array) -> Array:
    """Likelihood parameters [n, h, w, likelihood.channels] for latents [n, latent_dim]."""
    return self.decoder(z)

  def decode_mean(self, z: Array) -> Array:
    """The mean image of p(x | z), float32 [n, h, w, c] in [0, 1]."""
    return self.likelihood.mean(self.decode(z), self.log_scale)

  def restore(self, degraded: Array) -> Array:
    """What the model makes of images [n, h, w, c]: the mean of p(x | z) at the posterior's mean."""
    return self.decode_mean(self.encode(degraded).mean)

  def decode_sample(self, z: Array, key: Key) -> Array:
    """Images drawn from p(x | z), float32 [n, h, w, c] in [0, 1]."""
    return self.likelihood.sample(key, self.decode(z), self.log_scale)

  def prior_sample(self, keys: Key, temperature: float = 1.0) -> Array:
    """One latent [n, latent_dim] per key from N(0, temperature^2 I)."""
    return temperature * jax.vmap(lambda key: jax.random.normal(key, (self.latent_dim,)))(keys)

  def __call__(self, image: Array, keys: Key, degraded: Array | None = None, samples: int = 1) -> VAEOutput:
    """Scores images [b, h, w, c] in [0, 1] with `samples` posterior draws; `keys` has one key per example."""
    posterior = self.encode(image if degraded is None else degraded)
    eps = jax.vmap(lambda key: jax.random.normal(key, (samples, self.latent_dim)))(keys)
    z = dist.sample(posterior, eps.swapaxes(0, 1))  # [s, b, d]
    params = self.decode(z.reshape(-1, self.latent_dim))
    params = params.reshape(samples, image.shape[0], *params.shape[1:])
    distortion = -self.likelihood.log_prob(params, image, self.log_scale)
    kl_units = dist.kl_standard_normal(posterior)
    return VAEOutput(
      distortion=distortion,
      rate=kl_units.sum(axis=-1, keepdims=True),
      log_weight=dist.standard_normal_log_prob(z) - dist.log_prob(posterior, z) - distortion,
      kl_units=kl_units,
      posterior_mean=posterior.mean,
      reconstruction=self.likelihood.mean(params[0], self.log_scale),
    )
