"""Arrays that are too large for memory, in temporary files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vae_jax.errors import UserError


class Scratch:
  """float32 [height, ...] in a temporary file, read and written some rows at a time. Begins as zeros.

  The file has no name, so nothing is left of it however the program ends. (A memory map would count as memory of the
  program.) Use it in a `with` statement.
  """

  def __init__(self, folder: Path, shape: tuple[int, ...]):
    """folder: an existing one, on the disk to use. Raises UserError where it cannot be written."""
    self.shape, self._folder = shape, folder
    self._row = 4 * math.prod(shape[1:])  # bytes
    try:
      self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by __exit__
      self._file.truncate(shape[0] * self._row)
    except OSError as error:
      raise self._refused(error) from error

  def read(self, first: int, last: int) -> np.ndarray:
    """Rows first..last - 1."""
    rows = np.empty((last - first, *self.shape[1:]), np.float32)
    left = rows.data.cast("B")
    self._file.seek(first * self._row)
    while left:
      count = self._file.readinto(left)
      if not count:
        raise EOFError(f"rows {first} to {last} of a scratch file of {self.shape[0]}")
      left = left[count:]
    return rows

  def write(self, first: int, rows: np.ndarray) -> None:
    """Puts rows from `first` on. Raises UserError where the disk is full."""
    left = np.ascontiguousarray(rows, np.float32).data.cast("B")
    try:
      self._file.seek(first * self._row)
      while left:
        left = left[self._file.write(left) :]
    except OSError as error:
      raise self._refused(error) from error

  def bands(self, rows: int = 64) -> Iterator[np.ndarray]:
    """All rows, so many at a time, from the top down."""
    for first in range(0, self.shape[0], rows):
      yield self.read(first, min(first + rows, self.shape[0]))

  def _refused(self, error: OSError) -> UserError:
    return UserError(
      f"{self._folder}: a temporary file cannot be written ({error.strerror or error}); free some space or choose "
      "another place"
    )

  def __enter__(self) -> Scratch:
    return self

  def __exit__(self, *exception: object) -> None:
    self._file.close()
