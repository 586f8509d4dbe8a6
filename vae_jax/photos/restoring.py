"""One photograph, restored into its files, some rows at a time.

Memory holds the photograph, one picture of the result as 8 or 16 bits, and some rows of floats. What needs all draws
(their mean and variance) waits in temporary files beside the results.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.errors import UserError
from vae_jax.photos.metadata import Metadata
from vae_jax.photos.photograph import Photograph
from vae_jax.photos.saving import RowWriter, bytes_of_pixel, check_saveable, save_samples, strips
from vae_jax.photos.transparency import CutOut, cut_out
from vae_jax.photos.uncertainty import REACH, total_deviation, uncertainty_picture
from vae_jax.storage.capacity import check_memory, check_space
from vae_jax.storage.scratch import Scratch
from vae_jax.types import ArrayLike

_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601, as images.to_channels

_DRAWING = 12  # bytes that the picture of uncertainty takes for each pixel of the map

Result = ArrayLike | Iterator[ArrayLike]  # an array [H, W, channels], or bands of its rows, from the top down
Progress = Callable[[int, int], None]


class Restorer(NamedTuple):
  """What restores arrays, see `files.restore_files`."""

  restore: Callable[[np.ndarray, int | None, Progress], Result]
  factor: int
  channels: int
  pixel_noise: Callable[[np.ndarray], Result] | None = None
  whole: bool = False


class Job(NamedTuple):
  """A photograph and its files. main: the estimate. mean, uncertainty: of two or more samples."""

  source: Path
  main: Path
  samples: list[Path]
  mean: Path | None
  uncertainty: Path | None

  def targets(self) -> list[Path]:
    return [self.main, *self.samples, *(path for path in (self.mean, self.uncertainty) if path)]


def restore_photograph(
  restorer: Restorer,
  photograph: Photograph,
  job: Job,
  progress: Callable[..., None],
  written: Callable[[Path], None],
) -> None:
  """Restores a photograph into the files of a job, one after the other.

  progress: called with the number of restorations that are done, parts of one included, and `starting` = True before
  the first draw, whose function may have to be compiled. written: called with each file as it is finished.

  Raises:
    UserError: a result that is not finite or cannot be written; before work, if that is known then.
    ValueError: a result of another shape.
  """
  pixels, alpha = photograph.pixels, photograph.alpha
  height, width = (restorer.factor * n for n in pixels.shape[:2])
  for path in job.targets():
    check_saveable(path, height, width, alpha)
  _check_fits(restorer, photograph, job)
  cut = None if alpha is None or alpha.min() >= 1 else cut_out(pixels, alpha, restorer.factor)
  given = photograph if cut is None else photograph._replace(pixels=cut.colours)

  def save(path: Path, bands: Iterable[np.ndarray]) -> None:
    rows, first = RowWriter(path, height, width, photograph), 0
    for band in bands:
      rows.add(*_seen(band, first, photograph, cut))
      first += len(band)
    rows.save()
    written(path)

  restored = functools.partial(_restored, restorer, given, progress=progress)
  save(job.main, restored(None))
  with contextlib.ExitStack() as stack:
    draws = None
    for k, path in enumerate(job.samples):
      if k == 0:
        progress(1, starting=True)
      if draws is None and job.mean is not None:
        draws = _Draws(path.parent, (height, width, pixels.shape[2]), stack)
      save(path, restored(k) if draws is None else draws.counted(restored(k)))
    if draws is not None and job.mean is not None and job.uncertainty is not None:
      save(job.mean, draws.mean.bands())
      noise = None
      if restorer.pixel_noise is not None:
        noise = stack.enter_context(Scratch(job.mean.parent, draws.mean.shape))
        noise.fill(_restored(restorer._replace(restore=_noise_of(restorer.pixel_noise)), given, None))
      shown = uncertainty_picture(_deviation(draws, noise, cut))
      save_samples(job.uncertainty, shown, Metadata())
      written(job.uncertainty)


def _check_fits(restorer: Restorer, photograph: Photograph, job: Job) -> None:
  """Raises UserError where the results of a photograph are certain not to fit into memory, or onto the disk."""
  rows, columns, colours = photograph.pixels.shape
  height, width = restorer.factor * rows, restorer.factor * columns
  adding, saving = bytes_of_pixel(job.main, photograph)
  a_pixel = max(adding + 4 * colours if restorer.whole else 0, saving)
  if job.uncertainty is not None:
    a_pixel = max(a_pixel, _DRAWING)
  what = f"the result of {width} x {height} pixels"
  check_memory(what, a_pixel * height * width, "cut the picture into parts, or close other programs")
  needed, remedy = 0, "free some space or choose another place"
  if job.uncertainty is not None:
    needed = 4 * (2 + (restorer.pixel_noise is not None)) * height * width * colours
    remedy += ", or ask for fewer than two samples"
  needed += height * width * colours * sum(path.suffix.lower() == ".bmp" for path in job.targets())
  check_space(job.main.parent, what, needed, remedy)


def _noise_of(
  pixel_noise: Callable[[np.ndarray], Result],
) -> Callable[[np.ndarray, int | None, Progress], Result]:
  return lambda image, index, progress: pixel_noise(image)


def _seen(
  band: np.ndarray, first: int, photograph: Photograph, cut: CutOut | None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Restored rows, `first` the number of their first -> colours and alpha, as a file stores them."""
  if cut is not None:
    layer = cut.layer(first, first + len(band))
    return layer.join(band), layer.alpha
  # Without alpha, or opaque.
  return band, None if photograph.alpha is None else np.ones((*band.shape[:2], 1), np.float32)


