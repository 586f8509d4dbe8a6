"""Averages the parameters of two runs of one model, as a folder that `vae_jax.load` takes.

    python benchmarks/average.py --first runs/denoise_real --second runs/denoise_polyu --share 0.3 --output averaged

A model that was fine-tuned on few photographs does better on such and worse on others. Between the two there is often
more to gain than to lose (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

import vae_jax
from vae_jax.inference import export


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--first", required=True, help="a run")
  parser.add_argument(
    "--second", required=True, help="a run that started from the first; gives the description"
  )
  parser.add_argument("--share", required=True, type=float, help="of the second, 0 to 1")
  parser.add_argument("--output", required=True, help="a folder")
  parser.add_argument("--bits", type=int, default=8, help="of the kernels' values: 32, 16 or 8 (default 8)")
  args = parser.parse_args()
  if not 0 <= args.share <= 1:
    raise SystemExit(f"--share={args.share}: must be 0 to 1")
  first, second = vae_jax.load(args.first), vae_jax.load(args.second)
  if jax.tree.map(np.shape, first.run.variables) != jax.tree.map(np.shape, second.run.variables):
    raise SystemExit(f"{args.first} and {args.second} have parameters of other names or shapes")
  variables = jax.tree.map(
    lambda a, b: (1 - args.share) * np.asarray(a) + args.share * np.asarray(b),
    first.run.variables,
    second.run.variables,
  )
  second.run = second.run._replace(variables=variables)
  export(second, args.output, args.bits)
  print(f"wrote {args.output}")


if __name__ == "__main__":
  main()
