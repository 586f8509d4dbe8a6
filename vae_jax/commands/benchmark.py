"""Scores a folder of clean photographs, degraded and restored, beside baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "score a folder of clean photographs (--input), degraded and restored, beside baselines: PSNR, SSIM"
EXAMPLE = "--pretrained superres_x2 --input photographs/ --output scores.json"
FLAGS = (
  "input",
  "degrade",
  "num",
  "samples",
  "seed",
  "temperature",
  "ensemble",
  "lpips",
  "output",
  "tile",
  "sigma",
)
NEEDS = "restore"
OUTPUT = (".json",)


def run(model: Any, args: Any) -> None:
  """Writes the scores and a contact sheet; prints the table. Raises UserError where pictures were not scored."""
  from vae_jax import evaluation
  from vae_jax.errors import UserError
  from vae_jax.photos.score_table import table

  output = Path(args.output or args.folder / f"benchmark{evaluation.suffix(args.asked)}.json")
  how = {
    "degrade": args.degrade,
    "samples": args.samples,
    "seed": args.seed,
    "temperature": args.temperature,
    "tile": args.tile,
    "ensemble": args.ensemble,
    "sigma": None if args.sigma is None else args.sigma / 255,
  }
  scores = evaluation.benchmark_folder(model, args.input[0], output, limit=args.num or 0, **how)
  print(f"{table(scores)}\nwrote {output} and {output.with_suffix('.png').name}")
  if scores["skipped"]:
    raise UserError(f"{len(scores['skipped'])} pictures were not scored, as listed; convert or remove them")
