"""Draws an animation of walks through the latent space."""

from __future__ import annotations

from typing import Any

HELP = "draw an animation (.gif or .webp): walks through the latent space, from new image to new image"
EXAMPLE = "--workdir runs/mnist_vae --num 16 --output walk.gif"
FLAGS = ("label", "num", "seed", "temperature", "prior", "output")
NEEDS = "sample"
OUTPUT = (".gif", ".webp")


def run(model: Any, args: Any) -> None:
  """Writes an animation with `num` walks side by side."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable
  from vae_jax.evaluation import latent_space

  model.require("decode")
  prior = None if args.prior is None else model.fitted_prior(args.prior)
  if line := evaluation.prior_line(model, prior):
    print(line)
  frames = list(latent_space.walk(model, args.num, args.seed, args.temperature, args.label, prior))
  output = args.output or args.folder / f"walk{evaluation.suffix(args.asked)}.gif"
  pictures.save_animation(output, frames)
  print(f"wrote {printable(str(output))}")
