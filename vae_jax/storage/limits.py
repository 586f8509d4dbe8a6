"""What the readers of weight files share: how much a file of any origin may hold, and how a reader refuses one."""

from __future__ import annotations

import math
import zipfile
from typing import Any

import numpy as np

from vae_jax.storage.hdf5 import Refused

MAX_BYTES = 4 << 30  # of a file, and of what it unpacks to; the largest network in use here has 0.6 GB
MAX_ITEMS = 100_000  # arrays, groups and pickle opcodes: ResNet-50 has some 320 arrays and 13,000 opcodes
MAX_NAME = 200  # characters
MAX_DEPTH = 12  # of nested dicts and groups
MAX_AXES = 16  # of an array, and of what else a pickle hands to a function
MAX_MEMBERS = 20_000  # of a zip file, slower to read than pickle opcodes
MAX_HEADER = 10 << 20  # bytes of the JSON before safetensors; the largest networks have some 0.2 MB
MAX_RATIO, SMALL = 20, 64 << 20  # a zip file may unpack to so many times its size, or to so many bytes
KNOWN = ".pth of torch, .h5 of Keras, .safetensors, .npz, or a pickle of nested dicts of numpy arrays"


def quote(name: object) -> str:
  """Quotes a name of the file, cut to `MAX_NAME` characters."""
  return repr(str(name)[:MAX_NAME])


def decode_bfloat16(values: np.ndarray) -> np.ndarray:
  """Turns the bits of bfloat16, as unsigned integers of 16 bits, into float32."""
  return (values.astype(np.uint32) << 16).view(np.float32)


def array_of(data: bytes | memoryview, shape: Any, dtype: np.dtype, fortran: bool) -> np.ndarray:
  """Views bytes as an array. ValueError unless they are exactly an array of that shape and type."""
  if not (type(shape) is tuple and len(shape) <= MAX_AXES and all(type(n) is int and n >= 0 for n in shape)):
    raise ValueError("an array's shape is no tuple of sizes")
  if len(data) != math.prod(shape) * dtype.itemsize:
    raise ValueError(f"{len(data)} bytes are not an array of shape {str(shape)[:MAX_NAME]}")
  return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
  """Reads one member of a zip file, and no more of it than it declares. EOFError if it has less."""
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise Refused(f"has {quote(member.filename)} in a compression that is not read; save it again with numpy")
  with archive.open(member) as file:
    data = file.read(member.file_size)  # a bound: a member may unpack to more than it declares
  if len(data) != member.file_size:
    raise EOFError(f"{quote(member.filename)} is cut short")
  return data
