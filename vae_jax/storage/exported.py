"""Small trained models in a folder each: weights (safetensors), what they are (JSON), a model card.

    pretrained/superres_x2/model.safetensors   parameters by name, "trunk/stem/kernel", float32
    pretrained/superres_x2/config.json         format version, config of the run, shapes, step, digest of the weights
    pretrained/superres_x2/README.md           the model card: data, command, figures

Reading them runs no code: a folder may come from anyone. What it says is not believed, but compared with what it holds.
"""

from __future__ import annotations

import hashlib
import json
import stat
import sysconfig
from pathlib import Path
from typing import Any

from vae_jax.config import MAX_JSON, parse_json
from vae_jax.errors import UserError
from vae_jax.storage.files import write_whole
from vae_jax.types import Params

# Beside the package in a checkout; where an installed wheel puts it (pyproject.toml) otherwise.
_CHECKOUT = Path(__file__).parents[2] / "pretrained"
FOLDER = (
  _CHECKOUT if _CHECKOUT.is_dir() else Path(sysconfig.get_path("data")) / "share" / "vae_jax" / "pretrained"
)
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
FORMAT_VERSION = 1
MAX_BYTES, MAX_HEADER, MAX_NAME = (
  4 << 30,
  10 << 20,
  200,
)  # of the weights, of the JSON before them, of its names
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
    meta = parse_json(_content(path, MAX_JSON))
    version, _, _ = meta["format_version"], meta["sha256"], meta["config"]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path}: does not describe a model; {REMEDY}") from error
  if type(version) is not int or version != FORMAT_VERSION:
    raise UserError(
      f"{folder} has format {str(version)[:80]!r}, this vae_jax reads {FORMAT_VERSION}; update vae_jax"
    )
  return meta


def read(folder: str | Path) -> tuple[Params, dict[str, Any]]:
  """(params, meta): meta as given to `save`, and more. Raises UserError: missing, damaged, or of a newer version."""
  meta, path = describe(folder), Path(folder) / WEIGHTS
  content = _content(path, MAX_BYTES)
  if hashlib.sha256(content).hexdigest() != meta["sha256"]:
    raise UserError(f"{path}: does not match its checksum; {REMEDY}")
  try:
    return _parse(content), meta
  except Exception as error:  # whatever safetensors and numpy raise on a damaged file
    words = " ".join(str(error).split())[:MAX_NAME]
    raise UserError(f"{path}: cannot be read ({words}); {REMEDY}") from error


def _content(path: Path, most: int) -> bytes:
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device is without end
      raise UserError(f"{path}: cannot be read (is no file); {REMEDY}")
    if status.st_size > most:
      raise UserError(f"{path}: cannot be read ({status.st_size} bytes, more than {most}); {REMEDY}")
    return path.read_bytes()
  except (OSError, MemoryError) as error:
    raise UserError(
      f"{path}: cannot be read ({getattr(error, 'strerror', 'no memory')}); {REMEDY}"
    ) from error


def _parse(content: bytes) -> Params:
  """The bytes of a safetensors file of float32 -> nested dicts. Raises whatever the damage may cause."""
  import numpy as np
  from safetensors import deserialize

  if (size := int.from_bytes(content[:8], "little")) > MAX_HEADER:
    raise ValueError(f"a header of {size} bytes, more than {MAX_HEADER}")
  params: dict[str, Any] = {}
  for name, entry in deserialize(content):
    if entry["dtype"] != "F32" or len(name) > MAX_NAME:
      raise ValueError(f"names are short and types F32, not {entry['dtype']} of {name[:80]!r}")
    *parents, leaf = name.split("/")
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f"{name!r} lies in an array")
    if leaf in node:
      raise ValueError(f"{name!r} is there twice")
    node[leaf] = np.frombuffer(entry["data"], "<f4").reshape(entry["shape"])
  return params
