"""Ctrl-C and SIGTERM: a run that is asked to stop ends its step, saves, and says how to continue."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
  """A run was asked to stop, and has saved. `status`: what the command ends with, 128 + the number of the signal."""

  def __init__(self, message: str, status: int) -> None:
    super().__init__(message)
    self.status = status


class Request:
  """Within `with`, the first signal asks to stop; a second one stops at once. Off the main thread nothing changes.

  several: whether several processes share the run. JAX then listens for SIGTERM to any of them, and has all agree on
  the dispatch after which they stop; Ctrl-C ends them at once.
  """

  def __init__(self, several: bool = False) -> None:
    self._signal: int | None = None
    self._several, self._calls = several, 0
    self._listens = not several and threading.current_thread() is threading.main_thread()
    self._before: dict[int, Any] = {}

  def stops(self) -> int | None:
    """The signal, if the run shall stop now. To be called after every dispatch, by all processes."""
    self._calls += 1
    if self._several:
      from jax.experimental.multihost_utils import reached_preemption_sync_point

      return signal.SIGTERM if reached_preemption_sync_point(self._calls) else None
    return self._signal

  def __enter__(self) -> Request:
    if self._listens:
      self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    if self._signal is not None:
      raise KeyboardInterrupt
    self._signal = number
    with contextlib.suppress(OSError):  # standard error on a full disk
      print(
        "\nstopping after this step, and saving; Ctrl-C once more stops at once", file=sys.stderr, flush=True
      )
