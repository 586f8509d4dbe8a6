"""Scores whether single latents stand for the factors that images were made from, into disentangle.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "score latents by the factors of a split's images (data.name=sprites, dsprites, npz): MIG, SAP, DCI, FactorVAE"
EXAMPLE = "--workdir runs/sprites --output scores.json"
FLAGS = ("data_dir", "split", "num", "seed", "output", "batch_size")
NEEDS = "encode"
OUTPUT = (".json",)


def run(model: Any, args: Any) -> None:
  """Writes the scores of at most `num` images of the split, and prints them."""
  from vae_jax import evaluation
  from vae_jax.errors import printable

  most = {} if args.num is None else {"num": args.num}
  scores = evaluation.factor_scores(model, args.split, batch_size=args.batch_size, seed=args.seed, **most)
  output = Path(args.output or args.folder / f"disentangle{evaluation.suffix(args.asked)}.json")
  evaluation.write_json(output, scores)
  print(evaluation.factor_lines(scores))
  print(f"wrote {printable(str(output))}")
