"""Runs a command as a process: errors become one line and an exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from vae_jax.errors import UserError, printable

_PIPE = 141  # status of a command that wrote to a closed pipe: 128 + SIGPIPE, as a shell reports it


def run(main: Callable[[], Any]) -> None:
  """Calls `main`. A UserError, or output to a full disk, becomes one line on standard error and status 2, an interrupt
  one line and 130, or the `status` that it has. Output to a pipe that was closed (`| head`) ends with status 141 and
  no line. Any other exception is a bug, and keeps its traceback.
  """
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    # The name of a file may be no text; it is printed all the same.
    sys.stdout.reconfigure(errors="backslashreplace")
  with contextlib.suppress(ValueError):  # off the main thread
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
      signal.signal(signal.SIGINT, _interrupt)
  try:
    main()
    _flush()
  except UserError as error:
    _end(f"error: {one_line(error)}", 2)
  except BrokenPipeError:
    os._exit(_PIPE)  # at exit, Python would try to print what is left
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    _end(f"error: {one_line(error)}; free some space", 2)
  except KeyboardInterrupt as stop:
    _say(str(stop) or "interrupted")
    with contextlib.suppress(OSError):
      _flush()
    # An orderly exit while XLA computes can end in a segmentation fault.
    os._exit(getattr(stop, "status", 130))


def _interrupt(number: int, frame: FrameType | None) -> None:
  """Handles Ctrl-C: KeyboardInterrupt, but at once the end while a module is imported, which would swallow it."""
  while frame is not None:
    if frame.f_code.co_filename.startswith("<frozen importlib"):
      _say("interrupted")
      os._exit(130)
    frame = frame.f_back
  raise KeyboardInterrupt


def _end(line: str, status: int) -> NoReturn:
  """Ends with one line; what still waits to be printed is lost where nobody reads it."""
  _say(line)
  try:
    _flush()
  except OSError:
    os._exit(status)
  sys.exit(status)


def _flush() -> None:
  if sys.stdout is not None:  # as under `>&-`
    sys.stdout.flush()


def _say(line: str) -> None:
  """Prints a line on standard error, if that can be: it may be a full disk, or a pipe or terminal that was closed."""
  with contextlib.suppress(OSError):
    print(line, file=sys.stderr, flush=True)


def one_line(error: object) -> str:
  """An error's text without line breaks, and with what a terminal would obey (escape sequences) spelt out."""
  return printable(" ".join(str(error).split()))
