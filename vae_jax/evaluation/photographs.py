"""A person's photographs, restored, and folders of them, scored."""

from __future__ import annotations

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
from vae_jax.inference import TILE, TrainedVAE
from vae_jax.objectives import load_scoring_network
from vae_jax.photos.cases import list_cases
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
  sigma: float | None = None,
  written: Callable[[Path], None] = lambda path: None,
) -> Report:
  """Restores a person's photographs, whole, into `output`: see `photos.files.restore_files`.

  sigma: standard deviation of the noise in units of [0, 1], for models that are told; None: estimated.
  """
  model.require("restore")
  if sigma is not None:
    model.require_told(f"--sigma {255 * sigma:g}")
  if samples:
    model.require("draw")
  key = new_key(seed)

  def restore(image: np.ndarray, index: int | None, progress: Progress) -> Iterator[np.ndarray]:
    if index is None:
      return model.restore_bands(image, tile=tile, ensemble=ensemble, progress=progress, sigma=sigma)
    return model.restore_bands(
      image, jax.random.fold_in(key, index), tile=tile, progress=progress, sigma=sigma
    )

  return restore_files(
    restore,
    inputs,
    output,
    factor=model.factor,
    channels=model.input_shape[2],
    samples=samples,
    pixel_noise=lambda image: model.deviation_bands(image, tile=tile, sigma=sigma),
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
  sigma: float | None = None,
  degrade: str | None = None,
) -> dict[str, Any]:
  """Scores a folder of clean photographs into `output` (.json), a contact sheet beside it (.png); returns the scores.

  See `benchmark.benchmark`. With samples = N, N random restorations are scored too.
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
    return lambda degraded: model.restore_image(degraded, drawn, tile=tile, sigma=sigma)

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
