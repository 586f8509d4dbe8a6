"""Gives images an attribute that two folders of examples show, and takes it away."""

from __future__ import annotations

from typing import Any

HELP = "give images of a split an attribute and take it away: --input a folder of examples with it, and one without"
EXAMPLE = "--workdir runs/faces --input smiling/ serious/ --output smile.png"
FLAGS = ("data_dir", "split", "input", "label", "num", "seed", "output", "batch_size")
NEEDS = "decode"
OUTPUT = (".png",)
MOST = 1000  # examples of a folder


def run(model: Any, args: Any) -> None:
  """Writes a picture with a row for each of `num` images of the split."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import UserError, printable
  from vae_jax.evaluation import latent_space

  model.require("encode")
  folders = args.input or ()
  if len(folders) != 2:
    raise UserError(
      f"--mode attribute needs two folders of examples, not {len(folders)}; give --input WITH WITHOUT the attribute"
    )
  present, absent = (
    latent_space.encoded(
      model, evaluation.inputs(model, [folder], "", MOST, args.seed, args.label), args.batch_size
    )
    for folder in folders
  )
  batch = evaluation.inputs(model, None, args.split, args.num, args.seed, args.label)
  means = latent_space.encoded(model, batch, args.batch_size)
  output = args.output or args.folder / f"attribute{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, latent_space.attribute(model, batch, means, present, absent))
  print(
    f"wrote {printable(str(output))}: {len(present)} examples with the attribute, {len(absent)} without; columns: the "
    f"image, then {', '.join(f'{s:+g}' if s else '0' for s in latent_space.STRENGTHS)} times the attribute"
  )
