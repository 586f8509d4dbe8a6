"""Ctrl-C, SIGTERM and SIGHUP: a run that is asked to stop ends its step, saves, and says how to continue."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from vae_jax.progress import send_nowhere

# SIGHUP: the terminal was closed. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
  """A run was asked to stop, and has saved. `status`: what the command ends with, 128 + the number of the signal."""

  def __init__(self, message: str, status: int) -> None:
    super().__init__(message)
    self.status = status


class Request:
  """Within `with`, the first signal asks to stop; a Ctrl-C after it stops at once. Off the main thread nothing changes.

  A signal that the process was started to ignore, as SIGHUP under nohup, is ignored.

  several: whether several processes share the run. A signal to any of them then has all agree on the dispatch after
  which they stop: JAX listens for SIGTERM, and the other signals are passed on to it.
  """

  def __init__(self, several: bool = False) -> None:
    self._signal: int | None = None
    self._several, self._calls = several, 0
    self._listens = threading.current_thread() is threading.main_thread()
    self._before: dict[int, Any] = {}

  def stops(self) -> int | None:
    """The signal, if the run shall stop now. To be called after every dispatch, by all processes."""
    self._calls += 1
    if self._several:
      from jax.experimental.multihost_utils import reached_preemption_sync_point

      return (self._signal or signal.SIGTERM) if reached_preemption_sync_point(self._calls) else None
    return self._signal

  def __enter__(self) -> Request:
    for number in SIGNALS if self._listens else ():
      ours = not (self._several and number == signal.SIGTERM)
      if ours and signal.getsignal(number) is not signal.SIG_IGN:
        self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    if self._signal is not None:
      if number == signal.SIGINT:
        raise KeyboardInterrupt
      return  # a closed terminal and its shell both send SIGHUP
    self._signal = number
    try:
      print(
        "\nstopping after this step, and saving; Ctrl-C once more stops at once", file=sys.stderr, flush=True
      )
    except OSError as error:  # a full disk may have space later; a closed terminal has gone
      if error.errno == errno.EIO:
        send_nowhere(sys.stdout)
        send_nowhere(sys.stderr)
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)
