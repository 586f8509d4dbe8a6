"""A person's photographs, restored, and folders of them, scored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import pictures
from vae_jax.errors import UserError
from vae_jax.evaluation.results import write_json
from vae_jax.generator import new_key
from vae_jax.inference import TILE, TrainedVAE, load
from vae_jax.objectives import load_scoring_network
from vae_jax.photos import fitting
from vae_jax.photos.condition import inspect_image, of_file
from vae_jax.photos.files import Report, Treatment, restore_each
from vae_jax.photos.photograph import Photograph
from vae_jax.photos.score_folder import benchmark
from vae_jax.storage import exported


def restore_photographs(
  model: TrainedVAE,
  inputs: Sequence[Path],
  output: str | Path,
  *,
  name: str = "",
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
) -> Report:
  """Restores a person's photographs, whole, into `output`: see `photos.files.restore_files`.

  name: of a pretrained model; what each photograph looks like, and whether the model was made for it, is then printed.
  """
  model.require("restore")
  if samples:
    model.require("draw")
  treatment = _treatment(model, seed, tile, ensemble)

  def treat(path: Path, photograph: Photograph) -> Treatment:
    if not name:
      return treatment
    condition = inspect_image(photograph.pixels, of_file(path))
    channels = photograph.pixels.shape[2]
    return treatment._replace(says=fitting.warning(name, condition, channels, exported.names()))

  white = model.config.data.white
  return restore_each(treat, inputs, output, factor=model.factor, samples=samples, white=white)


def restore_each_by_its_model(
  inputs: Sequence[Path],
  output: str | Path,
  *,
  scale: int = 1,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
) -> Report:
  """Restores each photograph with the pretrained model that fits its condition; see `fitting.choose`.

  The choice is printed. A photograph that needs none, or for which there is none, is copied as it is. Each model is
  loaded once.
  """

  @functools.cache
  def treatment(name: str) -> Treatment:
    model = load(exported.FOLDER / name)
    if samples:
      model.require("draw")
    return _treatment(model, seed, tile, ensemble)

  def treat(path: Path, photograph: Photograph) -> Treatment:
    choice = fitting.choose(
      inspect_image(photograph.pixels, of_file(path)), photograph.pixels.shape[2], scale, exported.names()
    )
    if choice.model is not None:
      return treatment(choice.model)._replace(says=f"{choice.why}: {choice.model}")
    if scale > 1:
      raise UserError(choice.why)
    return Treatment(None, says=f"{choice.why}: copied as it is")

  return restore_each(treat, inputs, output, factor=scale, samples=samples)


def _treatment(model: TrainedVAE, seed: int, tile: int, ensemble: bool) -> Treatment:
  """What a model does to a photograph."""
  key = new_key(seed)

  def restore(image: np.ndarray, index: int | None, progress: Callable[[int, int], None]) -> np.ndarray:
    if index is None:
      return model.restore_image(image, tile=tile, ensemble=ensemble, progress=progress)
    return model.restore_image(image, jax.random.fold_in(key, index), tile=tile, progress=progress)

  return Treatment(restore, model.input_shape[2], lambda image: model.pixel_noise(image, tile=tile))


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
