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
  """As `run`, of each of several runs that were trained together, in its own folder; and metrics.json of all.

  Raises UserError where some of them are not there."""
  from vae_jax import evaluation
  from vae_jax.configuration import member_folder, to_values, varied
  from vae_jax.errors import UserError

  (key, values), found = varied(args.config), []
  if len(args.members) < len(values):
    raise UserError(
      f"{member_folder(args.model, len(args.members))} is not there, one of the {len(values)} runs that were trained "
      f"together; bring it back, or score each of the others alone, such as --workdir {member_folder(args.model, 0)}"
    )
  for model, folder in zip(models, args.members, strict=True):
    scores = _scores(model, args, folder / "evaluation")
    found.append((to_values(model.config)[key], scores))
    print(f"{folder}, {key} {found[-1][0]}: wrote {folder / 'evaluation'}", flush=True)
  path = args.folder / f"metrics{evaluation.suffix(args.asked)}.json"
  evaluation.write_json(path, evaluation.scores_of_members([scores for _, scores in found]))
  steps = [scores["step"] for _, scores in found]
  if len(set(steps)) > 1:
    print(
      f"note: checkpoints of steps {', '.join(map(str, steps))}: mean and deviation are of runs of these lengths"
    )
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
