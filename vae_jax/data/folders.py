"""Folders of images: which files are read, in which split."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.data.examples import folder_of
from vae_jax.data.inspection import Record
from vae_jax.data.suffixes import READ
from vae_jax.errors import UserError

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def list_images(folder: Path, suffixes: tuple[str, ...] = READ) -> list[str]:
  """Sorted relative paths of the files below `folder` with one of these suffixes, hidden ones left out.

  Links are followed; a folder that was seen already, as in a loop of links, is not entered again.

  Raises:
    UserError: a folder cannot be listed.
  """

  def unreadable(error: OSError) -> None:
    raise UserError(
      f"{error.filename}: cannot be listed ({error.strerror}); change its permissions"
    ) from error

  found, seen = [], set()
  for here, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
    real = os.path.realpath(here)
    if real in seen:
      folders.clear()
      continue
    seen.add(real)
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    base = Path(here).relative_to(folder)
    found += [(base / f).as_posix() for f in files if not f.startswith(".") and f.lower().endswith(suffixes)]
  return sorted(found)


def _split_folders(folder: Path) -> dict[str, Path]:
  """The folders of the splits where there is a "train" among them, else nothing."""
  if not os.path.isdir(folder / "train"):
    return {}
  found = {
    split: [folder / n for n in names if os.path.isdir(folder / n)] for split, names in SPLIT_FOLDERS.items()
  }
  return {split: paths[0] for split, paths in found.items() if paths}


def records(data: ConfigDict) -> dict[str, list[Record]]:
  """Records by split, or by "" where the folder does not say."""
  folder = folder_of(data)
  return {
    split: [Record(name, {"image": base / name}) for name in list_images(base)]
    for split, base in (_split_folders(folder) or {"": folder}).items()
  }


def _pairs(low: Path, high: Path) -> list[Record]:
  """Images of the same relative name in both folders; suffixes may differ where the stems are unique."""
  for path in (low, high):
    if not os.path.isdir(path):
      raise UserError(
        f"{path} is no folder; set data.low and data.high to the names of the two folders of pairs"
      )
  sides: list[dict[str, Path]] = []
  listed = [(base, list_images(base)) for base in (low, high)]
  by_stem = all(len({os.path.splitext(n)[0] for n in names}) == len(names) for _, names in listed)
  for base, names in listed:
    sides.append({os.path.splitext(n)[0] if by_stem else n: base / n for n in names})
  alone = sorted(set(sides[0]) ^ set(sides[1]))
  if alone:
    more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
    raise UserError(f"{low} and {high}: no partner for {', '.join(alone[:3])}{more}; add or remove files")
  return [Record(key, {"image": sides[1][key], "degraded": sides[0][key]}) for key in sorted(sides[0])]


def paired_records(data: ConfigDict) -> dict[str, list[Record]]:
  folder = folder_of(data)
  bases = {"": folder} if os.path.isdir(folder / data.high) else _split_folders(folder) or {"": folder}
  return {split: _pairs(base / data.low, base / data.high) for split, base in bases.items()}
