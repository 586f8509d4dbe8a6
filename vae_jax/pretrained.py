"""Small trained models in a folder each: weights (safetensors), what they are (JSON), a model card.

    pretrained/superres_x2/model.safetensors   parameters by name, "trunk/stem/kernel", float32
    pretrained/superres_x2/config.json         format version, config of the run, shapes, step, digest of the weights
    pretrained/superres_x2/README.md           the model card: data, command, figures

Reading them runs no code.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from pathlib import Path
from typing import Any

from vae_jax.errors import UserError
from vae_jax.saving import write_whole
from vae_jax.types import Params

# Beside the package in a checkout; where an installed wheel puts it (pyproject.toml) otherwise.
_CHECKOUT = Path(__file__).parents[1] / "pretrained"
FOLDER = (
  _CHECKOUT if _CHECKOUT.is_dir() else Path(sysconfig.get_path("data")) / "share" / "vae_jax" / "pretrained"
)
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
FORMAT_VERSION = 1
REMEDY = "fetch it again, or name another model"


def names() -> list[str]:
  """The models that come with the project."""
  return sorted(path.parent.name for path in FOLDER.glob(f"*/{WEIGHTS}"))


def is_model(folder: Path) -> bool:
  """Whether a folder holds an exported model."""
  return (folder / WEIGHTS).is_file()


def save(folder: str | Path, params: Params, meta: dict[str, Any]) -> None:
  """Writes the weights and their description; `meta`: config, image_shape, input_shape, step. Keeps other files there.

  Raises UserError where the folder cannot be written.
  """
  import numpy as np
  from flax.traverse_util import flatten_dict
  from safetensors.numpy import save as to_bytes

  folder = Path(folder)
  # In C order, because safetensors takes the memory as it lies.
  flat = {name: np.array(x, np.float32, order="C") for name, x in flatten_dict(params, sep="/").items()}
  content = to_bytes(flat)
  digest = hashlib.sha256(content).hexdigest()
  text = json.dumps({"format_version": FORMAT_VERSION, "sha256": digest, **meta}, indent=2, allow_nan=False)
  write_whole(folder / WEIGHTS, lambda file: file.write(content))
  write_whole(folder / DESCRIPTION, lambda file: file.write(text.encode() + b"\n"))


def describe(folder: str | Path) -> dict[str, Any]:
  """What a model is, without its weights. Raises UserError: missing, damaged, or of a newer version."""
  path = Path(folder) / DESCRIPTION
  try:
    meta = json.loads(path.read_bytes())
    version, _, _ = meta["format_version"], meta["sha256"], meta["config"]
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path}: does not describe a model; {REMEDY}") from error
  if version != FORMAT_VERSION:
    raise UserError(f"{folder} has format {version!r}, this vae_jax reads {FORMAT_VERSION}; update vae_jax")
  return meta


def read(folder: str | Path) -> tuple[Params, dict[str, Any]]:
  """(params, meta): meta as given to `save`, and more. Raises UserError: missing, damaged, or of a newer version."""
  from flax.traverse_util import unflatten_dict
  from safetensors import SafetensorError
  from safetensors.numpy import load as from_bytes

  meta, path = describe(folder), Path(folder) / WEIGHTS
  try:
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
  if hashlib.sha256(content).hexdigest() != meta["sha256"]:
    raise UserError(f"{path}: does not match its checksum; {REMEDY}")
  try:
    flat = from_bytes(content)
  except SafetensorError as error:
    raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
  return unflatten_dict(flat, sep="/"), meta
