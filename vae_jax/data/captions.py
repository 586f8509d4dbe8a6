"""Captions of images: text files beside them, or words for their labels. As data, `text` holds their tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import text
from vae_jax.data.examples import THREADS
from vae_jax.data.inspection import Record
from vae_jax.errors import UserError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHOWN, MOST_BYTES = 3, 2**16
MOVES = {"flip": "mirrors", "rotate": "turns"}  # keys of data, and what they do to images
_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def beside(image: Path) -> Path:
  """The file of an image's caption: photo.txt of photo.jpg, as img2dataset writes them."""
  return image.with_suffix(".txt")


def check_files(pictures: Sequence[Path]) -> None:
  """Raises UserError where images have no caption beside them."""
  alone = [path for path in pictures if not os.path.isfile(beside(path))]
  if alone:
    more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
    raise UserError(
      f"data.captions=files: no caption beside {', '.join(map(str, alone[:SHOWN]))}{more}; add "
      f"{beside(alone[0]).name} with the text, remove the image, or set data.captions=none"
    )


class Texts(NamedTuple):
  """Records with the captions beside their images; the longest caption in bytes, and its file; and the files of those
  that say left or right."""

  records: dict[str, list[Record]]
  longest: tuple[int, str] = (0, "")
  sided: tuple[str, ...] = ()


def of_records(records: dict[str, list[Record]]) -> Texts:
  """Raises UserError as `read`."""
  files = [beside(record.files["image"]) for some in records.values() for record in some]
  with ThreadPoolExecutor(THREADS) as pool:
    words = dict(zip(files, pool.map(read, files), strict=True))
  sizes = {file: text.size(found) for file, found in words.items()}
  longest = max(sizes, key=lambda file: sizes[file])

  def captioned(record: Record) -> Record:
    file = beside(record.files["image"])
    return record._replace(caption=text.encode(words[file], sizes[file]))

  return Texts(
    {split: [captioned(record) for record in some] for split, some in records.items()},
    (sizes[longest], str(longest)),
    tuple(str(file) for file, found in words.items() if _SIDED.search(found)),
  )


def read(path: Path) -> str:
  """The text of a file, with one space between words. Raises UserError: unreadable, empty or no text."""
  try:
    with open(path, "rb") as file:
      content = file.read(MOST_BYTES + 1)
    words = text.regular(content.decode("utf-8-sig"))
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error
  if len(content) > MOST_BYTES:
    raise UserError(f"{path}: has more than {MOST_BYTES} bytes, which is no caption; shorten it")
  if not words:
    raise UserError(f"{path}: is empty; write the caption, or remove the image and this file")
  return words


def check_length(data: ConfigDict, size: int, where: str) -> None:
  """Raises UserError where a text of `size` bytes, which lies at `where`, is longer than data.text_length. With
  data.byte_pairs a text has fewer tokens than bytes, and `byte_pairs.learned` looks at them."""
  if not data.byte_pairs and size > data.text_length:
    raise UserError(
      f"{where} has a text of {size} bytes, and data.text_length={data.text_length}; set data.text_length={size} "
      "or shorten the text"
    )


def mirrored(data: ConfigDict, count: int, first: str = "") -> list[str]:
  """Remarks where data.flip or data.rotate moves images whose captions say left or right, `count` of them."""
  return [
    f"{count} captions say left or right, e.g. {first}, and data.{key}=true {does} their images; set data.{key}=false"
    for key, does in MOVES.items()
    if count and data[key]
  ]


def of_labels(data: ConfigDict, classes: Sequence[str]) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
  """The tokens of each label's words for data.captions=words, and remarks on them.

  The words are the names of the classes where they are known, else data.classes, else, of digits, numbers.
  Raises UserError: there are no names, or one is too long.
  """
  names = tuple(classes) or tuple(name for name in data.classes.split(",") if name)
  remarks: tuple[str, ...] = ()
  if not names and data.name in ("digits", "idx"):
    names = NUMBERS
    if data.name == "idx":
      remarks = (
        "data.captions=words: the labels are digits, zero to nine; if they are not, set data.classes to their names",
      )
  if not names:
    raise UserError(
      f"data.captions=words needs the names of the labels of data.name={data.name}; set data.classes to them, in their "
      "order, comma-separated, or put the images into a folder for each class"
    )
  words = [text.regular(name.replace("_", " ")) for name in names]
  for name, word in zip(names, words, strict=True):
    check_length(data, text.size(word), f"the class {name!r}")
  sided = [word for word in words if _SIDED.search(word)]
  remarks = (*remarks, *mirrored(data, len(sided), *sided[:1]))
  return tuple(text.encode(word, text.size(word)) for word in words), remarks


def of_label(known: Sequence[np.ndarray], label: int, name: str) -> np.ndarray:
  """The tokens of a label's words. Raises UserError: it has none. name: the data set."""
  if not 0 <= label < len(known):
    raise UserError(
      f"data.captions=words: data.name={name} has the label {label}, and there are names for 0 to {len(known) - 1}; "
      "set data.classes to all names, in their order, comma-separated"
    )
  return known[label]
