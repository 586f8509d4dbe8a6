"""Scores, samples, reconstructs, interpolates with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

from vae_jax import cli
from vae_jax.errors import UserError


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_evaluate(argv)
  import jax  # after parsing, so that --help and mistakes are answered at once

  from vae_jax import evaluation, inference, pictures

  model = inference.load(args.workdir, args.checkpoint)
  if args.mode == "score":
    scores = evaluation.evaluate(
      model, args.workdir, args.split, samples=args.samples, batch_size=args.batch_size, seed=args.seed
    )
    print(evaluation.summary(scores))
    print(f"wrote {args.workdir / 'evaluation'}/metrics.json, reconstructions.png, samples.png")
    return
  if args.mode == "sample":
    picture = pictures.grid(model.sample(jax.random.key(args.seed), args.num, args.temperature))
  elif args.mode == "reconstruct":
    picture = evaluation.reconstructions(
      model, evaluation.inputs(model, args.input, args.split, args.num, args.seed)
    )
  else:
    ends = evaluation.inputs(model, args.input, args.split, 2 * args.num, args.seed)
    picture = evaluation.interpolations(model, ends, args.method)
  output = args.output or args.workdir / "evaluation" / f"{args.mode}.png"
  try:
    pictures.save_png(output, picture)
  except OSError as error:
    raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
  print(f"wrote {output}")


if __name__ == "__main__":
  cli.run(main)
