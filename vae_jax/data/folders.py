"""Folders of images: which files are read, in which split and class; and which are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vae_jax.data.examples import folder_of
from vae_jax.data.inspection import Record
from vae_jax.data.suffixes import PICTURES, READ
from vae_jax.errors import UserError

UNREAD = tuple(suffix for suffix in PICTURES if suffix not in READ)
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class Listing(NamedTuple):
  """What a folder holds.

  records: by split, or by "" where the folder does not say. classes: names of the labels, in their order.
  loose: images that lie outside folders of classes, where there are some. remarks: what is passed over.
  """

  records: dict[str, list[Record]]
  classes: tuple[str, ...] = ()
  loose: tuple[str, ...] = ()
  remarks: tuple[str, ...] = ()


def list_images(folder: Path, suffixes: tuple[str, ...] = READ, without: Collection[str] = ()) -> list[str]:
  """Sorted relative paths of the files below `folder` with one of these suffixes, hidden ones left out.

  without: names of folders in `folder` that are not entered.
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
    base = Path(here).relative_to(folder)
    skip = without if base == Path() else ()
    folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in skip)
    found += [(base / f).as_posix() for f in files if not f.startswith(".") and f.lower().endswith(suffixes)]
  return sorted(found)


def listing(data: ConfigDict) -> Listing:
  """The images of data.name=folder or paired_folder.

  Raises:
    UserError: no folder, or one that cannot be listed; two folders of one split; pairs that are incomplete.
  """
  folder = folder_of(data)
  paired = data.name == "paired_folder"
  whole = paired and os.path.isdir(folder / data.high)
  bases, remarks = ({"": folder}, []) if whole else _bases(folder)
  if paired:
    pairs = {split: _pairs(base / data.low, base / data.high) for split, base in bases.items()}
    sides = [base / name for base in bases.values() for name in (data.low, data.high)]
    unread = [str(side / name) for side in sides for name in list_images(side, UNREAD)]
    return Listing(pairs, remarks=(*remarks, *_passed_over(unread)))
  pictures = {split: list_images(base, PICTURES) for split, base in bases.items()}
  names = {split: [name for name in some if name.lower().endswith(READ)] for split, some in pictures.items()}
  unread = [
    str(bases[split] / name)
    for split, some in pictures.items()
    for name in some
    if not name.lower().endswith(READ)
  ]
  remarks += _passed_over(unread)
  classes, loose = _classes([name for some in names.values() for name in some])
  place = {name: i for i, name in enumerate(classes)}
  records = {
    split: [Record(name, {"image": bases[split] / name}, place.get(name.split("/")[0])) for name in found]
    for split, found in names.items()
  }
  return Listing(records, classes, loose, tuple(remarks))


def _passed_over(unread: Sequence[str]) -> list[str]:
  """A remark on files that look like pictures and are not read."""
  kinds = Counter(os.path.splitext(name)[1].lower() for name in unread)
  counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
  named = f"{len(unread)} files look like pictures and are not read ({counted}): {_some(unread)}"
  return [f"{named}; convert them to PNG or JPEG"] if unread else []


def _bases(folder: Path) -> tuple[dict[str, Path], list[str]]:
  """The folders of the splits, and remarks on images beside them; {"": folder} where there are none."""
  found: dict[str, Path] = {}
  for split, names in SPLIT_FOLDERS.items():
    there = [folder / name for name in names if os.path.isdir(folder / name)]
    if len(there) > 1:
      raise UserError(f"{there[0]} and {there[1]} are two folders of the split {split}; keep one of them")
    if there:
      found[split] = there[0]
  beside = list_images(folder, PICTURES, without=[path.name for path in found.values()]) if found else []
  if found and not beside:
    return found, []
  if "train" in found:
    known = ", ".join(f"{path.name}/" for path in found.values())
    lost = f"{len(beside)} images lie beside {known} in {folder} and are not read: {_some(beside)}"
    return found, [f"{lost}; move them"]
  if found:
    name = next(iter(found.values())).name
    return {"": folder}, [
      f"{folder} has a folder {name}/ but no train/, so all its images are divided into train, validation and test by "
      f"name; if {name}/ is a split, name the folder of training images train/"
    ]
  return {"": folder}, []


def _classes(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The folders that are classes, two or more that all images lie in; else none, and the images that lie outside."""
  loose = tuple(name for name in names if "/" not in name)
  folders = sorted({name.split("/")[0] for name in names if "/" in name})
  return (tuple(folders), ()) if len(folders) > 1 and not loose else ((), loose)


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
    raise UserError(f"{low} and {high}: no partner for {_some(alone)}; add or remove files")
  return [Record(key, {"image": sides[1][key], "degraded": sides[0][key]}) for key in sorted(sides[0])]
