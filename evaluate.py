"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

import signal

if __name__ == "__main__":  # until `cli.run`, Ctrl-C ends this without a traceback
  signal.signal(signal.SIGINT, signal.SIG_DFL)

from vae_jax import cli  # noqa: E402


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_evaluate(argv)
  from vae_jax import commands, inference  # after parsing, so that --help and mistakes are answered at once

  command = commands.command(args.mode)
  model = inference.load(args.model, args.checkpoint)
  if args.data_dir:
    model.config.data.dir = args.data_dir
  if args.lpips:
    model.config.evaluation.lpips = args.lpips
  if command.NEEDS:
    model.require(command.NEEDS)
  command.run(model, args)


if __name__ == "__main__":
  cli.run(main)
