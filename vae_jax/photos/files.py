"""Files in, restored files out: photographs of any size and kind through a function that restores one array."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data import images
from vae_jax.data.folders import list_images
from vae_jax.data.suffixes import PICTURES, RAW, READ, why_unread
from vae_jax.errors import UserError, printable
from vae_jax.photos.metadata import unusual_colour
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.restoring import Job, Progress, Restorer, Result, check_integer, restore_photograph
from vae_jax.photos.saving import WRITABLE, check_saveable, save_photograph
from vae_jax.progress import FileProgress
from vae_jax.storage.files import write_bytes

PathLike = str | os.PathLike


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
  """How a photograph is restored.

  restorer: None: the photograph is copied as it is. says: a line for a person, printed before; "": none.
  """

  restorer: Restorer | None
  says: str = ""


def restore_files(
  restore: Callable[[np.ndarray, int | None, Progress], Result],
  inputs: PathLike | Sequence[PathLike],
  output: PathLike,
  *,
  factor: int,
  channels: int,
  samples: int = 0,
  deviation: Callable[[np.ndarray], Result] | None = None,
  white: int = 0,
  whole: bool = False,
  written: Callable[[Path], None] = lambda path: None,
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

  Where `restore` gives bands, memory holds the photograph and one result as 8 or 16 bits, but no floats of it. With two
  or more samples, a temporary file beside the outputs takes 4 bytes for each value of a result. Results that cannot fit
  into memory or onto the disk are a failure before work.

  Files of a folder that look like pictures and that nothing here reads (`suffixes.PICTURES`) count as failures.

  With samples = N > 0, beside NAME.EXT:
    NAME_sample01.EXT ...   N random restorations
    NAME_mean.EXT           their average, for N > 1 (NAME.EXT is `restore(image, None)`)
    NAME_uncertainty.png    `deviation` as it is seen, see `uncertainty_picture`, for N > 1

  Args:
    restore: `(image float32 [h, w, channels] in [0, 1], key_index, progress) -> float32 [factor * h, factor * w,
      channels]`, as one array or as an iterator over bands of its rows, from the top down. key_index None: the mean
      restoration; k = 0..N-1: the k-th random one. It may call `progress(done, total)`. A UserError or MemoryError is
      that file's failure; any other exception ends the run.
    inputs: a file or folder, or several.
    output: a folder, made with the first file if it is not there, or a file.
    factor: enlargement. channels: 1 or 3. samples: N. white: see `open_photograph`.
    deviation: `image -> float32 [factor * h, factor * w, channels]`, likewise, the standard deviation of the truth at
      each pixel, in units of [0, 1]. None: no map of the uncertainty.
    whole: whether `restore` holds its result as a whole. written: called with each file as it is finished.

  Returns:
    Report. Files that cannot be read, restored or written are listed, and the others done all the same.

  Raises:
    UserError: before any work, for inputs that are missing or without images, two inputs of one output name, an
      output that is an input or cannot be made, and numbers out of range.
    ValueError: `restore` returns another shape.
  """
  treatment = Treatment(Restorer(restore, factor, channels, deviation, whole))
  return restore_each(lambda *_: treatment, inputs, output, samples=samples, white=white, written=written)


def restore_each(
  treat: Callable[[Path, Photograph], Treatment],
  inputs: PathLike | Sequence[PathLike],
  output: PathLike,
  *,
  samples: int = 0,
  white: int = 0,
  written: Callable[[Path], None] = lambda path: None,
) -> Report:
  """As `restore_files`, with a treatment for each photograph: `treat(file, photograph)`, which may raise UserError.

  A photograph that is copied as it is has its own bytes where the format of its output is the same, and no samples.
  """
  check_integer("samples", samples, 0)
  jobs = _plan(inputs, output, samples)
  report = Report([], [], [], [], [])
  with FileProgress() as meter:
    for number, job in enumerate(jobs, start=1):
      place = f" ({number} of {len(jobs)})" if len(jobs) > 1 else ""
      what = f"restoring {printable(job.source.name)}{place}"
      try:
        _restore_one(treat, job, white, report, meter, what, written)
      except UserError as error:
        report.failed.append((job.source, str(error).removeprefix(f"{job.source}: ")))
      except MemoryError:
        report.failed.append((job.source, "not enough memory; cut the picture into parts"))
  return report


def _restore_one(
  treat: Callable[[Path, Photograph], Treatment],
  job: Job,
  white: int,
  report: Report,
  meter: FileProgress,
  what: str,
  written: Callable[[Path], None],
) -> None:
  """Restores or copies the photograph of a job, and notes in the report what is written. what: this work, in words."""
  # What takes so long at the first file: the estimate, then draws.
  note = "" if report.written else "compiling"

  def progress(done: float, starting: bool = False) -> None:
    meter.update(what, done, total=1 + len(job.samples), note=note if starting else "")

  progress(0, starting=True)
  photograph = _opened(job.source, white)
  restorer, says = treat(job.source, photograph)
  if says:
    meter.say(f"{printable(job.source.name)}: {says}")
  there = {path for path in job.targets() if os.path.lexists(path)}
  as_it_is = restorer is None and _same_format(job)

  def finished(path: Path) -> None:
    report.written.append(path)
    if path in there:
      report.replaced.append(path)
    if path == job.main and not as_it_is:
      _note_losses(report, job, photograph)
    with meter.aside():
      written(path)

  if restorer is not None:
    restore_photograph(restorer, photograph, job, progress, finished)
    return
  if as_it_is:
    content = images.read_file(job.source)
    write_bytes(job.main, content)
  else:
    save_photograph(job.main, photograph)
  finished(job.main)


def _same_format(job: Job) -> bool:
  return WRITABLE.get(job.source.suffix.lower()) == WRITABLE[job.main.suffix.lower()]


def _note_losses(report: Report, job: Job, photograph: Photograph) -> None:
  if photograph.frames > 1:
    report.partial.append((job.source, photograph.frames))
  if job.main.suffix.lower() != ".png" and (chunks := unusual_colour(photograph.about)):
    report.recoloured.append((job.main, chunks))


def _plan(inputs: PathLike | Sequence[PathLike], output: PathLike, samples: int) -> list[Job]:
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
    for name in list_images(path, PICTURES)
    if not (inside and os.path.join(os.path.realpath((path / name).parent), "").startswith(own))
  ]
  if not found:
    raise UserError(f"input {path}: no images ({', '.join(READ)}) in this folder")
  return found


def _written_name(name: str) -> str:
  """The same name, but for formats that are read and not written."""
  stem, suffix = os.path.splitext(name)
  return name if suffix.lower() in WRITABLE else f"{stem}.png"


def _without_clashes(pairs: Sequence[tuple[Path, Path]], samples: int) -> list[Job]:
  """One job per pair, a file that was given twice once. Refuses outputs that collide with each other or an input."""
  jobs = [_job(source, main, samples) for source, main in pairs]
  # By device and number, so that links and the case of a name do not matter.
  sources = {_identity(job.source): job.source for job in jobs}
  taken: dict[str, Job] = {}
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


def _job(source: Path, main: Path, samples: int) -> Job:
  digits = max(2, len(str(samples)))
  numbered = [main.with_name(f"{main.stem}_sample{k:0{digits}}{main.suffix}") for k in range(1, samples + 1)]
  if samples < 2:
    return Job(source, main, numbered, None, None)
  mean, uncertainty = f"{main.stem}_mean{main.suffix}", f"{main.stem}_uncertainty.png"
  return Job(source, main, numbered, main.with_name(mean), main.with_name(uncertainty))


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
