"""How uncertain each pixel of a restoration is, as a map that can be read."""

from __future__ import annotations

import numpy as np


def uncertainty_picture(deviation: np.ndarray) -> np.ndarray:
  """Draws a map of standard deviations so that it can be read.

  Dark is certain, bright uncertain: CIELAB lightness is linear in the deviation, so equal steps look equal, also in
  grey. Beside it a bar with numbers in grey levels of 255, from 0 to 1, 2, 3 or 5 times a power of ten that 99.9 %
  of the pixels do not exceed; the rest, "+", are as bright as the end of the bar. Below, mean and largest value.
  Small maps are enlarged, each pixel to a square.

  deviation: float [h, w], in units of the [0, 1] range. Returns uint8 [H, W, 3].
  """
  from PIL import Image, ImageDraw, ImageFont

  levels = np.asarray(deviation, np.float32) * 255
  top = _round_number(float(np.percentile(levels, 99.9)))
  scale = max(1, -(-256 // max(levels.shape)))
  height, width = scale * levels.shape[0], scale * levels.shape[1]

  # Also to be read where a large map is shrunk to a screen.
  size = max(14, min(max(height, width) // 40, 160))
  font = ImageFont.load_default(size)
  more = "+" if levels.max() > top else ""
  ticks = [(i / 5, f"{top * i / 5:g}{more if i == 5 else ''}") for i in range(6)]
  lines = [
    "standard deviation in grey levels of 255",
    f"mean {float(levels.mean()):.3g}, largest {float(levels.max()):.3g}",
  ]
  text_width = round(max(font.getlength(line) for line in lines))
  tick_width = round(max(font.getlength(label) for _, label in ticks))
  bar_height = max(height, 8 * size)
  full_width = max(width + 3 * size + tick_width, text_width) + 2 * size
  canvas = Image.new("RGB", (full_width, bar_height + (4 + 3 * len(lines)) * size // 2), (255, 255, 255))
  for first in range(0, len(levels), 64):  # a large map takes little more memory than the canvas
    shown = _colours(levels[first : first + 64] / top).repeat(scale, axis=0).repeat(scale, axis=1)
    canvas.paste(Image.fromarray(shown), (size, size + scale * first))
  del levels
  left = size + width + size
  ramp = _colours(np.linspace(1, 0, bar_height, dtype=np.float32)[:, None]).repeat(size, axis=1)
  canvas.paste(Image.fromarray(ramp), (left, size))
  draw = ImageDraw.Draw(canvas)
  for part, label in ticks:
    y = size + round((1 - part) * (bar_height - 1))
    draw.line([(left + size, y), (left + size + size // 3, y)], fill=0, width=max(1, size // 12))
    draw.text((left + size + size // 2, y), label, fill=0, font=font, anchor="lm")
  for i, line in enumerate(lines):
    draw.text((size, bar_height + 2 * size + 3 * i * size // 2), line, fill=0, font=font)
  return np.asarray(canvas)


def _round_number(value: float) -> float:
  """Returns the least of 1, 2, 3, 5 times a power of ten that is not below `value`; 1 for 0."""
  if value <= 0:
    return 1.0
  power = 10.0 ** np.floor(np.log10(value))
  return float(next(step * power for step in (1, 2, 3, 5, 10) if step * power >= value * (1 - 1e-6)))


def _colours(values: np.ndarray) -> np.ndarray:
  """[h, w] in [0, 1], clipped -> uint8 [h, w, 3]: from black over violet and red to pale yellow.

  A helix in CIELAB (D65): lightness 3 to 96, linear; hue 260 to 460 degrees; everywhere inside sRGB.
  """
  t = np.linspace(0, 1, 256)
  lightness, hue, chroma = 3 + 93 * t, np.deg2rad(260 + 200 * t), 70 * np.sin(np.pi * t) ** 1.2
  fy = (lightness + 16) / 116
  f = np.stack([fy + chroma * np.cos(hue) / 500, fy, fy - chroma * np.sin(hue) / 200], axis=-1)
  xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.95047, 1.0, 1.08883)
  to_rgb = np.array(
    (
      (3.2404542, -1.5371385, -0.4985314),
      (-0.9692660, 1.8760108, 0.0415560),
      (0.0556434, -0.2040259, 1.0572252),
    )
  )
  linear = np.clip(xyz @ to_rgb.T, 0, 1)
  encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  table = np.floor(encoded * 255 + 0.5).astype(np.uint8)
  return table[np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)]
