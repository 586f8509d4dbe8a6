"""Trains a variational autoencoder: `python train.py [--config NAME] [--workdir DIR] [--config.key=value ...]`."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run`, Ctrl-C ends this without a traceback

from vae_jax.cli import run
from vae_jax.cli.train import main

if __name__ == "__main__":
  run(main)
