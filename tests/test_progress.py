"""Progress: what a line and a bar show, and when."""

import io
import sys

import jax.numpy as jnp
import pytest

from vae_jax import progress as module
from vae_jax.progress import FileProgress, TrainingProgress

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
