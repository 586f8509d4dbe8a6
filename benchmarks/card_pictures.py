"""Draws where a restoration model gains most over a baseline, and where it fails: the pictures of a model card.

    python benchmarks/card_pictures.py --pretrained superres_x2 --input data/bsds/test --output examples.png

Columns: the three parts (of different photographs) with the largest gain in squared error over 72 x 72 pixels, then the
three that are farthest from the clean image with the least gain: the largest squared error of the model, times its
ratio to the baseline's. Rows: what the model is given, the baseline, the model, one of its draws, the clean image.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.ndimage import uniform_filter

import vae_jax
from vae_jax import pictures
from vae_jax.data.degrade import make_degrade
from vae_jax.photos.baselines import make_baselines
from vae_jax.photos.cases import Task, eight_bits, list_cases, open_case

SIDE, ZOOM, EACH = 72, 2, 3


class Part(NamedTuple):
  """A part of a photograph, its score in the choice, and by how much its mean squared error is below the baseline's."""

  score: float
  gain: float
  rows: dict[str, np.ndarray]


def parts(clean: np.ndarray, outputs: dict[str, np.ndarray], baseline: str, factor: int) -> list[Part]:
  """The part with the largest gain, and the one that fails most."""
  half = SIDE // 2
  before, after = (
    uniform_filter(np.square(outputs[name] - clean).mean(axis=2), SIDE)[half:-half, half:-half]
    for name in (baseline, "model")
  )
  found = []
  for scores in (before - after, after * after / before):
    place = scores.argmax()
    y, x = (int(n) // factor * factor for n in np.unravel_index(place, scores.shape))

    def cut(image: np.ndarray, y: int = y, x: int = x) -> np.ndarray:
      scale = clean.shape[0] // image.shape[0]
      return image[y // scale : (y + SIDE) // scale, x // scale : (x + SIDE) // scale]

    gain = float((before - after).flat[place])
    found.append(Part(float(scores.max()), gain, {name: cut(image) for name, image in outputs.items()}))
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pretrained", required=True, help="name of a model, or the folder of a run")
  parser.add_argument("--input", required=True, type=Path, help="folder of clean photographs, or of pairs")
  parser.add_argument("--output", required=True, type=Path)
  parser.add_argument("--degrade", help="a chain in place of the model's own degradation")
  parser.add_argument("--num", type=int, default=40, help="how many photographs, spread over the folder")
  args = parser.parse_args()
  model = vae_jax.load(args.pretrained)
  degrade: Any = model.config.data.degrade
  if args.degrade:
    degrade = {"name": "chain", "chain": args.degrade}
  cases = list_cases(args.input)
  cases = cases[:: max(1, len(cases) // args.num)][: args.num]
  paired = cases[0].low is not None
  methods, _ = make_baselines(degrade, model.factor, paired)
  name = next(n for n in ("bicubic", "bm3d", "nlm", "input", "noisy") if n in methods)
  given = jax.jit(make_degrade(degrade))
  channels = model.input_shape[2]
  task = Task(degrade, given, channels, 0, paired, model.factor, None, 0, methods, [], 0)
  best: list[Part] = []
  worst: list[Part] = []
  for case in cases:
    opened = open_case(case, task)
    if isinstance(opened, str):
      raise SystemExit(f"{case.name}: {opened}")
    clean, degraded = opened
    outputs = {
      "input": degraded,
      name: methods[name].restore(degraded, task.sigma_for(clean, degraded), clean),
    }
    outputs["model"] = model.restore_image(degraded)
    if model.can("draw"):
      outputs["a draw"] = model.restore_image(degraded, 0)
    outputs["clean"] = clean
    high, low = parts(clean, {n: eight_bits(x) for n, x in outputs.items()}, name, model.factor)
    best.append(high)
    worst.append(low)
  shown = [part for group in (best, worst) for part in sorted(group, key=lambda part: -part.score)[:EACH]]
  labels = [n for n in shown[0].rows if n != "noisy"]  # it is the input
  rows = [np.stack([part.rows[n] for part in shown]) for n in labels]
  pictures.save_png(args.output, pictures.compare(*rows, columns=2 * EACH, scale=ZOOM, labels=labels))
  print(f"wrote {args.output}: {', '.join(f'{1e4 * part.gain:+.2f}' for part in shown)} (gain in MSE, 1e-4)")


if __name__ == "__main__":
  main()
