"""Small trained models in a folder each: weights (safetensors), what they are (JSON), a model card.

    pretrained/superres_x2/model.safetensors   variables by name, "params/trunk/stem/kernel", float32 or int32
    pretrained/superres_x2/config.json         format version, config of the run, shapes, step, digest of the weights
    pretrained/superres_x2/README.md           the model card: data, command, figures

A model with a first stage has that one's variables too, "first_stage/params/...", and its description. Format 1 had
parameters alone, without "params/" before their names; it is still read. Format 3 is 2 with
kernels of fewer bits: float16, or int8 with a float32 scale for each output channel (the last axis) under the kernel's
name and ":scale". A value is then the integer times its scale.

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
from vae_jax.storage.files import write_bytes
from vae_jax.storage.plain_paths import local_folder

if TYPE_CHECKING:  # the command line is answered before JAX is imported
  from vae_jax.types import Variables

FOLDER = resources.folder("pretrained")
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
FORMAT_VERSION = 3
FIRST_STAGE = "first_stage"  # of the names of its variables, and of its description
BITS = (32, 16, 8)  # of the values of kernels
_TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I8": "i1"}  # those that are read, by safetensors' names
_SCALE = ":scale"  # ends the name of a kernel's scales; no name of a variable has a colon
_LEAST_VALUES = 256  # of a kernel of 8 bits: in smaller ones there is nothing to save
_LARGEST_SCALE = 2.0**120  # times -128 is still a float32
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
  bits: int = 32,
) -> None:
  """Writes the weights and their description; `meta`: config, spec, image_shape, input_shape, step. Keeps other files.

  below: the same of the first stage, which keeps 32 bits: its digest is part of the config. bits: 16 stores arrays of
  two axes and more as float16; 8 stores kernels of 256 values and more as int8, with a scale for each output channel,
  max|w| / 127. All else keeps 32 bits. Raises UserError where the folder cannot be written, for other `bits`, or for
  values that these bits cannot hold.
  """
  from flax.traverse_util import flatten_dict
  from safetensors.numpy import save as to_bytes

  if type(bits) is not int or bits not in BITS:
    raise UserError(f"bits = {bits!r}: must be {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}")
  folder = local_folder(folder)
  flat: dict[str, Any] = {}
  for name, x in flatten_dict(variables, sep="/").items():
    flat |= _stored(name, x, bits)
  for name, x in flatten_dict({FIRST_STAGE: below[0]} if below else {}, sep="/").items():
    flat |= _stored(name, x, 32)
  content = to_bytes(flat)
  meta = {**meta, **({FIRST_STAGE: below[1]} if below else {})}
  digest = hashlib.sha256(content).hexdigest()
  version = 2 if bits == 32 else FORMAT_VERSION  # so that older versions read what they can
  text = json.dumps({"format_version": version, "sha256": digest, **meta}, indent=2, allow_nan=False)
  write_bytes(folder / WEIGHTS, content)
  write_bytes(folder / DESCRIPTION, text.encode() + b"\n")


def describe(folder: str | Path) -> dict[str, Any]:
  """What a model is, without its weights. Raises UserError: missing, damaged, or of a newer version."""
  path = Path(folder) / DESCRIPTION
  try:
    meta = parse_json(content_of(path, MAX_JSON))
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
  content = content_of(path, MAX_BYTES)
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


def content_of(path: Path, most: int, remedy: str = REMEDY) -> bytes:
  """The bytes of a file of at most `most` bytes. Raises UserError."""
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device is without end
      raise UserError(f"{path}: cannot be read (is no file); {remedy}")
    if status.st_size > most:
      raise UserError(f"{path}: cannot be read ({status.st_size} bytes, more than {most}); {remedy}")
    return path.read_bytes()
  except (OSError, MemoryError) as error:
    raise UserError(
      f"{path}: cannot be read ({getattr(error, 'strerror', 'no memory')}); {remedy}"
    ) from error


def _stored(name: str, x: Any, bits: int) -> dict[str, Any]:
  """The arrays of a file that hold a variable. Raises UserError for floats, ValueError for integers that do not fit."""
  import numpy as np

  if np.issubdtype(np.asarray(x).dtype, np.integer):
    if np.size(x) and not -(2**31) <= np.min(x) <= np.max(x) < 2**31:
      raise ValueError(f"{name!r} holds {max(np.min(x), np.max(x), key=abs)}, more than 32 bits")
    return {name: np.array(x, np.int32, order="C")}  # in C order: safetensors takes the memory as it lies
  x = np.array(x, np.float32, order="C")
  if bits == 16 and x.ndim > 1:
    with np.errstate(over="ignore"):
      arrays = {name: x.astype(np.float16)}
    fits = np.isfinite(arrays[name]).all()
  elif bits == 8 and x.ndim > 1 and x.size >= _LEAST_VALUES and name.rpartition("/")[2] == "kernel":
    scale = np.abs(x).max(axis=tuple(range(x.ndim - 1))) / np.float32(127)
    fits = _are_scales(scale)
    arrays = {name: _quantised(x, scale), name + _SCALE: scale} if fits else {}
  else:
    return {name: x}
  if not fits:
    raise UserError(
      f"{name!r} holds {np.abs(x).max():g}, which {bits} bits cannot hold; export with --bits 32"
    )
  return arrays


def _quantised(x: Any, scale: Any) -> Any:
  """The multiples of `scale` that are nearest to x, int8 in -127..127; 0 where the scale is 0."""
  import numpy as np

  multiples = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
  return np.clip(np.rint(multiples), -127, 127).astype(np.int8)


def _are_scales(scale: Any) -> bool:
  """Whether all are at least 0 and, times any int8, finite; NaN is not."""
  return bool(((scale >= 0) & (scale <= _LARGEST_SCALE)).all())


def _parse(content: bytes) -> Variables:
  """The bytes of a safetensors file -> nested dicts of float32 and int32.

  Raises whatever the damage may cause."""
  flat = arrays_of(content)
  tree: dict[str, Any] = {}
  for name in flat:
    if name.endswith(_SCALE):
      if getattr(flat.get(name.removesuffix(_SCALE)), "dtype", None) != "int8":
        raise ValueError(f"{name[-80:]!r} is the scale of no array of type I8")
      continue
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f"{name!r} lies in an array")
    if leaf in node:
      raise ValueError(f"{name!r} is there twice")
    node[leaf] = _restored(name, flat)
  return tree


def arrays_of(content: bytes) -> dict[str, Any]:
  """The arrays of a safetensors file by name, as they are stored. Raises whatever the damage may cause."""
  import numpy as np
  from safetensors import deserialize

  if (size := int.from_bytes(content[:8], "little")) > MAX_HEADER:
    raise ValueError(f"a header of {size} bytes, more than {MAX_HEADER}")
  flat: dict[str, Any] = {}
  for name, entry in deserialize(content):
    if entry["dtype"] not in _TYPES or len(name.removesuffix(_SCALE)) > MAX_NAME:
      types = f"F32, F16, I32 or I8, not {entry['dtype']}"
      raise ValueError(f"names are short and types {types} of {name[:80]!r}")
    if name in flat:
      raise ValueError(f"{name!r} is there twice")
    flat[name] = np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"])
  if (size := 4 * sum(x.size for x in flat.values())) > MAX_BYTES:
    raise ValueError(f"{size} bytes as float32, more than {MAX_BYTES}")
  return flat


def _restored(name: str, flat: dict[str, Any]) -> Any:
  """A variable of a file's arrays, float32 or int32. Raises ValueError where an int8 one lacks its scales."""
  import numpy as np

  x, scale = flat[name], flat.get(name + _SCALE)
  if x.dtype == np.int8:
    if scale is None:
      raise ValueError(f"{name[:80]!r} is of type I8 and has no scale")
    if x.ndim < 2 or scale.dtype != np.float32 or scale.shape != x.shape[-1:]:
      has, kernel = f"{scale.dtype}{list(scale.shape)}", f"I8{list(x.shape)}"
      raise ValueError(f"the scale {has} of {name[:80]!r} does not fit {kernel}")
    if not _are_scales(scale):
      raise ValueError(f"the scale of {name[:80]!r} is negative, not finite or too large")
    return x * scale
  return x.astype(np.float32) if x.dtype == np.float16 else x
