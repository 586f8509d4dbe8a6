"""Trains a variational autoencoder: `python train.py [--config NAME] [--workdir DIR] [--config.key=value ...]`."""

from vae_jax.cli import run
from vae_jax.cli.train import main

if __name__ == "__main__":
  run(main)
