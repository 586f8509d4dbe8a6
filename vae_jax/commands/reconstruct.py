"""Draws images above what the model makes of them."""

from __future__ import annotations

from typing import Any

HELP = "draw images of a split, or yours (--input), above what the model makes of them"
EXAMPLE = "--workdir runs/mnist_vae --input my_digit.png --output again.png"
FLAGS = ("data_dir", "split", "input", "label", "num", "seed", "output")
NEEDS = None
OUTPUT = (".png",)


def run(model: Any, args: Any) -> None:
  """Writes a picture of inputs and reconstructions."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable

  batch = evaluation.inputs(model, args.input, args.split, args.num, args.seed, args.label)
  output = args.output or args.folder / f"reconstruct{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, evaluation.reconstructions(model, batch))
  print(f"wrote {printable(str(output))}")
