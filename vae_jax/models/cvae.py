"""The conditional VAE of labelled images (Kingma et al. 2014, arXiv:1406.5298, M2 with known labels; Sohn et al. 2015).

    p(x | y) = E_p(z|y) p(x | z, y)      p(z | y) = N(m_y, diag s_y^2)      q(z | x, y) = N(m(x, y), diag s(x, y)^2)

The prior of each label y is learned: a mean and a variance for each latent. Encoder and decoder are fully connected,
and see the label as a one-hot vector beside the image or the latents. So z holds what the label does not say: style.
The family `conv_cvae` is this module with convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from vae_jax import distributions as dist
from vae_jax.distributions import likelihoods
from vae_jax.keys import WIDEST, Keys, between
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import mlp_vae, vae
from vae_jax.types import Array, Batch, Spec, image_shape, seen


class CVAE(vae.ConditionalVAE):
  """A VAE whose encoder sees [b, 1, 1, h * w * c + classes] and whose decoder sees [n, latent_dim + classes].

  Attributes, beside those of `vae.VAE`:
    classes: number of labels.
    planes: the encoder sees [b, h, w, c + classes] instead: the label as constant channels.
  """

  classes: int
  planes: bool = False

  NEEDS: ClassVar[frozenset[str]] = frozenset({"label"})
  PRIOR: ClassVar[str] = "N(mean, diag(variance)), learned for each label"

  def setup(self):
    super().setup()
    zeros, shape = nn.initializers.zeros_init(), (self.classes, self.latent_dim)
    self.prior_mean = self.param("prior_mean", zeros, shape, jnp.float32)
    self.prior_logvar = self.param("prior_logvar", zeros, shape, jnp.float32)

  def one_hot(self, condition: Batch) -> Float[Array, "n k"]:
    """Labels as one-hot vectors."""
    return jax.nn.one_hot(jnp.asarray(condition["label"]), self.classes, dtype=jnp.float32)

  def prior(self, condition: Batch) -> dist.Gaussian:
    """p(z | y): mean and logvar, float32 [n, latent_dim]."""
    label = jnp.asarray(condition["label"])
    return dist.Gaussian(self.prior_mean[label], dist.bound_logvar(self.prior_logvar[label]))

  def encode(self, batch: Batch) -> dist.Gaussian:
    image, label = seen(batch), self.one_hot(batch)[:, None, None]
    if self.planes:
      label = jnp.broadcast_to(label, (*image.shape[:3], self.classes))
    else:
      image = image.reshape(image.shape[0], 1, 1, -1)
    mean, raw = jnp.split(self.encoder(jnp.concatenate([image, label], axis=-1)), 2, axis=-1)
    return dist.Gaussian(mean, dist.bound_logvar(raw))

  def pixels(self, z: Float[Array, "n d"], condition: Batch) -> Float[Array, "n h w p"]:
    """Parameters of the likelihood of each pixel."""
    return self.decoder(jnp.concatenate([z, self.one_hot(condition)], axis=-1))


KEYS: Keys = {
  "model.classes": ConfigKey(10, "labels are 0 .. classes - 1", between(1, WIDEST)),
  **mlp_vae.NETWORK_KEYS,
  **vae.KEYS,
}
FAMILY = CVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from vae.faults(config)
  if config.objective.mmd:
    yield (
      f"objective.mmd={config.objective.mmd} compares latents with a standard normal prior, and "
      f"model.name={config.model.name} learns one for each label; set it to 0"
    )


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> CVAE:
  """The module that `config.model` describes, for records of `spec`."""
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  encoder, decoder = mlp_vae.networks(model, spec, dtypes, likelihood.channels)
  return CVAE(encoder, decoder, model.latent_dim, likelihood, classes=model.classes)
