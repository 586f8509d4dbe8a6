"""What the name of a split says: 'train[10%:]' -> which records."""

from __future__ import annotations

import re

from vae_jax.errors import UserError


def parse_split(split: str) -> tuple[str, tuple[str, str] | None]:
  """'train[10%:]' -> ('train', ('10%', '')); without brackets the bounds are None. Raises UserError."""
  match = re.fullmatch(r"([\w.-]+?)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
  if not match:
    raise UserError(
      f"split {split!r}: must look like 'train', 'train[:90%]', 'train[100:]' or 'train[10%:20%]'"
    )
  name, start, stop = match.groups()
  return name, (start or "", stop or "") if "[" in split else None


def slice_bounds(split: str, bounds: tuple[str, str] | None, n: int) -> tuple[int, int]:
  """The (start, stop) that `bounds` select out of n records, with 0 <= start < stop <= n.

  A percentage is n * p / 100 rounded down, so 'a[:p%]' and 'a[p%:]' share out a split for every p. Negative
  bounds count from the end.

  Raises:
    UserError: if nothing is selected, or a bound lies beyond the split.
  """

  def position(bound: str, default: int) -> int:
    if not bound:
      return default
    number = int(bound.rstrip("%"))
    limit = 100 if bound.endswith("%") else n
    if abs(number) > limit:
      raise UserError(f"split {split!r}: {bound} is out of range; there are {n} records")
    number += limit if bound.startswith("-") else 0
    return n * number // 100 if bound.endswith("%") else number

  start, stop = (position(bounds[0], 0), position(bounds[1], n)) if bounds else (0, n)
  if start >= stop:
    raise UserError(f"split {split!r}: selects none of the {n} records")
  return start, stop
