"""A linear VAE, whose exact posterior is known: x = mu + W z + sigma e, q(z | x) = N(A x + a, diag s^2).

It is probabilistic PCA (Tipping & Bishop 1999). The columns of W are orthogonal, so the exact posterior is diagonal.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vae_jax import distributions as dist
from vae_jax.models.vae import VAE

SHAPE, LATENTS, SIGMA, IMAGES = (2, 3, 1), 2, 0.3, 3
RANDOM = np.random.default_rng(0)
W = np.linalg.qr(RANDOM.normal(size=(6, LATENTS)))[0] * [0.6, 0.25]
MU = RANDOM.uniform(0.2, 0.8, size=6)
PRECISION = 1 + (W**2).sum(0) / SIGMA**2
X = MU + RANDOM.normal(size=(IMAGES, LATENTS)) @ W.T + SIGMA * RANDOM.normal(size=(IMAGES, 6))


class Encoder(nn.Module):
  """A x + a, and one log variance a latent."""

  @nn.compact
  def __call__(self, image):
    mean = nn.Dense(LATENTS, name="mean")(image.reshape(image.shape[0], -1))
    raw = self.param("raw", nn.initializers.zeros_init(), (LATENTS,), jnp.float32)
    return jnp.concatenate([mean, jnp.broadcast_to(raw, mean.shape)], axis=-1)


class Decoder(nn.Module):
  @nn.compact
  def __call__(self, z):
    return nn.Dense(math.prod(SHAPE), name="pixels")(z).reshape(-1, *SHAPE)


MODEL = VAE(Encoder(), Decoder(), LATENTS, dist.gaussian(1, SIGMA))


def params_of(shift=0.4, widen=0.5):
  """Parameters whose posterior is off the exact one by `shift` deviations, and `widen` in log variance."""
  kernel = W / SIGMA**2 / PRECISION
  raw = 12 * np.arctanh((widen - np.log(PRECISION)) / 12)  # the inverse of `bound_logvar` below zero
  tree = {
    "encoder": {"mean": {"kernel": kernel, "bias": shift / np.sqrt(PRECISION) - MU @ kernel}, "raw": raw},
    "decoder": {"pixels": {"kernel": W.T, "bias": MU - 0.5}},  # the likelihood's mean is 0.5 + pixels
  }
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


IMAGE = X.reshape(-1, *SHAPE).astype(np.float32)
