"""Signals: which ask a run to stop, which stop it at once, and what becomes of its output."""

import contextlib
import os
import signal
import sys
import time

import pytest

from vae_jax.progress import FileProgress, TrainingProgress, tell
from vae_jax.training.stopping import SIGNALS, Request


@pytest.fixture(autouse=True)
def as_started_by_a_shell():
  """Signals act as usual, even where the tests themselves run under nohup."""
  before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_its_repetition_changes_nothing(number, capsys):
  """A closed terminal sends SIGHUP, and its shell another."""
  before = signal.getsignal(number)
  with Request() as request:
    assert request.stops() is None
    signal.raise_signal(number)
    assert request.stops() == number
    if number != signal.SIGINT:
      signal.raise_signal(number)
      assert request.stops() == number
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(number) == before
  assert capsys.readouterr().err.count("stopping after this step") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
def test_a_run_under_nohup_goes_on():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with Request() as request:
      signal.raise_signal(signal.SIGHUP)
      assert request.stops() is None
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="Windows")
def test_a_closed_terminal_takes_no_more_output(monkeypatch):
  ours, theirs = os.openpty()
  with os.fdopen(theirs, "w") as terminal:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    os.close(ours)
    with pytest.raises(OSError, match="Input/output error"):
      print("x", file=terminal, flush=True)
    with Request() as request:
      signal.raise_signal(signal.SIGHUP)
      assert request.stops() == signal.SIGHUP
    print("the last line of the run", file=terminal, flush=True)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="Windows")
@pytest.mark.filterwarnings("ignore::tqdm.TqdmWarning")
def test_progress_on_a_terminal_that_was_closed_is_lost(monkeypatch):
  """As of a run that was disowned, to which no signal comes."""
  ours, theirs = os.openpty()
  with os.fdopen(theirs, "w") as terminal:
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = TrainingProgress(0, 10, 8)
    files = FileProgress()
    files.update("a.png", 0, 2)
    os.close(ours)
    with pytest.raises(OSError, match="Input/output error"):  # what the calls below meet
      print("x", file=terminal, flush=True)
    for step in range(1, 11):
      time.sleep(0.02)
      progress.update(step, loss=1.0)
    progress.say("x")
    files.update("a.png", 1, 2, note="compiling")
    files.close()
    progress.close()
    with contextlib.suppress(OSError):
      terminal.close()


def test_a_closed_pipe_takes_no_more_output(monkeypatch):
  """`train.py | head -0`: the run goes on."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as pipe:
    monkeypatch.setattr(sys, "stdout", pipe)
    with pytest.raises(BrokenPipeError):  # what `tell` meets
      os.write(writer, b"x")
    tell("lost")
    assert os.write(writer, b"x") == 1  # goes nowhere from now on
    print("lost too", flush=True)
