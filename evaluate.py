"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run`, Ctrl-C ends this without a traceback

from vae_jax.cli import run  # noqa: E402
from vae_jax.cli.evaluate import main  # noqa: E402

if __name__ == "__main__":
  run(main)
