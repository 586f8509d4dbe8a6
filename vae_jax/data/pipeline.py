"""Records -> batches: order, fitting to size, sharding over processes, prefetch, padding and mask.

The order of training data is a function of (seed, position), and position = step * batch_size + place in the batch.
So the step in a checkpoint is the place in the data, and no data state needs saving.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.types import FIELD_TYPES, Batch, Shape

TOGETHER = 8  # records that a thread reads at once: one at a time takes 0.4 ms more for each

Record = dict[str, Any]


class Source(Protocol):
  """Random-access records: "image" uint8 [h, w, c], maybe "label" (int) and "degraded" (uint8 image).

  source[i] is one, source.read(indices) those of several, in turn.
  """

  @property
  def name(self) -> str: ...
  @property
  def uniform_shape(self) -> Shape | None: ...
  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> Record: ...
  def read(self, indices: Sequence[int]) -> Iterator[Record]: ...
  def load_all(self) -> dict[str, np.ndarray]: ...


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def order(seed: int, n: int, positions: np.ndarray) -> np.ndarray:
  """Which record (0..n-1) stands at each position of the endless training stream: a new permutation every epoch."""
  epochs, places = np.divmod(np.asarray(positions, np.int64), n)
  out = np.empty(places.shape, np.int32)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    out[here] = _permutation(seed, int(epoch), n)[places[here]]
  return out


def positions(step: int, steps: int, batch_size: int) -> np.ndarray:
  """Positions [steps, batch_size] in the training stream of `steps` batches from `step` on."""
  return np.arange(step * batch_size, (step + steps) * batch_size, dtype=np.int64).reshape(steps, batch_size)


def image_shape(data: ConfigDict, source: Source) -> Shape:
  """The (h, w, c) that the model sees: `data.size` and `data.channels`, or as stored where these are zero."""
  stored = source.uniform_shape
  size = tuple(data.size)
  if len(size) != 2:
    raise UserError(f"data.size = {size}: must be (height, width), e.g. --config.data.size=64,64")
  if size == (0, 0) and stored is None:
    raise UserError(
      f"{source.name}: its images differ in size and data.size is (0, 0); set the size to crop or resize to, "
      "e.g. --config.data.size=64,64"
    )
  if getattr(source, "mixed", False):  # else a batch with both would end the run, sooner or later
    raise UserError(
      f"{source.name}: some images are grey, some in colour; set data.channels=1 or data.channels=3"
    )
  height, width = size if size != (0, 0) else stored[:2]  # type: ignore[index]
  channels = data.channels or (stored[2] if stored else source[0]["image"].shape[2])
  return height, width, channels


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
  from PIL import Image

  planes = [
    np.asarray(Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BICUBIC))
    for c in range(image.shape[2])
  ]
  return np.stack(planes, axis=-1)


def fit(record: Record, size: tuple[int, int], mode: str, draw: np.random.Generator | None) -> Record:
  """Brings a record's images to `size` (h, w), which is the size of "image".

  mode "crop" cuts a window at its own scale; "resize" first scales the shorter side to fit. An image smaller than the
  window is enlarged (bicubic) to cover it. The window is random where `draw` is given, else central. A "degraded"
  image f times smaller is cut at the same place, at multiples of f.
  """
  image, low = record["image"], record.get("degraded")
  (height, width), (h, w) = size, image.shape[:2]
  if (h, w) == (height, width):
    return record
  cover = max(height / h, width / w)
  if low is None and (mode == "resize" or cover > 1):
    h, w = max(height, round(h * cover)), max(width, round(w * cover))
    image = _resized(image, h, w)
  elif cover > 1 or mode == "resize":
    raise UserError(
      f"pairs of {image.shape[:2]} pixels can be cut but not resized to data.size = {(height, width)}; "
      "choose a smaller data.size and data.fit=crop"
    )
  f = 1 if low is None else -(-image.shape[0] // low.shape[0])  # low may be rounded up
  if height % f or width % f:
    raise UserError(f"data.size = {(height, width)}: must be a multiple of the pairs' scale {f}")
  if draw is None:
    top, left = (h - height) // 2 // f * f, (w - width) // 2 // f * f
  else:
    top, left = (int(draw.integers((n - m) // f + 1)) * f for n, m in ((h, height), (w, width)))
  out = {**record, "image": image[top : top + height, left : left + width]}
  if low is not None:
    out["degraded"] = low[top // f : (top + height) // f, left // f : (left + width) // f]
  return out


class InMemory:
  """A source whose decoded records are kept, until `budget` bytes are used."""

  def __init__(self, source: Source, budget: int):
    self._source, self._left, self._kept = source, budget, {}  # type: ignore[var-annotated]
    self.name, self.uniform_shape, self.load_all = source.name, source.uniform_shape, source.load_all

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return next(self.read([index]))

  def read(self, indices: Sequence[int]) -> Iterator[Record]:
    kept = [self._kept.get(index) for index in indices]
    found = self._source.read([i for i, record in zip(indices, kept, strict=True) if record is None])
    for index, record in zip(indices, kept, strict=True):
      yield record or self._keep(index, next(found))

  def _keep(self, index: int, record: Record) -> Record:
    size = record["image"].nbytes
    if size <= self._left and index not in self._kept:
      self._left -= size
      self._kept[index] = record
    return record


class First:
  """The first `limit` records of a source."""

  def __init__(self, source: Source, limit: int):
    self._source, self._limit = source, min(limit, len(source))
    self.name, self.uniform_shape = source.name, source.uniform_shape

  def __len__(self) -> int:
    return self._limit

  def __getitem__(self, index: int) -> Record:
    return self._source[index]

  def read(self, indices: Sequence[int]) -> Iterator[Record]:
    return self._source.read(indices)

  def load_all(self) -> dict[str, np.ndarray]:
    return {name: values[: self._limit] for name, values in self._source.load_all().items()}


class Chosen:
  """Some records of a source, by index."""

  def __init__(self, source: Source, indices: Sequence[int]):
    self._source, self._indices = source, list(indices)
    self.name, self.uniform_shape = source.name, source.uniform_shape

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    return self._source[self._indices[index]]

  def read(self, indices: Sequence[int]) -> Iterator[Record]:
    return self._source.read([self._indices[index] for index in indices])

  def load_all(self) -> dict[str, np.ndarray]:
    return {name: values[self._indices] for name, values in self._source.load_all().items()}


def spread(n: int, num: int) -> list[int]:
  """The places of at most `num` of n records, at equal distances from the first on."""
  num = min(num, n)
  return [i * n // num for i in range(num)]


def resident(data: ConfigDict, source: Source) -> dict[str, np.ndarray] | None:
  """The split as arrays ("image" uint8 [n, h, w, c], ...) if it needs no fitting and is small enough, else None."""
  shape = source.uniform_shape
  if shape is None or image_shape(data, source) != shape:
    return None
  if len(source) * int(np.prod(shape)) > data.resident_mb * 2**20:
    return None
  arrays = source.load_all()
  return arrays if arrays["image"].shape[1:] == shape else None


def check_labels(labels: np.ndarray, classes: int, name: str, trained: bool = False) -> None:
  """Raises UserError where a label is not one of 0 .. classes - 1. name: the data set; trained: classes are fixed."""
  if labels.size and not 0 <= labels.min() <= labels.max() < classes:
    remedy = f"set model.classes={max(int(labels.max()) + 1, 1)}"
    remedy += ", and number the labels from 0" if labels.min() < 0 else ""
    raise UserError(
      f"data.name={name}: labels go from {labels.min()} to {labels.max()}, and model.classes={classes} knows 0 to "
      f"{classes - 1}; {'give data with the labels of the training' if trained else remedy}"
    )


def _stack(records: list[Record], index: np.ndarray, mask: np.ndarray | None = None) -> Batch:
  batch: dict[str, np.ndarray] = {"index": index.astype(np.int32)}
  for name in (field for field in records[0] if field != "index"):
    if name not in FIELD_TYPES:
      raise UserError(
        f"records have the field {name!r}, which is none of {', '.join(FIELD_TYPES)}; leave it out"
      )
    values: list[np.ndarray] = [np.asarray(record[name], FIELD_TYPES[name]) for record in records]
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
      remedy = "set data.size and data.channels" if name in ("image", "degraded") else "give all one shape"
      raise UserError(f"{name}s of {shapes[0]} and {shapes[1]} in one batch; {remedy}")
    batch[name] = np.stack(values)
  if mask is not None:
    batch["mask"] = mask
  return batch  # type: ignore[return-value]


def _training(
  data: ConfigDict, source: Source, batch_size: int, seed: int, start: int, steps: int, shard: tuple[int, int]
) -> Iterator[Batch]:
  import grain

  size, n = image_shape(data, source)[:2], len(source)
  local = batch_size // shard[1]
  source = InMemory(source, data.resident_mb * 2**20)

  parts = -(-local // TOGETHER)  # of a batch

  def part(item: int) -> list[Record]:
    step, first = divmod(int(item), parts)
    places = np.arange(first * TOGETHER, min((first + 1) * TOGETHER, local))
    positions = (start + step) * batch_size + shard[0] * local + places
    index = order(seed, n, positions).tolist()
    records = []
    for position, i, record in zip(positions.tolist(), index, source.read(index), strict=True):
      draw = np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1]))
      records.append({**fit(record, size, data.fit, draw), "index": i})
    return records

  items = grain.MapDataset.range(steps * parts).map(part)
  options = grain.ReadOptions(num_threads=max(data.workers, 1), prefetch_buffer_size=4 * parts)
  read = iter(items.to_iter_dataset(options))
  while batch := list(itertools.chain.from_iterable(itertools.islice(read, parts))):
    yield _stack(batch, np.array([record["index"] for record in batch]))


def _evaluation(data: ConfigDict, source: Source, batch_size: int, shard: tuple[int, int]) -> Iterator[Batch]:
  size, n = image_shape(data, source)[:2], len(source)
  local = batch_size // shard[1]
  for first in range(shard[0] * local, -(-n // batch_size) * batch_size, batch_size):
    index = np.arange(first, first + local)
    mask = index < n
    index = np.where(mask, index, n - 1)
    records = [fit(record, size, data.fit, None) for record in source.read(index.tolist())]
    yield _stack(records, index, mask)


def batches(
  data: ConfigDict,
  source: Source,
  *,
  batch_size: int,
  training: bool,
  seed: int = 0,
  start: int = 0,
  steps: int = 0,
  shard: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
  """This process's part of the batches of a split, on the host.

  Args:
    data: `config.data`.
    source: the split, from `open_source(data, split)`.
    batch_size: global; each process yields batch_size / shard[1] records of every batch.
    training: True: `steps` batches from step `start` on, shuffled by `seed`, randomly cropped. False: one pass in
      order, centrally cropped, the last batch padded with repeats whose `mask` is False.
    shard: (this process, number of processes).

  Raises:
    UserError: if batch_size does not divide over the processes, or images do not fit `data.size`.
  """
  if batch_size % shard[1]:
    raise UserError(f"batch_size = {batch_size}: must be a multiple of the {shard[1]} processes")
  if training:
    return _training(data, source, batch_size, seed, start, steps, shard)
  return _evaluation(data, source, batch_size, shard)
