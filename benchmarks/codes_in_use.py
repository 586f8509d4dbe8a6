"""Trains a config once for each quantiser, with all else alike, and tells how many codes the test split uses.

    python benchmarks/codes_in_use.py --config configs/mnist_vq_vae.py --output runs/codes_mnist \
      training.steps=1000 data.name=idx data.dir=data/mnist data.train='train[:50000]' data.validation='train[50000:]'

Each row has the share of codes in use, the perplexity over the size of one codebook (1: all are used equally often; a
mean over codebooks), PSNR in dB and SSIM, of the reconstructions of data.test. With two groups or levels an image has
twice as many codes.

Runs are in OUTPUT/NAME, the rows in OUTPUT/rows.json. The same command goes on with a run that was stopped, and skips
those that are done.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import studies

import vae_jax
from vae_jax.cli.process import run

# All with a vocabulary of 512, or two codebooks of 512. FSQ and LFQ have no model.code_dim, so it must be the default.
# The temperature of Gumbel-softmax reaches its end after half of the steps.
QUANTISERS = {
  "codebook": (),
  "codebook, gradients": ("model.codebook=gradient",),
  "cosine": ("model.distance=cosine",),
  "rotation": ("model.gradient=rotation",),
  "product": ("model.groups=2",),
  "residual": ("model.levels=2",),
  "fsq": ("model.quantiser=fsq", "model.code_dim=64", "model.fsq_levels=8,8,8"),
  "lfq": ("model.quantiser=lfq", "model.code_dim=64"),
  "gumbel": ("model.quantiser=gumbel",),
}


def row_of(quantiser: str, config: Path, words: list[str], folder: Path) -> dict[str, Any]:
  """Trains with one quantiser, and scores. Raises KeyboardInterrupt where the training was stopped."""
  chosen = vae_jax.config(config, [*words, *QUANTISERS[quantiser]])
  if quantiser == "gumbel":
    chosen.model.temperature_steps = max(1, chosen.training.steps // 2)
  model = studies.trained(chosen, folder / quantiser.replace(", ", "_"))
  scores, size = vae_jax.evaluate(model, samples=0), model.module.codes
  return {
    "codes_an_image": sum(math.prod(level) for level in model.module.layout),
    "codebook": size,
    "used": scores["codes_used"],
    "perplexity": scores["perplexity"],
    "perplexity_share": scores["perplexity"] / size,
    "psnr": scores["psnr"],
    "ssim": scores["ssim"],
  }


def table_of(rows: list[dict[str, Any]]) -> str:
  """The rows as a Markdown table."""
  heads = ("quantiser", "codes an image", "of", "used", "perplexity", "of the most", "PSNR, dB", "SSIM")
  lines = []
  for row in rows:
    cells = [row["quantiser"], str(row["codes_an_image"]), str(row["codebook"]), f"{row['used']:.1%}"]
    cells += [f"{row['perplexity']:.0f}", f"{row['perplexity_share']:.2f}"]
    lines.append([*cells, f"{row['psnr']:.2f}", f"{row['ssim']:.3f}"])
  return studies.markdown(heads, lines)


def study(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Runs what is left to do, and returns all rows. Raises UserError: rows of another config or other words."""
  make = partial(row_of, config=args.config, words=args.words, folder=args.output)
  return studies.rows(args, [{"quantiser": name} for name in args.only], make)


def parser() -> argparse.ArgumentParser:
  p = studies.parser(__doc__, QUANTISERS, "QUANTISER")
  p.add_argument("--config", required=True, type=Path, help="a config of vq_vae, vq_model or vq_vae_2")
  return p


if __name__ == "__main__":
  run(lambda: print(table_of(study(parser().parse_args()))))
