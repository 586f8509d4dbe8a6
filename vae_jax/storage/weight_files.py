"""A file of arrays -> {name: array}, without running anything that the file says. Knows nothing of networks.

`read_arrays` recognises the format by its first bytes. `torch_files.py`, `keras_files.py` and `pickles.py` read
theirs; .npz and safetensors are read here. What a file declares (sizes, shapes, offsets) is checked against what it
holds before memory is taken.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage import hdf5
from vae_jax.storage.keras_files import read_keras
from vae_jax.storage.limits import (
  KNOWN,
  MAX_BYTES,
  MAX_HEADER,
  MAX_MEMBERS,
  MAX_NAME,
  MAX_RATIO,
  SMALL,
  Refused,
  array_of,
  decode_bfloat16,
  quote,
  read_member,
)
from vae_jax.storage.pickles import NUMPY, flatten, unpickle
from vae_jax.storage.torch_files import LEGACY, read_legacy, read_torch


class Arrays(NamedTuple):
  """arrays: by name, nested names joined with "/"; often read-only views of the file's bytes. sha256: of the file."""

  arrays: dict[str, np.ndarray]
  sha256: str


def read_arrays(path: str | Path, sha256: str | None = None) -> Arrays:
  """Reads any of `KNOWN`, recognised by content; bfloat16 comes out as float32, other types as they are.

  sha256: the digest expected, or its first 8 or more hexadecimal digits.

  Raises UserError, in one line with the path: no such file, another digest, another or a damaged format, a pickle that
  asks for more than arrays, a missing optional package.
  """
  path = Path(path)
  data = _bytes(path)
  digest = hashlib.sha256(data).hexdigest()
  if sha256 is not None:
    wanted = sha256.strip().lower()
    if not re.fullmatch("[0-9a-f]{8,64}", wanted):
      raise UserError(f"sha256 = {sha256!r}, expected of {path}, is not 8 to 64 hexadecimal digits")
    if not digest.startswith(wanted):
      raise UserError(
        f"{path} has sha256 {digest}, not {wanted} as expected; fetch it again, or rename it if saved anew"
      )
  kind = "weights"
  try:
    kind, read = _format(data)
    return Arrays(read(data), digest)
  except Refused as error:
    raise UserError(f"{path} {error}") from None
  except ImportError as error:
    raise UserError(f"{path} needs the package {error.name}: pip install {error.name}") from None
  except Exception as error:  # whatever a parser trips over in a damaged file
    words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_NAME]
    raise UserError(f"{path} is not a whole {kind} file ({words}); fetch it again") from None


def _bytes(path: Path) -> bytes:
  try:
    path = path.expanduser()
    if not path.exists():
      raise UserError(f"{path} does not exist; give a file with weights: {KNOWN}")
    if not path.is_file():
      raise UserError(f"{path} is not a file; give a file with weights: {KNOWN}")
    if (size := path.stat().st_size) > MAX_BYTES:
      raise UserError(f"{path} has {size} bytes, more than the {MAX_BYTES} that are read")
    return path.read_bytes()
  except (OSError, ValueError, RuntimeError, MemoryError) as error:
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    raise UserError(f"{path} cannot be read: {words}") from None


def _format(data: bytes) -> tuple[str, Callable[[bytes], dict[str, np.ndarray]]]:
  """Returns the format's name and reader, by the first bytes."""
  if data[:4] in (b"PK\3\4", b"PK\5\6"):
    return "zip", _read_zip
  if data[:8] == hdf5.SIGNATURE:
    return "HDF5", read_keras
  if data[257:262] == b"ustar":
    raise Refused("is a tar archive, as torch wrote before 0.1.10, which is not read; give a newer file")
  if data[:1] == b"\x80" and LEGACY.to_bytes(10, "little") in data[:32]:
    return "torch", read_legacy
  if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    return "pickle", lambda data: flatten(unpickle(data, NUMPY))
  if data[8:9] == b"{":
    return "safetensors", _read_safetensors
  if not data:
    raise Refused(f"is empty; weights are: {KNOWN}")
  if data[:6] == b"\x93NUMPY":
    raise Refused("holds one array without a name (.npy); give an .npz with named ones")
  if re.match(rb"\s*<(!doctype|html)", data[:64], re.IGNORECASE):
    raise Refused("is an HTML page, as after a download that failed; fetch it again")
  if data.startswith(b"version https://git-lfs"):
    raise Refused("is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
  raise Refused(f"is none of: {KNOWN}, whatever its extension says")


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  if data.count(b"PK\1\2") > MAX_MEMBERS:
    raise Refused(f"holds more than {MAX_MEMBERS} members; weights are a few hundred, save them alone")
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
      raise Refused("holds two members of one name; it was tampered with or is damaged")
    most = min(MAX_BYTES, max(SMALL, MAX_RATIO * len(data)))
    if (total := sum(member.file_size for member in members.values())) > most:
      raise Refused(f"would unpack to {total} bytes, more than the {most} that are read of {len(data)}")
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) == 1:
      return read_torch(archive, members, roots[0], len(data))
    if members and all(name.endswith(".npy") for name in members):
      return {
        name.removesuffix(".npy"): _read_npy(read_member(archive, m), name) for name, m in members.items()
      }
    if "model.weights.h5" in members:
      raise Refused("is a .keras model; save its weights alone: model.save_weights('weights.weights.h5')")
    found = ", ".join(map(quote, list(members)[:3])) or "nothing"
    raise Refused(f"is a zip file of {found}, neither of torch nor of numpy; weights are: {KNOWN}")


def _read_npy(data: bytes, name: str) -> np.ndarray:
  """numpy's own reader takes the memory that the header declares before it looks for the data."""
  file = io.BytesIO(data)
  version = np.lib.format.read_magic(file)
  headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
  if version not in headers:
    raise Refused(f"has {quote(name)} in version {version} of numpy's format; only 1.0 and 2.0 are read")
  shape, fortran, dtype = headers[version](file)
  if dtype.kind not in "fiub":
    raise Refused(f"has {quote(name)} of type {str(dtype)[:MAX_NAME]}; only arrays of numbers are read")
  return array_of(memoryview(data)[file.tell() :], shape, dtype, fortran)


_SAFE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_SAFE |= {"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  from safetensors import deserialize

  if (size := int.from_bytes(data[:8], "little")) > MAX_HEADER:
    raise Refused(f"declares a header too large to be one, {size} bytes; it is damaged or was tampered with")
  arrays = {}
  for name, entry in deserialize(data):
    if entry["dtype"] not in _SAFE:
      raise Refused(f"has {quote(name)} of type {entry['dtype']}; read are: {', '.join(_SAFE)}")
    values = np.frombuffer(entry["data"], _SAFE[entry["dtype"]]).reshape(entry["shape"])
    arrays[name] = decode_bfloat16(values) if entry["dtype"] == "BF16" else values
  return arrays
