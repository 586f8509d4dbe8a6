"""How far the work is, on standard error: a bar on a terminal; elsewhere (a log file) a short line now and then.

`TrainingProgress` shows the steps of one run, `FileProgress` one file after the other.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


def tell(line: str) -> None:
  """Prints a line on standard output. Where nobody reads it any more (`| head`), it and what follows go nowhere."""
  try:
    print(line, flush=True)
  except OSError as error:
    if error.errno not in (errno.EPIPE, errno.EIO):  # a pipe or a terminal that was closed
      raise
    send_nowhere(sys.stdout)


def send_nowhere(stream: TextIO | None) -> None:
  """Lets what is printed to a stream from now on vanish, where it would raise OSError."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
      if stream is not None:
        os.dup2(nowhere, stream.fileno())
    finally:
      os.close(nowhere)


class TrainingProgress:
  """Shows the step of a training run, its loss, its speed and the time left.

  The time left follows the pace of the last updates.
  """

  def __init__(
    self,
    resume_step: int,
    total_steps: int,
    batch_size: int,
    every: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """`every`: least number of seconds between two lines, where there is no terminal."""
    self._total, self._batch_size = total_steps, batch_size
    self._every, self._clock = every, clock
    self._shown: dict[str, float] = {}
    self._last = (resume_step, clock())
    self._pace = 0.0  # seconds a step
    self._intervals = 0
    self._printed = -math.inf
    self._bar: Any = None
    if sys.stderr.isatty():
      from tqdm import tqdm

      self._bar = tqdm(
        total=total_steps,
        initial=resume_step,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
      )

  def update(self, step: int, **shown: float) -> None:
    """Moves to `step`. What `shown` has (the loss) stays in view until it is given anew."""
    self._shown |= {name: float(value) for name, value in shown.items()}
    self._measure(step)
    facts = [f"{name} {value:.5g}" for name, value in self._shown.items()]
    facts.append(f"{self._batch_size / self._pace if self._pace else 0:.0f} img/s")
    if self._bar is not None:
      with contextlib.suppress(OSError):  # a terminal that was closed is not worth a run
        self._bar.set_postfix_str(", ".join(facts), refresh=False)
        self._bar.update(step - self._bar.n)
      return
    now = self._clock()
    if self._pace and (now - self._printed >= self._every or step >= self._total):
      self._printed = now
      left = (self._total - step) * self._pace
      facts.append(f"{_duration(left)} left")
      self.say(f"step {step}/{self._total}, {', '.join(facts)}")

  def say(self, line: str) -> None:
    """Prints a line above the bar. One that cannot be written, as to a log on a full disk, is lost."""
    with contextlib.suppress(OSError):
      if self._bar is not None:
        self._bar.write(line, file=sys.stderr)
      else:
        print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      with contextlib.suppress(OSError):
        self._bar.close()

  def _measure(self, step: int) -> None:
    """Smooths the time a step takes (not the speed: calls that return at once would count for ever).

    The first interval includes compilation, so the second one replaces it.
    """
    previous, then = self._last
    now = self._clock()
    if step <= previous:
      return
    pace = (now - then) / (step - previous)
    self._pace = pace if self._intervals < 2 else 0.8 * self._pace + 0.2 * pace
    self._intervals += 1
    self._last = (step, now)


class FileProgress:
  """Shows how far the work on one file, or one folder, after the other is.

  Each gets a bar of its own on a terminal. Elsewhere the first line comes before any work is done.
  The time left follows the mean pace after the first part, which includes compilation.
  """

  def __init__(self, every: float = 10.0, clock: Callable[[], float] = time.monotonic):
    """`every`: least number of seconds between two lines, where there is no terminal."""
    self._every, self._clock = every, clock
    self._what: str | None = None
    self._bar: Any = None
    self._first: tuple[float, float] | None = None  # (done, when) of this thing, compilation over
    self._printed = -math.inf

  def update(self, what: str, done: float, total: float, note: str = "") -> None:
    """Moves to `done` of `total` parts of `what`; fractions count. note: why it stands still now."""
    fresh, self._what = what != self._what, what
    if fresh or note:
      self._first = None
    if sys.stderr.isatty():
      self._draw(what, done, total, note, fresh)
      return
    now = self._clock()
    if note or now - self._printed >= self._every:
      left = f", {note}" if note else ""
      if self._first and done > self._first[0]:
        from tqdm import tqdm

        pace = (now - self._first[1]) / (done - self._first[0])
        left = f", {tqdm.format_interval((total - done) * pace)} left"
      self._printed = now
      with contextlib.suppress(OSError):
        print(f"{what}: {100 * done / total:.0f} %{left}", file=sys.stderr, flush=True)
    if done and not note and self._first is None:
      self._first = (done, now)

  def _draw(self, what: str, done: float, total: float, note: str, fresh: bool) -> None:
    from tqdm import tqdm

    if fresh:
      self.close()
      self._bar = tqdm(
        total=total,
        desc=what,
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
      )
    with contextlib.suppress(OSError):
      self._bar.set_postfix_str(note, refresh=bool(note))
      self._bar.update(done - self._bar.n)

  def close(self) -> None:
    if self._bar is not None:
      with contextlib.suppress(OSError):
        self._bar.close()

  def __enter__(self) -> FileProgress:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def _duration(seconds: float) -> str:
  """61 -> "1:01", 3661 -> "1:01:01"."""
  hours, rest = divmod(round(seconds), 3600)
  minutes, rest = divmod(rest, 60)
  return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
