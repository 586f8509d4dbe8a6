"""Draws images along the principal directions of the latent space, or along single latents."""

from __future__ import annotations

from typing import Any

HELP = (
  "draw images along the principal directions of the latents of a split, or single latents (--units), from the mean or "
  "from yours (--input); .gif or .webp: an animation"
)
EXAMPLE = "--workdir runs/mnist_vae --num 8 --output directions.png"
FLAGS = ("data_dir", "split", "input", "label", "num", "units", "seed", "output", "batch_size")
NEEDS = "decode"
OUTPUT = (".png", ".gif", ".webp")
MOST = 2000  # images of the split


def run(model: Any, args: Any) -> None:
  """Writes a picture with a row for each of `num` directions, or an animation; --input: one image to start from."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import UserError, printable
  from vae_jax.evaluation import latent_space

  model.require("encode")
  if args.input and (len(args.input) > 1 or args.input[0].is_dir()):
    named = " ".join(map(str, args.input))
    raise UserError(printable(f"--input {named}: --mode traverse starts from one image; give one image file"))
  if args.label is None and "label" in model.module.conditions:
    raise UserError(f"this run ({model.config.model.name}) needs a label for the images; give --label")
  chosen = [] if args.units in (None, "most") else [int(unit) for unit in args.units.split(",")]
  if chosen and "num" in args.asked:
    raise UserError(f"--num {args.num} has no effect on the units that --units names; leave one of both out")
  images = evaluation.inputs(model, None, args.split, MOST, args.seed, args.label)
  means = latent_space.encoded(model, images, args.batch_size)
  start = None
  if args.input:
    own = evaluation.inputs(model, args.input, args.split, 1, args.seed, args.label)
    start = latent_space.encoded(model, own, 1)[0]
  if args.units is None:
    known = latent_space.principal_directions(means, args.num)
  else:
    known = latent_space.unit_directions(means, chosen, args.num)
    start = start if start is None else latent_space.centred(known, start)
  fields = {} if args.label is None else {"label": args.label}
  output = args.output or args.folder / f"traverse{evaluation.suffix(args.asked)}.png"
  if str(output).lower().endswith(".png"):
    pictures.save_png(output, latent_space.traversals(model, known, start, fields))
  else:
    pictures.save_animation(output, list(latent_space.swings(model, known, start, fields)))
  print(f"wrote {printable(str(output))}")
