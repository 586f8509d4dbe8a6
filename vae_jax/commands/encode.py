"""Encodes images into a file of latents or codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import numpy as np

HELP = "encode images of a split, or yours (--input), into a .npz file: latents (mean, logvar) or codes"
EXAMPLE = "--workdir runs/mnist_vae --split train --output latents.npz"
FLAGS = ("data_dir", "input", "split", "num", "label", "seed", "output", "batch_size")
NEEDS = None  # latents or codes: `run` asks for one of both
OUTPUT = (".npz",)

Rows = dict[str, "np.ndarray"]  # arrays of one length


def run(model: Any, args: Any) -> None:
  """Writes the arrays `mean` and `logvar`, float32 [n, latents], or `codes`, int32 [n, positions]; `label` where there
  are labels; and for each row `index`, its record in the split, and `name`, its file, where it has one.

  Raises UserError, after writing, where files of a folder could not be read.
  """
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.errors import UserError, printable
  from vae_jax.storage.files import write_whole

  if not model.can("tokens"):
    model.require("encode")
  failed: list[UserError] = []
  parts = list(_of_files(model, args, failed) if args.input else _of_split(model, args))
  if not parts:
    raise (
      failed[0] if failed else UserError(f"--input {args.input[0]}: no images there; give files or a folder")
    )
  rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  output = Path(args.output or args.folder / f"encode{evaluation.suffix(args.asked)}.npz")
  write_whole(output, lambda file: np.savez(file, **rows))  # type: ignore[arg-type]
  shown = ", ".join(f"{name} {list(x.shape)}" for name, x in rows.items())
  print(f"wrote {printable(str(output))}: {shown}")
  if failed:
    raise UserError(f"{output} lacks {len(failed)} files that could not be read, first {failed[0]}")


def _encoded(model: Any, images: Any, fields: dict[str, Any]) -> Rows:
  """What the model makes of images, on the host."""
  import numpy as np

  if model.can("tokens"):
    return {"codes": np.asarray(model.tokens(images, **fields))}
  found = model.encode(images, **fields)
  return {"mean": np.asarray(found.mean), "logvar": np.asarray(found.logvar)}


def _of_split(model: Any, args: Any) -> Iterator[Rows]:
  """The rows of a split, in order, batch by batch; --label chooses records."""
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.data import pipeline
  from vae_jax.errors import UserError
  from vae_jax.progress import FileProgress
  from vae_jax.types import seen

  source: Any = evaluation.open_split(model, args.split)
  total = min(args.num or len(source), len(source))
  chosen: Any = range(total)
  names = np.asarray(source.names)
  if args.label is not None:
    if "label" not in source[0]:
      raise UserError(f"--label {args.label}: the records of {source.name} have no labels; leave it out")
    chosen = evaluation.with_label(source, total, args.label, alike=False)[:total]
    source, total = pipeline.Chosen(source, chosen), len(chosen)
  size = min(args.batch_size, total)
  batches = evaluation.stream(model, pipeline.First(source, total), size)
  with FileProgress() as progress:
    for done, (batch, ready, mask) in enumerate(
      evaluation.prepared_batches(model, batches, args.seed, chosen)
    ):
      progress.update(f"encoding {args.split}", done * size, total)
      index = np.asarray(batch["index"])
      rows = _encoded(model, seen(ready), evaluation.condition(model, ready))
      rows |= {"label": np.asarray(batch["label"])} if "label" in batch else {}
      rows |= {"name": names[index]} if len(names) else {}
      yield {name: x[mask] for name, x in (rows | {"index": index}).items()}


def _of_files(model: Any, args: Any, failed: list[Any]) -> Iterator[Rows]:
  """The rows of a person's images, cut to what the encoder takes. What cannot be read in a folder is named, and added
  to `failed`."""
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.progress import FileProgress

  files = evaluation.own_files(args.input)[: args.num]
  small: list[str] = []
  with FileProgress() as progress:
    for start in range(0, len(files), args.batch_size):
      progress.update(f"encoding {len(files)} file{'s' * (len(files) > 1)}", start, len(files))
      part, known = files[start : start + args.batch_size], len(failed)
      found = list(
        evaluation.readable(part, lambda file: evaluation.own_image(model, file, small=small), failed)
      )
      evaluation.tell_skipped(failed[known:])
      if not found:
        continue
      names, images = zip(*found, strict=True)
      fields = {} if args.label is None else {"label": np.full(len(names), args.label, np.int32)}
      yield (
        _encoded(model, np.stack(images).astype(np.float32) / 255, fields)
        | fields
        | {"name": np.asarray(names)}
      )
  evaluation.tell_notes(evaluation.enlarged(model, small))
