"""Adversarial autoencoders (Makhzani et al. 2016, arXiv:1511.05644).

A discriminator tells draws of the prior N(0, I), which it is to take for real, from the latents of images; the encoder
is trained to be taken for real. Both have the losses of Goodfellow et al. 2014 (arXiv:1406.2661), that of the encoder
not saturating:

    loss of the model           -log p(x | g(z)) + latent_adversarial * -log D(z)
    loss of the discriminator   -log D(p) - log(1 - D(z)),   p ~ N(0, I)

The paper takes turns: reconstruction, discriminator, encoder. Here all three are one step, from one pass through the
model: see `training.opponents`. The decoder has no part in the adversarial term.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.distributions import likelihoods
from vae_jax.keys import ABOVE_0, WIDTHS, Keys
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import autoencoder
from vae_jax.models.autoencoder import Autoencoder
from vae_jax.models.contract import Output, Whole
from vae_jax.models.discriminator import LatentDiscriminator
from vae_jax.models.opponent import Opponent
from vae_jax.types import Array, Batch, Key, Spec


def prior_and_latents(output: Output, batch: Batch, key: Key, whole: Whole) -> tuple[Array, Array]:
  """What the discriminator sees: a draw of N(0, I) for each place in the global batch, and the latents."""
  z = output.latents["z"]
  draw = jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(key, place), z.shape[1:], jnp.float32))
  return draw(jnp.asarray(batch["place"])), z


KEYS: Keys = {
  **autoencoder.KEYS,
  **autoencoder.ENCODER_KEYS,
  "objective.latent_adversarial.weight": ConfigKey(
    10.0, "weight of the discriminator's verdict on latents (Makhzani et al. 2016)", ABOVE_0
  ),
  "objective.latent_adversarial.hidden": ConfigKey(
    (512, 512), "widths of the layers of the discriminator of latents", WIDTHS
  ),
  "objective.latent_adversarial.learning_rate": ConfigKey(
    5e-4, "learning rate of the discriminator of latents", ABOVE_0
  ),
}
FAMILY = Autoencoder
faults = likelihoods.faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> Autoencoder:
  """The module that `config.model` describes, for records of `spec`."""
  return autoencoder.build(Autoencoder, model, spec, dtypes, stochastic=model.encoder == "gaussian")


def opponents(config: ConfigDict, spec: Spec) -> dict[str, Opponent]:
  """The discriminator of latents, trained by Adam with beta1 = 0.5 at one learning rate."""

  def told_apart(real: Array, fake: Array) -> Array:
    return losses.verdict_cross_entropy(real, True) + losses.verdict_cross_entropy(fake, False)

  how = config.objective.latent_adversarial
  return {
    "latent_adversarial": Opponent(
      module=LatentDiscriminator(tuple(how.hidden)),
      sees=prior_and_latents,
      tx=optax.scale_by_adam(b1=0.5),
      learning_rate=how.learning_rate,
      weight=how.weight,
      loss=told_apart,
      taken=lambda fake: losses.verdict_cross_entropy(fake, True),
    )
  }
