"""Small trained models in a folder each: weights (safetensors), what they are (JSON), a model card.

    pretrained/superres_x2/model.safetensors   variables by name, "params/trunk/stem/kernel", float32, float16 or int32
    pretrained/superres_x2/config.json         format version, config of the run, shapes, step, digest of the weights
    pretrained/superres_x2/README.md           the model card: data, command, figures

A model with a first stage has that one's variables too, "first_stage/params/...", and its description. Format 1 had
parameters alone, without "params/" before their names; it is still read. Format 3 is 2 with float16 among the types.

Reading them runs no code: a folder may come from anyone. What it says is not believed, but compared with what it holds.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax import resources
from vae_jax.configuration import MAX_JSON, parse_json
from vae_jax.errors import UserError
from vae_jax.storage.files import write_whole
from vae_jax.storage.plain_paths import local_folder

if TYPE_CHECKING:  # the command line is answered before JAX is imported
  from vae_jax.types import Variables

FOLDER = resources.folder("pretrained")
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
FORMAT_VERSION = 3
FIRST_STAGE = "first_stage"  # of the names of its variables, and of its description
_TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}  # what safetensors calls the types that are read
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


def save(
  folder: str | Path,
  variables: Variables,
  meta: dict[str, Any],
  below: tuple[Variables, dict[str, Any]] | None = None,
  half: bool = False,
) -> None:
  """Writes the weights and their description; `meta`: config, spec, image_shape, input_shape, step. Keeps other files.

  below: the same of the first stage. half: arrays of two axes and more as float16, in half the space; not those of the
  first stage. Raises UserError where the folder cannot be written, or a value does not fit into float16.
  """
  import numpy as np
  from flax.traverse_util import flatten_dict
  from safetensors.numpy import save as to_bytes

  folder = local_folder(folder)
  tree = {**variables, **({FIRST_STAGE: below[0]} if below else {})}
  flat = {}
  for name, x in flatten_dict(tree, sep="/").items():
    kind = np.int32 if np.issubdtype(np.asarray(x).dtype, np.integer) else np.float32
    if kind is np.int32 and np.size(x) and not -(2**31) <= np.min(x) <= np.max(x) < 2**31:
      raise ValueError(f"{name!r} holds {max(np.min(x), np.max(x), key=abs)}, more than 32 bits")
    flat[name] = np.array(x, kind, order="C")  # in C order, because safetensors takes the memory as it lies
    if half and kind is np.float32 and np.ndim(x) > 1 and not name.startswith(f"{FIRST_STAGE}/"):
      with np.errstate(over="ignore"):
        flat[name] = flat[name].astype(np.float16)
      if not np.isfinite(flat[name]).all():
        raise UserError(f"{name!r} holds {np.abs(x).max():g}, too large for float16; export without --half")
  content = to_bytes(flat)
  meta = {**meta, **({FIRST_STAGE: below[1]} if below else {})}
  digest = hashlib.sha256(content).hexdigest()
  text = json.dumps(
    {"format_version": FORMAT_VERSION if half else 2, "sha256": digest, **meta}, indent=2, allow_nan=False
  )
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
  if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
    raise UserError(
      f"{folder} has format {str(version)[:80]!r}, this vae_jax reads 1 to {FORMAT_VERSION}; update vae_jax"
    )
  return meta


def read(
  folder: str | Path,
) -> tuple[Variables, dict[str, Any], tuple[Variables, dict[str, Any]] | None]:
  """(variables, meta, the same of the first stage or None): meta as given to `save`, and more.

  Raises UserError: missing, damaged, or of a newer version.
  """
  meta, path = describe(folder), Path(folder) / WEIGHTS
  content = _content(path, MAX_BYTES)
  if hashlib.sha256(content).hexdigest() != meta["sha256"]:
    raise UserError(f"{path}: does not match its checksum; {REMEDY}")
  try:
    variables = _parse(content)
    if meta["format_version"] == 1:
      return {"params": variables}, meta, None
    stage, described = variables.pop(FIRST_STAGE, None), meta.get(FIRST_STAGE)
    if stage is None and described is None:
      return variables, meta, None
    if not isinstance(stage, dict) or not isinstance(described, dict):
      raise ValueError("first stage without description, or a description without one")
    return variables, meta, (stage, described)
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


def _parse(content: bytes) -> Variables:
  """The bytes of a safetensors file of float32, float16 and int32 -> nested dicts of float32 and int32.

  Raises whatever the damage may cause."""
  import numpy as np
  from safetensors import deserialize

  if (size := int.from_bytes(content[:8], "little")) > MAX_HEADER:
    raise ValueError(f"a header of {size} bytes, more than {MAX_HEADER}")
  tree: dict[str, Any] = {}
  for name, entry in deserialize(content):
    if entry["dtype"] not in _TYPES or len(name) > MAX_NAME:
      raise ValueError(f"names are short and types F32, F16 or I32, not {entry['dtype']} of {name[:80]!r}")
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f"{name!r} lies in an array")
    if leaf in node:
      raise ValueError(f"{name!r} is there twice")
    array = np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    node[leaf] = array.astype(np.float32) if entry["dtype"] == "F16" else array
  return tree
