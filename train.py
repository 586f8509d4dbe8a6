"""Trains a variational autoencoder: `python train.py [--config FILE] [--workdir DIR] [--config.key=value ...]`."""

from vae_jax import cli


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_train(argv)
  import jax  # after parsing, so that --help and mistakes are answered at once

  from vae_jax.training import parallel
  from vae_jax.training.loop import train

  with parallel.processes(*args.processes):
    train(args.config, args.workdir)
  if jax.process_index() == 0:
    print(f"trained: {args.workdir}; next: python evaluate.py --workdir {args.workdir}")


if __name__ == "__main__":
  cli.run(main)
