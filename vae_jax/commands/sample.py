"""Draws new images into one picture."""

from __future__ import annotations

from typing import Any

HELP = "draw new images: in one picture, or each in a file of a folder (--output folder/)"
EXAMPLE = "--workdir runs/mnist_vae --num 10000 --output digits/"
FLAGS = ("label", "num", "seed", "temperature", "output")
NEEDS = "sample"
OUTPUT = ".png"


def run(model: Any, args: Any) -> None:
  """Writes a grid of samples; of a family with labels, a row for each label unless --label names one."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable

  picture = evaluation.samples(model, args.num, args.seed, args.temperature, args.label)
  output = args.output or args.folder / f"sample{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, picture)
  print(f"wrote {printable(str(output))}")
