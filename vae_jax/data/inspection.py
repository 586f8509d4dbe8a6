"""Files of images -> what is in them, known before anything is written: each is decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from vae_jax.data import images
from vae_jax.data.examples import THREADS, Example, Plan, Shape, Split, progress, split_by_name
from vae_jax.errors import UserError


class Record(NamedTuple):
  """The files of one record, by image feature, under the name that decides its split."""

  name: str
  files: dict[str, Path]


class Seen(NamedTuple):
  """What decoding a record showed: shapes, whether the files can be stored as they are, bytes to store."""

  shapes: dict[str, Shape]
  as_is: dict[str, bool]
  size: int


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


def plan_files(records: dict[str, list[Record]], max_bad: int) -> Plan:
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
