"""Files in, restored files out: photographs of any size and kind through a function that restores one array."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data import images, plans
from vae_jax.data.suffixes import PICTURES, RAW, READ, why_unread
from vae_jax.errors import UserError, printable
from vae_jax.photos.metadata import unusual_colour
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.saving import WRITABLE, check_saveable, save_photograph
from vae_jax.photos.transparency import layer
from vae_jax.photos.uncertainty import total_deviation, uncertainty_picture
from vae_jax.progress import FileProgress
from vae_jax.storage.files import write_whole
from vae_jax.types import ArrayLike

Restore = Callable[[np.ndarray, int | None, Callable[[int, int], None]], ArrayLike]
PathLike = str | os.PathLike

_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601, as images.to_channels


class Report(NamedTuple):
  """What `restore_files` did.

  written: files on the disk. failed: (input, why). replaced: those of `written` that were there before. partial:
  (input, its number of frames), where the first of several was restored. recoloured: (output, the chunks of a PNG that
  say what its colours are and that the format of the output cannot hold).
  """

  written: list[Path]
  failed: list[tuple[Path, str]]
  replaced: list[Path]
  partial: list[tuple[Path, int]]
  recoloured: list[tuple[Path, list[str]]]

  def remarks(self) -> list[str]:
    """Lines for a person about what was written."""
    lines = [f"{printable(str(path))}: the first of {frames} frames" for path, frames in self.partial]
    lines += [
      f"{printable(str(path))}: the format cannot hold {' '.join(chunks)}, so colours look different; save as .png"
      for path, chunks in self.recoloured
    ]
    if self.replaced:
      lines.append(f"{len(self.replaced)} of {len(self.written)} files replaced earlier ones")
    return lines

  def check(self) -> None:
    """Raises UserError, one line with the number of failures and the first three, if there are any."""
    if self.failed:
      some = "; ".join(f"{path} ({reason})" for path, reason in self.failed[:3])
      more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
      count = f"{len(self.failed)} image{'s' if len(self.failed) > 1 else ''}"
      raise UserError(f"{count} could not be restored: {some}{more}")


class Treatment(NamedTuple):
  """How one photograph is restored.

  restore, channels, pixel_noise: as for `restore_files`; restore None: the photograph is copied as it is. says: a line
  for a person, printed before.
  """

  restore: Restore | None
  channels: int = 3
  pixel_noise: Callable[[np.ndarray], ArrayLike] | None = None
  says: str = ""


class _Job(NamedTuple):
  source: Path
  main: Path  # the mean restoration
  samples: list[Path]
  mean: Path | None  # of the samples
  uncertainty: Path | None

  def targets(self) -> list[Path]:
    return [self.main, *self.samples, *(path for path in (self.mean, self.uncertainty) if path)]


def restore_files(
  restore: Restore,
  inputs: PathLike | Sequence[PathLike],
  output: PathLike,
  *,
  factor: int,
  channels: int,
  samples: int = 0,
  pixel_noise: Callable[[np.ndarray], ArrayLike] | None = None,
  white: int = 0,
) -> Report:
  """Restores photographs one after the other.

  Each output has the name of its input, below the folder `output` as the input lies below the folder that was
  given; an input of a kind that cannot be written (GIF, PPM) becomes .png. One input file may have one output file
  instead: `output` is then the name of no folder and has the suffix of a format. An output folder that lies inside
  an input folder is left out of the inputs. Outputs of an earlier run are replaced, an input never.

  A grey photograph stays grey and a colour one colour, whatever the model takes: grey is repeated and the luma
  (ITU-R BT.601) of the result taken; colour is restored channel by channel, each with the same `key_index`.
  Bit depth, ICC, dots per inch, EXIF, XMP and comments are kept. Alpha is enlarged by `factor`; what is stored under
  alpha 0 has no influence on what is seen. For animations and files of several pages, only the first picture is
  restored. Standard error shows how far it is (`FileProgress`).

  Files of a folder that look like pictures and that nothing here reads (`suffixes.PICTURES`) count as failures.

  With samples = N > 0, beside NAME.EXT:
    NAME_sample01.EXT ...   N random restorations
    NAME_mean.EXT           their average, for N > 1 (NAME.EXT is `restore(image, None)`)
    NAME_uncertainty.png    the standard deviation, see `uncertainty_picture`, as it is seen, for N > 1

  Args:
    restore: `(image float32 [h, w, channels] in [0, 1], key_index, progress) -> float32 [factor * h, factor * w,
      channels]`. key_index None: the mean restoration; k = 0..N-1: the k-th random one. It may call
      `progress(done, total)`. A UserError or MemoryError is that file's failure; any other exception ends the run.
    inputs: a file or folder, or several.
    output: a folder, made with the first file if it is not there, or a file.
    factor: enlargement. channels: 1 or 3. samples: N. white: see `open_photograph`.
    pixel_noise: `image -> float32 [factor * h, factor * w, channels]`, the standard deviation that the random
      restorations leave out, see `total_deviation`.

  Returns:
    Report. Files that cannot be read, restored or written are listed, and the others done all the same.

  Raises:
    UserError: before any work, for inputs that are missing or without images, two inputs of one output name, an
      output that is an input or cannot be made, and numbers out of range.
    ValueError: `restore` returns another shape.
  """
  _check_numbers(factor, samples, channels)
  treatment = Treatment(restore, channels, pixel_noise)
  return restore_each(lambda *_: treatment, inputs, output, factor=factor, samples=samples, white=white)


def restore_each(
  treat: Callable[[Path, Photograph], Treatment],
  inputs: PathLike | Sequence[PathLike],
  output: PathLike,
  *,
  factor: int,
  samples: int = 0,
  white: int = 0,
) -> Report:
  """As `restore_files`, with a treatment for each photograph: `treat(file, photograph)`, which may raise UserError.

  A photograph that is copied as it is has its own bytes where the format of its output is the same, and no samples.
  """
  _check_numbers(factor, samples, 3)
  jobs = _plan(inputs, output, samples)
  report = Report([], [], [], [], [])
  with FileProgress() as meter:
    for number, job in enumerate(jobs, start=1):
      place = f" ({number} of {len(jobs)})" if len(jobs) > 1 else ""
      what = f"restoring {printable(job.source.name)}{place}"
      progress = functools.partial(meter.update, what, total=1 + samples)
      progress(0, note=_note(report))
      try:
        photograph = _opened(job.source, white)
        treatment = treat(job.source, photograph)
        if treatment.says:
          meter.say(f"{printable(job.source.name)}: {treatment.says}")
        if treatment.restore is None:
          _copy(job, photograph, report)
          continue
        _restore_one(treatment, job, photograph, factor, report, progress)
      except UserError as error:
        report.failed.append((job.source, str(error).removeprefix(f"{job.source}: ")))
      except MemoryError:
        report.failed.append((job.source, "not enough memory; cut the picture into parts"))
  return report


def _check_numbers(factor: int, samples: int, channels: int) -> None:
  for name, value, least in (("factor", factor, 1), ("samples", samples, 0)):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise UserError(f"{name}={value!r}: give an integer of at least {least}")
  if channels not in (1, 3):
    raise UserError(f"a model of {channels} channels cannot restore photographs; it needs 1 or 3")


def _plan(inputs: PathLike | Sequence[PathLike], output: PathLike, samples: int) -> list[_Job]:
  """Which file becomes which. Everything that can be refused is refused here, and nothing made."""
  given = [Path(p) for p in ([inputs] if isinstance(inputs, str | os.PathLike) else inputs)]
  if not given:
    raise UserError("no input: give image files or folders")
  target = Path(output)
  for path in given:
    if not os.path.exists(path):  # Path.exists raises where a folder above may not be entered
      raise UserError(f"input {path} does not exist; give image files or folders")
  if _is_file_name(given, output):
    check_saveable(target, 1, 1)
    pairs = [(given[0], target)]
    folder = target.parent
  else:
    folder = target
    pairs = [
      (source, folder / _written_name(name)) for path in given for source, name in _listed(path, folder)
    ]
  jobs = _without_clashes(pairs, samples)
  there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
  if not os.path.isdir(there):
    raise UserError(f"output {folder} cannot be made: {there} is not a folder; choose another folder")
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(
      f"output {folder}: {there} is not writable; choose another folder or change its permissions"
    )
  return jobs


def _is_file_name(given: Sequence[Path], output: PathLike) -> bool:
  """Whether `output` names a file, for one input file; UserError if it can be neither that nor a folder."""
  target = Path(output)
  if os.path.isdir(target) or os.fspath(output).endswith(("/", os.sep)):
    return False
  suffix = target.suffix.lower()
  one_file = len(given) == 1 and not os.path.isdir(given[0])
  if one_file and suffix:
    if suffix not in WRITABLE:
      raise UserError(
        f"output {target}: write one of {', '.join(WRITABLE)}, or end the name of a folder with /"
      )
    return True
  if os.path.exists(target):
    raise UserError(f"output {target} is a file, but these inputs need a folder; choose another name")
  if suffix in PICTURES:
    raise UserError(
      f"output {target} names one file, but there are several inputs; give the name of a folder"
    )
  return False


def _listed(path: Path, folder: Path) -> list[tuple[Path, str]]:
  """(file, its name below the output) of an input; what lies in the output `folder` is no input."""
  if not os.path.isdir(path):
    return [(path, path.name)]
  here, own = (os.path.join(os.path.realpath(place), "") for place in (path, folder))
  inside = own != here and own.startswith(here)
  found = [
    (path / name, name)
    for name in plans.list_images(path, PICTURES)
    if not (inside and os.path.join(os.path.realpath((path / name).parent), "").startswith(own))
  ]
  if not found:
    raise UserError(f"input {path}: no images ({', '.join(READ)}) in this folder")
  return found


def _written_name(name: str) -> str:
  """The same name, but for formats that are read and not written."""
  stem, suffix = os.path.splitext(name)
  return name if suffix.lower() in WRITABLE else f"{stem}.png"


def _without_clashes(pairs: Sequence[tuple[Path, Path]], samples: int) -> list[_Job]:
  """One job per pair, a file that was given twice once. Refuses outputs that collide with each other or an input."""
  jobs = [_job(source, main, samples) for source, main in pairs]
  # By device and number, so that links and the case of a name do not matter.
  sources = {_identity(job.source): job.source for job in jobs}
  taken: dict[str, _Job] = {}
  kept = []
  for job in jobs:
    for path in job.targets():
      # Names that differ in case, or in how an accent is coded, are one file on many disks.
      other = taken.setdefault(unicodedata.normalize("NFC", str(path)).casefold(), job)
      if other is not job:
        if other.main == job.main and _identity(other.source) == _identity(job.source):
          break
        raise UserError(
          f"inputs {other.source} and {job.source} would both be written to {path}; rename one, or restore them into "
          "two folders"
        )
      if (found := _identity(path)) and (source := sources.get(found)):
        raise UserError(
          f"output {path} is the input {source}, which is never overwritten; choose another output"
        )
    else:
      kept.append(job)
  return kept


def _job(source: Path, main: Path, samples: int) -> _Job:
  digits = max(2, len(str(samples)))
  numbered = [main.with_name(f"{main.stem}_sample{k:0{digits}}{main.suffix}") for k in range(1, samples + 1)]
  if samples < 2:
    return _Job(source, main, numbered, None, None)
  mean, uncertainty = f"{main.stem}_mean{main.suffix}", f"{main.stem}_uncertainty.png"
  return _Job(source, main, numbered, main.with_name(mean), main.with_name(uncertainty))


def _identity(path: Path) -> tuple[int, int] | None:
  """Returns what identifies a file; None where that cannot be read (a broken link, which fails later)."""
  try:
    status = path.stat()
  except OSError:
    return None
  return status.st_dev, status.st_ino


def _opened(path: Path, white: int) -> Photograph:
  """The photograph, or UserError with the reason that its suffix gives, where it is of a kind that is not read."""
  reason = why_unread(path.name)
  if path.suffix.lower() in RAW:  # their content may open as a small preview
    raise UserError(reason)
  try:
    return open_photograph(path, white)
  except UserError as error:
    raise UserError(reason or str(error)) from error


def _copy(job: _Job, photograph: Photograph, report: Report) -> None:
  """Writes a photograph as it is: its own bytes, or its pixels in another format."""
  there = os.path.lexists(job.main)
  if job.source.suffix.lower() == job.main.suffix.lower():
    content = images.read_file(job.source)
    write_whole(job.main, lambda file: file.write(content))
  else:
    height, width = photograph.pixels.shape[:2]
    check_saveable(job.main, height, width, photograph.alpha)
    save_photograph(job.main, photograph)
  report.written.append(job.main)
  if there:
    report.replaced.append(job.main)


def _restore_one(
  treatment: Treatment,
  job: _Job,
  photograph: Photograph,
  factor: int,
  report: Report,
  progress: Callable[..., None],
) -> None:
  restore, channels, pixel_noise = treatment.restore, treatment.channels, treatment.pixel_noise
  assert restore is not None
  note = _note(report)
  pixels, alpha = photograph.pixels, photograph.alpha
  shape = factor * pixels.shape[0], factor * pixels.shape[1]
  for path in job.targets():
    check_saveable(path, *shape, alpha)
  cut = None if alpha is None or alpha.min() >= 1 else layer(pixels, alpha, factor)
  given = photograph if cut is None else photograph._replace(pixels=cut.colours)

  def restored(index: int | None) -> np.ndarray:
    return _restored(restore, given, index, factor, channels, progress)

  def save(path: Path, picture: Photograph) -> None:
    replaced = os.path.lexists(path)
    save_photograph(path, picture)
    report.written.append(path)
    if replaced:
      report.replaced.append(path)

  def kept(values: np.ndarray) -> Photograph:
    if cut is None:  # without alpha, or opaque
      return photograph._replace(
        pixels=values, alpha=None if alpha is None else np.ones((*shape, 1), np.float32)
      )
    return photograph._replace(pixels=cut.join(values), alpha=cut.alpha)

  save(job.main, kept(restored(None)))
  if photograph.frames > 1:
    report.partial.append((job.source, photograph.frames))
  if job.main.suffix.lower() != ".png" and (chunks := unusual_colour(photograph.about)):
    report.recoloured.append((job.main, chunks))
  mean = np.zeros((*shape, pixels.shape[2]), np.float32)
  squares = np.zeros_like(mean)
  for k, path in enumerate(job.samples):
    if k == 0:
      progress(1, note=note)
    draw = restored(k)
    save(path, kept(draw))
    # Welford's recurrence: as exact as two passes, without keeping the samples.
    step = draw - mean
    mean += step / np.float32(k + 1)
    squares += step * (draw - mean)
  if job.mean is not None and job.uncertainty is not None:
    save(job.mean, kept(mean))
    variance = squares / (len(job.samples) - 1)
    noise = None
    if pixel_noise is not None:
      noise = _restored(lambda x, *_: pixel_noise(x), given, None, factor, channels, lambda *_: None)
    deviation = total_deviation(variance, noise).mean(axis=-1)
    if cut is not None:
      deviation = deviation * cut.gain[..., 0]  # as it is seen
    save(job.uncertainty, Photograph(uncertainty_picture(deviation).astype(np.float32) / 255))


def _note(report: Report) -> str:
  """What takes so long at the first file: the estimate, then draws."""
  return "" if report.written else "compiling"


def _restored(
  restore: Restore,
  photograph: Photograph,
  index: int | None,
  factor: int,
  channels: int,
  progress: Callable[..., None],
) -> np.ndarray:
  """The restoration float32 [factor * h, factor * w, c] with the photograph's own c, clipped to [0, 1].

  progress: gets the number of restorations of the photograph that are done, this one's part included.
  """
  pixels = photograph.pixels
  height, width, own = pixels.shape
  before = 0 if index is None else 1 + index
  parts = own if channels == 1 else 1

  def once(image: np.ndarray, part: int = 0) -> np.ndarray:
    def show(done: int, total: int) -> None:
      progress(before + (part + done / total) / parts)

    result = np.asarray(restore(np.ascontiguousarray(image), index, show), np.float32)
    show(1, 1)
    if result.shape != (factor * height, factor * width, channels):
      raise ValueError(
        f"restore made {list(result.shape)} of {list(image.shape)}, "
        f"not [{factor * height}, {factor * width}, {channels}]"
      )
    if not np.isfinite(result).all():
      raise UserError("the restoration contains NaN or infinity; the model or the picture is at fault")
    return np.clip(result, 0.0, 1.0)

  if own == channels:
    return once(pixels)
  if own == 1:
    return (once(np.repeat(pixels, 3, axis=2)) @ _LUMA)[..., None]
  return np.concatenate([once(pixels[..., c : c + 1], c) for c in range(own)], axis=2)
