"""Scores how anomalous images are to a model: against other images (--against, --label), or your own (--input)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = (
  "score how anomalous images are: how well scores tell --against or --label from a split; or yours (--input)"
)
EXAMPLE = "--workdir runs/fashion_mnist_vae --against data/mnist"
FLAGS = (
  *("data_dir", "against", "label", "input", "background", "split", "num", "samples", "seed", "output"),
  "batch_size",
)
NEEDS = None  # a bound; `evaluation.anomalies` says more than that one is missing
OUTPUT = (".json",)


def run(model: Any, args: Any) -> None:
  """Writes the scores and, of a comparison, a picture beside them; prints a table.

  Raises UserError, after writing, where files of a folder could not be read.
  """
  from vae_jax import inference, pictures
  from vae_jax.errors import UserError, printable
  from vae_jax.evaluation import anomalies, suffix, write_json

  background = None if args.background is None else inference.load(args.background)
  how = {name: getattr(args, name) for name in ("samples", "batch_size", "seed", "num")}
  output = Path(args.output or args.folder / f"anomaly{suffix(args.asked)}.json")
  wrote, failed = [output], list[UserError]()
  if args.input:
    found, failed = anomalies.judge_files(model, args.input, args.split, background=background, **how)
    lines = anomalies.file_lines(found)
  else:
    left_out = model.config.data.get("without", ())  # the anomaly, where none is named
    label = left_out[0] if args.label is None and not args.against else args.label
    found, picture = anomalies.find_anomalies(
      model, args.split, against=args.against or (), label=label, background=background, **how
    )
    lines = anomalies.anomaly_lines(found)
    if picture is not None:
      wrote.append(output.with_suffix(".png"))
      pictures.save_png(wrote[-1], picture)
  write_json(output, found)
  print("\n".join(lines))
  print(printable(f"wrote {', '.join(map(str, wrote))}"))
  if failed:
    raise UserError(f"{output} lacks {len(failed)} files that could not be read, first {failed[0]}")
