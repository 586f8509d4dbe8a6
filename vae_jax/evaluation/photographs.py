"""A person's photographs, restored, and folders of them, scored."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import pictures
from vae_jax.data.degrade import factor_of
from vae_jax.errors import UserError
from vae_jax.evaluation.results import write_json
from vae_jax.generator import new_key
from vae_jax.inference import TILE, TrainedVAE, load
from vae_jax.objectives import load_scoring_network
from vae_jax.photos import fitting
from vae_jax.photos.cases import list_cases
from vae_jax.photos.condition import inspect_image, of_file
from vae_jax.photos.files import Report, Treatment, restore_each
from vae_jax.photos.photograph import Photograph
from vae_jax.photos.restoring import Progress, Restorer, images_of
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
  sigma: float | None = None,
  temperature: float | None = None,
  written: Callable[[Path], None] = lambda path: None,
) -> Report:
  """Restores a person's photographs, whole, into `output`: see `photos.files.restore_files`.

  name: of a pretrained model; what each photograph looks like, and whether the model was made for it, is then printed.
  sigma: standard deviation of the noise in units of [0, 1], for models that are told; None: estimated for each
  photograph. What they are told is printed.
  """
  model.require("restore")
  if sigma is not None:
    model.require_told(f"--sigma {255 * sigma:g}")
  restorer = _restorer(model, samples, seed, tile, ensemble, temperature)

  def treat(path: Path, photograph: Photograph) -> Treatment:
    seen = ""
    if name:
      condition, channels = inspect_image(photograph.pixels, of_file(path)), photograph.pixels.shape[2]
      seen = fitting.warning(name, condition, channels, exported.names())
    if not model.told:
      return Treatment(restorer, seen)
    if sigma is None:
      told, noise = _estimated(model, restorer, photograph, tile, "; --sigma sets it")
    else:
      told, noise = _given(restorer, photograph, sigma)
    return Treatment(told, f"{seen}; {noise}" if seen else noise)

  white = model.config.data.white
  return restore_each(treat, inputs, output, samples=samples, white=white, written=written)


def restore_each_by_its_model(
  inputs: Sequence[Path],
  output: str | Path,
  *,
  scale: int = 1,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
  temperature: float | None = None,
  written: Callable[[Path], None] = lambda path: None,
) -> Report:
  """Restores each photograph with the pretrained model that fits its condition; see `fitting.choose`.

  The choice is printed, and the noise that a model is told of. A photograph that needs none, or for which there is
  none, is copied as it is. Each model is loaded once.
  """

  @functools.cache
  def opened(name: str) -> tuple[TrainedVAE, Restorer]:
    model = load(exported.FOLDER / name)
    return model, _restorer(model, samples, seed, tile, ensemble, temperature)

  def treat(path: Path, photograph: Photograph) -> Treatment:
    choice = fitting.choose(
      inspect_image(photograph.pixels, of_file(path)), photograph.pixels.shape[2], scale, exported.names()
    )
    if choice.model is None:
      if scale > 1:
        raise UserError(choice.why)
      return Treatment(None, f"{choice.why}: copied as it is")
    model, restorer = opened(choice.model)
    says = f"{choice.why}: {choice.model}"
    if model.told:
      restorer, noise = _estimated(model, restorer, photograph, tile)
      says += f"; {noise}"
    return Treatment(restorer, says)

  return restore_each(treat, inputs, output, samples=samples, written=written)


def _restorer(
  model: TrainedVAE, samples: int, seed: int, tile: int, ensemble: bool, temperature: float | None
) -> Restorer:
  """What a model does to the images of a photograph."""
  if samples:
    model.require("draw")
  key = new_key(seed)

  def restore(
    image: np.ndarray, index: int | None, progress: Progress, sigma: float | None = None
  ) -> Iterator[np.ndarray]:
    if index is None:
      return model.restore_bands(image, tile=tile, ensemble=ensemble, progress=progress, sigma=sigma)
    drawn = jax.random.fold_in(key, index)
    return model.restore_bands(
      image, drawn, tile=tile, progress=progress, sigma=sigma, temperature=temperature
    )

  def deviation(image: np.ndarray, sigma: float | None = None) -> Iterator[np.ndarray]:
    return model.deviation_bands(image, tile=tile, sigma=sigma)

  whole = ensemble or not model.can("tile")
  return Restorer(restore, model.factor, model.input_shape[2], deviation, whole)


def _given(restorer: Restorer, photograph: Photograph, sigma: float) -> tuple[Restorer, str]:
  """A restorer that is told this noise, and a line on it."""
  sigmas = (sigma,) * len(images_of(photograph, restorer.channels))
  return dataclasses.replace(restorer, sigmas=sigmas), f"noise of sigma {255 * sigma:.3g} (--sigma)"


def _estimated(
  model: TrainedVAE, restorer: Restorer, photograph: Photograph, tile: int, advice: str = ""
) -> tuple[Restorer, str]:
  """A restorer that is told the noise of a photograph, estimated once, and a line on it.

  A model with a map of the noise makes one by itself, so it is not told; the line then has the mean level.
  """
  sigmas = tuple(model.noise_sigma(image, tile=tile) for image in images_of(photograph, restorer.channels))
  levels = ", ".join(f"{255 * sigma:.3g}" for sigma in sigmas)
  how = "estimated" if len(sigmas) == 1 else "estimated for each channel"
  if model.config.model.noise == "local":
    return restorer, f"noise of sigma {levels} on average ({how}{advice})"
  return dataclasses.replace(restorer, sigmas=sigmas), f"noise of sigma {levels} ({how}{advice})"


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
  sigma: float | None = None,
  temperature: float | None = None,
  degrade: str | None = None,
) -> dict[str, Any]:
  """Scores a folder of clean photographs into `output` (.json), a contact sheet beside it (.png); returns the scores.

  See `score_folder.benchmark`. With samples = N, N random restorations are scored too.
  degrade: a chain (`configuration.chains`) in place of the model's own degradation, of the same factor; not for pairs.
  """
  model.require("restore")
  if sigma is not None:
    model.require_told(f"--sigma {255 * sigma:g}")
  degradation = model.config.data.degrade if degrade is None else _chain(degrade, model.factor, folder)
  if samples:
    model.require("draw")
  key = new_key(seed)

  def draw(k: int) -> Callable[[np.ndarray], np.ndarray]:
    drawn = jax.random.fold_in(key, k)
    return lambda degraded: model.restore_image(
      degraded, drawn, tile=tile, sigma=sigma, temperature=temperature
    )

  def deviation(degraded: np.ndarray) -> np.ndarray:
    return model.deviation(degraded, tile=tile, sigma=sigma)

  scores, picture = benchmark(
    lambda degraded: model.restore_image(degraded, tile=tile, ensemble=ensemble, sigma=sigma),
    folder,
    degradation,
    channels=model.input_shape[2],
    seed=seed,
    lpips=load_scoring_network(model.config.evaluation),
    limit=limit,
    draws=[draw(k) for k in range(samples)],
    deviation=deviation if model.can("draw") else None,
    white=model.config.data.white,
  )
  write_json(output, scores)
  pictures.save_png(output.with_suffix(".png"), picture)
  return scores


def _chain(text: str, factor: int, folder: Path) -> dict[str, str]:
  """Returns `data.degrade` of a chain. Raises UserError where its factor is not the model's, and for pairs."""
  degrade = {"name": "chain", "chain": text}
  if (found := factor_of(degrade)) != factor:
    remedy = f"write 'down {factor} bicubic' as its step" if factor > 1 else "leave out the step 'down'"
    raise UserError(f"degrade {text!r} has a factor of {found}, the model has {factor}; {remedy}")
  if list_cases(folder)[0].low is not None:
    raise UserError(f"degrade {text!r} has no effect on {folder}, which has pairs of images; leave it out")
  return degrade
