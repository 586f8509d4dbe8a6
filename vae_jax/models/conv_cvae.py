"""The conditional VAE of `cvae` with convolutions: for labelled photographs, such as a folder with class folders.

The encoder sees the label as constant channels beside the image, the decoder as a one-hot vector beside the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vae_jax.distributions import likelihoods
from vae_jax.keys import Keys
from vae_jax.models import conv_vae, cvae, vae
from vae_jax.types import Spec, image_shape

KEYS: Keys = {**conv_vae.NETWORK_KEYS, "model.classes": cvae.KEYS["model.classes"], **vae.KEYS}
FAMILY = cvae.CVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from cvae.faults(config)
  if not config.model.dense:
    yield "model.dense=0 leaves a map of latents, and model.name=conv_cvae has a vector; give model.dense a width"


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> cvae.CVAE:
  """The module that `config.model` describes, for records of `spec`."""
  likelihood = likelihoods.build(model, image_shape(spec)[-1])
  encoder, decoder, units = conv_vae.networks(model, spec, dtypes, likelihood.channels)
  return cvae.CVAE(encoder, decoder, units, likelihood, classes=model.classes, planes=True)
