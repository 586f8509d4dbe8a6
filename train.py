"""Trains a variational autoencoder: `python train.py [--config FILE] [--workdir DIR] [--config.key=value ...]`."""

import signal

if __name__ == "__main__":  # until `cli.run`, Ctrl-C ends this without a traceback
  signal.signal(signal.SIGINT, signal.SIG_DFL)

from vae_jax import cli  # noqa: E402


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_train(argv)
  import jax  # after parsing, so that --help and mistakes are answered at once

  from vae_jax.progress import tell
  from vae_jax.training import parallel
  from vae_jax.training.loop import train

  with parallel.processes(*args.processes):
    train(args.config, args.workdir)
  if jax.process_index() == 0:
    tell(f"trained: {args.workdir}; next: python evaluate.py --workdir {args.workdir}")


if __name__ == "__main__":
  cli.run(main)
