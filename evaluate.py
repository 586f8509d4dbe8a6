"""Scores, samples, reconstructs, restores with a trained run: `python evaluate.py --workdir DIR [--mode MODE]`."""

from pathlib import Path

from vae_jax import cli
from vae_jax.errors import printable


def main(argv: list[str] | None = None) -> None:
  args = cli.parse_evaluate(argv)
  import jax  # after parsing, so that --help and mistakes are answered at once

  from vae_jax import evaluation, inference, pictures
  from vae_jax.photos.score_table import table

  model = inference.load(args.model, args.checkpoint)
  if args.data_dir:
    model.config.data.dir = args.data_dir
  if args.lpips:
    model.config.evaluation.lpips = args.lpips
  if args.mode == "score":
    scores = evaluation.evaluate(
      model, args.folder, args.split, samples=args.samples, batch_size=args.batch_size, seed=args.seed
    )
    print(evaluation.summary(scores))
    print(f"wrote {args.folder}/metrics.json, reconstructions.png, samples.png")
    return
  how = {"samples": args.samples, "seed": args.seed, "tile": args.tile, "ensemble": args.ensemble}
  if args.mode == "restore":
    output = args.output or args.folder / "restored"
    report = evaluation.restore_photographs(model, args.input, output, **how)
    for path in report.written:
      print(f"wrote {printable(str(path))}")
    for line in report.remarks():
      print(line)
    report.check()
    return
  if args.mode == "benchmark":
    output = Path(args.output or args.folder / "benchmark.json")
    scores = evaluation.benchmark_folder(model, args.input[0], output, limit=args.num or 0, **how)
    print(f"{table(scores)}\nwrote {output} and {output.with_suffix('.png').name}")
    return
  if args.mode == "export":
    output = args.output or args.folder / "export"
    inference.export(model, output)
    print(f"wrote {output}: load it with vae_jax.load({str(output)!r})")
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
  output = args.output or args.folder / f"{args.mode}.png"
  pictures.save_png(output, picture)
  print(f"wrote {printable(str(output))}")


if __name__ == "__main__":
  cli.run(main)
