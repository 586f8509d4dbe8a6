"""Fits a density to the latents of the training images."""

from __future__ import annotations

from typing import Any

HELP = (
  "fit a density to the latents of the training images (--prior), which sample and frechet then draw from"
)
EXAMPLE = "--workdir runs/mnist_vae --prior mixture"
FLAGS = ("data_dir", "prior", "components", "seed", "batch_size")
NEEDS = "encode"
OUTPUT = ()


def run(model: Any, args: Any) -> None:
  """Writes the prior and its report beside the run, in priors/; prints the report as a table."""
  import sys

  from vae_jax import evaluation
  from vae_jax.errors import printable

  found = evaluation.fit_prior(
    model, args.prior, components=args.components, batch_size=args.batch_size, seed=args.seed
  )
  path = evaluation.save_prior(model, found)
  print(evaluation.prior_table(found.report))
  for remark in found.remarks:
    print(printable(f"note: {remark}"), file=sys.stderr)
  print(f"wrote {printable(str(path))}: --prior {args.prior} draws from it (sample, frechet)")
