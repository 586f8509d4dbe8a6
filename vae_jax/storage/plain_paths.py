"""Folders that a person names, and how libraries that misread some names are given them.

Orbax looks for files by a pattern that holds the whole path (`runs/a[1]` is not found), and tensorstore takes every
path for UTF-8 (in another locale, or with bytes that are no text, it writes to a folder of another name).
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vae_jax.errors import UserError, printable

_PLAIN = re.compile(r"[A-Za-z0-9/._-]+", re.ASCII)
_ADDRESS = re.compile(r"[a-z][a-z0-9+]+:/")  # pathlib has made one slash of two
_ELSEWHERE = "/tmp"  # where the folder for temporary files has no plain name itself


def local_folder(name: str | Path) -> Path:
  """Returns the path that a person means, with `~` expanded; the folder need not be there.

  Raises UserError for what no folder can be named, and for the address of a store elsewhere, such as gs://bucket.
  """
  if not str(name):
    raise UserError("'' is not the name of a folder; give one")
  if _ADDRESS.match(str(name)):
    raise UserError(
      f"{printable(str(name))} is an address, and runs are kept in folders; give a folder, perhaps on a mounted store"
    )
  try:
    folder = Path(name).expanduser()
    os.lstat(folder)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, RuntimeError, ValueError) as error:  # too long; an unknown ~user; NUL, or no encoding
    reason = getattr(error, "strerror", None) or error
    raise UserError(
      f"{printable(str(name))[:200]} cannot be used as a folder ({reason}); give another"
    ) from None
  return folder


def is_plain(path: Path) -> bool:
  """Whether every library reads this path alike."""
  return bool(_PLAIN.fullmatch(str(path)))


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
  """Gives a path of plain characters to an absolute `folder`: itself, or else a link, which is gone at the end.

  Raises UserError where no link can be made.
  """
  if is_plain(folder):
    yield folder
    return
  try:
    place = tempfile.gettempdir()
    links = tempfile.TemporaryDirectory(
      prefix="vae_jax_", dir=place if is_plain(Path(place)) else _ELSEWHERE, ignore_cleanup_errors=True
    )
    link = Path(links.name) / "folder"
    os.symlink(folder, link, target_is_directory=True)
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"{printable(str(folder))} needs a temporary link, as it has other characters than A-Z a-z 0-9 . _ - /, and none "
      f"can be made ({reason}); choose another --workdir, or set TMPDIR to a folder that can be written"
    ) from error
  with links:
    yield link
