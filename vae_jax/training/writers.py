"""What a run reports about itself: metrics.jsonl, TensorBoard, picture files, a progress line; on demand CSV and wandb.

    workdir/metrics.jsonl               one row for each step and split that was measured
    workdir/metrics.csv                 the same numbers, one a line (training.csv)
    workdir/tensorboard/                scalars, pictures, and the config as hyperparameters
    workdir/images/<name>_0002000.png   pictures

A row of metrics.jsonl is a JSON object: "step", "split", the metrics in alphabetical order, and times. Rows of training
have the times "waiting", the share of the time since the row before that the loop waited for data, and
"images_per_second" since the row before, without evaluation, checkpoints and compilation. "seconds" comes last, as the
caller counts them. Only times (`TIMES`) may differ between identical runs. JSON has no NaN and no infinity: such a
metric is null, and "nonfinite" lists its name.

On a full disk a row that cannot be written ends the run, because a log with gaps is worth less than a run that
continues from its checkpoint. Pictures, CSV, TensorBoard and wandb are for looking at: one warning, and the run goes
on, trying again each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.pictures import to_png
from vae_jax.progress import TrainingProgress
from vae_jax.storage.files import append_whole, write_bytes
from vae_jax.training.events import Events
from vae_jax.training.optional_logs import CsvLog, Wandb

TIMES = ("waiting", "images_per_second", "seconds")
_RESERVED = {"step", "split", "nonfinite", *TIMES}


class MetricsLog:
  """Appends rows to a JSONL file; each is on its way to the disk when `write` returns."""

  def __init__(self, path: str | Path, resume_step: int | None = None):
    """
    Args:
      path: created, with its folder, if it is not there.
      resume_step: rows of later steps are dropped, because the resumed run writes them again. None keeps all.

    Raises:
      UserError: the file cannot be written, or a row is not JSON. A torn last row, left by a run that was
        killed while writing, is dropped instead.
    """
    self.path = Path(path)
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      if self.path.exists():
        self._tidy(resume_step)
      self._file = io.FileIO(self.path, "a")
    except OSError as error:
      raise UserError(f"cannot write {self.path} ({error.strerror}); choose another workdir") from None

  def write(
    self,
    step: int,
    split: str,
    metrics: Mapping[str, Any],
    seconds: float,
    waiting: float | None = None,
    images_per_second: float | None = None,
  ) -> dict[str, Any]:
    """Adds one row, whole or not at all, and returns it. Metrics are numbers or scalar arrays; floats keep every digit.

    Raises UserError where it cannot be written.
    """
    if taken := _RESERVED & set(metrics):
      raise ValueError(f"metric {min(taken)!r} has the name of another column")
    values = {name: float(metrics[name]) for name in sorted(metrics)}
    nonfinite = [name for name, value in values.items() if not math.isfinite(value)]
    row: dict[str, Any] = {"step": int(step), "split": split}
    row |= {name: None if name in nonfinite else value for name, value in values.items()}
    if nonfinite:
      row["nonfinite"] = nonfinite
    if waiting is not None:
      row["waiting"] = round(waiting, 4)
    if images_per_second is not None:
      row["images_per_second"] = round(images_per_second, 2)
    row["seconds"] = round(seconds, 3)
    try:
      append_whole(self._file, json.dumps(row, allow_nan=False).encode() + b"\n")
    except OSError as error:
      raise UserError(
        f"{self.path}: the row of step {step} was not written ({error.strerror}); free some space, and the same "
        "command continues from the last checkpoint"
      ) from None
    return row

  def close(self) -> None:
    self._file.close()

  def _tidy(self, resume_step: int | None) -> None:
    """Rewrites the file without rows after `resume_step` and without a torn last row."""
    before = self.path.read_text(encoding="utf-8", errors="replace")
    lines = before.splitlines()
    kept = []
    for number, line in enumerate(lines, start=1):
      step = _step(line)
      if step is None:
        if number == len(lines):
          break
        raise UserError(f"{self.path} line {number} is not a row of metrics; delete that line")
      if resume_step is None or step <= resume_step:
        kept.append(line + "\n")
    after = "".join(kept)
    if after == before:
      return
    write_bytes(self.path, after.encode())


def _step(line: str) -> int | None:
  """The step of a row of metrics.jsonl; None where the line is none."""
  try:
    step = json.loads(line)["step"]
  except (ValueError, TypeError, KeyError, RecursionError):
    return None
  return step if type(step) is int else None


class Writers:
  """Writes all of this for one run, and shows its progress. On processes other than the first it does nothing."""

  def __init__(
    self,
    workdir: str | Path,
    resume_step: int,
    total_steps: int,
    batch_size: int,
    enabled: bool | None = None,
    config: ConfigDict | None = None,
    parameters: int = 0,
    progress: TrainingProgress | None = None,
  ):
    """
    Args:
      workdir: created if it is not there.
      resume_step: 0 for a new run; what the logs hold of later steps is dropped.
      total_steps, batch_size: for the remaining time and the images a second.
      enabled: None: on the first process only.
      config: that of the run, which names further logs, and is kept in TensorBoard and wandb; with `parameters`, the
        number of the model's.
      progress: shared with other runs; None: its own.

    Raises UserError: metrics.jsonl cannot be written, or wandb cannot start.
    """
    if enabled is None:
      import jax

      enabled = jax.process_index() == 0
    self._enabled = enabled
    self._workdir = Path(workdir)
    if not enabled:
      return
    self._resume_step = resume_step
    self._facts = {} if config is None else {**_flat(config.to_dict()), "parameters": parameters}
    self._wandb: Wandb | None = None
    if config is not None and config.training.wandb:
      self._wandb = Wandb(config.training.wandb, self._workdir, self._facts)
    self._log = MetricsLog(self._workdir / "metrics.jsonl", resume_step)
    self._events: Events | None = None
    self._csv: CsvLog | None = None
    self._with_csv = config is not None and config.training.csv
    self._warned: set[str] = set()
    self._progress = progress or TrainingProgress(resume_step, total_steps, batch_size)

  def scalars(
    self,
    step: int,
    split: str,
    metrics: Mapping[str, Any],
    seconds: float,
    waiting: float | None = None,
    speed: float | None = None,
  ) -> None:
    """A row of metrics.jsonl, and `split/name` elsewhere (finite values). waiting: in rows of training. speed: images a
    second, None: as the progress measures them.

    Raises UserError where the row cannot be written; without the other logs the run goes on, with a warning.
    """
    if not self._enabled:
      return
    times: dict[str, float] = {}
    if waiting is not None:
      speed = self._progress.images_per_second(step) if speed is None else speed
      times = {"waiting": waiting, "images_per_second": speed}
    if self._with_csv and self._csv is None:
      with self._dispensable("metrics.csv"):  # before the row, which it would find there
        self._csv = CsvLog(self._workdir / "metrics.csv", self._log.path)
    row = self._log.write(step, split, metrics, seconds, **times)
    finite = {f"{split}/{k}": float(v) for k, v in {**metrics, **times}.items() if math.isfinite(v)}
    with self._dispensable("tensorboard"):
      self._tensorboard().scalars(step, finite)
    if self._csv is not None:
      log, self._csv = self._csv, None  # one that failed is begun again, from metrics.jsonl
      with self._dispensable("metrics.csv"):
        log.write(row)
        self._csv = log
    if self._wandb is not None:
      with self._dispensable("wandb", Exception):
        self._wandb.scalars(step, finite)

  def image(self, step: int, name: str, picture: np.ndarray) -> None:
    """Writes uint8 [H, W, 1 or 3], as `vae_jax.pictures` makes it, to images/, TensorBoard and wandb, or warns."""
    if not self._enabled:
      return
    png = to_png(picture)
    with self._dispensable("images"):
      write_bytes(self._workdir / "images" / f"{name}_{step:07d}.png", png)
    with self._dispensable("tensorboard"):
      self._tensorboard().image(step, name, picture.shape, png)
    if self._wandb is not None:
      with self._dispensable("wandb", Exception):
        self._wandb.image(step, name, picture)

  def progress(self, step: int, **shown: float) -> None:
    """Moves the progress bar; `shown` are numbers to show beside it."""
    if self._enabled:
      self._progress.update(step, **shown)

  def between(self, name: str, every: int = 0, first: str = "") -> contextlib.AbstractContextManager[None]:
    """What is done between steps, once in `every` of them: no part of the speed, but of the time left. first: a line to
    print before the first time."""
    return self._progress.between(name, every, first) if self._enabled else contextlib.nullcontext()

  def say(self, line: str) -> None:
    """On standard error, above the progress bar."""
    if self._enabled:
      self._progress.say(line)

  def warn(self, line: str) -> None:
    """As `say`, after the word warning."""
    self.say(f"warning: {line}")

  def close(self) -> None:
    if not self._enabled:
      return
    self._progress.close()
    for log in (self._events, self._csv, self._log):
      if log is not None:
        log.close()
    if self._wandb is not None:
      with self._dispensable("wandb", Exception):
        self._wandb.close()

  def _tensorboard(self) -> Events:
    if self._events is None:
      self._events = Events(self._workdir / "tensorboard", self._resume_step)
      if self._facts and not self._resume_step:
        self._events.hyperparameters(self._facts, ("train/loss", "validation/loss"))
    return self._events

  @contextlib.contextmanager
  def _dispensable(self, folder: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """What cannot be written to this part of the workdir is left out; the first time with a warning."""
    try:
      yield
    except (kind, UserError) as error:
      if folder not in self._warned:
        cause = error.__cause__ if isinstance(error, UserError) else error
        reason = getattr(cause, "strerror", None) or error
        self.warn(f"{self._workdir / folder} cannot be written ({reason}); training goes on")
      self._warned.add(folder)

  def __enter__(self) -> Writers:
    return self

  def __exit__(self, *exception) -> None:
    self.close()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Values by dotted key, as "training.steps"."""
  found: dict[str, Any] = {}
  for name, value in values.items():
    found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
  return found
