"""Draws images along the principal directions of the latent space."""

from __future__ import annotations

from typing import Any

HELP = "draw images along the principal directions of the latents of a split, from the mean or from yours (--input)"
EXAMPLE = "--workdir runs/mnist_vae --num 8 --output directions.png"
FLAGS = ("data_dir", "split", "input", "label", "num", "seed", "output", "batch_size")
NEEDS = "decode"
OUTPUT = (".png",)
MOST = 2000  # images of the split


def run(model: Any, args: Any) -> None:
  """Writes a picture with a row for each of `num` directions; --input: one image to start from."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import UserError, printable
  from vae_jax.evaluation import latent_space

  model.require("encode")
  if args.input and (len(args.input) > 1 or args.input[0].is_dir()):
    named = " ".join(map(str, args.input))
    raise UserError(printable(f"--input {named}: --mode traverse starts from one image; give one image file"))
  if args.label is None and "label" in model.module.conditions:
    raise UserError(f"this run ({model.config.model.name}) needs a label for the images; give --label")
  images = evaluation.inputs(model, None, args.split, MOST, args.seed, args.label)
  known = latent_space.principal_directions(latent_space.encoded(model, images, args.batch_size), args.num)
  start = None
  if args.input:
    own = evaluation.inputs(model, args.input, args.split, 1, args.seed, args.label)
    start = latent_space.encoded(model, own, 1)[0]
  fields = {} if args.label is None else {"label": args.label}
  output = args.output or args.folder / f"traverse{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, latent_space.traversals(model, known, start, fields))
  print(f"wrote {printable(str(output))}")
