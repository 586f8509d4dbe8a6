"""Progress: what a line and a bar show, and when."""

import io
import itertools
import sys
import threading
import time
from typing import NamedTuple

import jax.numpy as jnp
import pytest

from vae_jax import progress as module
from vae_jax.progress import FileProgress, TrainingProgress, followed, patience

# --- training ---


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_progress_without_a_terminal(capsys):
  clock = Clock()
  progress = TrainingProgress(100, 1000, batch_size=8, every=10.0, clock=clock)
  clock.now = 50.0  # compilation
  progress.update(200, loss=123.456789)
  for step in range(210, 1000, 10):
    clock.now += 0.5
    progress.update(step)
  clock.now += 0.5
  progress.update(1000, loss=jnp.float32(7))
  progress.close()
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == "step 200/1000, loss 123.46, 16 img/s, 6:40 left"
  assert lines[1] == "step 400/1000, loss 123.46, 160 img/s, 0:30 left"
  assert lines[-1] == "step 1000/1000, loss 7, 160 img/s, 0:00 left"
  assert len(lines) == 5  # in 40 seconds


def test_progress_on_a_terminal(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  clock = Clock()
  progress = TrainingProgress(100, 200, batch_size=8, clock=clock)
  assert "50%" in terminal.getvalue() and "100/200" in terminal.getvalue()  # resumed
  for step in range(120, 201, 20):
    clock.now += 1.0
    progress.update(step, loss=1.5)
  progress.close()
  last = terminal.getvalue().split("\r")[-1]
  assert "100%" in last and "200/200" in last and "loss 1.5" in last and "160 img/s" in last


class Scenario(NamedTuple):
  """A run by a fake clock: seconds a step, of the first call, of evaluations (the first, others), of a stall."""

  step: float = 0.1
  first: float = 0.1
  evaluations: tuple[float, float] = (0.0, 0.0)
  every: int = 100
  stall: float = 0.0
  resume: int = 0


@pytest.mark.parametrize(
  "scenario",
  [
    Scenario(),
    Scenario(first=90.0),
    Scenario(evaluations=(40.0, 5.0)),
    Scenario(evaluations=(20.0, 20.0)),
    Scenario(stall=60.0),
    Scenario(first=90.0, evaluations=(40.0, 5.0), stall=60.0),
    Scenario(first=90.0, evaluations=(40.0, 5.0), resume=1230),
    Scenario(step=30.0, first=900.0, evaluations=(600.0, 300.0), every=500),
  ],
  ids=str,
)
def test_the_time_left_is_right_from_a_tenth_of_a_run_on(scenario):
  """Within a fifth of the truth, and from one line to the next it moves by no more than that."""
  clock, total, size = Clock(), 2000, 10
  progress = TrainingProgress(scenario.resume, total, batch_size=8, clock=clock)
  with progress.between("compilation"):
    clock.now += 60.0
  said, evaluated = [], 0
  for step in range(scenario.resume + size, total + 1, size):
    clock.now += scenario.first if step == scenario.resume + size else scenario.step * size
    clock.now += scenario.stall if step == scenario.resume + 150 else 0.0
    progress.update(step)
    if step % scenario.every == 0:
      with progress.between("evaluation", scenario.every):
        clock.now += scenario.evaluations[evaluated > 0]
      evaluated += 1
    if step >= scenario.resume + (total - scenario.resume) / 10 and evaluated > 1:
      said.append((clock.now, progress.seconds_left()))
  assert len(said) > 30
  for now, left in said:
    assert left == pytest.approx(clock.now - now, rel=0.2, abs=1.0)
  for (now, left), (later, less) in itertools.pairwise(said):
    assert abs((now + left) - (later + less)) <= 0.1 * clock.now


def test_images_per_second_are_those_of_the_steps_alone():
  clock = Clock()
  progress = TrainingProgress(100, 1000, batch_size=8, clock=clock)
  with progress.between("compilation"):
    clock.now += 50.0
  clock.now += 10.0
  assert progress.images_per_second(200) == 80.0
  with progress.between("evaluation", 100):
    clock.now += 7.0
  clock.now += 5.0
  assert progress.images_per_second(300) == 160.0
  assert progress.images_per_second(300) == 0.0


@pytest.mark.parametrize(
  ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (36061, "10:01:01")]
)
def test_duration(seconds, text):
  assert module._duration(seconds) == text


