"""One photograph, restored into its files, some rows at a time.

Memory holds the photograph, one picture of the result as 8 or 16 bits, and some rows of floats. The mean of the draws
waits in a temporary file beside the results.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.errors import UserError
from vae_jax.photos.metadata import Metadata
from vae_jax.photos.photograph import Photograph
from vae_jax.photos.saving import RowWriter, bytes_of_pixel, check_saveable, save_samples, strips
from vae_jax.photos.transparency import CutOut, cut_out, filled
from vae_jax.photos.uncertainty import uncertainty_picture
from vae_jax.storage.capacity import check_memory, check_space
from vae_jax.storage.scratch import Scratch
from vae_jax.types import ArrayLike

_DRAWING = 12  # bytes that the picture of uncertainty takes for each pixel of the map

Result = ArrayLike | Iterator[ArrayLike]  # an array [H, W, channels], or bands of its rows, from the top down
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Restorer:
  """What restores arrays, see `files.restore_files`.

  sigmas: of the noise, for each of `images_of` a photograph, in units of [0, 1]; `restore` and `deviation` get theirs
  by the keyword `sigma`. Empty: they get none.

  Raises UserError: factor or channels out of range.
  """

  restore: Callable[..., Result]  # (image, index, progress)
  factor: int
  channels: int
  deviation: Callable[..., Result] | None = None  # (image)
  whole: bool = False
  sigmas: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    check_integer("factor", self.factor, 1)
    if self.channels not in (1, 3):
      raise UserError(f"a model of {self.channels} channels cannot restore photographs; it needs 1 or 3")

  def told(self, part: int) -> dict[str, float]:
    """The keywords for one of the images."""
    return {"sigma": self.sigmas[part]} if self.sigmas else {}


class Job(NamedTuple):
  """A photograph and its files. main: the estimate. mean, uncertainty: of two or more samples."""

  source: Path
  main: Path
  samples: list[Path]
  mean: Path | None
  uncertainty: Path | None

  def targets(self) -> list[Path]:
    return [self.main, *self.samples, *(path for path in (self.mean, self.uncertainty) if path)]


def check_integer(name: str, value: object, least: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise UserError(f"{name}={value!r}: give an integer of at least {least}")


def images_of(photograph: Photograph, channels: int) -> list[np.ndarray]:
  """What a model of 1 or 3 channels is given of a photograph, [h, w, channels]: one image, or one of each channel."""
  pixels, alpha = photograph.pixels, photograph.alpha
  return _images(pixels if alpha is None else filled(pixels, alpha), channels)


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

  def restored(index: int | None) -> Iterator[np.ndarray]:
    before = 0 if index is None else 1 + index

    def work(image: np.ndarray, part: int, show: Progress) -> Result:
      return restorer.restore(image, index, show, **restorer.told(part))

    return _joined(restorer, given, work, lambda done: progress(before + done))

  save(job.main, restored(None))
  with contextlib.ExitStack() as stack:
    mean = None
    if job.mean is not None:
      mean = stack.enter_context(Scratch(job.mean.parent, (height, width, pixels.shape[2])))
    for k, path in enumerate(job.samples):
      if k == 0:
        progress(1, starting=True)
      save(path, restored(k) if mean is None else _averaged(mean, k + 1, restored(k)))
    if mean is not None and job.mean is not None:
      save(job.mean, mean.bands())
  if job.uncertainty is not None and restorer.deviation is not None:
    shown = uncertainty_picture(_deviation(restorer, given, cut))
    save_samples(job.uncertainty, shown, Metadata())
    written(job.uncertainty)


def _check_fits(restorer: Restorer, photograph: Photograph, job: Job) -> None:
  """Raises UserError where the results of a photograph are certain not to fit into memory, or onto the disk."""
  rows, columns, colours = photograph.pixels.shape
  height, width = restorer.factor * rows, restorer.factor * columns
  adding, saving = bytes_of_pixel(job.main, photograph)
  a_pixel = max(adding + 4 * colours if restorer.whole else 0, saving)
  if job.uncertainty is not None and restorer.deviation is not None:
    a_pixel = max(a_pixel, _DRAWING)
  what = f"the result of {width} x {height} pixels"
  check_memory(what, a_pixel * height * width, "cut the picture into parts, or close other programs")
  needed, remedy = 0, "free some space or choose another place"
  if job.mean is not None:
    needed = 4 * height * width * colours
    remedy += ", or ask for fewer than two samples"
  needed += height * width * colours * sum(path.suffix.lower() == ".bmp" for path in job.targets())
  check_space(job.main.parent, what, needed, remedy)


def _seen(
  band: np.ndarray, first: int, photograph: Photograph, cut: CutOut | None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Restored rows, `first` the number of their first -> colours and alpha, as a file stores them."""
  if cut is not None:
    layer = cut.layer(first, first + len(band))
    return layer.join(band), layer.alpha
  # Without alpha, or opaque.
  return band, None if photograph.alpha is None else np.ones((*band.shape[:2], 1), np.float32)


