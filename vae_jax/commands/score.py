"""Scores a split into metrics.json, with pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

HELP = "score a split into metrics.json: ELBO, IWAE bound, PSNR, SSIM; and draw pictures"
EXAMPLE = "--workdir runs/mnist_vae --split test"
FLAGS = ("data_dir", "split", "samples", "batch_size", "seed", "lpips")
NEEDS = None
OUTPUT = ()


def run(model: Any, args: Any) -> None:
  """Writes metrics.json, reconstructions.png of a model that gives images back, samples.png of one that makes some.

  What is not the run's own test split, or not scored as by default, has a suffix to these names that says so."""
  from vae_jax import evaluation

  print(evaluation.summary(_scores(model, args, args.folder)))
  suffix = evaluation.suffix(args.asked)
  print(f"wrote {', '.join([f'{args.folder}/metrics{suffix}.json', *evaluation.drawn(model, suffix)])}")


def run_members(models: Iterable[Any], args: Any) -> None:
  """As `run`, of each of several runs that were trained together, in its own folder; and metrics.json of all."""
  from vae_jax import evaluation
  from vae_jax.configuration import to_values, varied

  key, found = varied(args.config)[0], []
  for model, folder in zip(models, args.members, strict=True):
    scores = _scores(model, args, folder / "evaluation")
    found.append((to_values(model.config)[key], scores))
    print(f"{folder}, {key} {found[-1][0]}: wrote {folder / 'evaluation'}", flush=True)
  path = args.folder / f"metrics{evaluation.suffix(args.asked)}.json"
  evaluation.write_json(path, evaluation.scores_of_members([scores for _, scores in found]))
  print(f"{evaluation.member_table(key, found)}\nwrote {path}")


def _scores(model: Any, args: Any, folder: Path) -> dict[str, Any]:
  from vae_jax import evaluation

  return evaluation.evaluate(
    model,
    folder,
    args.split,
    samples=args.samples,
    batch_size=args.batch_size,
    seed=args.seed,
    suffix=evaluation.suffix(args.asked),
  )
