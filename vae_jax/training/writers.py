"""What a run reports about itself: metrics.jsonl, TensorBoard, picture files, a progress line.

    workdir/metrics.jsonl               one row for each step and split that was measured
    workdir/tensorboard/                the same scalars and pictures, for looking at
    workdir/images/<name>_0002000.png   pictures

A row of metrics.jsonl is a JSON object: "step", "split", the metrics in alphabetical order, and times: in rows of
training "waiting", the share of the time since the row before that the loop waited for data, then "seconds" as the
caller counts them. Only times may differ between identical runs. JSON has no NaN and no infinity: such a metric is
null, and "nonfinite" lists its name.

On a full disk a row that cannot be written ends the run, because a log with gaps is worth less than a run that
continues from its checkpoint. Pictures and TensorBoard are for looking at: one warning, and the run goes on, trying
anew each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.pictures import to_png
from vae_jax.progress import TrainingProgress
from vae_jax.storage.files import append_whole, write_whole

_RESERVED = {"step", "split", "waiting", "seconds", "nonfinite"}


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
    self, step: int, split: str, metrics: Mapping[str, Any], seconds: float, waiting: float | None = None
  ) -> None:
    """Adds one row, whole or not at all. Metrics are numbers or scalar arrays; floats keep every digit.

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
    row["seconds"] = round(seconds, 3)
    try:
      append_whole(self._file, json.dumps(row, allow_nan=False).encode() + b"\n")
    except OSError as error:
      raise UserError(
        f"{self.path}: the row of step {step} was not written ({error.strerror}); make room, and the same command "
        "continues from the last checkpoint"
      ) from None

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
    write_whole(self.path, lambda file: file.write(after.encode()))


def _step(line: str) -> int | None:
  """The step of a row of metrics.jsonl; None where the line is none."""
  try:
    step = json.loads(line)["step"]
  except (ValueError, TypeError, KeyError, RecursionError):
    return None
  return step if type(step) is int else None


class Events:
  """Appends to an event file of TensorBoard; each event is on its way to the disk when the call returns.

  The writer of tensorboardX is not used: its thread dies on a full disk, after which its queue stops the run for ever.
  """

  def __init__(self, folder: str | Path, resume_step: int = 0):
    """`resume_step`: what earlier files hold of later steps is hidden by TensorBoard. Raises OSError."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    self._file = io.FileIO(folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}", "a")
    self._add(Event(wall_time=now, file_version="brain.Event:2"))
    if resume_step:
      start = SessionLog(status=SessionLog.START)
      self._add(Event(wall_time=now, step=resume_step + 1, session_log=start))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Numbers by name. Raises OSError, and then leaves the file as it was."""
    from tensorboardX.proto.summary_pb2 import Summary

    self._summary(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

  def image(self, step: int, name: str, shape: tuple[int, ...], png: bytes) -> None:
    """A PNG file of an image of `shape` [h, w, c]. Raises OSError, and then leaves the file as it was."""
    from tensorboardX.proto.summary_pb2 import Summary

    height, width, channels = shape
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    self._summary(step, [Summary.Value(tag=name, image=picture)])

  def close(self) -> None:
    self._file.close()

  def _summary(self, step: int, values: list[Any]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

  def _add(self, event: Any) -> None:
    """A record of a TFRecord file: length, its checksum, data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    append_whole(self._file, length + sums[0] + data + sums[1])


class Writers:
  """Writes all of this for one run, and shows its progress. On processes other than the first it does nothing."""

  def __init__(
    self,
    workdir: str | Path,
    resume_step: int,
    total_steps: int,
    batch_size: int,
    enabled: bool | None = None,
  ):
    """
    Args:
      workdir: created if it is not there.
      resume_step: 0 for a new run; what the logs hold of later steps is dropped.
      total_steps, batch_size: for the remaining time and the images a second.
      enabled: None: on the first process only.
    """
    if enabled is None:
      import jax

      enabled = jax.process_index() == 0
    self._enabled = enabled
    self._workdir = Path(workdir)
    if not enabled:
      return
    self._resume_step = resume_step
    self._log = MetricsLog(self._workdir / "metrics.jsonl", resume_step)
    self._events: Events | None = None
    self._warned: set[str] = set()
    self._progress = TrainingProgress(resume_step, total_steps, batch_size)

  def scalars(
    self, step: int, split: str, metrics: Mapping[str, Any], seconds: float, waiting: float | None = None
  ) -> None:
    """A row of metrics.jsonl, and `split/name` in TensorBoard (finite values).

    Raises UserError where the row cannot be written; without TensorBoard the run goes on, with a warning.
    """
    if not self._enabled:
      return
    self._log.write(step, split, metrics, seconds, waiting)
    shown = dict(metrics) if waiting is None else {**metrics, "waiting": waiting}
    finite = {f"{split}/{name}": float(value) for name, value in shown.items() if math.isfinite(value)}
    with self._dispensable("tensorboard"):
      self._tensorboard().scalars(step, finite)

  def image(self, step: int, name: str, picture: np.ndarray) -> None:
    """Writes uint8 [H, W, 1 or 3], as `vae_jax.pictures` makes it, to images/ and TensorBoard, or warns."""
    if not self._enabled:
      return
    png = to_png(picture)
    with self._dispensable("images"):
      write_whole(self._workdir / "images" / f"{name}_{step:07d}.png", lambda file: file.write(png))
    with self._dispensable("tensorboard"):
      self._tensorboard().image(step, name, picture.shape, png)

  def progress(self, step: int, **shown: float) -> None:
    """Moves the progress bar; `shown` are numbers to show beside it."""
    if self._enabled:
      self._progress.update(step, **shown)

  def warn(self, line: str) -> None:
    """On standard error, above the progress bar."""
    if self._enabled:
      self._progress.say(f"warning: {line}")

  def close(self) -> None:
    if not self._enabled:
      return
    self._progress.close()
    if self._events is not None:
      self._events.close()
    self._log.close()

  def _tensorboard(self) -> Events:
    if self._events is None:
      self._events = Events(self._workdir / "tensorboard", self._resume_step)
    return self._events

  @contextlib.contextmanager
  def _dispensable(self, folder: str) -> Iterator[None]:
    """What cannot be written to this folder of the workdir is left out; the first time with a warning."""
    try:
      yield
    except (OSError, UserError) as error:
      if folder not in self._warned:
        cause = error.__cause__ if isinstance(error, UserError) else error
        reason = getattr(cause, "strerror", None) or error
        self.warn(f"{self._workdir / folder} cannot be written ({reason}); training goes on")
      self._warned.add(folder)

  def __enter__(self) -> Writers:
    return self

  def __exit__(self, *exception) -> None:
    self.close()
