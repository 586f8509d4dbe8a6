"""Captioned scenes: a picture of one or two groups of shapes, and the sentence that says what is in it.

A group is a number of equal shapes: "two small red circles". Two groups stand in a relation: "two small red circles
above a large blue square". Everything that a caption says can be found in its picture, and it says all but the places
of the shapes. So a model of images given texts can be scored by what is found in its images.

A picture is a function of (scene, seed): the seed draws the places, within what the caption says. Shapes never overlap
and never leave the picture.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from vae_jax.data import captions, text
from vae_jax.data.examples import Full
from vae_jax.errors import UserError

COUNTS = ("a", "two", "three")
SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star")
RELATIONS = ("left of", "above")
TURNED = {"right of": "left of", "below": "above"}  # other words for a relation, with the groups exchanged

SIDE = 32  # pixels of a picture, unless data.size says otherwise
BACKGROUND = (24, 24, 28)
RGB = ((225, 45, 40), (50, 175, 70), (50, 110, 240), (250, 215, 40), (165, 65, 200), (245, 245, 245))
STEPS = 8  # places that a shape's centre may have within a pixel, along each axis
# Parts of a picture's side: half the width of shapes, border, and space between shapes. Three large shapes fill it.
RADII, BORDER, SPACE = (0.085, 0.136), 0.02, 0.06
# A group is at least this many times as far from the other one along the relation's axis as across it.
CLEAR = 2.0
TWO_GROUPS = 0.75  # share of scenes with two groups

# Colours and shapes that meet only in the split `test`. Each of them meets others in training.
HELD_OUT = (("red", "triangle"), ("green", "star"), ("blue", "square"), ("yellow", "circle"))
# 28,200 scenes without these pairs have 56,280 captions, of which 50,000 pictures show about half: so `test_seen` has
# captions that are new, too. They are 150 MB, which fit into data.resident_mb. A slice such as train[:10000] is less.
SPLITS = {"train": 50_000, "validation": 2_000, "test": 2_000, "test_seen": 2_000}
LONGEST = len("three small yellow triangles right of three small purple triangles")
FACTORS = ("count", "size", "colour", "shape", "relation", "count_2", "size_2", "colour_2", "shape_2")
UNORDERED = frozenset(
  {"colour", "shape", "relation", "colour_2", "shape_2"}
)  # 0 of the second group's: there is none


class Group(NamedTuple):
  """Equal shapes: how many, 1 to 3, and words of `SIZES`, `COLOURS` and `SHAPES`."""

  number: int
  size: str
  colour: str
  shape: str


class Scene(NamedTuple):
  """One group, or two: the first is `left of` or `above` the second. The groups differ in more than the count."""

  groups: tuple[Group, ...]
  relation: str = ""


class Shape(NamedTuple):
  """A shape in a picture of side 1: its centre, rightwards and downwards, and half its width."""

  x: float
  y: float
  radius: float
  group: Group


def check(scene: Scene) -> None:
  """Raises UserError for what is no scene: other words or numbers, a relation too many or too few, twice one group."""
  for group in scene.groups:
    known = (range(1, len(COUNTS) + 1), SIZES, COLOURS, SHAPES)
    if not all(word in words for word, words in zip(group, known, strict=True)):
      raise UserError(
        f"{group}: give a number from 1 to {len(COUNTS)} and words of {', '.join((*SIZES, *COLOURS, *SHAPES))}"
      )
  if len(scene.groups) == 1 and not scene.relation:
    return
  if len(scene.groups) != 2 or scene.relation not in RELATIONS:
    raise UserError(
      f"a scene of {len(scene.groups)} groups with the relation {scene.relation!r}: give one group without, or two "
      f"with {' or '.join(RELATIONS)}"
    )
  if scene.groups[0][1:] == scene.groups[1][1:]:
    raise UserError(f"{scene}: its groups look alike and would be one; change a size, colour or shape")


# Words


def caption(scene: Scene, turned: bool = False) -> str:
  """The sentence of a scene. turned: names the second group first, with "right of" and "below"."""
  check(scene)
  names = [_name(group) for group in scene.groups]
  if len(names) == 1:
    return names[0]
  relation = scene.relation
  if turned:
    names, relation = names[::-1], next(word for word, of in TURNED.items() if of == relation)
  return f"{names[0]} {relation} {names[1]}"


def _name(group: Group) -> str:
  plural = "s" if group.number > 1 else ""
  return f"{COUNTS[group.number - 1]} {group.size} {group.colour} {group.shape}{plural}"


_GROUP = rf"({'|'.join(COUNTS)}) ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(s?)"
_CAPTION = re.compile(rf"{_GROUP}(?: ({'|'.join((*RELATIONS, *TURNED))}) {_GROUP})?")


def parse(words: str) -> Scene:
  """The scene of a caption, in either wording. Raises UserError for what is no caption of a scene."""
  match = _CAPTION.fullmatch(words)
  parts = match.groups() if match else ()
  found = [part for part in (parts[:5], parts[6:]) if part and part[0]]
  if not match or any((count == "a") != (plural == "") for count, *_, plural in found):
    raise UserError(
      f"{text.shown(words)} is no caption of a scene; write it as 'two small red circles above a large blue square'"
    )
  groups = [Group(COUNTS.index(count) + 1, *others) for count, *others, _ in found]
  if len(groups) == 1:
    return Scene((groups[0],))
  relation = parts[5]
  scene = (
    Scene(tuple(groups[::-1]), TURNED[relation]) if relation in TURNED else Scene(tuple(groups), relation)
  )
  check(scene)
  return scene


def factors(scene: Scene) -> Float[np.ndarray, " f"]:
  """What a scene is made of, float32 [9] in the order of `FACTORS`: places in the lists of words from 1; 0: none."""
  lists = (SIZES, COLOURS, SHAPES)
  numbers = [
    [g.number, *(1 + some.index(w) for some, w in zip(lists, g[1:], strict=True))] for g in scene.groups
  ]
  relation = 1 + RELATIONS.index(scene.relation) if scene.relation else 0
  second = numbers[1] if len(numbers) > 1 else [0, 0, 0, 0]
  return np.array([*numbers[0], relation, *second], np.float32)


# Pictures


def layout(scene: Scene, seed: int) -> list[Shape]:
  """Where the shapes of a scene are, in a picture of side 1: drawn by the seed, 0 to 2**64 - 1.

  Each of two groups has a half of the picture, which it fills along the border between them, one shape after another.
  """
  check(scene)
  draws = Draws(_PLACES, seed)
  two = len(scene.groups) == 2
  across = scene.relation == "above" or (not two and draws.below(2) == 0)  # along x
  placed = []
  for i, group in enumerate(scene.groups):
    radius = RADII[SIZES.index(group.size)]
    free = 1 - 2 * BORDER - 2 * radius * group.number - SPACE * (group.number - 1)
    steps = sorted(draws.uniform(0, free) for _ in range(group.number))
    along = [BORDER + radius + i * (2 * radius + SPACE) + step for i, step in enumerate(steps)]
    low, high = ((BORDER, 0.5 - SPACE / 2), (0.5 + SPACE / 2, 1 - BORDER))[i] if two else (BORDER, 1 - BORDER)
    beside = [draws.uniform(low + radius, high - radius) for _ in along]
    placed.append((along, beside))
  if two:
    placed = _cleared(placed)
  return [
    Shape(*((a, b) if across else (b, a)), RADII[SIZES.index(group.size)], group)
    for group, (along, beside) in zip(scene.groups, placed, strict=True)
    for a, b in zip(along, beside, strict=True)
  ]


def _cleared(placed: list[tuple[list[float], list[float]]]) -> list[tuple[list[float], list[float]]]:
  """Both groups moved towards the middle of the picture, as far as makes their relation clear."""
  middles = [((min(a) + max(a)) / 2, (min(b) + max(b)) / 2) for a, b in placed]
  along, beside = (abs(middles[0][i] - middles[1][i]) for i in (0, 1))
  share = 1 - min(1.0, beside / CLEAR / along) if along else 0.0
  return [
    ([x + share * (0.5 - middle) for x in a], b) for (a, b), (middle, _) in zip(placed, middles, strict=True)
  ]


def render(scene: Scene, side: int, seed: int) -> UInt8[np.ndarray, "h w 3"]:
  """The picture of a scene, uint8 [side, side, 3]. A pixel at an edge has the share of both colours that it covers.

  Places are rounded to 1/8 of a pixel.
  """
  picture = np.empty((side, side, 3), np.float32)
  picture[:] = BACKGROUND
  for shape in layout(scene, seed):
    (column, right), (row, down) = (divmod(round(at * side * STEPS), STEPS) for at in (shape.x, shape.y))
    cover = _cover(shape.group.shape, shape.radius * side, right, down)
    reach = len(cover) // 2
    rows = slice(max(row - reach, 0), min(row + reach, side))
    columns = slice(max(column - reach, 0), min(column + reach, side))
    first_row, first_column = rows.start - row + reach, columns.start - column + reach
    part = cover[first_row:, first_column:][: rows.stop - rows.start, : columns.stop - columns.start]
    picture[rows, columns] += part * (_RGB[shape.group.colour] - picture[rows, columns])
  return np.rint(picture).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def _cover(name: str, radius: float, right: int, down: int) -> np.ndarray:
  """How much of each pixel a shape covers, [n, n, 1]. Its centre is that of the array, moved by eighths of a pixel."""
  reach = int(radius) + 3
  at = np.arange(-reach, reach) + 0.5
  distance = _OUTLINES[name](at[None] - right / STEPS, at[:, None] - down / STEPS, radius)
  return np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]


# Outlines: about how far points lie outside of a shape (below 0: inside). Each shape lies in the square of half the
# width r about 0; their areas differ by less than their sizes do.


_RGB = {name: np.array(rgb, np.float32) for name, rgb in zip(COLOURS, RGB, strict=True)}


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
  return np.hypot(x, y) - r


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
  return np.maximum(np.abs(x), np.abs(y)) - 0.87 * r


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
  """With the corners (0, -r) and (+-r, r)."""
  slope = (2 * np.abs(x) - y - r) / np.sqrt(5)
  return np.maximum(slope, y - r)


# The five lines of a pentagram: a point lies in the star if it is beyond at most one of them.
_LINES = np.array([(np.sin(a), -np.cos(a)) for a in np.arange(5) * 2 * np.pi / 5])


def _star(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
  """A pentagram with a round body, so that small ones have one."""
  y = y - 0.1 * r
  outside = np.partition(_LINES[:, 0, None, None] * x + _LINES[:, 1, None, None] * y, 3, axis=0)[3]
  return np.minimum(outside - 1.05 * np.cos(2 * np.pi / 5) * r, np.hypot(x, y) - 0.5 * r)


_OUTLINES: dict[str, Callable[..., np.ndarray]] = {
  "circle": _circle,
  "square": _square,
  "triangle": _triangle,
  "star": _star,
}


# Data sets

_PLACES = len(SPLITS)  # of the streams of draws: those before it are of the scenes of splits


class Draws:
  """Random numbers of (stream, seed), which are those of no other pair. They are the same with every NumPy."""

  def __init__(self, stream: int, seed: int):
    self._left = np.random.Philox(key=np.array([stream, seed], np.uint64))

  def below(self, n: int) -> int:
    """Any of 0 .. n - 1."""
    return int(self.uniform(0, n))

  def uniform(self, low: float, high: float) -> float:
    return low + (high - low) * (int(self._left.random_raw()) >> 11) * 2.0**-53


class Example(NamedTuple):
  """A scene of a data set, the seed of its picture, and its caption."""

  scene: Scene
  seed: int
  caption: str


def example(split: str, index: int) -> Example:
  """The scene of a record. Each has the same chances: of two groups, of each word, and of each wording.

  Training has no scene with a pair of `HELD_OUT`, and `test` none without: `validation` and `test_seen` are as train.
  """
  stream = list(SPLITS).index(split)
  draws = Draws(stream, index)
  while True:
    scene = drawn(draws)
    if scene is not None and held_out(scene) == (split == "test"):
      return Example(scene, stream << 40 | index, caption(scene, turned=draws.below(2) == 1))


def held_out(scene: Scene) -> bool:
  """Whether a scene has a colour and a shape that do not meet in training."""
  return any((group.colour, group.shape) in HELD_OUT for group in scene.groups)


def drawn(draws: Draws) -> Scene | None:
  """Any scene, of all colours and shapes; None where both groups would look alike."""
  words: tuple[Sequence[Any], ...] = ((1, 2, 3), SIZES, COLOURS, SHAPES)
  groups = [Group(*(some[draws.below(len(some))] for some in words)) for _ in range(2)]
  if draws.uniform(0, 1) >= TWO_GROUPS:
    return Scene((groups[0],))
  relation = RELATIONS[draws.below(len(RELATIONS))]
  return None if groups[0][1:] == groups[1][1:] else Scene((groups[0], groups[1]), relation)


def splits(data: ConfigDict) -> dict[str, Callable[[], Full]]:
  """The splits of data.name=scenes, of pictures at data.size. Raises UserError: pictures that are not square."""
  side, width = data.size if tuple(data.size) != (0, 0) else (SIDE, SIDE)
  if side != width or side < SIDE:
    raise UserError(
      f"data.size={side},{width}: pictures of data.name=scenes are square and have at least {SIDE} x {SIDE} pixels, "
      f"below which shapes look alike; set it to {SIDE},{SIDE} or 64,64"
    )
  captions.check_length(data, LONGEST, "data.name=scenes")
  return {name: functools.partial(_split, name, n, side) for name, n in SPLITS.items()}


def _split(name: str, n: int, side: int) -> Full:
  def read(indices: Sequence[int]) -> list[dict[str, Any]]:
    return [_record(example(name, index), side) for index in indices]

  return Full(n, read, {"image": (side, side, 3)}, factors=FACTORS, unordered=UNORDERED)


def _record(found: Example, side: int) -> dict[str, Any]:
  return {
    "image": render(found.scene, side, found.seed),
    "text": text.encode(found.caption, text.size(found.caption)),
    "factors": factors(found.scene),
  }
