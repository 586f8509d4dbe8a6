"""Wasserstein autoencoders with MMD (Tolstikhin et al. 2018, arXiv:1711.01558, algorithm 2): WAE-MMD.

    loss = -log p(x | g(z)) + mmd * MMD^2(latents of the batch, as many draws of N(0, I))

The latents of a batch are compared with the prior as a set, not image by image, so that the encoder may be
deterministic. The MMD is `losses.mmd`: the unbiased estimate over the whole batch, with the inverse multiquadratic
kernel summed over seven scales. The paper weighs |x - g(z)|^2 by 1, as here, so its lambda is `objective.mmd`. The
program of the paper weighs it by 0.05: a lambda there is 20 times as much here.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.keys import ABOVE_0, Keys
from vae_jax.keys import Key as ConfigKey
from vae_jax.models import autoencoder
from vae_jax.models.autoencoder import Autoencoder
from vae_jax.types import Spec

KEYS: Keys = {
  **autoencoder.KEYS,
  **autoencoder.ENCODER_KEYS,
  "objective.mmd": ConfigKey(
    10.0, "weight of the distance of latents and prior, over the batch (Tolstikhin et al. 2018)", ABOVE_0
  ),
}
FAMILY = Autoencoder
faults = likelihoods.faults


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> Autoencoder:
  """The module that `config.model` describes, for records of `spec`."""
  return autoencoder.build(Autoencoder, model, spec, dtypes, stochastic=model.encoder == "gaussian")
