"""Ctrl-C and SIGTERM: a run that is asked to stop ends its step, saves, and says how to continue."""

from __future__ import annotations

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
  """Within `with`, the first signal sets `signal`; a second one stops at once. Off the main thread nothing changes."""

  def __init__(self, enabled: bool = True) -> None:
    self.signal: int | None = None
    self._enabled = enabled and threading.current_thread() is threading.main_thread()
    self._before: dict[int, Any] = {}

  def __enter__(self) -> Request:
    if self._enabled:
      self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    if self.signal is not None:
      raise KeyboardInterrupt
    self.signal = number
    print(
      "\nstopping after this step, and saving; Ctrl-C once more stops at once", file=sys.stderr, flush=True
    )
