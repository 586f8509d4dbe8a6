"""Priors that were fitted to a model's latents, beside the model: numbers in safetensors, what they are in JSON.

    runs/mnist_vae/priors/mixture.safetensors   float32 arrays by name
    runs/mnist_vae/priors/mixture.json          format version, digest of the model's weights, how it was fitted, scores

As in `exported`, nothing in these files is run, and what they say is compared with what they hold.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vae_jax.configuration import MAX_JSON, parse_json
from vae_jax.errors import UserError, printable
from vae_jax.storage.exported import MAX_BYTES, arrays_of, content_of
from vae_jax.storage.files import write_bytes
from vae_jax.storage.plain_paths import local_folder

FOLDER = "priors"
FORMAT_VERSION = 1
REMEDY = "fit it again (--mode fit_prior)"


def names(folder: str | Path, kinds: tuple[str, ...]) -> list[str]:
  """The kinds of prior that lie beside a model."""
  return [kind for kind in kinds if _path(folder, kind, "json").is_file()]


def save(folder: str | Path, kind: str, arrays: dict[str, Any], meta: dict[str, Any]) -> Path:
  """Writes a prior beside the model in `folder`; returns the path of its description. `meta`: JSON data, among it
  `weights`, the digest of the model's. Raises UserError where it cannot be written."""
  from safetensors.numpy import save as to_bytes

  place = local_folder(folder) / FOLDER
  if place.is_symlink():
    raise UserError(f"{printable(str(place))} is a link, which may lead anywhere; remove it")
  content = to_bytes(arrays)
  described = {"format_version": FORMAT_VERSION, "sha256": hashlib.sha256(content).hexdigest(), **meta}
  text = json.dumps(described, indent=2, allow_nan=False)
  write_bytes(place / f"{kind}.safetensors", content)
  write_bytes(place / f"{kind}.json", text.encode() + b"\n")
  return place / f"{kind}.json"


def read(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """(arrays, meta), as given to `save`. Raises UserError: missing, damaged, of a newer version."""
  path, file = _path(folder, kind, "json"), _path(folder, kind, "safetensors")
  if not path.exists():
    raise UserError(
      f"{printable(str(path))} is not there: no such prior was fitted; fit one (--mode fit_prior --prior {kind})"
    )
  try:
    meta = parse_json(content_of(path, MAX_JSON, REMEDY))
    version, digest, weights = meta["format_version"], meta["sha256"], meta["weights"]
    if type(version) is not int or not (isinstance(digest, str) and isinstance(weights, str)):
      raise TypeError
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{printable(str(path))}: does not describe a prior; {REMEDY}") from error
  if not 1 <= version <= FORMAT_VERSION:
    raise UserError(
      f"{printable(str(path))} has format {str(version)[:80]}, this vae_jax reads {FORMAT_VERSION}; update vae_jax"
    )
  content = content_of(file, MAX_BYTES, REMEDY)
  if hashlib.sha256(content).hexdigest() != digest:
    raise UserError(f"{printable(str(file))}: does not match its checksum; {REMEDY}")
  try:
    return arrays_of(content), meta
  except Exception as error:  # whatever safetensors and numpy raise on a damaged file
    raise UserError(f"{printable(str(file))}: cannot be read; {REMEDY}") from error


def _path(folder: str | Path, kind: str, suffix: str) -> Path:
  return local_folder(folder) / FOLDER / f"{kind}.{suffix}"
