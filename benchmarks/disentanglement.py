"""Trains a VAE with each objective and seed, with all else alike, and scores how its latents stand for factors.

    python benchmarks/disentanglement.py --output runs/disentanglement
    python benchmarks/disentanglement.py --output runs/two --only vae tcvae --seeds 2 training.steps=1000

Scores are those of `evaluate.py --mode disentangle` on data.test: MIG of draws from posteriors, SAP, DCI by a lasso and
the FactorVAE score; -ELBO in nats, and distortion and rate, say what an objective costs. The table has the mean over
seeds and, after +-, the standard deviation (of one run, not of the mean). `training.seed` is that of a run.

    vae         negative evidence bound
    beta_vae    KL times 4 (Higgins et al. 2017)
    capacity    100 |KL - C|, C from 0 to 20 nats over two thirds of the steps (Burgess et al. 2018: 1000 and 25)
    tcvae       plus 5 times the total correlation, as beta = 6 (Chen et al. 2018), by minibatch-weighted sampling
    factor_vae  plus 10 times the total correlation that a discriminator finds (Kim & Mnih 2018)
    dip_i       plus 10 times the covariances of means, 100 times their variances less 1 (Kumar et al. 2018)
    dip_ii      plus 10 times the covariances and variances of latents

The weights are of the size that the papers have for dSprites, and were not tuned.

cost: not measured yet; 6 to 7 minutes of one core a run with configs/sprites.py, so 4 hours for all with 5 seeds.

Runs are in OUTPUT/NAME_SEED, the rows in OUTPUT/rows.json. The same command goes on with a run that was stopped, and
skips those that are done.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import studies

import vae_jax
from vae_jax import evaluation
from vae_jax.cli.process import run

OBJECTIVES = {
  "vae": (),
  "beta_vae": ("objective.beta=4",),
  "capacity": ("objective.beta=100", "objective.capacity=20"),
  "tcvae": ("objective.total_correlation=5",),
  "factor_vae": ("objective.factor_vae.weight=10",),
  "dip_i": ("objective.dip=10",),
  "dip_ii": ("objective.dip=10", "objective.dip_kind=ii", "objective.dip_diagonal=1"),
}
SCORES = {  # name in a row: head of the table, digits
  "mig": ("MIG", 3),
  "sap": ("SAP", 3),
  "disentanglement": ("D", 3),
  "completeness": ("C", 3),
  "informativeness": ("I", 3),
  "factor_vae_score": ("FactorVAE", 3),
  "neg_elbo": ("-ELBO", 1),
  "distortion": ("distortion", 1),
  "rate": ("rate", 1),
}


def row_of(
  objective: str, training_seed: int, config: Path, words: list[str], folder: Path
) -> dict[str, Any]:
  """Trains with one objective and seed, and scores. Raises KeyboardInterrupt where the training was stopped."""
  chosen = vae_jax.config(config, [*words, *OBJECTIVES[objective], f"training.seed={training_seed}"])
  if objective == "capacity":
    chosen.objective.capacity_steps = max(1, 2 * chosen.training.steps // 3)
  model = studies.trained(chosen, folder / f"{objective}_{training_seed}")
  size = chosen.evaluation.batch_size
  found = vae_jax.evaluate(model, samples=0) | evaluation.factor_scores(
    model, chosen.data.test, batch_size=size
  )
  return {
    **{score: found.get(score) for score in SCORES},
    "factors": found["factors"],
    "mutual_information": found["mutual_information"],
    "absent": found.get("absent", {}),
  }


def table_of(rows: list[dict[str, Any]]) -> str:
  """The means and deviations over seeds as a Markdown table."""
  heads = ("objective", "seeds", *(head for head, _ in SCORES.values()))
  lines = []
  for name in OBJECTIVES:
    some = [row for row in rows if row["objective"] == name]
    if some:
      cells = [_cell([row[key] for row in some], digits) for key, (_, digits) in SCORES.items()]
      lines.append([name, str(len(some)), *cells])
  return studies.markdown(heads, lines)


def _cell(values: list[float | None], digits: int) -> str:
  known = np.array([value for value in values if value is not None])
  if len(known) < len(values):
    return "-"
  spread = f" +- {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
  return f"{known.mean():.{digits}f}{spread}"


def study(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Runs what is left to do, and returns all rows. Raises UserError: rows of another config or other words."""
  wanted = [{"objective": name, "training_seed": seed} for seed in range(args.seeds) for name in args.only]
  make = partial(row_of, config=args.config, words=args.words, folder=args.output)
  return studies.rows(args, wanted, make)


def parser() -> argparse.ArgumentParser:
  p = studies.parser(__doc__, OBJECTIVES, "OBJECTIVE")
  p.add_argument(
    "--config", default=Path("configs/sprites.py"), type=Path, help="of a family with objective.*"
  )
  p.add_argument("--seeds", default=5, type=int, help="training seeds 0, 1, ... (default 5)")
  return p


if __name__ == "__main__":
  run(lambda: print(table_of(study(parser().parse_args()))))