class _Draws:
  """Mean and squared deviations of restorations, float32 [H, W, c], by Welford's recurrence.

  It is as exact as two passes, without keeping the restorations.
  """

  def __init__(self, folder: Path, shape: tuple[int, ...], stack: contextlib.ExitStack):
    self.mean, self.squares = (stack.enter_context(Scratch(folder, shape)) for _ in range(2))
    self.count = 0

  def counted(self, bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Adds a restoration, and gives its bands on."""
    self.count += 1
    first = 0
    for band in bands:
      mean, squares = (part.read(first, first + len(band)) for part in (self.mean, self.squares))
      step = band - mean
      mean += step / np.float32(self.count)
      squares += step * (band - mean)
      self.mean.write(first, mean)
      self.squares.write(first, squares)
      first += len(band)
      yield band


def _deviation(draws: _Draws, noise: Scratch | None, cut: CutOut | None) -> np.ndarray:
  """The standard deviation float32 [H, W] of what is seen, mean over channels."""
  height, width, _ = draws.mean.shape
  deviation = np.empty((height, width), np.float32)
  for rows in strips(draws.mean.shape):
    first, last = max(0, rows.start - REACH), min(height, rows.stop + REACH)
    variance = draws.squares.read(first, last) / (draws.count - 1)
    total = total_deviation(variance, None if noise is None else noise.read(first, last))
    values = total[rows.start - first : rows.stop - first].mean(axis=-1)
    deviation[rows] = values if cut is None else values * cut.layer(rows.start, rows.stop).gain[..., 0]
  return deviation


def _restored(
  restorer: Restorer,
  photograph: Photograph,
  index: int | None,
  progress: Callable[..., None] = lambda done: None,
) -> Iterator[np.ndarray]:
  """Bands of the restoration, float32 [rows, factor * w, c] with the photograph's own c, clipped to [0, 1].

  progress: gets the number of restorations of the photograph that are done, this one's part included.
  """
  pixels = photograph.pixels
  height, width, own = pixels.shape
  shape = restorer.factor * height, restorer.factor * width, restorer.channels
  done = [0.0] * (own if restorer.channels == 1 else 1)  # the share of each part

  def once(image: np.ndarray, part: int = 0) -> Iterator[np.ndarray]:
    def show(number: int, total: int) -> None:
      done[part] = number / total
      progress((0 if index is None else 1 + index) + sum(done) / len(done))

    yield from _checked(restorer.restore(np.ascontiguousarray(image), index, show), shape, image.shape)
    show(1, 1)

  if own == restorer.channels:
    return once(pixels)
  if own == 1:
    return ((band @ _LUMA)[..., None] for band in once(np.repeat(pixels, 3, axis=2)))
  parts = [once(pixels[..., c : c + 1], c) for c in range(own)]
  return (np.concatenate(bands, axis=2) for bands in zip(*parts, strict=True))


def _checked(result: Result, shape: tuple[int, ...], given: tuple[int, ...]) -> Iterator[np.ndarray]:
  """What a model made of an image, in bands of few rows, clipped to [0, 1].

  Raises ValueError where it is not of this shape, UserError where it is not finite.
  """
  rows = 0
  for part in result if isinstance(result, Iterator) else (result,):
    band = np.asarray(part, np.float32)
    rows += len(band) if band.ndim else 0
    if band.ndim != 3 or band.shape[1:] != shape[1:] or rows > shape[0]:
      raise _other_shape([rows, *band.shape[1:]], given, shape)
    for strip in strips(band.shape):
      if not np.isfinite(band[strip]).all():
        raise UserError("the restoration contains NaN or infinity; the model or the picture is at fault")
      yield np.clip(band[strip], 0.0, 1.0)
  if rows != shape[0]:
    raise _other_shape([rows, *shape[1:]], given, shape)


def _other_shape(made: list[int], given: tuple[int, ...], wanted: tuple[int, ...]) -> ValueError:
  return ValueError(f"restore made {made} of {list(given)}, not {list(wanted)}")