def _averaged(mean: Scratch, count: int, bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Adds the restoration of number `count` to the mean of those before, and gives its bands on."""
  first = 0
  for band in bands:
    rows = mean.read(first, first + len(band))
    rows += (band - rows) / np.float32(count)
    mean.write(first, rows)
    first += len(band)
    yield band


def _deviation(restorer: Restorer, given: Photograph, cut: CutOut | None) -> np.ndarray:
  """The standard deviation float32 [H, W] of what is seen, mean over channels."""

  def work(image: np.ndarray, part: int, show: Progress) -> Result:
    assert restorer.deviation is not None
    return restorer.deviation(image, **restorer.told(part))

  height, width = given.pixels.shape[:2]
  deviation = np.empty((restorer.factor * height, restorer.factor * width), np.float32)
  first = 0
  for band in _joined(restorer, given, work):
    last = first + len(band)
    values = band.mean(axis=-1)
    deviation[first:last] = values if cut is None else values * cut.layer(first, last).gain[..., 0]
    first = last
  return deviation


def _joined(
  restorer: Restorer,
  photograph: Photograph,
  work: Callable[[np.ndarray, int, Progress], Result],
  progress: Callable[[float], None] = lambda done: None,
) -> Iterator[np.ndarray]:
  """Bands of the result, float32 [rows, factor * w, c] with the photograph's own c, clipped to [0, 1].

  work: what is done to each image of the photograph: (image, its number, progress). progress: gets the part done.
  """
  height, width, own = photograph.pixels.shape
  shape = restorer.factor * height, restorer.factor * width, restorer.channels
  images = _images(photograph.pixels, restorer.channels)
  done = [0.0] * len(images)

  def once(image: np.ndarray, part: int) -> Iterator[np.ndarray]:
    def show(number: int, total: int) -> None:
      done[part] = number / total
      progress(sum(done) / len(done))

    yield from _checked(work(np.ascontiguousarray(image), part, show), shape, image.shape)
    show(1, 1)

  parts = [once(image, part) for part, image in enumerate(images)]
  if own == restorer.channels:
    return parts[0]
  if own == 1:
    return (_luma(band) for band in parts[0])
  return (np.concatenate(bands, axis=2) for bands in zip(*parts, strict=True))


def _luma(image: np.ndarray) -> np.ndarray:
  """Colours [h, w, 3] -> [h, w, 1]: luma of ITU-R BT.601, as `images.to_channels`; of equal channels exactly theirs."""
  red, green, blue = np.split(image, 3, axis=2)
  return green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)


def _images(pixels: np.ndarray, channels: int) -> list[np.ndarray]:
  """Pixels [h, w, 1 or 3] -> arrays [h, w, channels]: one, grey repeated; or one of each channel."""
  own = pixels.shape[2]
  if own == channels:
    return [pixels]
  if own == 1:
    return [np.repeat(pixels, channels, axis=2)]
  return [pixels[..., c : c + 1] for c in range(own)]


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
