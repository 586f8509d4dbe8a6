"""Brings back the images of a file that `compress` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HELP = "bring back the images of a file that compress wrote (--input): PNG files, or one .npz file"
EXAMPLE = "--workdir runs/mnist_vae --input digits.bb --output digits/"
FLAGS = ("input", "output")
NEEDS = None
OUTPUT = ()


def run(model: Any, args: Any) -> None:
  """Writes 000000.png, 000001.png, ... into a new or empty folder, or a .npz file with `image`, uint8 [n, h, w, c]."""
  import numpy as np

  from vae_jax import evaluation
  from vae_jax.data.images import encode_png, read_file
  from vae_jax.errors import UserError, printable
  from vae_jax.storage.files import write_bytes, write_whole

  output = Path(args.output or args.folder / "decompressed")
  arrays = output.suffix == ".npz"
  if not arrays and output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UserError(
      f"--output {printable(str(output))} is there already; name a new or an empty folder, or a .npz file"
    )
  file = str(args.input[0])
  levels = evaluation.decompress_images(model, read_file(file), file)
  images = evaluation.pictures_of(model, levels)
  if arrays:
    write_whole(output, lambda opened: np.savez_compressed(opened, image=images))
    print(f"wrote {printable(str(output))}: image {list(images.shape)}")
    return
  if images.shape[-1] not in (1, 3):
    raise UserError(f"images of {images.shape[-1]} channels are no PNG; give --output NAME.npz")
  width = max(6, len(str(len(images) - 1)))
  for i, image in enumerate(images):
    write_bytes(output / f"{i:0{width}}.png", encode_png(image))
  print(f"wrote {len(images)} images into {printable(str(output))}")
