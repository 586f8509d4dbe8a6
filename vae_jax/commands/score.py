"""Scores a split into metrics.json, with pictures beside it."""

from __future__ import annotations

from typing import Any

HELP = "score a split into metrics.json: ELBO, IWAE bound, PSNR, SSIM; and draw pictures"
EXAMPLE = "--workdir runs/mnist_vae --split test"
FLAGS = ("split", "samples", "batch_size", "seed", "lpips")
NEEDS = None
OUTPUT = None


def run(model: Any, args: Any) -> None:
  """Writes metrics.json, reconstructions.png of a model that gives images back, samples.png of one that makes some."""
  from vae_jax import evaluation

  scores = evaluation.evaluate(
    model, args.folder, args.split, samples=args.samples, batch_size=args.batch_size, seed=args.seed
  )
  print(evaluation.summary(scores))
  print(f"wrote {', '.join([f'{args.folder}/metrics.json', *evaluation.drawn(model)])}")
