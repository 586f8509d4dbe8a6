"""A config -> what a data set of our own is made of. Nothing is written here.

`plan(data)` gives encoded images, example by example, for `builders` to store; `look(data)` lists the files of a
folder, and notices when they have changed.
"""

from __future__ import annotations

import hashlib

from ml_collections import ConfigDict

from vae_jax.data import captions, embedded, folders, idx
from vae_jax.data.examples import Plan, folder_of
from vae_jax.data.inspection import plan_files
from vae_jax.data.suffixes import READ
from vae_jax.errors import UserError

FOLDERS = ("folder", "paired_folder")
EMBEDDED = ("digits", "photos")  # in packages
DRAWN = ("scenes", "sprites")  # as they are read
OWN = (*EMBEDDED, "idx", *FOLDERS)


def plan(data: ConfigDict) -> Plan:
  """What a data set of `OWN` is made of. Raises UserError where its files are missing."""
  if data.name in FOLDERS:
    found = folders.listing(data)
    with_texts = data.captions == "files"
    texts = captions.of_records(found.records) if with_texts else captions.Texts(found.records)
    made = plan_files(texts.records, data.max_bad, data.white)
    made = made._replace(longest=texts.longest, sided=texts.sided)
    return made._replace(label=bool(found.classes), classes=found.classes)
  if data.name == "idx":
    return idx.plan(data)
  return {"digits": embedded.digits, "photos": embedded.photos}[data.name]()


def look(data: ConfigDict) -> tuple[dict[str, str], folders.Listing]:
  """The files that the data set is made of now, and what else its folder holds.

  Files are by path, each with its size and time: equal as long as they are. Raises UserError where there are none.
  """
  found = folders.Listing({}) if data.name == "idx" else folders.listing(data)
  if data.name == "idx":
    paths = [path for pair in idx.paths(data).values() for path in pair]
  else:
    paths = [path for some in found.records.values() for record in some for path in record.files.values()]
  if not paths:
    raise UserError(
      f"data.dir={data.dir}: no image files ({' '.join(READ)}) below this folder; "
      f"{'; '.join(found.remarks) or 'set it to one with some'}"
    )
  if data.captions == "files":
    captions.check_files(paths)
    paths += [captions.beside(path) for path in paths]
  files = {}
  for path in paths:
    try:
      status = path.stat()
      files[str(path)] = f"{status.st_size}\0{status.st_mtime_ns}"
    except OSError:  # a dangling link; it is named when it fails to decode
      files[str(path)] = "-"
  return files, found


def digest(data: ConfigDict, files: dict[str, str]) -> str:
  """Digest of the path of the data set, of its files, and of how its files are read."""
  folder = str(folder_of(data).resolve())
  words = [folder, data.low, data.high] if data.name == "paired_folder" else [folder]
  words += [f"white {data.white}"] if data.white else []
  words += ["captions"] if data.captions == "files" else []
  total = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape"))
  for path, entry in files.items():
    total.update(f"\0{path}\0{entry}".encode("utf-8", "surrogateescape"))
  return total.hexdigest()[:20]


def check_unchanged(data: ConfigDict, before: dict[str, str]) -> None:
  """Raises UserError if the files of the data set are no longer those of `before`, naming one."""
  changed = sorted(set(before.items()) ^ set(look(data)[0].items()))
  if changed:
    raise UserError(
      f"data.dir={data.dir}: {changed[0][0]} changed while the folder was read; run again when nothing writes there"
    )
