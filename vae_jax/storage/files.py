"""Files that appear whole or not at all, and lines that are added whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vae_jax.errors import UserError

# What a disk answers that has no such call; any other error of fsync means lost data.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_whole(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
  """Calls `fill` with an open binary file, which then takes the name `path`; missing folders are made.

  Where `fill` fails, what was at `path` stays and nothing else is left. Permissions follow the umask. Raises UserError
  where it cannot be written.
  """
  path = Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _new_file(path.parent)
    try:
      with os.fdopen(handle, "wb") as file:
        fill(file)
        file.flush()
        _synchronise(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    reason = error.strerror or error
    remedy = "change its permissions" if error.errno in _REFUSED else "free some space"
    raise UserError(f"{path}: cannot be written ({reason}); {remedy} or choose another place") from error


def write_bytes(path: str | Path, content: bytes) -> None:
  """As `write_whole`, of what is in memory already."""
  write_whole(path, lambda file: file.write(content))


def _new_file(folder: Path) -> tuple[Path, int]:
  """A hidden file of a new name, opened. `tempfile` would give it permissions that only chmod could change."""
  while True:
    path = folder / f".writing{secrets.token_hex(8)}"
    with contextlib.suppress(FileExistsError):
      return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _synchronise(handle: int) -> None:
  """Brings a file to the disk, or a crash after its renaming could leave an empty file under the name."""
  try:
    os.fsync(handle)
  except OSError as error:
    if error.errno not in _NO_SYNC:
      raise


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
