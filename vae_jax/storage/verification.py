"""Whether a checkpoint is whole: its header `checkpoint.json`, the sizes and the checksums of its files.

A folder may come from a stranger: every part of the header is checked before it is used, files are looked for inside
the step's folder alone, and no memory is taken that the sizes of the files do not account for. Checksums detect damage,
not malice. `checkpoints.py` says what the folder holds.
"""

from __future__ import annotations

import json
import math
import re
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.errors import UserError

FORMAT_VERSION = 1
HEADER = "checkpoint.json"
# Without a checksum, because Orbax writes them last; reading does not need them.
UNSEALED = ("_CHECKPOINT_METADATA", "commit_success.txt")
MAX_HEADER = 2**26  # bytes; a header has about a hundred for each array
# Arrays are compressed, zeros to almost nothing. A state has parameters besides, which are not zeros: its arrays are a
# few times as large as its files. More than this, and they are a stranger's invention.
_MAX_RATIO, _FREE_BYTES = 100, 2**26


class Damaged(Exception):
  """A checkpoint that cannot be read; the message is the reason."""


def checksum(path: Path) -> int:
  """Returns the CRC-32 of a file, read in blocks."""
  crc = 0
  with path.open("rb") as file:
    while block := file.read(1 << 22):
      crc = zlib.crc32(block, crc)
  return crc


def body_checksum(body: dict) -> int:
  """Returns the CRC-32 of a header's body, whatever the order of its entries."""
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def read_header(path: Path) -> dict:
  """Returns the body of `checkpoint.json` and its format version; each part is of the type that it should have.

  Raises Damaged where it is not, and UserError for the header of a newer vae_jax.
  """
  try:
    size = size_of(path / HEADER)
    if size > MAX_HEADER:
      raise Damaged(f"{HEADER} has {size} bytes")
    seal = json.loads((path / HEADER).read_bytes())
    version, body = seal["format_version"], seal["body"]
    intact = body_checksum(body) == seal["crc32"]
  except FileNotFoundError:
    raise Damaged(f"{HEADER} is missing") from None
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    raise Damaged(f"{HEADER} cannot be read") from None
  if type(version) is int and FORMAT_VERSION < version < 1000:
    raise UserError(
      f"checkpoint {path} has format {version}, this vae_jax reads up to {FORMAT_VERSION}; update vae_jax"
    )
  if type(version) is not int or version != FORMAT_VERSION or not intact:
    raise Damaged(f"{HEADER} does not match its checksum")
  if wrong := wrong_part(body):
    raise Damaged(f"{HEADER}: {wrong!r} is not what it should be")
  if str(body["step"]) != path.name:
    raise Damaged(f"{HEADER} is of step {body['step']}")
  return body | {"format_version": version}


def wrong_part(body: Any) -> str | None:
  """Names the first entry of a header that is of another type than `save` writes."""
  if not isinstance(body, dict):
    return "body"
  score, arrays, files = body.get("score"), body.get("arrays", 0), body.get("files", 0)
  checks = {
    "step": _natural(body.get("step")),
    "score": score is None or (type(score) in (int, float) and math.isfinite(score)),
    "meta": isinstance(body.get("meta"), dict),
    "arrays": _pairs(arrays, lambda shape, dtype: _shape(shape) and _dtype(dtype)) and _is_tree(list(arrays)),
    "files": _pairs(files, lambda size, crc: _natural(size) and _natural(crc)) and all(map(_inside, files)),
  }
  return next((name for name, right in checks.items() if not right), None)


def _natural(value: Any) -> bool:
  return type(value) is int and 0 <= value < 2**63


def _pairs(table: Any, right: Callable[[Any, Any], bool]) -> bool:
  """Whether `table` is a dict of pairs that are `right`."""
  return isinstance(table, dict) and all(
    isinstance(pair, list) and len(pair) == 2 and right(*pair) for pair in table.values()
  )


def _inside(file: str) -> bool:
  """Whether a name cannot lead out of the folder."""
  return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)*", file)) and ".." not in file.split("/")


def _is_tree(names: list[str]) -> bool:
  """Whether the names can be those of nested dicts: none is also a folder of another one."""
  if any(not all(name.split("/")) or name.count("/") > 99 or len(name) > 9999 for name in names):
    return False
  parents = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
  return not parents & set(names)


def _shape(value: Any) -> bool:
  return isinstance(value, list) and len(value) <= 32 and all(map(_natural, value))


def _dtype(value: Any) -> bool:
  """Whether `value` names a type of numbers; another one, such as "object", may hold anything."""
  if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]{,30}", value):
    return False
  try:
    dtype = jax.numpy.dtype(value)
  except TypeError:
    return False
  return dtype.name == value and (value == "bool" or jax.numpy.issubdtype(dtype, np.number))


def size_of(file: Path) -> int:
  """Returns the bytes of a regular file. OSError for others: to open a pipe or a device might wait for ever."""
  found = file.stat()
  if not stat.S_ISREG(found.st_mode):
    raise OSError(0, "is no file")
  return found.st_size


def verify(path: Path) -> dict:
  """Returns the header, once every file has the size and the checksum that it had when it was written.

  Raises Damaged where one has not, or where the header claims more than the files can hold.
  """
  header = read_header(path)
  for name, (size, crc) in header["files"].items():
    file = path / name
    try:
      if (found := size_of(file)) != size:
        raise Damaged(f"{name} has {found} bytes instead of {size}")
      if checksum(file) != crc:
        raise Damaged(f"{name} does not match its checksum")
    except FileNotFoundError:
      raise Damaged(f"{name} is missing") from None
    except OSError as error:
      raise Damaged(f"{name}: {error.strerror}") from None
  stored = sum(size for size, _ in header["files"].values())
  claimed = sum(
    math.prod(shape) * jax.numpy.dtype(dtype).itemsize for shape, dtype in header["arrays"].values()
  )
  if claimed > max(_FREE_BYTES, _MAX_RATIO * stored):
    raise Damaged(f"{HEADER} claims {claimed} bytes of arrays, its files have {stored}")
  return header


def is_good(path: Path) -> bool:
  """Tells whether there is a whole checkpoint at `path`."""
  if not path.exists():
    return False
  try:
    verify(path)
  except Damaged:
    return False
  return True
