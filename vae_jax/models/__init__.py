"""Model families, one file each: `FAMILIES` says which, `build` makes a module of one. See `contract`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from vae_jax.errors import UserError, nearest

FAMILIES = {
  "mlp_vae": "vae_jax.models.mlp_vae",
  "conv_vae": "vae_jax.models.conv_vae",
  "restoration_vae": "vae_jax.models.restoration_vae",
  "transformation_net": "vae_jax.models.transformation_net",
  "cvae": "vae_jax.models.cvae",
  "conv_cvae": "vae_jax.models.conv_cvae",
  "structured_cvae": "vae_jax.models.structured_cvae",
  "vq_vae": "vae_jax.models.vq_vae",
  "vq_model": "vae_jax.models.vq_model",
  "vq_vae_2": "vae_jax.models.vq_vae_2",
  "vae_gan": "vae_jax.models.vae_gan",
  "latent_vae": "vae_jax.models.latent_vae",
  "rae": "vae_jax.models.rae",
  "wae": "vae_jax.models.wae",
  "aae": "vae_jax.models.aae",
  "code_transformer": "vae_jax.models.code_transformer",
  "masked_codes": "vae_jax.models.masked_codes",
  "code_convolution": "vae_jax.models.code_convolution",
  "captioner": "vae_jax.models.captioner",
}


def family(name: str) -> ModuleType:
  """The file of a family: its `FAMILY` (a `contract.Family`), `KEYS`, `faults` and `build`. Imports it alone.

  Raises UserError for an unknown name.
  """
  if name not in FAMILIES:
    shown = name[:80]
    raise UserError(f"model.name={shown!r} is not a model{nearest(shown, FAMILIES, what='models')}")
  return importlib.import_module(FAMILIES[name])


def needs(model: ConfigDict | Mapping[str, Any]) -> frozenset[str]:
  """The fields that the model which a config's section describes reads beside images: `Family.needs`, before it is
  built. They are those of the family and the condition that the config chooses."""
  return family(model["name"]).FAMILY.NEEDS | ({model.get("condition", "none")} - {"none"})


def classes(model: ConfigDict | Mapping[str, Any]) -> int:
  """How many labels the model knows; 0 where it takes none."""
  return model.get("classes", 0) if "label" in needs(model) else 0


def build(
  model: ConfigDict | Mapping[str, Any],
  spec: Mapping[str, Any],
  dtype: str = "float32",
  param_dtype: str = "float32",
) -> Any:
  """The module that `model`, a config's section of that name, describes for records of `spec`: a `contract.Family`.

  `dtype` is the compute type; likelihoods, KL and statistics are float32 whatever it is.

  Raises UserError: an unknown name, a field that the family needs and the records lack, shapes that do not fit.
  """
  import jax.numpy as jnp

  from vae_jax.types import MODELLED

  found = family(model["name"])
  for field in sorted(needs(model) - spec.keys()):
    if field in MODELLED:
      raise UserError(
        f"model.name={model['name']} needs the field {field!r}, and the records have {', '.join(spec)}; set "
        "training.first_stage to a trained run that gives it"
      )
    raise UserError(
      f"model.name={model['name']} needs the field {field!r}, and the records have {', '.join(spec)}; "
      f"choose another data set, or one of {', '.join(_without(field))}"
    )
  return found.build(model, spec, {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)})


def able(ability: str) -> list[str]:
  """The families that can do something: see `contract.ABILITIES`."""
  return [name for name in FAMILIES if ability in family(name).FAMILY.CAN]


def _without(field: str) -> Iterator[str]:
  return (name for name in FAMILIES if field not in family(name).FAMILY.NEEDS)
