"""Config files: Python with a `get_config()`; they are run, so open only files that you trust."""

from __future__ import annotations

import ast
import contextlib
import difflib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vae_jax import resources
from vae_jax.configuration.values import as_config, at_home, brief, every_key, owners, to_values
from vae_jax.errors import UserError
from vae_jax.models import FAMILIES

DEFAULT_CONFIG = "mnist_vae"
LOCAL = Path("configs")  # in the current folder
FORMER_NAME = "vae_jax.config"  # of this package


def config_files() -> dict[str, Path]:
  """The configs by name: those that come with vae_jax, then those in the folder configs/ of the current folder, which
  hide others of the same name."""
  folders = (resources.folder("configs"), LOCAL)
  return {path.stem: path for folder in folders for path in sorted(folder.glob("*.py"))}


def find_config_file(name: str | Path) -> Path:
  """The file of a config: `name` is its path or, as in `config_files`, its name. Raises UserError: there is none."""
  path = Path(at_home(str(name)))
  if _is_file(path):
    return path
  known = config_files()
  if path.parent in (Path(), LOCAL) and path.stem in known and path.suffix in ("", ".py"):
    return known[path.stem]
  close = difflib.get_close_matches(path.stem[:80], known, n=1, cutoff=0.7)
  hint = f"did you mean {close[0]!r}?" if close else "'vae-jax configs' lists those that have a name"
  what = "config" if path.parent == Path() and not path.suffix else "config file"
  raise UserError(f"there is no {what} {str(path)!r}; {hint}")


def summary_of(path: Path) -> str:
  """The first line of a config file's docstring. The file is not run."""
  try:
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]
  except (SyntaxError, ValueError, OSError):
    return ""


def load_config_file(path: str | Path) -> ConfigDict:
  """Runs the `get_config()` of a Python file, or of a config by name. Keys and types are checked; `validate` checks
  the values.

  Raises UserError: the file is missing, does not run, has no `get_config()`, or returns something else.
  """
  path = find_config_file(path)
  namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
  try:
    with _importable_by_its_former_name():
      # An import could run a stale __pycache__.
      exec(compile(path.read_bytes(), str(path), "exec"), namespace)
      get_config = namespace.get("get_config")
      if not callable(get_config):
        raise UserError(
          f"{path} has no function get_config(); write one that returns a changed base_config()"
        )
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


@contextlib.contextmanager
def _importable_by_its_former_name() -> Iterator[None]:
  """Lets old config files import from `vae_jax.config`, which is a function now; the package is not changed."""
  before = sys.modules.get(FORMER_NAME)
  sys.modules[FORMER_NAME] = sys.modules["vae_jax.configuration"]
  try:
    yield
  finally:
    if before is None:
      sys.modules.pop(FORMER_NAME, None)
    else:
      sys.modules[FORMER_NAME] = before


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
  hint = f"did you mean {' or '.join(map(repr, close[:4]))}?" if close else "--help of train lists all keys"
  return f"there is no config key {name!r} here; {hint}"


def _is_file(path: Path) -> bool:
  """`path.is_file()`; False too where the name is longer than any file's, or where it may not be looked at."""
  try:
    return path.is_file()
  except OSError:
    return False
