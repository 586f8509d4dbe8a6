"""Draws new images above the training images that are nearest to them: does the model memorise?"""

from __future__ import annotations

from typing import Any

from vae_jax.commands.sample import one_text

HELP = (
  "draw new images above the nearest training images, and compare their distances with those of test images"
)
EXAMPLE = "--workdir runs/mnist_vae --num 16 --output nearest.png"
FLAGS = ("data_dir", "label", "text", "num", "seed", "temperature", "prior", "output", "batch_size")
NEEDS = "sample"
OUTPUT = (".png",)


def run(model: Any, args: Any) -> None:
  """Writes a picture with a column for each of `num` samples, and prints the median distances.

  Reconstructions of test images stand beside the samples, as they are as smooth.
  """
  import numpy as np

  from vae_jax import evaluation, pictures
  from vae_jax.errors import printable
  from vae_jax.evaluation import latent_space
  from vae_jax.types import seen

  config = model.config
  fields: dict[str, Any] = {"text": one_text(args)}
  if "label" in model.module.conditions:
    classes = config.model.classes
    fields["label"] = np.arange(args.num) % classes if args.label is None else args.label
  elif args.label is not None:
    fields["label"] = args.label
  prior = None if args.prior is None else model.fitted_prior(args.prior)
  if line := evaluation.prior_line(model, prior):
    print(line)
  drawn = np.asarray(model.sample(args.seed, args.num, args.temperature, prior=prior, **fields))
  compared = {"samples": drawn}
  if model.module.reconstructs:
    batch = evaluation.prepared(model, config.data.test, args.num, args.seed)
    compared["reconstructions of test images"] = np.asarray(
      model.reconstruct(seen(batch), **evaluation.condition(model, batch))
    )
    compared["test images"] = latent_space.stored(model, config.data.test, args.num)
  sizes = np.cumsum([len(x) for x in compared.values()])[:-1]
  found = latent_space.nearest(
    model, np.concatenate(list(compared.values())), config.data.train, args.batch_size
  )
  rows = found.images[: len(drawn)].swapaxes(0, 1)
  labels = ["sample", *(f"nearest {i + 1}" for i in range(len(rows)))]
  output = args.output or args.folder / f"neighbours{evaluation.suffix(args.asked)}.png"
  pictures.save_png(output, pictures.compare(drawn, *rows, labels=labels))
  print(f"wrote {printable(str(output))}")
  parts = np.split(found.distances[:, 0], sizes)
  medians = ", ".join(f"{name} {np.median(x):.4f}" for name, x in zip(compared, parts, strict=True))
  print(f"median distance to the nearest training image (root mean square of pixels in [0, 1]): {medians}")
