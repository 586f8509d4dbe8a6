"""A person's photographs, restored, and folders of them, scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import pictures
from vae_jax.evaluation.results import write_json
from vae_jax.generator import new_key
from vae_jax.inference import TILE, TrainedVAE
from vae_jax.objectives import load_scoring_network
from vae_jax.photos.files import Report, restore_files
from vae_jax.photos.restoring import Progress
from vae_jax.photos.score_folder import benchmark


def restore_photographs(
  model: TrainedVAE,
  inputs: Sequence[Path],
  output: str | Path,
  *,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
  written: Callable[[Path], None] = lambda path: None,
) -> Report:
  """Restores a person's photographs, whole, into `output`: see `files.restore_files`."""
  model.require("restore")
  if samples:
    model.require("draw")
  key = new_key(seed)

  def restore(image: np.ndarray, index: int | None, progress: Progress) -> Iterator[np.ndarray]:
    if index is None:
      return model.restore_bands(image, tile=tile, ensemble=ensemble, progress=progress)
    return model.restore_bands(image, jax.random.fold_in(key, index), tile=tile, progress=progress)

  return restore_files(
    restore,
    inputs,
    output,
    factor=model.factor,
    channels=model.input_shape[2],
    samples=samples,
    pixel_noise=lambda image: model.pixel_noise_bands(image, tile=tile),
    white=model.config.data.white,
    whole=ensemble or not model.can("tile"),
    written=written,
  )


def benchmark_folder(
  model: TrainedVAE,
  folder: Path,
  output: Path,
  *,
  limit: int = 0,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
) -> dict[str, Any]:
  """Scores a folder of clean photographs into `output` (.json), a contact sheet beside it (.png); returns the scores.

  See `benchmark.benchmark`. With samples >= 2, the scores also say how well the map of uncertainty predicts the error.
  """
  model.require("restore")
  if samples:
    model.require("draw")
  key = new_key(seed)

  def draw(degraded: np.ndarray, num: int) -> np.ndarray:
    keys = [jax.random.fold_in(key, k) for k in range(num)]
    return np.stack([model.restore_image(degraded, k, tile=tile) for k in keys])

  scores, picture = benchmark(
    lambda degraded: model.restore_image(degraded, tile=tile, ensemble=ensemble),
    folder,
    model.config.data.degrade,
    channels=model.input_shape[2],
    seed=seed,
    lpips=load_scoring_network(model.config.evaluation),
    limit=limit,
    draw=draw if samples else None,
    samples=samples,
    pixel_noise=lambda degraded: model.pixel_noise(degraded, tile=tile),
    white=model.config.data.white,
  )
  write_json(output, scores)
  pictures.save_png(output.with_suffix(".png"), picture)
  return scores
