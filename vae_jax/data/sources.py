"""A config -> random-access records, whatever the data set: our builders, any TFDS set by name, npz."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import builders, captions, images, npz, plans, scenes, sprites, text
from vae_jax.data.examples import THREADS, Full, expanded
from vae_jax.data.splits import parse_split, slice_bounds
from vae_jax.errors import UserError, described, nearest, printable
from vae_jax.progress import followed
from vae_jax.types import FIELD_TYPES, Shape

Record = dict[str, Any]
IN_FOLDERS = (*plans.FOLDERS, "idx", "npz")  # data sets that a person has put somewhere
RETRIES = 3  # of a download; the ten of TFDS take minutes where there is no network
CHUNK = 256  # records that one thread reads and decodes at a time


class _Set(NamedTuple):
  """A data set: its splits, to be opened when called, and what a person should know of it."""

  splits: dict[str, Callable[[], Full]]
  remarks: tuple[str, ...] = ()
  classes: tuple[str, ...] = ()
  loose: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
  """The records of a split, by index. Reading is safe from several threads.

  source[i] is a dict with "image" (uint8 [h, w, c]) and, where the data set has them, "label" (int), "degraded"
  (uint8 [h', w', c]), "text" (int32 [t]) and "factors" (float32 [f]).

  name: the data set, for messages.
  split: as asked for, slice included.
  uniform_shape: (h, w, c) of every "image", or None if they differ or this is not known beforehand; also None
    where the "degraded" ones differ, so that `load_all` works wherever it is not None.
  mixed: whether some images are known to be grey and others in colour.
  remarks: what a person should know before training or scoring on it, a line each; `report` prints them.
  classes: the names of the labels, in their order, where they are known.
  loose: images that lie beside folders, which therefore are no classes.
  """

  name: str
  split: str
  uniform_shape: Shape | None
  start: int
  stop: int
  full: Full
  channels: int
  mixed: bool = False
  white: int = 0
  remarks: tuple[str, ...] = ()
  classes: tuple[str, ...] = ()
  labels: tuple[int, ...] | None = None  # of a stored label: the one that is given; None: the same
  loose: tuple[str, ...] = ()
  words: tuple[np.ndarray, ...] | None = None  # tokens of each label's words, where these are the captions
  room: int | None = None  # tokens of a text; None: as stored
  pairs: text.Pairs = ()  # of the texts' tokens
  kept: tuple[int, ...] | None = None  # places of the records in `full`; None: all from start to stop

  def __len__(self) -> int:
    return len(self._places)

  @property
  def _places(self) -> Sequence[int]:
    return range(self.start, self.stop) if self.kept is None else self.kept

  @property
  def names(self) -> Sequence[str]:
    """The names of the records' files, below the data set's folder; empty where the records are not files."""
    names, places = self.full.names, self._places
    return [names[place] for place in places] if names else ()

  def read(self, indices: Sequence[int]) -> Iterator[Record]:
    """The records in turn: read together, which is quicker, and decoded one by one."""
    for index in indices:
      if not 0 <= index < len(self):
        raise IndexError(f"record {index} of {self.name} {self.split}, which has {len(self)}")
    raw = self.full.read([self._places[index] for index in indices])
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
      raw = self.full.read(self._places[begin:end])
      for i, record in zip(range(begin, end), raw, strict=True):
        for key, value in self._finished(record, i).items():
          if np.shape(value) != out[key].shape[1:]:
            raise UserError(
              f"{self.name} {self.split}: {key} {i} is {list(np.shape(value))} and {key} 0 is "
              f"{list(out[key].shape[1:])}; set data.size and data.channels"
            )
          out[key][i] = value

    chunks = range(0, n, CHUNK)
    with ThreadPoolExecutor(THREADS) as pool:
      for _ in followed(pool.map(load, chunks), len(chunks), f"decoding {self.name} {self.split}"):
        pass
    return out

  def read_labels(self) -> list[int]:
    """The label of each record, in order; images are not decoded. Raises UserError: the records have none."""
    labels: list[int] = []
    chunks = range(0, len(self), CHUNK)
    for first in followed(chunks, len(chunks), f"reading labels of {self.name} {self.split}"):
      for raw in self.full.read(self._places[first : first + CHUNK]):
        if "label" not in raw:
          raise UserError(f"the records of data.name={self.name} have no labels; use data with labels")
        label = int(raw["label"])
        labels.append(label if self.labels is None else self.labels[label])
    return labels

  def _finished(self, raw: Record, index: int) -> Record:
    record: Record = {}
    for key, value in raw.items():
      if key == "label":
        record[key] = int(value) if self.labels is None else self.labels[int(value)]
        if self.words is not None:
          record["text"] = self._text(captions.of_label(self.words, record[key], self.name))
      elif key == "text":
        record[key] = self._text(np.asarray(value, FIELD_TYPES[key]))
      elif key not in ("image", "degraded"):
        record[key] = np.asarray(value, FIELD_TYPES[key])
      elif isinstance(value, bytes):
        record[key] = images.decode(
          value,
          self.channels,
          name=f"{self.name} {self.split}, {key} {index}",
          trusted=True,
          white=self.white,
        )
      else:
        record[key] = images.to_channels(value, self.channels)
    return record

  def _text(self, tokens: np.ndarray) -> np.ndarray:
    return tokens if self.room is None else text.packed(tokens, self.room, self.pairs)


def open_source(data: ConfigDict, split: str) -> Source:
  """Opens `split` ('train', 'train[:90%]', 'train[-500:]', ...) of the data set of `data`, a config's `data`.

  A data set that was never prepared is prepared now, and downloaded where it is one of TFDS.

  Raises:
    UserError: for an unknown data set or split, an empty selection, and data that is missing or damaged.
  """
  name, bounds = parse_split(split)
  found = _open_set(data)
  splits = found.splits
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
  classes, labels = _labels(data, found.classes)
  words, said = captions.of_labels(data, classes) if data.captions == "words" else (None, ())
  source = Source(
    name=data.name,
    split=split,
    uniform_shape=uniform,
    start=start,
    stop=stop,
    full=full,
    channels=data.channels,
    mixed=mixed,
    white=data.white,
    remarks=(*found.remarks, *full.remarks, *said, *_enlarged(data, split, full)),
    classes=classes,
    labels=labels,
    loose=found.loose,
    words=words,
    room=None if data.name == "npz" and words is None and not data.byte_pairs else data.text_length,
    pairs=tuple(data.pairs),
  )
  return _without(source, data) if data.without and split in (data.train, data.validation) else source


def _without(source: Source, data: ConfigDict) -> Source:
  """The source without the images of the labels `data.without`. Raises UserError: no labels, no such label, no rest."""
  key, labels = f"data.without={','.join(map(str, data.without))}", source.read_labels()
  foreign = [label for label in data.without if label not in labels]
  if foreign and source.split == data.train:
    known = ", ".join(map(str, sorted(set(labels))[:20]))
    raise UserError(
      f"{key}: {source.split} of {data.name} has no image of label {foreign[0]}, only of {known}"
    )
  kept = tuple(source.start + i for i, label in enumerate(labels) if label not in data.without)
  if not kept:
    raise UserError(f"{key} leaves no image of {source.split} of {data.name}; name fewer labels")
  said = f"{key}: {len(source) - len(kept)} of the {len(source)} images of {source.split} are left out"
  return dataclasses.replace(source, kept=kept, remarks=(*source.remarks, said))


def _enlarged(data: ConfigDict, split: str, full: Full) -> list[str]:
  """A remark where images are smaller than data.size."""
  h, w = full.smallest or full.shapes["image"][:2]
  if not (h and w and (h < data.size[0] or w < data.size[1])):
    return []
  size = f"data.size={data.size[0]},{data.size[1]}"
  return [
    f"{data.dir or data.name}: {split} has images of {h} x {w} pixels; those smaller than {size} are enlarged"
  ]


def _labels(data: ConfigDict, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
  """The classes in the order of their labels, and the label of each stored one, as data.classes says."""
  if not (names and data.classes):
    return names, None
  wanted = tuple(data.classes.split(","))
  if foreign := [name for name in names if name not in wanted]:
    raise UserError(
      f"data.dir={data.dir}: the folder {foreign[0]} is none of data.classes={data.classes}; rename or remove it"
    )
  return wanted, tuple(wanted.index(name) for name in names)


def overlap(a: Source, b: Source) -> bool:
  """Whether two splits of one data set have records in common."""
  return parse_split(a.split)[0] == parse_split(b.split)[0] and a.start < b.stop and b.start < a.stop


def report(sources: Iterable[Source], remarks: Sequence[str] = ()) -> None:
  """Prints what a person should know of data on standard error, each line once a process."""
  for line in dict.fromkeys([*(line for source in sources for line in source.remarks), *remarks]):
    _say(printable(line))


@functools.cache
def _say(line: str) -> None:
  print(f"note: {line}", file=sys.stderr, flush=True)


def move(data: ConfigDict, place: str) -> None:
  """Sets data.dir to the place where the data lie now, of --data_dir. Raises UserError where there can be none."""
  if data.name in (*plans.EMBEDDED, *plans.DRAWN):
    how = "is drawn" if data.name in plans.DRAWN else "comes with a package"
    raise UserError(
      f"--data_dir {place}: data.name={data.name} {how} and has no folder; leave --data_dir out"
    )
  found = expanded(place)
  if not (os.path.isdir(found) or (data.name == "npz" and os.path.isfile(found))):
    what = "a folder or an .npz file" if data.name == "npz" else "a folder"
    raise UserError(f"--data_dir {place} is not {what}; give the place of the data (data.name={data.name})")
  data.dir = place


def list_splits(data: ConfigDict) -> dict[str, int]:
  """The splits of a data set and their numbers of records; prepares it if need be."""
  return {name: full().length for name, full in _open_set(data).splits.items()}


# The kinds of data set. Each gives its splits by name, to be opened when called.


def _open_set(data: ConfigDict) -> _Set:
  if data.name in ("npz", *plans.DRAWN):
    return _Set({"npz": npz, "scenes": scenes, "sprites": sprites}[data.name].splits(data))
  if data.name in plans.OWN:
    builder, remarks, loose = builders.prepare(data)
    metadata = builder.info.metadata
    splits: dict[str, Callable[[], Full]] = {
      name: functools.partial(
        _tfds_split,
        builder,
        name,
        metadata["shapes"][name],
        None,
        metadata["smallest"].get(name),
        metadata.get("names", {}).get(name, ()),
      )
      for name in builder.info.splits
    }
    return _Set(splits, remarks, tuple(metadata["classes"]), loose)
  builder = _tfds_builder(data)
  keys = _tfds_images(data.name, builder.info.features)
  shapes = {key: builder.info.features[stored].shape for key, stored in keys.items()}
  opened: Callable[[str], Full] = functools.partial(_tfds_split, builder, shapes=shapes, keys=keys)
  if builder.name == "dsprites":
    keys |= {name: name for name in sprites.STORED}
    opened = sprites.of_tfds(data, opened)
  return _Set({name: functools.partial(opened, name) for name in builder.info.splits})


def _tfds_split(
  builder: Any,
  split: str,
  shapes: dict[str, Any],
  keys: dict[str, str] | None = None,
  smallest: tuple[int, int] | None = None,
  names: Sequence[str] = (),
) -> Full:
  """One split of a prepared builder; `keys`, of a builder of others, maps "image" and "degraded" to stored features."""
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
  if keys is None and "text" in features:
    wanted["text"] = "text"
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
    rows: list[Record] = [{key: record[stored] for key, stored in wanted.items()} for record in found]
    # So it reads some files that were cut short.
    if any(value is None for row in rows for value in row.values()):
      raise builders.damaged(builder.data_dir, ValueError("a record is empty"))
    return rows

  return Full(len(records), read, shapes, smallest, names=names)


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

  where = str(expanded(data.dir)) if data.dir else None
  try:
    with builders.quiet(sys.stderr):
      builder = tfds.builder(data.name, data_dir=where, file_format="array_record")
  except tfds.core.DatasetNotFoundError as error:
    own = (*plans.OWN, "npz", *plans.DRAWN)
    known = [*own, *tfds.list_builders(with_community_datasets=False)]
    hint = nearest(data.name, known, what="data sets")
    hint = hint if "mean" in hint else f"; known: {', '.join(own)} and the data sets of TFDS"
    raise UserError(f"data.name={data.name!r} is not a data set{hint}") from error
  except Exception as error:  # a bad config or version in the name, a damaged folder
    raise UserError(f"data.name={data.name!r} cannot be opened: {described(error)}") from error
  if not builder.is_prepared():
    _download(builder, data)
  if not builder.info.splits:  # TFDS leaves a folder alone that is there already
    raise UserError(f"{builder.data_dir} is there but incomplete; delete this folder and run again")
  return builder


def _download(builder: Any, data: ConfigDict) -> None:
  """Downloads and prepares a data set of TFDS. Raises UserError, one line, where that fails."""
  from tensorflow_datasets.core.download import downloader
  from tensorflow_datasets.core.utils import tqdm_utils

  try:
    retries = mock.patch.object(downloader, "MAX_RETRIES", RETRIES, create=True)
    if not sys.stderr.isatty():
      tqdm_utils.disable_progress_bar()
    with builders.quiet(sys.stderr), retries:
      builder.download_and_prepare()
  except Exception as error:
    missing = _missing_package(error)
    if missing:
      what = 'pip install -e ".[prepare]"' if missing == "tensorflow" else f"pip install {missing}"
      raise UserError(
        f"preparing data set {data.name!r} needs the package {missing}, once; "
        f"run: {what} and then the same command again"
      ) from error
    if host := re.search(r"host='([^']+)'", str(error)):
      raise UserError(
        f"data set {data.name!r} cannot be downloaded: no connection to {host[1]}; connect this machine to the "
        "network, or prepare the data set on another one, copy its folder and set --config.data.dir to that"
      ) from error
    raise UserError(
      f"data set {data.name!r} could not be downloaded and prepared: {described(error)}"
    ) from error


def _missing_package(error: BaseException | None) -> str:
  """The package whose absence is the cause of `error`, or ""."""
  while error is not None:
    if isinstance(error, ModuleNotFoundError) and error.name:
      return error.name.partition(".")[0]
    error = error.__cause__ or error.__context__
  return ""
