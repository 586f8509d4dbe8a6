"""Draws images completed from a part of them."""

from __future__ import annotations

from typing import Any

HELP = "draw images of a split, or yours (--input), completed from the part that the model is given"
EXAMPLE = "--workdir runs/mnist_completion --input my_digit.png --output completed.png"
FLAGS = ("data_dir", "split", "input", "num", "samples", "seed", "temperature", "output")
NEEDS = "complete"
OUTPUT = (".png",)


def run(model: Any, args: Any) -> None:
  """Writes a picture: from top to bottom, what is given of an image, draws, the completion without a draw, the guess of
  the deterministic network, the image."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable

  batch = evaluation.inputs(model, args.input, args.split, args.num, args.seed)
  output = args.output or args.folder / f"complete{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, evaluation.completions(model, batch, args.samples, args.seed, args.temperature))
  print(f"wrote {printable(str(output))}")
