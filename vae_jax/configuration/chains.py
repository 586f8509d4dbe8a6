"""The grammar of `data.degrade.chain`: degradations one after another, with values that are drawn once per image.

  blur 0.2..2 @0.5; down 2 bicubic|box|lanczos; noise 0..10; jpeg 30..95 420|444 @0.7; round

Steps are separated by ";", words by spaces: NAME VALUE... [@P]. A VALUE is a number, a range LO..HI (uniform) or a
choice A|B|C (equal chances). With @P the step happens with probability P. `vae_jax/data/degrade/chains.py` runs it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from vae_jax.errors import UserError, nearest, printable
from vae_jax.keys import Rule, between, number

KEY = "data.degrade.chain"
LONGEST = 64  # steps

FILTERS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
SUBSAMPLINGS = ("420", "444")
# Where the blocks of a JPEG lie: as in a file, or as in a part that was cut out of one.
GRIDS = ("aligned", "anywhere")


class Range(NamedTuple):
  """A number drawn uniformly from [low, high]."""

  low: float
  high: float


Value = tuple[float, ...] | tuple[str, ...] | Range  # what a VALUE may be: one of these, or within


class Step(NamedTuple):
  """A degradation by name, its values in the order of `STEPS`, and the probability that it happens to an image."""

  name: str
  values: tuple[Value, ...]
  probability: float


class Wanted(NamedTuple):
  """A VALUE of a step: its name, what it must be, and what it is where it is left out (None: it must be given).

  allowed: the words, or the rule that every number keeps. fixed: neither a range nor a choice.
  """

  name: str
  allowed: tuple[str, ...] | Rule
  default: Value | None = None
  fixed: bool = False


_LEVELS, _PIXELS = between(0, 255), between(0, 100)
_WHOLE = Rule("a whole number >= 2 and <= 64", lambda v: v == int(v) and 2 <= v <= 64)

STEPS: dict[str, tuple[Wanted, ...]] = {
  "noise": (Wanted("SIGMA", _LEVELS),),
  "round": (),
  "down": (Wanted("FACTOR", _WHOLE, fixed=True), Wanted("FILTER", FILTERS)),
  "blur": (Wanted("SIGMA", _PIXELS), Wanted("SIGMA2", _PIXELS, ())),
  "motion": (Wanted("LENGTH", _PIXELS),),
  "sharpen": (Wanted("AMOUNT", between(0, 10)), Wanted("RADIUS", _PIXELS, (1.0,))),
  "jpeg": (
    Wanted("QUALITY", between(1, 100)),
    Wanted("SUBSAMPLING", SUBSAMPLINGS, ("420",)),
    Wanted("GRID", GRIDS, ("aligned",)),
  ),
  "gamma": (Wanted("G", between(0.1, 10)),),
  "linear": (),
  "srgb": (),
  "camera": (Wanted("SHOT", _LEVELS), Wanted("READ", _LEVELS), Wanted("BLUR", _PIXELS, (0.0,))),
}


@functools.lru_cache(maxsize=64)
def parse_chain(text: str) -> tuple[Step, ...]:
  """The steps of a chain. Raises UserError, one line that names the step, the value and what is allowed."""
  parts = text.split(";")
  if not text.strip():
    raise UserError(
      f"data.degrade.name=chain needs steps in {KEY}; set it, for instance to 'noise 0..25; round'"
    )
  if len(parts) > LONGEST:
    raise UserError(f"{KEY} has {len(parts)} steps; at most {LONGEST} are allowed")
  steps = tuple(_step(part, f"{KEY}: step {i}, {_quoted(part)}") for i, part in enumerate(parts, 1))
  downs = [i for i, step in enumerate(steps, 1) if step.name == "down"]
  if len(downs) > 1:
    raise UserError(f"{KEY}: steps {downs[0]} and {downs[1]} are both down; give one, with the whole FACTOR")
  return steps


def usage(name: str) -> str:
  """How a step is written, such as "jpeg QUALITY [SUBSAMPLING]"."""
  return " ".join([name, *(w.name if w.default is None else f"[{w.name}]" for w in STEPS[name])])


def _step(text: str, where: str) -> Step:
  name, *words = text.split() or [""]
  if not name:
    raise UserError(f"{where} is empty; leave out the ';' before or after it")
  if name not in STEPS:
    raise UserError(f"{where}: {_quoted(name)} is not a step{nearest(name, STEPS, what='steps')}")
  probability = 1.0
  if words and words[-1].startswith("@"):
    probability = _probability(words.pop(), where)
    if name == "down":
      raise UserError(f"{where}: down has no probability, as all images keep one size; leave out the '@'")
  wanted = STEPS[name]
  least = sum(w.default is None for w in wanted)
  if not least <= len(words) <= len(wanted):
    raise UserError(f"{where} has {len(words)} values; write {usage(name)}")
  values = [_value(word, w, where) for word, w in zip(words, wanted, strict=False)]
  return Step(name, (*values, *(w.default or () for w in wanted[len(words) :])), probability)


def _probability(word: str, where: str) -> float:
  found = number(word[1:])
  if found is None or not 0 < found <= 1:
    raise UserError(f"{where}: {_quoted(word)} must be '@' and a probability > 0 and <= 1, such as @0.5")
  return found


def _value(text: str, wanted: Wanted, where: str) -> Value:
  allowed = wanted.allowed
  words = text.split("|")
  if not isinstance(allowed, Rule):
    if any(word not in allowed for word in words):
      raise UserError(f"{where}: {wanted.name}={_quoted(text)} must be one or more of {'|'.join(allowed)}")
    return tuple(words)
  low, dots, high = text.partition("..")
  numbers = [number(word) for word in ([low, high] if dots else words)]
  found = tuple(n for n in numbers if n is not None and allowed.holds(n))
  what = (
    allowed.words if wanted.fixed else f"a number {allowed.words}, or a range LO..HI or choice A|B of such"
  )
  if len(found) < len(numbers) or (wanted.fixed and len(found) > 1):
    raise UserError(f"{where}: {wanted.name}={_quoted(text)} must be {what}")
  if not dots:
    return found
  if found[0] > found[1]:
    raise UserError(f"{where}: {wanted.name}={_quoted(text)} must be a range LO..HI with LO below HI")
  return Range(*found) if found[0] < found[1] else found[:1]


def _quoted(text: str) -> str:
  text = printable(" ".join(text.split()))
  return f"'{text if len(text) <= 60 else text[:57] + '...'}'"
