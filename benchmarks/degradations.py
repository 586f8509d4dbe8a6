"""Draws a photograph after each degradation, with the chain that made it, and measures what each step costs.

    python benchmarks/degradations.py --picture docs/images/degradations.png
    python benchmarks/degradations.py --times

Needs scikit-image for the photograph: Eileen Collins, by NASA, in the public domain. The times are milliseconds for 16
crops of 64 x 64 x 3 in one compiled call, the least of 100, without compilation.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_jax.data.degrade import make_degrade

SHOWN = (
  "",
  "noise 25",
  "camera 20 4 0.6",
  "jpeg 10 444",
  "jpeg 10 420",
  "blur 1.5",
  "blur 3 0.5",
  "motion 9",
  "sharpen 2",
  "down 3 nearest",
  "down 3 lanczos",
  "blur 1; down 2 box; noise 5; jpeg 40",
)
TIMED = (
  *("noise 0..50", "round", "down 2 bicubic", "down 2 bicubic|box|lanczos", "blur 2", "blur 0.2..2"),
  *(
    "blur 0.2..3 0.2..3",
    "motion 0..10",
    "sharpen 0..1",
    "jpeg 30..95 444",
    "jpeg 30..95",
    "jpeg 30..95 420|444",
  ),
  *("gamma 0.5..2", "linear", "srgb", "camera 0..10 0..3", "camera 0..10 0..3 0..1"),
  "blur 0.2..2 @0.5; down 2 bicubic|box|lanczos; noise 0..10; jpeg 30..95 420|444 @0.7; round",
)
SIDE, ZOOM, COLUMNS, MARGIN, LINE = 96, 2, 4, 6, 16


def degraded(image: np.ndarray, chain: str) -> np.ndarray:
  """`image` uint8 [h, w, 3] after a chain, uint8, at its size: smaller ones are enlarged pixel by pixel."""
  if chain:
    config = {"name": "chain", "chain": chain}
    result = np.asarray(make_degrade(config)(jax.random.key(3), image / np.float32(255)))
    image = np.rint(255 * np.clip(result, 0, 1)).astype(np.uint8)
  return np.asarray(Image.fromarray(image).resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.NEAREST))


def picture() -> Image.Image:
  from skimage import data

  image = data.astronaut()[74 : 74 + SIDE, 176 : 176 + SIDE]
  cell, rows = SIDE * ZOOM + MARGIN, -(-len(SHOWN) // COLUMNS)
  sheet = Image.new("RGB", (COLUMNS * cell + MARGIN, rows * (cell + LINE) + MARGIN), "white")
  pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
  for i, chain in enumerate(SHOWN):
    x, y = MARGIN + i % COLUMNS * cell, MARGIN + i // COLUMNS * (cell + LINE)
    sheet.paste(Image.fromarray(degraded(image, chain)), (x, y))
    label = chain.replace(" ", "  ") or "the photograph"  # the font has narrow spaces
    pen.text((x, y + SIDE * ZOOM + 2), label, fill="black", font=font)
  return sheet


def milliseconds(chain: str) -> float:
  images = np.random.default_rng(0).random((16, 64, 64, 3), dtype=np.float32)
  keys = jax.random.split(jax.random.key(0), 16)
  run = jax.jit(jax.vmap(make_degrade({"name": "chain", "chain": chain})))
  run(keys, images).block_until_ready()
  times = []
  for _ in range(100):
    start = time.perf_counter()
    run(keys, images).block_until_ready()
    times.append(time.perf_counter() - start)
  return 1000 * min(times)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--picture", type=Path, help="the PNG to write")
  parser.add_argument("--times", action="store_true", help="print what each step costs")
  flags = parser.parse_args()
  if not flags.picture and not flags.times:
    parser.error("give --picture FILE or --times")
  if flags.picture:
    picture().save(flags.picture, optimize=True)
  for chain in TIMED if flags.times else ():
    print(f"{milliseconds(chain):6.1f} ms  {chain}")


if __name__ == "__main__":
  main()
