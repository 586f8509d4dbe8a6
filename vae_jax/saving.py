"""Files that appear whole or not at all."""

from __future__ import annotations

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
      os.chmod(temporary, 0o644)
      os.replace(temporary, path)
    except BaseException:
      os.unlink(temporary)
      raise
  except OSError as error:
    raise UserError(
      f"{path}: cannot be written ({error.strerror}); make room or choose another place"
    ) from error
