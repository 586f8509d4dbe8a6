"""The contact sheet of a comparison: a detail of each image as input, baseline, ours and original, a row an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax import pictures
from vae_jax.photos.baselines import NAMES

CROP, CELL = 128, 256  # pixels of a detail on the contact sheet, and of its place there


class Panel(NamedTuple):
  """A cell of the contact sheet: column title, detail [h, w, c] in [0, 1], the line under it."""

  title: str
  detail: np.ndarray
  line: str


def make_caption(channels: int, crop: int) -> str:
  """Says which PSNR the sheet shows."""
  words = "PSNR of the whole image"
  if crop:
    return f"{words}, {'Y, ' if channels == 3 else ''}{crop} pixels of the border cropped"
  return f"{words}, RGB" if channels == 3 else words


def make_row(
  name: str,
  degraded: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  clean: np.ndarray,
  scored: Mapping[str, Mapping[str, float]],
  factor: int,
) -> list[Panel]:
  """Cuts the same detail out of input, baseline, ours and original, with the PSNR of the whole image under each."""
  top, left, height, width = find_detail(clean, factor)
  metric = "psnr_rgb" if factor == 1 and clean.shape[-1] == 3 else "psnr_y"

  def cut(image: np.ndarray, f: int = 1) -> np.ndarray:
    return image[top // f : (top + height) // f, left // f : (left + width) // f].copy()

  def decibels(method: str) -> str:
    return f"{scored[method][metric]:.2f} dB"

  plain = next((m for m in ("noisy", "input") if m in outputs), None)
  line = decibels(plain) if plain else f"{degraded.shape[0]} x {degraded.shape[1]} pixels"
  panels = [Panel(plain or "input", cut(degraded, factor), line)]
  baseline = next((m for m in outputs if m not in ("ours", plain)), None)
  ours = decibels("ours")
  if baseline:
    panels.append(Panel(NAMES.get(baseline, baseline), cut(outputs[baseline]), decibels(baseline)))
    ours += f"  ({scored['ours'][metric] - scored[baseline][metric]:+.2f})"
  return [*panels, Panel("ours", cut(outputs["ours"]), ours), Panel("original", cut(clean), name)]


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


def draw_sheet(rows: Sequence[Sequence[Panel]], caption: str) -> np.ndarray:
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
