"""Draws new images: into one picture, or each into a file of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "draw new images: in one picture, or each in a file of a folder (--output folder/)"
EXAMPLE = "--workdir runs/mnist_vae --num 10000 --output digits/"
OPTIONS = ("top_k", "top_p", "guidance", "candidates")  # of `TrainedVAE.sample`
FLAGS = ("label", "text", "num", "seed", "temperature", "prior", "ranker", "output", "batch_size", *OPTIONS)
NEEDS = "sample"
OUTPUT = (".png",)


def run(model: Any, args: Any) -> None:
  """Writes a grid of samples; of a family with labels, a column for each label unless --label names one; of a family
  with texts, of --text, or a row for each --text.

  An `output` that ends with "/" is a folder for single files.
  """
  from vae_jax import evaluation, inference, pictures
  from vae_jax.errors import printable

  prior = None if args.prior is None else model.fitted_prior(args.prior)
  if line := evaluation.prior_line(model, prior):
    print(line)
  if any(not text.strip() for text in args.text or ()):
    print("note: an empty --text says nothing: images are drawn as without a text")
  options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
  if args.ranker is not None:
    options["ranker"] = inference.load(args.ranker)
  if args.output and args.output.endswith("/"):
    folder = Path(args.output)
    how = {
      "label": args.label,
      "batch_size": args.batch_size,
      "prior": prior,
      "text": one_text(args),
      **options,
    }
    write_files(model, folder, args.num, args.seed, args.temperature, **how)
    print(f"wrote {args.num} images into {printable(str(folder))}")
    return
  if args.text is not None and len(args.text) > 1:
    picture = evaluation.samples_of_texts(
      model, args.text, args.num, args.seed, args.temperature, label=args.label, **options
    )
  else:
    options["text"] = one_text(args)
    picture = evaluation.samples(model, args.num, args.seed, args.temperature, args.label, prior, **options)
  output = args.output or args.folder / f"sample{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, picture)
  print(f"wrote {printable(str(output))}")


def one_text(args: Any) -> str | None:
  """The text of a request that takes one. Raises UserError: several."""
  from vae_jax.errors import UserError

  if args.text is not None and len(args.text) > 1:
    raise UserError(
      f"--text is given {len(args.text)} times; give it once, or let sample write one picture (--output NAME.png)"
    )
  return None if args.text is None else args.text[0]


def write_files(
  model: Any,
  folder: Path,
  num: int,
  seed: int,
  temperature: float,
  label: int | None,
  batch_size: int,
  prior: Any = None,
  **options: Any,
) -> None:
  """Writes `num` samples as 000000.png, 000001.png, ...; of a family with labels, 000000_label_0.png, ...: of `label`,
  else of each label in turn; of a family with texts, of `text`.

  The images are those of `model.sample(seed, num, temperature, prior=prior, **options)`, whatever the batch size.
  """
  import numpy as np

  from vae_jax import pictures
  from vae_jax.progress import FileProgress

  labelled = "label" in model.module.needs
  size, width = min(batch_size, num), max(6, len(str(num - 1)))
  with FileProgress() as progress:
    for start in range(0, num, size):
      progress.update(f"{num} samples", start, num)
      places = np.arange(start, start + size)
      labels: Any = places % model.config.model.classes if label is None and labelled else label
      # One size: compiled once.
      images = model.sample(seed, size, temperature, start=start, prior=prior, label=labels, **options)
      for i, image, of in zip(places, np.asarray(images), np.broadcast_to(labels, size), strict=True):
        if i < num:
          name = f"{i:0{width}}_label_{of}.png" if labelled else f"{i:0{width}}.png"
          pictures.save_png(folder / name, pictures.grid(image[None], pad=0, scale=1))
    progress.update(f"{num} samples", num, num)
