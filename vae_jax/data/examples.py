"""What data sets of our own are made of: examples by split, before they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import images
from vae_jax.errors import UserError

THREADS = min(8, os.cpu_count() or 1)

Shape = Sequence[int]  # (h, w, c); 0 where it varies
Example = dict[str, Any]


class Split(NamedTuple):
  """What one split is made of: `example(i)`, i < n, gives encoded images by feature, and maybe a label and the
  tokens of a text."""

  n: int
  example: Callable[[int], Example]
  shapes: dict[str, Shape]  # of each image feature
  size: int  # bytes, roughly; decides the number of shards
  smallest: tuple[int, int] | None = None  # height and width that each image has at least; None: as in shapes
  names: Sequence[str] = ()  # of the files, where the examples come from files


class Plan(NamedTuple):
  """A whole data set, before it is written."""

  splits: dict[str, Split]
  label: bool = False
  skipped: Sequence[str] = ()  # files that could not be decoded, and why
  remarks: Sequence[str] = ()  # what else a person should know before training on it
  classes: Sequence[str] = ()  # names of the labels
  longest: tuple[int, str] = (0, "")  # bytes of the longest caption, and its file; 0: there are no captions
  sided: Sequence[str] = ()  # files of captions that say left or right


@dataclass(frozen=True)
class Full:
  """All records of one split. `read` gives raw records by position: images are encoded bytes or uint8."""

  length: int
  read: Callable[[Sequence[int]], Sequence[Example]]
  shapes: dict[str, Sequence[int | None]]  # of each image feature as stored; 0 or None where it varies
  smallest: tuple[int, int] | None = None  # height and width that each image has at least, where known
  remarks: tuple[str, ...] = ()  # what a person should know before training on it
  names: Sequence[str] = ()  # of the records' files, where that is known
  factors: tuple[str, ...] = ()  # what images were rendered from, the columns of the field of that name
  unordered: frozenset[str] = frozenset()  # of these, the ones whose values have no order


def of_arrays(pixels: np.ndarray, labels: np.ndarray) -> Split:
  """uint8 [n, h, w] and integers [n]."""
  n, h, w = pixels.shape

  def example(i: int) -> Example:
    return {"image": images.encode_png(pixels[i]), "label": int(labels[i])}

  return Split(n, example, {"image": (h, w, 1)}, pixels.nbytes)


DIM = 31  # all of a data set's pixels below this are class numbers, or were never scaled


def dim(peak: int, count: int) -> list[str]:
  """A remark where the brightest of all pixels of `count` images, 0..255, is close to black."""
  if peak > DIM:
    return []
  return [
    f"no pixel of {count} images is above {peak} of 255; if that is not meant, scale them so that white is 255"
  ]


def check_memory(path: Path, size: int) -> None:
  """Raises UserError if `size` bytes, which a small compressed file may claim, are more than this machine's memory."""
  if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
    return
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if size > memory:
    raise UserError(
      f"{path}: claims {size} bytes of data, and this machine has {memory} of memory; use images in a folder"
    )


def expanded(path: str) -> Path:
  """With ~ as the home folder. Raises UserError where there is none of that name."""
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise UserError(
      f"{path}: there is no such home folder; write the path without ~, or for prepared data set the environment "
      "variable VAE_JAX_DATA to a folder that can be written"
    )
  return Path(found)


def folder_of(data: ConfigDict) -> Path:
  folder = expanded(data.dir)
  if not data.dir or not os.path.isdir(folder):  # Path.is_dir raises where a folder above may not be entered
    raise UserError(
      f"data.dir={data.dir!r} is no folder; set --config.data.dir to the one with your data (data.name={data.name})"
    )
  return folder


def split_by_name(names: Sequence[str]) -> dict[str, list[str]]:
  """80 % train, 10 % validation, 10 % test, by a hash of each name: adding files leaves the others in place.

  Each split has at least one of three names or more. Fewer are all for training.
  """
  if len(names) < 3:
    return {"train": sorted(names)} if names else {}
  place = {n: hashlib.sha256(os.fsencode(n)).digest() for n in names}
  splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
  for name in sorted(names):
    tenth = int.from_bytes(place[name][:8], "big") * 10 >> 64
    splits["train" if tenth < 8 else "validation" if tenth == 8 else "test"].append(name)
  for wanting in splits.values():
    if not wanting:
      largest = max(splits.values(), key=len)
      wanting.append(max(largest, key=lambda n: place[n]))
      largest.remove(wanting[0])
  return splits
