"""A config -> random-access records, whatever the data set: our builders, any TFDS set by name, npz."""

from __future__ import annotations

import functools
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import builders, images, plans
from vae_jax.errors import UserError, nearest
from vae_jax.types import FIELD_TYPES

Shape = tuple[int, int, int]
Record = dict[str, Any]
CHUNK = 256  # records that one thread reads and decodes at a time


@dataclass(frozen=True)
class _Full:
  """All records of one split. `read` gives raw records by position: images are encoded bytes or uint8."""

  length: int
  read: Callable[[Sequence[int]], Sequence[Record]]
  shapes: dict[str, Sequence[int | None]]  # of each image feature as stored; 0 or None where it varies


@dataclass(frozen=True)
class Source:
  """The records of a split, by index. Reading is safe from several threads.

  source[i] is a dict with "image" (uint8 [h, w, c]) and, where the data set has them, "label" (int) and
  "degraded" (uint8 [h', w', c]).

  name: the data set, for messages.
  split: as asked for, slice included.
  uniform_shape: (h, w, c) of every "image", or None if they differ or this is not known beforehand; also None
    where the "degraded" ones differ, so that `load_all` works wherever it is not None.
  mixed: whether some images are known to be grey and others in colour.
  """

  name: str
  split: str
  uniform_shape: Shape | None
  start: int
  stop: int
  full: _Full
  channels: int
  mixed: bool = False

  def __len__(self) -> int:
    return self.stop - self.start

  def read(self, indices: Sequence[int]) -> Iterator[Record]:
    """The records in turn: read together, which is quicker, and decoded one by one."""
    for index in indices:
      if not 0 <= index < len(self):
        raise IndexError(f"record {index} of {self.name} {self.split}, which has {len(self)}")
    raw = self.full.read([self.start + index for index in indices])
    return map(self._finished, raw, indices)

  def __getitem__(self, index: int) -> Record:
    return next(self.read([index]))

  def load_all(self) -> dict[str, np.ndarray]:
    """Every record: uint8 "image" [n, h, w, c]; where there are, int32 "label" [n], "degraded" like "image", others.

    Raises:
      UserError: if the images differ in shape, or one cannot be decoded.
    """
    first, n = self[0], len(self)
    out: dict[str, np.ndarray] = {}
    for key, value in first.items():
      value = np.asarray(value, FIELD_TYPES[key])
      out[key] = np.empty((n, *value.shape), value.dtype)

    def load(begin: int) -> None:
      end = min(begin + CHUNK, n)
      raw = self.full.read(range(self.start + begin, self.start + end))
      for i, record in zip(range(begin, end), raw, strict=True):
        for key, value in self._finished(record, i).items():
          if np.shape(value) != out[key].shape[1:]:
            raise UserError(
              f"{self.name} {self.split}: {key} {i} is {list(np.shape(value))} and {key} 0 is "
              f"{list(out[key].shape[1:])}; set data.size and data.channels"
            )
          out[key][i] = value

    chunks = range(0, n, CHUNK)
    with ThreadPoolExecutor(plans.THREADS) as pool:
      for _ in plans.progress(pool.map(load, chunks), len(chunks), f"decoding {self.name} {self.split}"):
        pass
    return out

  def _finished(self, raw: Record, index: int) -> Record:
    record: Record = {}
    for key, value in raw.items():
      if key == "label":
        record[key] = int(value)
      elif key not in ("image", "degraded"):
        record[key] = np.asarray(value, FIELD_TYPES[key])
      elif isinstance(value, bytes):
        record[key] = images.decode(
          value, self.channels, name=f"{self.name} {self.split}, {key} {index}", trusted=True
        )
      else:
        record[key] = images.to_channels(value, self.channels)
    return record


def open_source(data: ConfigDict, split: str) -> Source:
  """Opens `split` ('train', 'train[:90%]', 'train[-500:]', ...) of the data set of `data`, a config's `data`.

  A data set that was never prepared is prepared now, and downloaded where it is one of TFDS.

  Raises:
    UserError: for an unknown data set or split, an empty selection, and data that is missing or damaged.
  """
  name, bounds = parse_split(split)
  splits = _splits(data)
  if name not in splits:
    usable = max(splits, key=lambda s: splits[s]().length)
    key = {data.train: "data.train=", data.validation: "data.validation="}.get(split, "")
    raise UserError(
      f"data set {data.name!r} has no split {name!r}, only {', '.join(splits)}; "
      f"a part of one will do, e.g. {key}{usable}[90%:]"
    )
  full = splits[name]()
  start, stop = slice_bounds(split, bounds, full.length)
  whole = all(all(shape[:2]) for shape in full.shapes.values())
  h, w, c = full.shapes["image"]
  c = data.channels or (c - 1 if c in (2, 4) else c)  # decoding drops alpha
  if len(full.shapes) > 1 and not data.channels and not all(shape[2] for shape in full.shapes.values()):
    whole = False
  uniform = (int(h), int(w), int(c)) if whole and h and w and c else None
  mixed = not data.channels and any(shape[2] == 0 for shape in full.shapes.values())
  return Source(data.name, split, uniform, start, stop, full, data.channels, mixed)


