"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

from vae_jax.cli import run
from vae_jax.cli.evaluate import main

if __name__ == "__main__":
  run(main)
