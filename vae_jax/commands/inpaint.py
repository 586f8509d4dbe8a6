"""Completes images whose pixels are partly hidden, by a mask or a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "draw completions of images of a split, or yours (--input), whose pixels --mask or --box hides"
EXAMPLE = "--pretrained digits --prior mixture --input my_digit.png --box 0,14,28,14 --output completed.png"
FLAGS = (
  *("data_dir", "mask", "box", "split", "input", "label", "prior", "num", "samples", "steps", "seed"),
  *("output", "batch_size"),
)
NEEDS = "inpaint"
OUTPUT = (".png", ".json")


def run(model: Any, args: Any) -> None:
  """Writes a picture (what is given, completions, the image) and the figures beside it; prints them in short."""
  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable
  from vae_jax.evaluation import inpainting

  notes: list[str] = []
  if args.box is not None:
    mask = inpainting.box_mask(model, args.box)
  else:
    files = [file for file, _ in evaluation.own_files(args.input or ())][: args.num]
    mask, notes = inpainting.mask_file(model, Path(args.mask), files)
  batch = evaluation.inputs(model, args.input, args.split, args.num, args.seed, args.label)
  how = {name: getattr(args, name) for name in ("samples", "steps", "seed", "prior", "batch_size")}
  found, picture = inpainting.inpaint_images(model, batch, mask, **how)
  found["notes"] = notes + found["notes"]
  where = {"input": list(map(str, args.input))} if args.input else {"split": args.split}
  output = Path(args.output or args.folder / f"inpaint{evaluation.suffix(args.asked)}.png")
  wrote = [output.with_suffix(suffix) for suffix in (".png", ".json")]
  pictures.save_png(wrote[0], picture)
  evaluation.write_json(wrote[1], {**where, "box": args.box, "mask": args.mask, **found})
  print("\n".join(map(printable, inpainting.inpaint_lines(found))))
  print(printable(f"wrote {', '.join(map(str, wrote))}"))
