"""Restores your photographs."""

from __future__ import annotations

from typing import Any

HELP = "restore your photographs (--input), of any size: enlarge or denoise, as the model was trained to"
EXAMPLE = "--pretrained superres_x2 --input photo.jpg --output restored/"
FLAGS = ("input", "output", "scale", "samples", "seed", "temperature", "tile", "ensemble", "sigma")
NEEDS = "restore"
OUTPUT = ()


def run(model: Any, args: Any) -> None:
  """Writes the restored files, with a line for each as it is finished; reports what was skipped.

  model: None for one that fits each photograph.
  """
  from vae_jax import evaluation
  from vae_jax.errors import printable
  from vae_jax.progress import tell

  output = args.output or args.folder / "restored"
  how = {"samples": args.samples, "seed": args.seed, "tile": args.tile, "ensemble": args.ensemble}
  how["temperature"] = args.temperature
  how["written"] = lambda path: tell(f"wrote {printable(str(path))}")
  if model is None:
    report = evaluation.restore_each_by_its_model(args.input, output, scale=args.scale, **how)
  else:
    how["sigma"] = None if args.sigma is None else args.sigma / 255
    report = evaluation.restore_photographs(model, args.input, output, name=args.pretrained or "", **how)
  for line in report.remarks():
    print(line)
  report.check()
