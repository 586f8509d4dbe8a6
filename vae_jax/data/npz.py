"""Records in .npz files: one file a split, one array a field."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data.examples import Full, check_memory, dim, expanded
from vae_jax.errors import UserError, described
from vae_jax.types import FIELD_TYPES


def splits(data: ConfigDict) -> dict[str, Callable[[], Full]]:
  path = expanded(data.dir)
  if os.path.isdir(path):
    files = {name: path / f"{name}.npz" for name in ("train", "validation", "test")}
    files = {name: file for name, file in files.items() if os.path.isfile(file)}
  else:
    files = {"train": path} if os.path.isfile(path) else {}
  if not data.dir or not files:
    raise UserError(
      f"data.dir={data.dir!r} is neither a .npz file nor a folder with train.npz (validation.npz, test.npz); "
      "docs/data.md says what they hold"
    )
  return {name: functools.partial(_split, file) for name, file in files.items()}


def _split(path: Path) -> Full:
  """Arrays by field: "image" uint8 [n, h, w, 1 or 3] or [n, h, w], and maybe others of `types.FIELD_TYPES`."""
  arrays = _arrays(path)
  if "image" not in arrays:
    keys = ", ".join(arrays) or "nothing"
    raise UserError(f"{path}: has no array 'image', only {keys}; save it with numpy.savez(path, image=...)")
  if foreign := sorted(set(arrays) - set(FIELD_TYPES)):
    raise UserError(
      f"{path}: has an array {foreign[0][:80]!r}, which is no field of a record ({', '.join(FIELD_TYPES)}); "
      "leave it out"
    )
  for name in ("image", "degraded"):
    if name in arrays:
      arrays[name] = _images(path, name, arrays[name])
  n = len(arrays["image"])
  for name, values in arrays.items():
    kinds = "iuf" if name == "factors" else "iu"
    axes = {"label": (), "image": ("h", "w", "c"), "degraded": ("h", "w", "c")}.get(name, ("length",))
    if values.shape[:1] != (n,) or values.ndim != 1 + len(axes) or values.dtype.kind not in kinds:
      wanted = f"{'numbers' if 'f' in kinds else 'integers'} [{', '.join([str(n), *axes])}]"
      raise UserError(f"{path}: {name!r} is {values.dtype} {list(values.shape)}; it must be {wanted}")
    if values.size and FIELD_TYPES[name] is np.int32 and not -(2**31) <= values.min() <= values.max() < 2**31:
      raise UserError(
        f"{path}: {name!r} is from {values.min()} to {values.max()}; it must hold 32-bit integers"
      )
    if values.dtype.kind == "f" and not (np.abs(values) <= np.finfo(np.float32).max).all():
      raise UserError(f"{path}: {name!r} has values that are no finite float32; leave those records out")

  def read(indices: Sequence[int]) -> list[dict[str, Any]]:
    return [{name: values[i] for name, values in arrays.items()} for i in indices]

  shapes: dict[str, Any] = {name: arrays[name].shape[1:] for name in ("image", "degraded") if name in arrays}
  remarks = tuple(f"{path}: {line}" for line in dim(int(arrays["image"].max()), n))
  return Full(n, read, shapes, remarks=remarks)


def _arrays(path: Path) -> dict[str, np.ndarray]:
  """What an npz file holds. Raises UserError: no such file, damaged, or larger than the memory."""
  try:
    with open(path, "rb") as opened:  # np.load leaves a damaged file open that it opened itself
      if opened.read(2) != b"PK":
        raise UserError(f"{path} is no .npz file; save one with numpy.savez(path, image=...)")
      with zipfile.ZipFile(opened) as archive:
        check_memory(path, sum(member.file_size for member in archive.infolist()))
      opened.seek(0)
      file = np.load(opened, allow_pickle=False)
      # numpy gives bytes for a member that is no array
      return {key: np.asarray(file[key]) for key in file.files}
  except UserError:
    raise
  except MemoryError as error:
    raise UserError(
      f"{path}: its arrays do not fit into memory; make it smaller, or use images in a folder"
    ) from error
  except Exception as error:  # whatever zipfile and numpy raise on a damaged file
    raise UserError(
      f"{path}: cannot be read as .npz ({described(error)}); save it with numpy.savez"
    ) from error


def _images(path: Path, name: str, stored: np.ndarray) -> np.ndarray:
  """uint8 [n, h, w, c], or UserError."""
  image = stored[..., None] if stored.ndim == 3 else stored
  if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] not in (1, 3) or not image.size:
    held = f"{stored.dtype} {list(stored.shape)}"
    levels = (
      "; round floats in [0, 1] to levels: np.uint8(np.round(255 * x))" if stored.dtype.kind == "f" else ""
    )
    raise UserError(
      f"{path}: {name!r} is {held}; it must be uint8 [n, h, w, 1 or 3] or [n, h, w], n > 0{levels}"
    )
  return image
