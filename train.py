"""Trains a variational autoencoder: `python train.py [--config FILE] [--workdir DIR] [--config.key=value ...]`."""

from vae_jax import cli


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_train(argv)
  from vae_jax.training import parallel  # after parsing, so that --help and mistakes are answered at once
  from vae_jax.training.loop import train

  parallel.connect(*args.processes)
  train(args.config, args.workdir)
  print(f"trained: {args.workdir}; next: python evaluate.py --workdir {args.workdir}")


if __name__ == "__main__":
  cli.run(main)
