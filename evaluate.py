"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run`, Ctrl-C ends this without a traceback

from vae_jax.cli import run
from vae_jax.cli.evaluate import main

if __name__ == "__main__":
  run(main)
