"""Draws paths from one image to another."""

from __future__ import annotations

from typing import Any

HELP = "draw images on a path between the latents of two images"
EXAMPLE = "--workdir runs/mnist_vae --output between.png"
FLAGS = ("data_dir", "split", "input", "label", "num", "seed", "method", "output")
NEEDS = "encode"
OUTPUT = (".png",)


def run(model: Any, args: Any) -> None:
  """Writes a picture with a row for each pair of images."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable

  ends = evaluation.inputs(model, args.input, args.split, 2 * args.num, args.seed, args.label, alike=True)
  output = args.output or args.folder / f"interpolate{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, evaluation.interpolations(model, ends, args.method))
  print(f"wrote {printable(str(output))}")