# --- files ---


def test_a_line_now_and_then(capsys):
  """At once; then when ten seconds have gone by, with the time left, which leaves out what was compiled."""
  now = [0.0]

  def shown(time, done, what="a.png", note=""):
    now[0] = time
    meter.update(what, done, 4, note)
    return capsys.readouterr().err

  with FileProgress(clock=lambda: now[0]) as meter:
    assert shown(0, 0, note="compiling") == "a.png: 0 %, compiling\n"
    assert shown(9, 0.5) == ""  # compiled
    assert shown(12, 1) == "a.png: 25 %, 00:18 left\n"
    assert shown(21, 2) == ""
    assert shown(24, 2, note="compiling") == "a.png: 50 %, compiling\n"
    assert shown(30, 2.5) == ""
    assert shown(34, 3) == "a.png: 75 %, 00:08 left\n"
    assert shown(35, 0, "b.png") == ""  # many small files do not make many lines
    assert shown(50, 0, "b.png") == "b.png: 0 %\n"


def test_short_work_shows_nothing(capsys, monkeypatch):
  """Lines from two seconds on, without control characters: standard error is no terminal."""
  clock = Clock()
  monkeypatch.setattr(FileProgress.__init__, "__defaults__", (10.0, 0, clock))
  for step, lines in ((0.1, ""), (0.9, "scoring test: 75 %, 00:00 left\n")):
    items = []
    for item in followed("abcd", 4, "scoring test"):
      items.append(item)
      clock.now += step
    assert items == ["a", "b", "c", "d"] and capsys.readouterr().err == lines


def test_a_bar_from_the_beginning_on_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr("sys.stderr", terminal)
  with FileProgress() as meter:
    meter.update("a.png", 0, 2, "compiling")
    first = terminal.getvalue()
    assert "a.png:   0%|" in first and "compiling" in first
    meter.update("a.png", 2, 2)
    terminal.truncate(0)
    meter.update("b.png", 0, 2)
    assert "b.png:   0%|" in terminal.getvalue() and "compiling" not in terminal.getvalue()


def test_a_line_takes_the_place_of_the_bar_and_the_bar_comes_back(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr("sys.stderr", terminal)
  with FileProgress() as meter:
    with meter.aside():
      assert terminal.getvalue() == ""
    meter.update("a.png", 1, 2)
    before = terminal.getvalue()
    with meter.aside():
      print("wrote a.png", file=terminal)
    shown = terminal.getvalue().removeprefix(before)
    cleared, after = shown.split("wrote a.png\n")
    assert cleared.startswith("\r") and not cleared.strip() and cleared.endswith("\r")
    assert "a.png:  50%|" in after


def test_patience_says_so_on_a_terminal_alone_and_only_if_it_takes_long(monkeypatch):
  for terminal, delay, said in ((True, 0.01, "loading ..."), (True, 60, ""), (False, 0.01, "")):
    stream = io.StringIO()
    stream.isatty = lambda terminal=terminal: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with patience("loading ...", delay):
      end = time.monotonic() + (10 if said else 0.05)
      while time.monotonic() < end and (not said or "\n" not in stream.getvalue()):
        time.sleep(0.01)
    assert stream.getvalue().strip("\r\n") == said


def test_a_line_that_is_being_printed_comes_before_what_follows(monkeypatch):
  begun = threading.Event()

  class Slow(io.StringIO):
    def isatty(self):
      return True

    def write(self, text):
      begun.set()
      time.sleep(0.1)
      return super().write(text)

  stream = Slow()
  monkeypatch.setattr(sys, "stderr", stream)
  with patience("loading ...", 0.0):
    begun.wait(10)
  assert stream.getvalue().endswith("loading ...\n")


def test_standard_error_that_is_closed(monkeypatch):
  """As under `2>&-`."""
  monkeypatch.setattr(sys, "stderr", None)
  with patience("loading ...", 0.0):
    assert list(followed([1, 2], 2, "a")) == [1, 2]
  progress = TrainingProgress(0, 10, batch_size=8)
  progress.update(10, loss=1.0)
  progress.close()