def list_splits(data: ConfigDict) -> dict[str, int]:
  """The splits of a data set and their numbers of records; prepares it if need be."""
  return {name: full().length for name, full in _splits(data).items()}


def parse_split(split: str) -> tuple[str, tuple[str, str] | None]:
  """'train[10%:]' -> ('train', ('10%', '')); without brackets the bounds are None. Raises UserError."""
  match = re.fullmatch(r"([\w.-]+?)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
  if not match:
    raise UserError(
      f"split {split!r}: must look like 'train', 'train[:90%]', 'train[100:]' or 'train[10%:20%]'"
    )
  name, start, stop = match.groups()
  return name, (start or "", stop or "") if "[" in split else None


def slice_bounds(split: str, bounds: tuple[str, str] | None, n: int) -> tuple[int, int]:
  """The (start, stop) that `bounds` select out of n records, with 0 <= start < stop <= n.

  A percentage is n * p / 100 rounded down, so 'a[:p%]' and 'a[p%:]' share out a split for every p. Negative
  bounds count from the end.

  Raises:
    UserError: if nothing is selected, or a bound lies beyond the split.
  """

  def position(bound: str, default: int) -> int:
    if not bound:
      return default
    number = int(bound.rstrip("%"))
    limit = 100 if bound.endswith("%") else n
    if abs(number) > limit:
      raise UserError(f"split {split!r}: {bound} is out of range; there are {n} records")
    number += limit if bound.startswith("-") else 0
    return n * number // 100 if bound.endswith("%") else number

  start, stop = (position(bounds[0], 0), position(bounds[1], n)) if bounds else (0, n)
  if start >= stop:
    raise UserError(f"split {split!r}: selects none of the {n} records")
  return start, stop


# The kinds of data set. Each gives its splits by name, to be opened when called.


def _splits(data: ConfigDict) -> dict[str, Callable[[], _Full]]:
  if data.name == "npz":
    return _npz_splits(data)
  if data.name in plans.OWN:
    builder = builders.prepare(data)
    shapes = builder.info.metadata["shapes"]
    return {name: functools.partial(_tfds_split, builder, name, shapes[name]) for name in builder.info.splits}
  builder = _tfds_builder(data)
  keys = _tfds_images(data.name, builder.info.features)
  shapes = {key: builder.info.features[stored].shape for key, stored in keys.items()}
  return {name: functools.partial(_tfds_split, builder, name, shapes, keys) for name in builder.info.splits}


def _tfds_split(
  builder: Any, split: str, shapes: dict[str, Any], keys: dict[str, str] | None = None
) -> _Full:
  """One split of a prepared builder; `keys` maps "image" and "degraded" to the names of stored features."""
  import tensorflow_datasets as tfds

  features = builder.info.features
  # Images stay encoded: TFDS would decode with OpenCV or PIL, by its own rules.
  skip = {k: tfds.decode.SkipDecoding() for k, v in features.items() if isinstance(v, tfds.features.Image)}
  wanted = dict(keys or {key: key for key in shapes})
  if (
    "label" in features
    and not features["label"].shape
    and np.issubdtype(features["label"].np_dtype, np.integer)
  ):
    wanted["label"] = "label"
  try:
    records = builder.as_data_source(split, decoders=skip)
  except NotImplementedError as error:
    raise UserError(
      f"{builder.data_dir} holds {builder.name} in a format without random access; "
      "set data.dir to another folder, where it will be prepared as ArrayRecord"
    ) from error
  except Exception as error:  # a file is missing or damaged
    raise builders.damaged(builder.data_dir, error) from error

  def read(indices: Sequence[int]) -> list[Record]:
    try:
      found = records.__getitems__(list(indices))
    except MemoryError:
      raise
    except Exception as error:  # whatever the reader and protobuf raise on a damaged file
      raise builders.damaged(builder.data_dir, error) from error
    rows = [{key: record[stored] for key, stored in wanted.items()} for record in found]
    if any(None in row.values() for row in rows):  # so it reads some files that were cut short
      raise builders.damaged(builder.data_dir, ValueError("a record is empty"))
    return rows

  return _Full(len(records), read, shapes)


def _tfds_images(name: str, features: Any) -> dict[str, str]:
  """Which features are the image and, in sets for super-resolution, the degraded one."""
  import tensorflow_datasets as tfds

  image = tfds.features.Image
  found = [
    k for k, v in features.items() if isinstance(v, image) and len(v.shape) == 3 and v.np_dtype != np.float32
  ]
  if "image" in found:
    return {"image": "image"}
  if {"hr", "lr"} <= set(found):
    return {"image": "hr", "degraded": "lr"}
  raise UserError(
    f"data set {name!r} has no feature 'image' (or 'hr' and 'lr'), only {', '.join(features)}; choose another"
  )


def _tfds_builder(data: ConfigDict) -> Any:
  import tensorflow_datasets as tfds

  where = str(plans.expanded(data.dir)) if data.dir else None
  try:
    with builders.quiet(sys.stderr):
      builder = tfds.builder(data.name, data_dir=where, file_format="array_record")
  except tfds.core.DatasetNotFoundError as error:
    known = [*plans.OWN, "npz", *tfds.list_builders(with_community_datasets=False)]
    hint = nearest(data.name, known, what="data sets")
    hint = hint if "mean" in hint else f"; known: {', '.join((*plans.OWN, 'npz'))} and the data sets of TFDS"
    raise UserError(f"data.name={data.name!r} is no data set{hint}") from error
  except Exception as error:  # a bad config or version in the name, a damaged folder
    raise UserError(f"data.name={data.name!r} cannot be opened: {_one_line(error)}") from error
  try:
    with builders.quiet(sys.stderr):
      if not builder.is_prepared():
        builder.download_and_prepare()
  except Exception as error:
    missing = _missing_package(error)
    if missing:
      what = 'pip install -e ".[prepare]"' if missing == "tensorflow" else f"pip install {missing}"
      raise UserError(
        f"preparing data set {data.name!r} needs the package {missing}, once; "
        f"run: {what} and then the same command again"
      ) from error
    raise UserError(
      f"data set {data.name!r} could not be downloaded and prepared: {_one_line(error)}"
    ) from error
  if not builder.info.splits:  # TFDS leaves a folder alone that is there already
    raise UserError(f"{builder.data_dir} is there but incomplete; delete this folder and run again")
  return builder


def _missing_package(error: BaseException | None) -> str:
  """The package whose absence is the cause of `error`, or ""."""
  while error is not None:
    if isinstance(error, ModuleNotFoundError) and error.name:
      return error.name.partition(".")[0]
    error = error.__cause__ or error.__context__
  return ""


def _one_line(error: Exception) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _npz_splits(data: ConfigDict) -> dict[str, Callable[[], _Full]]:
  path = plans.expanded(data.dir)
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
  return {name: functools.partial(_npz_split, file) for name, file in files.items()}


def _npz_split(path: Path) -> _Full:
  """Arrays by field: "image" uint8 [n, h, w, 1 or 3] or [n, h, w], and maybe others of `types.FIELD_TYPES`."""
  arrays = _npz_arrays(path)
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
      arrays[name] = _npz_images(path, name, arrays[name])
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

  def read(indices: Sequence[int]) -> list[Record]:
    return [{name: values[i] for name, values in arrays.items()} for i in indices]

  return _Full(n, read, {name: arrays[name].shape[1:] for name in ("image", "degraded") if name in arrays})


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
  """What an npz file holds. Raises UserError: no such file, damaged, or larger than the memory."""
  try:
    with open(path, "rb") as opened:  # np.load leaves a damaged file open that it opened itself
      if opened.read(2) != b"PK":
        raise UserError(f"{path} is no .npz file; save one with numpy.savez(path, image=...)")
      with zipfile.ZipFile(opened) as archive:
        plans.check_memory(path, sum(member.file_size for member in archive.infolist()))
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
      f"{path}: cannot be read as .npz ({_one_line(error)}); save it with numpy.savez"
    ) from error


def _npz_images(path: Path, name: str, stored: np.ndarray) -> np.ndarray:
  """uint8 [n, h, w, c], or UserError."""
  image = stored[..., None] if stored.ndim == 3 else stored
  if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] not in (1, 3) or not image.size:
    held = f"{stored.dtype} {list(stored.shape)}"
    raise UserError(f"{path}: {name!r} is {held}; it must be uint8 [n, h, w, 1 or 3] or [n, h, w], n > 0")
  return image
