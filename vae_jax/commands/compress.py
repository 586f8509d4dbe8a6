"""Compresses images without loss: of a split, or yours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import numpy as np

HELP = "compress images of a split, or yours (--input), without loss into one file, by bits-back coding"
EXAMPLE = "--workdir runs/mnist_vae --output digits.bb"
FLAGS = ("data_dir", "input", "split", "num", "seed", "output")
NEEDS = None  # `check_compresses` says more than one ability would
OUTPUT = (".bb",)


def run(model: Any, args: Any) -> None:
  """Writes the file, which was decoded again and compared, and its report as JSON beside it; prints a table."""
  from vae_jax import evaluation
  from vae_jax.errors import printable
  from vae_jax.storage.files import write_bytes

  evaluation.check_compresses(model)
  levels = _of_files(model, args) if args.input else _of_split(model, args)
  content, report = evaluation.compress_images(model, levels, seed=args.seed)
  output = Path(args.output or args.folder / f"compress{evaluation.suffix(args.asked)}.bb")
  write_bytes(output, content)
  evaluation.write_json(output.with_suffix(".json"), report)
  print("\n".join(evaluation.compression_table(report)))
  print(f"wrote {printable(str(output))}: decoded again, bit for bit; and {output.with_suffix('.json').name}")


def _of_split(model: Any, args: Any) -> np.ndarray:
  """The images of a split as the model is scored on them, as levels."""
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.data import pipeline

  source: Any = evaluation.open_split(model, args.split)
  total = min(args.num or len(source), len(source))
  batches = evaluation.stream(model, pipeline.First(source, total), min(args.batch_size, total))
  found: list[np.ndarray] = []
  for _, ready, mask in evaluation.prepared_batches(model, batches, args.seed):
    images = np.asarray(ready["image"])[mask]
    found.append(evaluation.levels_of(model, images, first=sum(map(len, found))))
  return np.concatenate(found)


def _of_files(model: Any, args: Any) -> np.ndarray:
  """A person's images as levels. Raises UserError for one that cannot be kept as it is."""
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.errors import UserError

  files = evaluation.own_files(args.input)[: args.num]
  if not files:
    raise UserError(f"--input {args.input[0]}: no images there; give files or a folder")
  images = np.stack([evaluation.exact_image(model, file) for file, _ in files])
  return evaluation.levels_of(model, images.astype(np.float32) / 255)
