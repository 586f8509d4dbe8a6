"""How far the work is, on standard error: a bar on a terminal; elsewhere (a log file) a short line now and then.

`TrainingProgress` shows the steps of one run, `FileProgress` one file after the other, `patience` that work goes on.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

WINDOW = 50  # intervals between steps that count for the pace


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


def _on_terminal() -> bool:
  """Whether a person may see standard error at once; not where it is closed (`2>&-`)."""
  return sys.stderr is not None and sys.stderr.isatty()


class Pace:
  """How long a step takes: the mean over the last intervals between steps, without the slowest.

  So one stall (a suspended laptop, a slow read) is not expected again, and stalls that come regularly are. The first
  interval holds what a first call does once, and the second one replaces it.
  """

  def __init__(self) -> None:
    self._intervals: collections.deque[tuple[int, float]] = collections.deque(maxlen=WINDOW)
    self._first = True

  def add(self, steps: int, seconds: float) -> None:
    if self._first and self._intervals:
      self._intervals.clear()
      self._first = False
    self._intervals.append((steps, seconds))

  @property
  def seconds(self) -> float:
    """Seconds a step; 0 as long as nothing is known."""
    kept = sorted(self._intervals, key=lambda interval: interval[1] / interval[0])
    kept = kept[:-1] if len(kept) > 2 else kept
    return sum(seconds for _, seconds in kept) / sum(steps for steps, _ in kept) if kept else 0.0


class TrainingProgress:
  """Shows the step of a training run, its loss, its speed and the time left.

  The time left is the pace of the steps, and what comes between them (evaluations, checkpoints) as often as it will.
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
    self._step, self._since = resume_step, clock()
    self._between: dict[int, dict[str, list[float]]] = {}  # seconds by interval in steps and by name
    self._paused = 0.0  # seconds between steps since the last measurement, and since the last row
    self._row = (resume_step, clock())
    self._row_paused = 0.0
    self._pace = Pace()
    self._printed = -math.inf
    self._bar: Any = None
    if _on_terminal():
      from tqdm import tqdm

      self._bar = tqdm(
        total=total_steps,
        initial=resume_step,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
      )

  def update(self, step: int, **shown: float) -> None:
    """Moves to `step`. What `shown` has (the loss) stays in view until it is given anew."""
    self._shown |= {name: float(value) for name, value in shown.items()}
    now = self._clock()
    if step > self._step:
      self._pace.add(step - self._step, max(now - self._since - self._paused, 0.0))
      self._step, self._since, self._paused = step, now, 0.0
    facts = [f"{name} {value:.5g}" for name, value in self._shown.items()]
    if pace := self._pace.seconds:
      facts.append(f"{self._batch_size / pace:.{0 if self._batch_size >= 10 * pace else 1}f} img/s")
      facts.append(f"{_duration(self.seconds_left())} left")
    if self._bar is not None:
      with contextlib.suppress(OSError):  # a terminal that was closed is not worth a run
        self._bar.set_postfix_str(", ".join(facts), refresh=False)
        self._bar.update(step - self._bar.n)
      return
    if pace and (now - self._printed >= self._every or step >= self._total):
      self._printed = now
      self.say(f"step {step}/{self._total}, {', '.join(facts)}")

  @contextlib.contextmanager
  def between(self, name: str, every: int = 0, first: str = "") -> Iterator[None]:
    """What is done between steps, once in `every` steps and after the last; 0: not again. Not part of the pace.

    first: a line to print before the first time, which may take longer.
    """
    if first and name not in self._between.get(every, {}):
      self.say(first)
    began = self._clock()
    try:
      yield
    finally:
      spent = self._clock() - began
      self._paused += spent
      self._row_paused += spent
      if every:
        self._between.setdefault(every, {}).setdefault(name, []).append(spent)

  def seconds_left(self) -> float:
    """Until the run ends, as far as is known now."""
    left = (self._total - self._step) * self._pace.seconds
    for every, kinds in self._between.items():
      times = math.ceil(self._total / every) - self._step // every
      left += sum(times * _usual(seconds) for seconds in kinds.values())
    return left

  def images_per_second(self, step: int) -> float:
    """Measures the steps since the last call, without what came between them; 0 where there was no step."""
    (before, then), now = self._row, self._clock()
    spent, self._row, self._row_paused = now - then - self._row_paused, (step, now), 0.0
    return (step - before) * self._batch_size / spent if spent > 0 else 0.0

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


def _usual(seconds: list[float]) -> float:
  """How long it takes as a rule: the first time includes compilation, if there is a second."""
  return statistics.median(seconds[1:] or seconds)


class FileProgress:
  """Shows how far the work on one file, or one folder, after the other is.

  Each gets a bar of its own on a terminal. Elsewhere the first line comes before any work is done.
  The time left follows the mean pace after the first part, which includes compilation.
  """

  def __init__(self, every: float = 10.0, delay: float = 0, clock: Callable[[], float] = time.monotonic):
    """`every`: least number of seconds between two lines, where there is no terminal. `delay`: seconds before the first
    sign of life, so that short work shows none."""
    self._every, self._delay, self._clock = every, delay, clock
    self._what: str | None = None
    self._bar: Any = None
    self._first: tuple[float, float] | None = None  # (done, when) of this thing, compilation over
    self._printed = clock() + delay - every

  def update(self, what: str, done: float, total: float, note: str = "") -> None:
    """Moves to `done` of `total` parts of `what`; fractions count. note: why it stands still now."""
    fresh, self._what = what != self._what, what
    if fresh or note:
      self._first = None
    if _on_terminal():
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
        delay=self._delay,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
      )
    with contextlib.suppress(OSError):
      self._bar.set_postfix_str(note, refresh=bool(note))
      self._bar.update(done - self._bar.n)

  @contextlib.contextmanager
  def aside(self) -> Iterator[None]:
    """Takes the bar away for what is printed meanwhile."""
    with contextlib.suppress(OSError):
      if self._bar is not None:
        self._bar.clear()
    yield
    with contextlib.suppress(OSError):
      if self._bar is not None:
        self._bar.refresh()

  def say(self, line: str) -> None:
    """Prints a line on standard error, the bar aside. One that cannot be written is lost."""
    with self.aside(), contextlib.suppress(OSError):
      print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      with contextlib.suppress(OSError):
        self._bar.close()

  def __enter__(self) -> FileProgress:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def followed(items: Iterable[T], total: int, what: str) -> Iterator[T]:
  """Yields the items; from two seconds on, standard error shows how many of the `total` are done."""
  with FileProgress(delay=2.0) as progress:
    for done, item in enumerate(items):
      progress.update(what, done, total)
      yield item


@contextlib.contextmanager
def patience(line: str, delay: float = 2.0) -> Iterator[None]:
  """Prints `line` on standard error if what follows takes longer than `delay` seconds. Nothing where there is no
  terminal: nobody waits in front of a log file."""
  if not _on_terminal():
    yield
    return
  from tqdm import tqdm

  def show() -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that was closed
      tqdm.write(line, file=sys.stderr)  # above the bars

  timer = threading.Timer(delay, show)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
    timer.join()  # a line that is being printed comes before all that follows


def _duration(seconds: float) -> str:
  """61 -> "1:01", 3661 -> "1:01:01"."""
  hours, rest = divmod(round(seconds), 3600)
  minutes, rest = divmod(rest, 60)
  return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
