"""The IDX files of the MNIST family."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data.examples import Plan, check_memory, dim, folder_of, of_arrays
from vae_jax.errors import UserError


def _idx_file(folder: Path, prefixes: Sequence[str], kind: str, rank: int) -> Path:
  names = [f"{p}-{kind}{dot}idx{rank}-ubyte{gz}" for p in prefixes for dot in "-." for gz in ("", ".gz")]
  for name in names:
    if os.path.isfile(folder / name):
      return folder / name
  raise UserError(
    f"data.dir={folder}: {names[0]}[.gz] is missing; idx needs the four files of the MNIST family"
  )


def _read_idx(path: Path, rank: int) -> np.ndarray:
  """An IDX file of unsigned bytes (magic 0, 0, 8, rank; big-endian sizes; data)."""
  start = 4 + 4 * rank
  try:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
      head = f.read(start)
      if len(head) < start or head[:4] != bytes((0, 0, 8, rank)):
        raise UserError(
          f"{path}: starts with {head[:4].hex(' ')}, not with 00 00 08 {rank:02x}: not an IDX file of bytes"
        )
      shape = struct.unpack(f">{rank}I", head[4:])
      size = math.prod(shape)
      check_memory(path, size)
      content = f.read(size + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({error}); download it again") from error
  if len(content) != size:
    more = " or more" if len(content) > size else ""
    raise UserError(f"{path}: {len(content)} bytes{more} of data instead of {size}; download it again")
  return np.frombuffer(content, np.uint8).reshape(shape)


def paths(data: ConfigDict) -> dict[str, tuple[Path, Path]]:
  folder = folder_of(data)
  return {
    split: (_idx_file(folder, prefixes, "images", 3), _idx_file(folder, prefixes, "labels", 1))
    for split, prefixes in {"train": ("train",), "test": ("t10k", "test")}.items()
  }


def plan(data: ConfigDict) -> Plan:
  splits, remarks = {}, []
  for split, (image_path, label_path) in paths(data).items():
    pixels, labels = _read_idx(image_path, 3), _read_idx(label_path, 1)
    if len(pixels) != len(labels) or not pixels.size:
      raise UserError(
        f"{image_path}: {len(pixels)} images but {len(labels)} labels; download both files again"
      )
    splits[split] = of_arrays(pixels, labels)
    remarks += dim(int(pixels.max()), len(pixels))
  return Plan(splits, label=True, remarks=remarks)
