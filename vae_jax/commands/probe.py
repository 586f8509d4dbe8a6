"""Scores what latents or codes tell of labels, by a linear probe and by clusters, into probe.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "score what latents or codes tell of labels: a linear probe and k-means, beside those of pixels"
EXAMPLE = "--workdir runs/mnist_vae --num 2000 --output labels.json"
FLAGS = ("data_dir", "split", "num", "seed", "output", "batch_size")
NEEDS = None  # latents or codes: `evaluation.label_probes` asks for one of both
OUTPUT = (".json",)


def run(model: Any, args: Any) -> None:
  """Writes the scores of a split's images, by what is fitted to the training images, and prints them."""
  from vae_jax import evaluation
  from vae_jax.errors import printable

  scores = evaluation.probe_labels(
    model, args.split, num=args.num, batch_size=args.batch_size, seed=args.seed
  )
  output = Path(args.output or args.folder / f"probe{evaluation.suffix(args.asked)}.json")
  evaluation.write_json(output, scores)
  print("\n".join(map(printable, evaluation.probe_lines(scores))))
  print(f"wrote {printable(str(output))}")
