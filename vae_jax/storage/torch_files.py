"""What `torch.save` writes -> {name: array}: the zip file of torch since 1.6, and the row of pickles before.

PyTorch is not needed. Its tensors are views of storages; what a file says of them is checked against what it holds.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vae_jax.storage.limits import MAX_AXES, MAX_NAME, Refused, decode_bfloat16, quote, read_member
from vae_jax.storage.pickles import Call, assign, flatten, unpickle

LEGACY = 0x1950A86A20F9469CFC6C  # the number that torch's files of before 1.6 begin with


class _Storage(NamedTuple):
  """The elements that tensors are views of: all of them, in order. A type of its own, since no tensor may pose as one:
  the bounds of a view are not those of the elements that lie behind it.
  """

  values: np.ndarray


def _described(where: Any) -> tuple[np.dtype, str, int]:
  """("storage", type, key, device, number of elements[, what it is a view of]) -> type, key, number."""
  if type(where) is not tuple or len(where) > MAX_AXES:
    raise ValueError("a tensor's storage is not described as torch does")
  tag, dtype, key, _, count, *view = where
  # A pickle cannot make a dtype itself: it is one of those in TORCH.
  if not (tag == "storage" and isinstance(dtype, np.dtype) and type(key) is str and type(count) is int):
    raise ValueError("a tensor's storage is not described as torch does")
  if any(part is not None for part in view):
    raise Refused(
      f"has storage {quote(key)} as a view of another, which is not read; save copies: tensor.clone()"
    )
  return dtype, key, count


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
  """torch's description of a tensor, checked against its storage -> a view. rest: gradient, hooks, metadata."""
  if not (type(storage) is _Storage and type(shape) is type(strides) is tuple):
    raise ValueError("a tensor is not described as torch does")
  if len(shape) != len(strides) or len(shape) > 8 or any(rest[2:]):
    raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
  if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
    raise ValueError("a tensor is not described as torch does")
  values = storage.values
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  count = math.prod(shape)
  if count and (last >= values.size or count > values.size):
    raise ValueError(f"a tensor of shape {str(shape)[:MAX_NAME]} reaches beyond its storage of {values.size}")
  if not count:
    return np.zeros(shape, values.dtype)
  steps = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _parameter(tensor: Any, *rest: Any) -> np.ndarray:
  if not isinstance(tensor, np.ndarray):
    raise ValueError("a parameter that is no tensor")
  return tensor


def _ordered(pairs: Any = None) -> dict[str, Any]:
  """Python 2 fills an OrderedDict with a list, which is used up: one list must not fill many."""
  ordered: dict[str, Any] = {}
  if pairs is not None:
    assign(ordered, pairs)
    pairs.clear()
  return ordered


BFLOAT16 = np.dtype("<u2")
TORCH = {
  "collections OrderedDict": Call(_ordered),
  "torch._utils _rebuild_tensor": Call(_tensor),
  "torch._utils _rebuild_tensor_v2": Call(_tensor),
  "torch._utils _rebuild_parameter": Call(_parameter),
  "torch.nn.parameter Parameter": Call(_parameter),
  "torch FloatStorage": np.dtype("<f4"),
  "torch DoubleStorage": np.dtype("<f8"),
  "torch HalfStorage": np.dtype("<f2"),
  "torch BFloat16Storage": BFLOAT16,
  "torch LongStorage": np.dtype("<i8"),
}


def read_torch(
  archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], root: str, size: int
) -> dict[str, np.ndarray]:
  """Reads what `torch.save` writes since 1.6: data.pkl names the tensors; data/N, uncompressed, are their storages."""
  for name, member in members.items():
    if not re.fullmatch(re.escape(root) + r"(data\.pkl|byteorder|version|data/\w+|\..+)", name):
      raise Refused(
        f"holds {quote(name)}, which is no tensor; save a state dict: torch.save(model.state_dict(), f)"
      )
    if member.compress_type != zipfile.ZIP_STORED:
      raise Refused(f"has {quote(name)} compressed, which torch never does; save it again with torch")
  if sum(member.file_size for member in members.values()) > size:
    raise Refused("declares more bytes than it has; it was tampered with or is damaged")
  if f"{root}byteorder" in members and read_member(archive, members[f"{root}byteorder"]) != b"little":
    raise Refused("is not said to be from a little-endian machine; only such files are read, give another")
  storages: dict[tuple[str, np.dtype], np.ndarray] = {}

  def storage(where: Any) -> _Storage:
    dtype, key, count = _described(where)
    if (key, dtype) not in storages:
      if f"{root}data/{key}" not in members:
        raise Refused(f"has no storage {quote(f'data/{key}')}, which its tensors ask for; fetch it again")
      values = np.frombuffer(read_member(archive, members[f"{root}data/{key}"]), dtype)
      storages[key, dtype] = decode_bfloat16(values) if dtype == BFLOAT16 else values
    if not 0 <= count <= storages[key, dtype].size:
      raise ValueError(f"storage {quote(key)} has fewer than {count} elements")
    return _Storage(storages[key, dtype][:count])

  return flatten(unpickle(read_member(archive, members[f"{root}data.pkl"]), TORCH, storage))


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
  """Reads what `torch.save` wrote from 0.1.10 to 1.5: a row of pickles (the number above, a version, the machine, the
  tensors, the keys of their storages), then for each key the number of elements and the elements.
  """
  file = io.BytesIO(data)
  storages: dict[str, np.ndarray] = {}
  declared = 0

  def storage(where: Any) -> _Storage:
    """Elements that are filled in later, since they follow the tensors."""
    nonlocal declared
    dtype, key, count = _described(where)
    if dtype == BFLOAT16:
      raise Refused(
        "holds bfloat16 in the format of torch before 1.6, which is not read; save it with a newer"
      )
    if key not in storages:
      declared += count * dtype.itemsize
      if count < 0 or declared > len(data):
        raise ValueError(f"storage {quote(key)} is declared larger than the file")
      storages[key] = np.zeros(count, dtype)
    if (dtype, count) != (storages[key].dtype, storages[key].size):
      raise ValueError(f"storage {quote(key)} is described in two ways")
    return _Storage(storages[key])

  if unpickle(file, {}) != LEGACY or unpickle(file, {}) != 1001:
    raise Refused("is in no version of torch's format from before 1.6; it is damaged, fetch it again")
  machine = unpickle(file, {})
  if type(machine) is not dict or machine.get("little_endian") is not True:
    raise Refused("is not said to be from a little-endian machine; only such files are read, give another")
  tree = unpickle(file, TORCH, storage)
  keys = unpickle(file, {})
  if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
    raise ValueError("its storages are not those that its tensors ask for")
  for key in keys:
    values = storages[key]
    count, block = file.read(8), file.read(values.nbytes)
    if count != values.size.to_bytes(8, "little") or len(block) != values.nbytes:
      raise ValueError(f"storage {quote(key)} has not the {values.size} elements that its tensors ask for")
    values[...] = np.frombuffer(block, values.dtype)
  if file.tell() != len(data):
    raise ValueError("bytes follow the last storage")
  return flatten(tree)
