"""Data sets of our own, prepared by TFDS as ArrayRecord files without TensorFlow: images go in as bytes.

`prepare(data)` returns a TFDS builder that can only read. A data set is prepared once: digits and photos
under `data.dir`, or else the per-user cache; folders of images always in the cache, by a digest of what is in
them, so that a changed folder is prepared anew and nothing is ever written beside a person's images. It is there whole
or not at all, whatever ends the process.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import math
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import captions, folders, inspection, plans
from vae_jax.data.examples import Example, Plan, Split, expanded
from vae_jax.errors import UserError
from vae_jax.progress import followed

VERSION = "1.3.0"  # of the prepared form; a new one prepares everything anew
CACHE_VARIABLE = "VAE_JAX_DATA"
INFO = "dataset_info.json"
SHARD_BYTES = 128 * 2**20  # TFDS holds one shard in memory while it writes


def cache_dir() -> Path:
  """The folder of prepared data: $VAE_JAX_DATA, else ~/.cache/vae_jax."""
  return expanded(os.environ.get(CACHE_VARIABLE) or "~/.cache/vae_jax")


@contextlib.contextmanager
def quiet(out: Any = None) -> Iterator[None]:
  """For calls of TFDS: sends what it prints on standard output to `out` (default: nowhere), holds back log warnings,
  and lets files have owners without a name."""
  logs = [logging.getLogger(name) for name in ("absl", "urllib3")]
  levels = [log.level for log in logs]
  for log in logs:
    log.setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO() if out is None else out), _owners_without_name():
      yield
  finally:
    for log, level in zip(logs, levels, strict=True):
      log.setLevel(level)


@contextlib.contextmanager
def _owners_without_name() -> Iterator[None]:
  """etils, by which TFDS reads sizes of files, asks for the names of owner and group: in a container that runs with a
  number for a user, these are unknown, which it would raise as KeyError."""
  if sys.platform == "win32":
    yield
    return
  import grp
  import pwd

  def named(find: Callable[[int], Any], field: str) -> Callable[[int], Any]:
    def look(number: int) -> Any:
      try:
        return find(number)
      except KeyError:
        return types.SimpleNamespace(**{field: str(number)})

    return look

  with (
    mock.patch.object(pwd, "getpwuid", named(pwd.getpwuid, "pw_name")),
    mock.patch.object(grp, "getgrgid", named(grp.getgrgid, "gr_name")),
  ):
    yield


def _shards(split: Split, what: str) -> list[Callable[[], Iterator[tuple[int, Example]]]]:
  count = min(split.n, max(1, math.ceil(split.size / SHARD_BYTES)))
  bounds = [split.n * i // count for i in range(count + 1)]

  def generate(a: int, b: int) -> Iterator[tuple[int, Example]]:
    for i in followed(range(a, b), b - a, what):
      yield i, split.example(i)

  return [functools.partial(generate, a, b) for a, b in itertools.pairwise(bounds)]


def _write(name: str, root: Path, plan: Plan) -> None:
  """Prepares `plan` in root/name/VERSION."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

  features: dict[str, Any] = {
    feature: tfds.features.Image(shape=(None, None, None))
    for feature in next(iter(plan.splits.values())).shapes
  }
  if plan.label:
    features["label"] = tfds.features.Scalar(np.int64)
  if plan.longest[0]:
    features["text"] = tfds.features.Tensor(shape=(None,), dtype=np.int32)
  metadata = {
    "longest": list(plan.longest),
    "sided": [len(plan.sided), *plan.sided[:1]],
    "shapes": {split: s.shapes for split, s in plan.splits.items()},
    "smallest": {split: s.smallest for split, s in plan.splits.items() if s.smallest},
    "names": {split: list(s.names) for split, s in plan.splits.items() if s.names},
    "classes": list(plan.classes),
    "skipped": list(plan.skipped),
    "remarks": list(plan.remarks),
  }

  # Not GeneratorBasedBuilder: above 1 GB that sorts through temporary files, for which TFDS needs TensorFlow.
  class Builder(ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version(VERSION)
    code_path = None  # nothing to look up beside this file: no checksums, no citation

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self,
        description=f"{name}, prepared by vae_jax",
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(metadata),
      )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
      return {split: _shards(s, f"preparing {name} {split}") for split, s in plan.splits.items()}

  Builder.name = name
  with quiet():
    builder = Builder(data_dir=os.fspath(root), file_format="array_record")
    builder.download_and_prepare(download_dir=os.fspath(root / name))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
  """Makes `folder`, and has other processes wait here while one works in it; False where this cannot be had.

  The lock ends with the process, however that ends, and is no file that could be left behind.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if sys.platform == "win32":
    yield False
    return
  import fcntl

  handle = os.open(folder, os.O_RDONLY)
  try:
    locked = True
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"{folder}: waiting for another process that prepares it", file=sys.stderr, flush=True)
      fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # some network file systems
      locked = False
    yield locked
  finally:
    os.close(handle)


def _store(data: ConfigDict, plan: Plan, files: dict[str, str], target: Path) -> None:
  """Prepares `plan` in `target`, unless another process has meanwhile. `files`: what the plan was made of."""
  with _alone(target.parent) as alone:
    if (target / INFO).is_file():
      return
    if target.exists():
      raise UserError(f"{target} is there but incomplete; delete this folder and run again")
    for left in target.parent.glob("incomplete.*") if alone else ():  # by a process that was killed
      shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
      dir=target.parent, prefix="incomplete.", ignore_cleanup_errors=True
    ) as scratch:
      _write(data.name, Path(scratch), plan)
      if files:
        plans.check_unchanged(data, files)
      os.rename(Path(scratch, data.name, VERSION), target)


class Prepared(NamedTuple):
  """A data set of our own that can be read.

  builder: of TFDS, read-only. Its `info.metadata` has "shapes" {split: {feature: [h, w, c], 0 where it varies}},
  "smallest" {split: [h, w]}, "names" {split: [file]}, "classes", and "skipped": files that were left out, with reasons.
  remarks: what a person should know before training on it, a line each.
  loose: images that lie beside folders, which are no classes for that.
  """

  builder: Any
  remarks: tuple[str, ...]
  loose: tuple[str, ...]


def prepare(data: ConfigDict) -> Prepared:
  """One of `plans.OWN`, prepared now if it was not before.

  Raises:
    UserError: if the data is missing, damaged beyond `data.max_bad` images, or changes meanwhile; if the cache cannot
      be written or is damaged.
  """
  import tensorflow_datasets as tfds

  files: dict[str, str] = {}
  found = folders.Listing({})
  if data.name in plans.EMBEDDED:
    root = expanded(data.dir) if data.dir else cache_dir()
  else:
    files, found = plans.look(data)
    root = cache_dir() / plans.digest(data, files)
  target = root / data.name / VERSION
  if not os.path.isfile(target / INFO):
    _prepare_now(data, files, root, target)
  try:
    with quiet(sys.stderr):
      builder = tfds.builder_from_directory(os.fspath(target))
    metadata = builder.info.metadata
    skipped, remarks = ([str(line) for line in metadata[key]] for key in ("skipped", "remarks"))
    longest, where = metadata.get("longest", (0, ""))
    sided, *first = metadata.get("sided", (0,))
    longest, sided = int(longest), int(sided)
  except Exception as error:  # of a damaged file nearly everything
    raise damaged(target, error) from error
  if len(skipped) > data.max_bad:
    raise inspection.too_many(skipped, data.max_bad)
  captions.check_length(data, longest, str(where))
  remarks += captions.mirrored(data, sided, *map(str, first))
  lost = [f"{data.dir}: {len(skipped)} images skipped: {'; '.join(skipped)}"] if skipped else []
  others = [f"{data.dir}: {line}" for line in remarks]
  return Prepared(builder, (*lost, *found.remarks, *others), found.loose)


def _prepare_now(data: ConfigDict, files: dict[str, str], root: Path, target: Path) -> None:
  plan = plans.plan(data)
  if not plan.splits:
    raise UserError(f"data.dir={data.dir}: no image could be decoded, e.g. {plan.skipped[0]}")
  try:
    _store(data, plan, files, target)
  except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError on a full disk
    if not os.path.isfile(target / INFO):  # without a lock, another process may have been faster
      reason = " ".join(str(error).split())
      raise UserError(
        f"{root}: cannot write prepared data ({reason}); free some space, or set the environment variable "
        f"{CACHE_VARIABLE} to a folder that can be written"
      ) from error


def damaged(folder: Any, error: Exception) -> UserError:
  """For prepared data in `folder` that cannot be read back."""
  reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
  return UserError(f"{folder}: prepared data cannot be read ({reason}); delete this folder and run again")
