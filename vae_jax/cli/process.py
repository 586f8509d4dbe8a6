"""Runs a command as a process: errors become one line and an exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from vae_jax.errors import UserError, printable


def run(main: Callable[[], Any]) -> None:
  """Calls `main`. A UserError, or output to a full disk, becomes one line on standard error and status 2, an interrupt
  one line and 130, or the `status` that it has. Any other exception is a bug, and keeps its traceback.
  """
  if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
    # The name of a file may be no text; it is printed all the same.
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    main()
  except UserError as error:
    print("error:", one_line(error), file=sys.stderr)
    sys.exit(2)
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    with contextlib.suppress(OSError):
      print(f"error: {one_line(error)}; free some space", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt as stop:
    print(str(stop) or "interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(
      getattr(stop, "status", 130)
    )  # an orderly exit while XLA computes can end in a segmentation fault


def one_line(error: object) -> str:
  """An error's text without line breaks, and with what a terminal would obey (escape sequences) spelt out."""
  return printable(" ".join(str(error).split()))
