"""The contact sheet of a comparison: a detail of each image as input, best baseline, ours, original; a row an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax import pictures
from vae_jax.photos.baselines import NAMES, UNTOUCHED

CROP, CELL = 128, 256  # pixels of a detail on the contact sheet, and of its place there


class Panel(NamedTuple):
  """A cell of the contact sheet: column title, detail [h, w, c] in [0, 1], the line under it."""

  title: str
  detail: np.ndarray
  line: str


class Detail(NamedTuple):
  """The same detail of an image [h, w, c], as every method restores it, and the scores of the whole image."""

  name: str
  degraded: np.ndarray
  size: tuple[int, ...]  # of the whole degraded image
  outputs: Mapping[str, np.ndarray]
  clean: np.ndarray
  scored: Mapping[str, Mapping[str, float]]


def make_sheet(
  details: Sequence[Detail], mean: Mapping[str, Mapping[str, float | None]], channels: int, crop: int
) -> np.ndarray:
  """Draws the sheet, uint8 [H, W, 3]. Its baseline is the one with the highest mean PSNR. crop: as in `Task`."""
  metric = "psnr_y" if crop or channels == 1 else "psnr_rgb"
  others = {method: scores[metric] for method, scores in mean.items() if method not in ("ours", *UNTOUCHED)}
  known = {method: value for method, value in others.items() if value is not None}
  best = max(known, key=lambda method: known[method], default=None)
  caption = "PSNR of the whole image"
  if crop:
    caption += f", {'Y, ' if channels == 3 else ''}{crop} pixels of the border cropped"
  elif channels == 3:
    caption += ", RGB"
  return _draw([_make_row(detail, best, metric) for detail in details], caption)


def cut_details(
  name: str,
  degraded: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  clean: np.ndarray,
  scored: Mapping[str, Mapping[str, float]],
  factor: int,
) -> Detail:
  """Cuts the same detail out of input, outputs and original."""
  top, left, height, width = find_detail(clean, factor)

  def cut(image: np.ndarray, f: int = 1) -> np.ndarray:
    return image[top // f : (top + height) // f, left // f : (left + width) // f].copy()

  details = {method: cut(output) for method, output in outputs.items()}
  return Detail(name, cut(degraded, factor), degraded.shape, details, cut(clean), scored)


def _make_row(detail: Detail, baseline: str | None, metric: str) -> list[Panel]:
  """Makes a row of input, `baseline`, ours and original, with the PSNR of the whole image under each."""

  def decibels(method: str) -> str:
    return f"{detail.scored[method][metric]:.2f} dB"

  plain = next((m for m in UNTOUCHED if m in detail.outputs), None)
  line = decibels(plain) if plain else f"{detail.size[0]} x {detail.size[1]} pixels"
  panels = [Panel(plain or "input", detail.degraded, line)]
  ours = decibels("ours")
  if baseline:
    panels.append(Panel(NAMES.get(baseline, baseline), detail.outputs[baseline], decibels(baseline)))
    ours += f"  ({detail.scored['ours'][metric] - detail.scored[baseline][metric]:+.2f})"
  return [*panels, Panel("ours", detail.outputs["ours"], ours), Panel("original", detail.clean, detail.name)]


def find_detail(clean: np.ndarray, factor: int) -> tuple[int, int, int, int]:
  """Finds the detail with the highest variance of small patches: (top, left, height, width), multiples of `factor`."""
  h, w = clean.shape[:2]
  height, width = (max(min(CROP, n) // factor, 1) * factor for n in (h, w))
  grey = clean.mean(axis=-1, dtype=np.float64)
  side = 7
  variance = np.maximum(_box(np.square(grey), side) - np.square(_box(grey, side)), 0)
  # The root, so that one hard edge does not outweigh texture. A window holds the patches that lie inside it.
  score = _box(np.sqrt(variance), height - side + 1, width - side + 1)[::factor, ::factor]
  row, column = np.unravel_index(np.argmax(score), score.shape)
  return int(row) * factor, int(column) * factor, height, width


def _box(x: np.ndarray, rows: int, columns: int = 0) -> np.ndarray:
  """Averages over windows that lie inside: [h, w] -> [h - rows + 1, w - columns + 1]."""
  columns = columns or rows
  total = np.pad(x, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  window = total[rows:] - total[:-rows]
  return (window[:, columns:] - window[:, :-columns]) / (rows * columns)


def _draw(rows: Sequence[Sequence[Panel]], caption: str) -> np.ndarray:
  """Lays the panels out, uint8 [H, W, 3]: titles above the columns, a line under each detail, the caption below."""
  from PIL import Image, ImageDraw, ImageFont

  gap, title, line, foot = 12, 36, 30, 34
  # Whole pixels of the original: all panels of a row are as large as it.
  shapes = [
    tuple(n * max(1, CELL // max(row[-1].detail.shape[:2])) for n in row[-1].detail.shape[:2]) for row in rows
  ]
  step = CELL + gap
  width = gap + len(rows[0]) * step
  height = title + sum(shape[0] + line + gap for shape in shapes) + foot
  picture = Image.new("RGB", (width, height), (pictures.BACKGROUND,) * 3)
  text = ImageDraw.Draw(picture)
  large, small = ImageFont.load_default(18), ImageFont.load_default(15)
  bright, dim = (235,) * 3, (pictures.TEXT,) * 3
  for j, panel in enumerate(rows[0]):
    text.text((gap + j * step + CELL / 2, title / 2), panel.title, bright, large, anchor="mm")
  top = title
  for row, shape in zip(rows, shapes, strict=True):
    for j, panel in enumerate(row):
      left = gap + j * step
      pixels = pictures.grid(pictures.beside(panel.detail[None], shape), pad=0, scale=1)
      cell = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
      picture.paste(cell, (left + (CELL - cell.width) // 2, top))
      words = _shorten(panel.line, small, CELL)
      text.text((left + CELL / 2, top + shape[0] + line / 2), words, dim, small, anchor="mm")
    top += shape[0] + line + gap
  text.text((gap, height - foot / 2 - 2), caption, dim, small, anchor="lm")
  return np.array(picture)


def _shorten(words: str, font: Any, width: int) -> str:
  """Cuts the beginning off a long line: the end of a name says more. What the font lacks becomes "?"."""
  words = words.encode("ascii", "replace").decode()
  while font.getlength(words) > width and len(words) > 4:
    words = "..." + words.removeprefix("...")[1:]
  return words
