"""The one exception that a person is meant to read, and what messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
  """Something that the user can fix: one line with the thing, its value and the remedy.

  `train.py` and `evaluate.py` print the line to standard error and end with status 2, without a traceback.
  """


def described(error: Exception) -> str:
  """An error of another package in words: its type and text, on one line of at most 300 characters."""
  return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def printable(text: str) -> str:
  """`text` on one line, with escapes for what a terminal would obey or is no Unicode, as a file's name can hold."""
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, known: Iterable[Any], *, what: str) -> str:
  """A suggestion to append to an error about an unknown `word`: "; did you mean X?", else all that are known."""
  import difflib

  known = [str(k) for k in known]
  close = difflib.get_close_matches(word, known, n=1, cutoff=0.65)
  if close:
    return f"; did you mean {close[0]!r}?"
  return f"; known {what}: {', '.join(sorted(known))}"


def missing(module: str, name: str, elsewhere: Mapping[str, str]) -> AttributeError:
  """The error of a name that a module lacks. `elsewhere`: what to use for names that other libraries have."""
  hint = f"; use {elsewhere[name]}" if name in elsewhere else ""
  return AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
