"""Config files: Python with a `get_config()`; they are run, so open only files that you trust."""

from __future__ import annotations

import difflib
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vae_jax.configuration.values import as_config, brief, every_key, owners, to_values
from vae_jax.errors import UserError, nearest
from vae_jax.models import FAMILIES


def load_config_file(path: str | Path) -> ConfigDict:
  """Runs the Python file's `get_config()`. Keys and types are checked; `validate` checks the values.

  Raises UserError: the file is missing, does not run, has no `get_config()`, or returns something else.
  """
  path = Path(path)
  if not _is_file(path):
    files = sorted({*path.parent.glob("*.py"), *Path("configs").glob("*.py")})
    hint = nearest(str(path), files, what="files") if files else "; give one with --config"
    raise UserError(f"there is no config file {str(path)!r}{hint}")
  namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
  try:
    exec(compile(path.read_bytes(), str(path), "exec"), namespace)  # an import could run a stale __pycache__
    get_config = namespace.get("get_config")
    if not callable(get_config):
      raise UserError(f"{path} has no function get_config(); write one that returns a changed base_config()")
    config = get_config()
    if not isinstance(config, ConfigDict):
      raise UserError(
        f"{path}: get_config() returned {type(config).__name__}; return a changed base_config()"
      )
    return as_config(to_values(config, f"{path}: "))
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    message = brief(" ".join(str(error).split()), 200)
    asked_for = _MISSING.match(message) if frames and "ml_collections" in frames[-1].filename else None
    fault = (
      _misspelt(asked_for[1] or asked_for[2]) if asked_for else f"{type(error).__name__}: {message}; fix it"
    )
    raise UserError(f"{where}: {fault}") from error


# How a ConfigDict complains of a key or section that it does not have, set or read.
_MISSING = re.compile(r"""\W*Key "(\w+)" does not exist|\W*(\w+)(?:\W+n?Did you mean|\W*$)""")


def _misspelt(name: str) -> str:
  """A config file's word that is no key or section, and those that it may have meant."""
  places: dict[str, list[str]] = {}  # of keys and sections by their last word
  for key in every_key():
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
      place = ".".join(parts[:end])
      if place not in (known := places.setdefault(parts[end - 1], [])):
        known.append(place)
  for place in places.get(name, ()):
    if 0 < len(families := owners(place)) < len(FAMILIES):
      return f"{place} is a key of {', '.join(families)} alone; begin with base_config({families[0]!r})"
  close = [place for word in difflib.get_close_matches(name, places, n=2) for place in places[word]]
  hint = f"did you mean {' or '.join(map(repr, close[:4]))}?" if close else "train.py --help lists all keys"
  return f"there is no config key {name!r} here; {hint}"


def _is_file(path: Path) -> bool:
  """`path.is_file()`; False too where the name is longer than any file's, or where it may not be looked at."""
  try:
    return path.is_file()
  except OSError:
    return False
