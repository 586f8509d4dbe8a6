"""The files that evaluation leaves: their names say what was asked for, so that no result takes another one's place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.data.splits import parse_split
from vae_jax.errors import printable
from vae_jax.storage.files import write_bytes

# Keys of a request that change no result, or are in the name already.
UNNAMED = ("output", "batch_size", "tile", "statistics", "of")
LONGEST = 120  # characters of a suffix; longer ones end in a digest
# Keys of a file of scores that say what was scored, and by what.
IDENTITY = (
  "step",
  "data",
  "folder",
  "split",
  "examples",
  "digest",
  "iwae_samples",
  "seed",
  "lpips_network",
  "prior",
)


def suffix(asked: Mapping[str, Any]) -> str:
  """What a request differs in from the default one, for the names of its files: "_train-first-100_seed-1", or "".

  asked: the flags of evaluate.py that are not at their defaults. Paths get a short digest, as two folders may have one
  name. The default request, which has no suffix, is the run's own test split, scored as its config says.
  """
  parts = [_words(flag, value) for flag, value in asked.items() if flag not in UNNAMED]
  text = "".join(f"_{part}" for part in parts)
  return text if len(text) <= LONGEST else f"{text[:LONGEST]}-{_digest(text)}"


def _words(flag: str, value: Any) -> str:
  if flag == "data_dir":
    return _path_words([value])
  if flag in ("input", "against"):
    return _path_words(value) if flag == "input" else f"against-{_path_words(value)}"
  if flag in ("background", "mask", "ranker"):
    return f"{flag}-{_path_words([value])}"
  if flag == "box":
    return f"box-{value.replace(',', '-')}"
  if flag == "split":
    return _split_words(value)
  if flag == "checkpoint":
    return f"step-{value}" if isinstance(value, int) else str(value)
  if value is True:
    return flag
  value = " and ".join(value) if flag == "text" else value
  word = _plain(str(value))
  return f"{flag}-{word}" if word == str(value) else f"{flag}-{word}-{_digest(str(value))}"


def _path_words(paths: Sequence[str | Path]) -> str:
  places = [os.path.realpath(os.path.expanduser(path)) for path in paths]
  name = _plain(os.path.basename(places[0]))[:40] or "root"
  more = f"-and-{len(places) - 1}-more" if len(places) > 1 else ""
  return f"{name}{more}-{_digest(chr(0).join(places))}"


def _split_words(split: str) -> str:
  """'train[:100]' -> train-first-100; 'train[-5%:]' -> train-last-5-percent; 'a[1:2]' -> a-from-1-to-2."""
  name, bounds = parse_split(split)
  if bounds is None:
    return _plain(name)
  start, stop = (bound.replace("%", "-percent") for bound in bounds)
  if start.startswith("-") and not stop:
    return f"{_plain(name)}-last{start}"
  if stop and not start and not stop.startswith("-"):
    return f"{_plain(name)}-first-{stop}"
  words = [f"{word}-{bound}" for word, bound in (("from", start), ("to", stop)) if bound]
  return "-".join([_plain(name), *words]) if words else f"{_plain(name)}-all"


def _plain(text: str) -> str:
  """`text` as a part of a file's name on any system."""
  return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes whole or not at all; numbers that are not finite become null, and the names of what has them are listed.

  Reports on standard error where a file is replaced that holds the scores of something else: another checkpoint, or
  data that changed since.
  """
  bad = [k for k, v in content.items() if not _finite(v)]
  content = {k: _with_null(v) for k, v in content.items()} | ({"nonfinite": bad} if bad else {})
  text = json.dumps(content, indent=2, allow_nan=False) + "\n"
  changes = _changes(path, content)
  write_bytes(path, text.encode())
  if changes:
    print(printable(f"replaced {path}: {', '.join(changes)}"), file=sys.stderr)


def _finite(value: Any) -> bool:
  """Whether all numbers in JSON data are finite."""
  if isinstance(value, (Mapping, list, tuple)):
    return all(map(_finite, value.values() if isinstance(value, Mapping) else value))
  return not isinstance(value, float) or bool(np.isfinite(value))


def _with_null(value: Any) -> Any:
  """JSON data with None for numbers that are not finite."""
  if isinstance(value, Mapping):
    return {k: _with_null(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_with_null(v) for v in value]
  return None if isinstance(value, float) and not np.isfinite(value) else value


def _changes(path: Path, content: dict[str, Any]) -> list[str]:
  """In what the scores of a file differ from others, in words; nothing where that cannot be known."""
  try:
    before = json.loads(path.read_text())
    return [
      f"{name} was {before[name]}, is {content[name]}"
      for name in IDENTITY
      if name in before and name in content and before[name] != content[name]
    ]
  except (OSError, ValueError, TypeError, RecursionError):  # no such file, or none of ours
    return []
