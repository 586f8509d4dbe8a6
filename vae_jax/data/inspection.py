"""Files of images -> what is in them, known before anything is written: each is decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data import images
from vae_jax.data.examples import THREADS, Example, Plan, Shape, Split, dim, split_by_name
from vae_jax.errors import UserError
from vae_jax.progress import followed


class Record(NamedTuple):
  """The files of one record, by image feature, under the name that decides its split. label: of its class, or None.

  caption: the tokens of its text, without padding, or None.
  """

  name: str
  files: dict[str, Path]
  label: int | None = None
  caption: np.ndarray | None = None


class Seen(NamedTuple):
  """What decoding a record showed.

  shapes, as_is: by feature, and whether its file can be stored as it is. size: bytes to store. peak: the brightest
  pixel. guessed: whether an image has more than 8 bits, and its white is a guess. clear: whether one has pixels that
  are not opaque.
  """

  shapes: dict[str, Shape]
  as_is: dict[str, bool]
  size: int
  peak: int
  guessed: bool
  clear: bool


def _inspect(record: Record, white: int) -> Seen:
  """Decodes a record's files. Raises UserError naming the file that cannot be decoded."""
  shapes: dict[str, Shape] = {}
  as_is, size, peak, guessed, clear = {}, 0, 0, False, False
  for feature, path in record.files.items():
    content = images.read_file(path)
    decoded = images.examine(content, name=str(path), white=white)
    shapes[feature], as_is[feature] = decoded.pixels.shape, decoded.plain
    size += len(content) if decoded.plain else decoded.pixels.nbytes
    peak, guessed = max(peak, int(decoded.pixels.max())), guessed or decoded.guessed
    clear = clear or (decoded.alpha is not None and bool((decoded.alpha < 255).any()))
  return Seen(shapes, as_is, size, peak, guessed, clear)


def _scale(record: Record, shapes: dict[str, Shape]) -> int:
  """How many times larger the clean image of a pair is. Raises UserError where this is no whole number."""
  (h, w), (low_h, low_w) = shapes["image"][:2], shapes["degraded"][:2]
  if h % low_h or w % low_w or h // low_h != w // low_w:
    raise UserError(
      f"{record.files['image']} has {h} x {w} pixels and its partner {record.files['degraded']} "
      f"{low_h} x {low_w}; the clean image must be as large or a whole number of times larger"
    )
  return h // low_h


def plan_files(records: dict[str, list[Record]], max_bad: int, white: int = 0) -> Plan:
  """Decodes every file once to know which are sound and how large they are, before anything is written.

  white: of grey images of more than 8 bits, see `images.decode`.
  """
  everything = [(split, record) for split, some in records.items() for record in some]
  sound: dict[str, list[tuple[Record, Seen]]] = {split: [] for split in records}
  skipped: list[str] = []

  def attempt(entry: tuple[str, Record]) -> Seen | str:
    try:
      return _inspect(entry[1], white)
    except UserError as error:
      return str(error)

  with ThreadPoolExecutor(THREADS) as pool:
    results = followed(pool.map(attempt, everything), len(everything), "checking images")
    for (split, record), seen in zip(everything, results, strict=True):
      if isinstance(seen, Seen):
        sound[split].append((record, seen))
        continue
      skipped.append(seen)
      if len(skipped) > max_bad:
        pool.shutdown(wait=False, cancel_futures=True)
        raise too_many(skipped, max_bad)

  _check_scales([entry for some in sound.values() for entry in some])
  remarks = _remarks([seen for some in sound.values() for _, seen in some])
  if "" in sound:
    by_name = {entry[0].name: entry for entry in sound[""]}
    sound = {split: [by_name[n] for n in names] for split, names in split_by_name(list(by_name)).items()}
  splits = {split: _files(chosen, white) for split, chosen in sound.items() if chosen}
  return Plan(splits, skipped=skipped, remarks=remarks)


def _check_scales(sound: Sequence[tuple[Record, Seen]]) -> None:
  """Refuses pairs that differ in scale."""
  scales: dict[int, Record] = {}
  for record, seen in sound:
    if "degraded" in seen.shapes:
      scales.setdefault(_scale(record, seen.shapes), record)
  if len(scales) > 1:
    (a, first), (b, other) = list(scales.items())[:2]
    raise UserError(
      f"{first.files['image']} is {a} times as large as its partner and {other.files['image']} {b} times; "
      "keep one scale in a data set"
    )


def _remarks(sound: Sequence[Seen]) -> list[str]:
  """Whether the grey levels of all images are a small part of those that can be, and whether some are transparent."""
  guessed, others = [[seen.peak for seen in sound if seen.guessed is kind] for kind in (True, False)]
  remarks = dim(max(others), len(others)) if others else []
  # The fewest bits in which a value that becomes the highest peak fits.
  bits = next((n for n in range(9, 15) if guessed and (2**n - 1) * 255 / 65535 + 0.5 >= max(guessed)), 0)
  if bits:
    remarks.append(
      f"{len(guessed)} grey images of more than 8 bits become at most {max(guessed) + 1} of 256 grey levels, as white "
      f"is taken to be 65535; if they hold {bits} bits, set --config.data.white={2**bits - 1}"
    )
  if count := sum(seen.clear for seen in sound):
    remarks.append(
      f"{count} images have transparent pixels, which are seen in their stored colours; "
      "lay them over a background first"
    )
  return remarks


def _files(chosen: Sequence[tuple[Record, Seen]], white: int) -> Split:
  def example(i: int) -> Example:
    record, seen = chosen[i]
    found: Example = {
      feature: images.read_file(path)
      if seen.as_is[feature]
      else images.encode_png(images.decode(path, white=white))
      for feature, path in record.files.items()
    }
    others = {"label": record.label, "text": record.caption}
    return found | {name: value for name, value in others.items() if value is not None}

  sizes = [seen.shapes["image"] for _, seen in chosen]
  return Split(
    len(chosen),
    example,
    {f: _common_shape([seen.shapes[f] for _, seen in chosen]) for f in chosen[0][0].files},
    sum(seen.size for _, seen in chosen),
    (min(size[0] for size in sizes), min(size[1] for size in sizes)),
    [record.name for record, _ in chosen],
  )


def too_many(skipped: Sequence[str], max_bad: int) -> UserError:
  named = "; ".join(skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
  return UserError(
    f"more than data.max_bad={max_bad} images cannot be decoded: {named}; fix them or raise data.max_bad"
  )


def _common_shape(shapes: Sequence[Shape]) -> Shape:
  return [sizes[0] if len(set(sizes)) == 1 else 0 for sizes in zip(*shapes, strict=True)]
