"""What a config key is: its default, its meaning, and what its value must be. Every key is a `Key` in one dict, beside
the code that serves it; `vae_jax.configuration` puts them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
  """What a value must be: in words that follow "must be", and as a test."""

  words: str
  holds: Callable[[Any], bool]


class Key(NamedTuple):
  """A default (its type is the key's type), what the key means, and what its value must be."""

  default: Any
  meaning: str
  rule: Rule | None = None


Keys = dict[str, Key]


def one_of(*choices: Any) -> Rule:
  return Rule(" | ".join(map(str, choices)), lambda v: v in choices)


def between(least: float, most: float) -> Rule:
  return Rule(f">= {least:g} and <= {most}", lambda v: least <= v <= most)


def counted(most: int) -> Rule:
  """A number of things that are held in memory or built one by one: what is above `most` would end in neither."""
  return Rule(f"> 0 and <= {most}", lambda v: 0 < v <= most)


def words(text: str) -> tuple[str, ...]:
  """The parts of a comma-separated list."""
  return tuple(word.strip() for word in text.split(",") if word.strip())


def number(text: str) -> float | None:
  """The finite number that a text is, or None."""
  try:
    found = float(text)
  except ValueError:
    return None
  return found if math.isfinite(found) else None


WIDEST, DEEPEST, LONGEST_SIDE, MOST_PICTURES = 2**16, 16, 2**12, 2**16

ABOVE_0 = Rule("> 0", lambda v: v > 0)
MIN_0 = Rule(">= 0", lambda v: v >= 0)
BELOW_1 = Rule(">= 0 and < 1", lambda v: 0 <= v < 1)
NAME = Rule("text that is not empty", lambda v: bool(v.strip()))
NAMES = Rule("comma-separated names", lambda v: bool(words(v)))
NUMBERS = Rule("comma-separated numbers", lambda v: all(number(w) is not None for w in v.split(",") if v))
LABELS = Rule("labels >= 0, comma-separated", lambda v: all(label >= 0 for label in v))
WIDTHS = Rule(
  f"one or more widths > 0, at most {DEEPEST} of at most {WIDEST}",
  lambda v: 0 < len(v) <= DEEPEST and min(v) > 0 and max(v) <= WIDEST,
)
SIZE = Rule(
  f"0,0 or height,width > 0 and <= {LONGEST_SIDE}",
  lambda v: len(v) == 2 and (v == (0, 0) or (min(v) > 0 and max(v) <= LONGEST_SIDE)),
)
TEXT_BYTES = 257  # tokens of a text: padding, and bytes plus 1; then come pairs of tokens
PAIRS = Rule(
  f"two integers for each pair: tokens from 1 to {TEXT_BYTES - 1}, or of a pair before it, {TEXT_BYTES} and on",
  lambda v: len(v) % 2 == 0 and all(0 < token < TEXT_BYTES + i // 2 for i, token in enumerate(v)),
)
SIGMA = Rule(
  "learned | optimal | a number > 0",
  lambda v: v in ("learned", "optimal") or ((n := number(v)) is not None and n > 0),
)
