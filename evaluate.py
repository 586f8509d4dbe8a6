"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

from vae_jax import cli


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_evaluate(argv)
  from vae_jax import commands, inference  # after parsing, so that --help and mistakes are answered at once
  from vae_jax.data import sources

  command = commands.command(args.mode)
  model = inference.load(args.model, args.checkpoint)
  if args.data_dir:
    sources.move(model.config.data, args.data_dir)
  if args.lpips:
    model.config.evaluation.lpips = args.lpips
  if command.NEEDS:
    model.require(command.NEEDS)
  command.run(model, args)


if __name__ == "__main__":
  cli.run(main)
