"""Scores the images that a model makes, as a set, against those of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vae_jax.commands.sample import OPTIONS

HELP = (
  "score samples or reconstructions (--of), as a set, against a split: distances, precision, recall, coverage"
)
EXAMPLE = "--workdir runs/mnist_vae --of samples"
FLAGS = (
  *("data_dir", "split", "label", "num", "seed", "temperature", "prior", "network", "layer", "weights"),
  *("output", "batch_size", "of", "statistics", *OPTIONS),
)
NEEDS = None  # samples need an ability, reconstructions another: `image_sets.score` asks for it
OUTPUT = (".json",)

# The networks, and the layer of each that is looked at unless --layer names another.
LAYERS = {
  "vgg16": "relu4_3",
  "vgg16_bn": "relu4_3",
  "vgg19": "relu4_3",
  "vgg19_bn": "relu4_3",
  "alexnet": "relu5",
  "resnet50": "layer4",
  "squeezenet": "fire9",
  "inception_fid": "pool2048",
}


def run(model: Any, args: Any) -> None:
  """Writes the scores; prints them as a table."""
  from vae_jax import evaluation, image_sets
  from vae_jax.errors import printable

  prior = None if args.prior is None else model.fitted_prior(args.prior)
  if args.of == "samples" and (line := evaluation.prior_line(model, prior)):
    print(line)
  scores = image_sets.score(
    model,
    args.split,
    network=args.network,
    layer=args.layer or LAYERS[args.network],
    weights=args.weights,
    of=args.of,
    num=args.num,
    batch_size=args.batch_size,
    seed=args.seed,
    temperature=args.temperature,
    prior=prior,
    label=args.label,
    statistics=None if args.statistics is None else Path(args.statistics),
    options={name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None},
  )
  output = Path(args.output or args.folder / f"frechet_{args.of}{evaluation.suffix(args.asked)}.json")
  evaluation.write_json(output, scores)
  print(f"{image_sets.table(scores)}\nwrote {printable(str(output))}")
