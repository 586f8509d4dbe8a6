"""The conditional VAE of `cvae` with convolutions: for labelled photographs, such as a folder with class folders.

The encoder sees the label as constant channels beside the image, the decoder as a one-hot vector beside the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vae_jax.keys import Keys
from vae_jax.models import conv_vae, cvae
from vae_jax.types import Spec

KEYS: Keys = {**conv_vae.KEYS, "model.classes": cvae.KEYS["model.classes"]}
FAMILY = cvae.CVAE


def faults(config: ConfigDict) -> Iterator[str]:
  """What the family refuses in a config whose values hold one by one."""
  yield from cvae.faults(config)
  if not config.model.dense:
    yield "model.dense=0 leaves a map of latents, and model.name=conv_cvae has a vector; give model.dense a width"


def build(model: ConfigDict, spec: Spec, dtypes: dict[str, Any]) -> cvae.CVAE:
  """The module that `config.model` describes, for records of `spec`."""
  plain = conv_vae.build(model, spec, dtypes)
  return cvae.CVAE(
    encoder=plain.encoder,
    decoder=plain.decoder,
    latent_dim=plain.latent_dim,
    likelihood=plain.likelihood,
    classes=model.classes,
    planes=True,
  )
