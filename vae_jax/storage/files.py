"""Files that appear whole or not at all, and lines that are added whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vae_jax.errors import UserError


def write_whole(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
  """Calls `fill` with an open binary file, which then takes the name `path`; missing folders are made.

  Where `fill` fails, what was at `path` stays and nothing else is left. Raises UserError where it cannot be written.
  """
  path = Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing")
    try:
      with os.fdopen(handle, "wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())  # or a crash after the renaming could leave an empty file under the name
      os.chmod(temporary, 0o644)
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"{path}: cannot be written ({reason}); free some space or choose another place"
    ) from error


def append_whole(file: io.FileIO, data: bytes) -> None:
  """Adds `data` at the end of a file that was opened with mode "ab" and buffering=0.

  Raises OSError where it cannot be written, and then leaves the file as it was.
  """
  end = os.fstat(file.fileno()).st_size
  left = memoryview(data)
  try:
    while left:
      left = left[file.write(left) :]
  except BaseException:  # a second Ctrl-C too
    file.truncate(end)
    raise
