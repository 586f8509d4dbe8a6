"""What the commands share: the parser, types of values, suggestions for unknown flags."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from vae_jax.configuration import by_last_word
from vae_jax.configuration.chains import KEY, parse_chain
from vae_jax.errors import UserError

NO_ANSWERS: Mapping[str, str] = MappingProxyType({})


class Parser(argparse.ArgumentParser):
  """argparse with one line per error, a suggestion for an unknown flag, and help that the caller prints."""

  def __init__(self, prog: str, description: str, **kinds: Any) -> None:
    super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False, **kinds)
    self.add_argument("-h", "--help", action="store_true", help="print this and end")

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}; {self.prog} --help lists the flags")

  def parse(
    self,
    argv: Sequence[str],
    keys: Callable[[], Sequence[str]] = tuple,
    answers: Mapping[str, str] = NO_ANSWERS,
  ) -> argparse.Namespace:
    """The flags of `argv`.

    keys: gives the config keys that an unknown flag may have meant. answers: what to say about certain unknown flags.
    """
    args, unknown = self.parse_known_args(argv)
    if not unknown:
      return args
    flag = unknown[0].split("=")[0]
    word = flag.lstrip("-")
    if not flag.startswith("-"):
      self.error(f"unexpected argument {unknown[0]!r}")
    if word in answers:
      raise UserError(f"unknown flag {flag!r}; {answers[word]}")
    known = keys()
    names = {name: f"--config.{key}" for name, key in (by_last_word(known) | {k: k for k in known}).items()}
    flags = [option for option in self._option_string_actions if option.startswith("--")]
    names |= {option.removeprefix("--"): option for option in flags}
    close = difflib.get_close_matches(word[:80], names, n=1, cutoff=0.75)
    hint = f"; did you mean {names[close[0]]!r}?" if close else f"; known flags: {', '.join(sorted(flags))}"
    raise UserError(f"unknown flag {flag!r}{hint}")


def print_and_exit(text: str) -> NoReturn:
  """Prints help; ends with status 0."""
  try:
    print(text, end="", flush=True)
  except BrokenPipeError:  # `--help | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(0)


def path(text: str) -> str:
  """An argparse type: a path that need not exist, but that the system takes, names below it included. Expands `~`."""
  try:
    text = os.path.expanduser(text)
    os.lstat(os.path.join(text, "_" * 64))
  except (FileNotFoundError, NotADirectoryError):
    pass
  except OSError as error:
    raise argparse.ArgumentTypeError(f"{cut(text)} cannot be used ({error.strerror})") from error
  except ValueError as error:  # NUL, or what no file name can be encoded to
    raise argparse.ArgumentTypeError(f"{cut(text)} is no name of a file or folder") from error
  if not text:
    raise argparse.ArgumentTypeError("'' is no name of a file or folder")
  return text


def number(kind: type, least: int, most: int = 2**31 - 1) -> Callable[[str], Any]:
  """An argparse type: a number of type `kind`, at least `least` and at most `most`."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    if not least <= value <= most:
      what = "an integer" if kind is int else "a number"
      raise argparse.ArgumentTypeError(f"{cut(text)} must be {what} >= {least} and <= {most}")
    return value

  return parse


def checkpoint(text: str) -> str | int:
  """An argparse type: newest, best or a step."""
  if text in ("newest", "best"):
    return text
  try:
    return number(int, 0)(text)
  except argparse.ArgumentTypeError:
    raise argparse.ArgumentTypeError(f"{cut(text)} must be newest, best or a step") from None


def chain(text: str) -> str:
  """An argparse type: a chain of degradations (`configuration.chains`), its spaces made regular."""
  text = "; ".join(" ".join(step.split()) for step in text.split(";"))
  try:
    parse_chain(text)
  except UserError as error:
    raise UserError(str(error).replace(KEY, "--degrade")) from None
  return text


def cut(text: str) -> str:
  """`repr` of a text, cut short."""
  return repr(text if len(text) <= 80 else f"{text[:77]}...")


def box(text: str) -> str:
  """An argparse type: four whole numbers x,y,w,h, comma-separated."""
  parts = [part.strip() for part in text.split(",")]
  if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
    raise argparse.ArgumentTypeError(f"{cut(text)} must be x,y,w,h in pixels, such as 0,14,28,14")
  return ",".join(str(int(part)) for part in parts)


def units(text: str) -> str:
  """An argparse type: most, or whole numbers, comma-separated."""
  parts = ["most"] if text == "most" else [part.strip() for part in text.split(",")]
  if text != "most" and not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
    raise argparse.ArgumentTypeError(f"{cut(text)} must be most, or whole numbers such as 3,0,7")
  return ",".join(parts)
