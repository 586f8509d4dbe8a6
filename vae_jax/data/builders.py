"""Data sets of our own, prepared by TFDS as ArrayRecord files without TensorFlow: images go in as bytes.

`prepare(data)` returns a TFDS builder that can only read. A data set is prepared once: digits and photos
under `data.dir`, or else the per-user cache; folders of images always in the cache, by a digest of what is in
them, so that a changed folder is prepared anew and nothing is ever written beside a person's images.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import plans
from vae_jax.data.plans import Example, Plan, Split, progress
from vae_jax.errors import UserError

VERSION = "1.1.0"  # of the prepared form; a new one prepares everything anew
CACHE_VARIABLE = "VAE_JAX_DATA"
SHARD_BYTES = 128 * 2**20  # TFDS holds one shard in memory while it writes


def cache_dir() -> Path:
  """The folder of prepared data: $VAE_JAX_DATA, else ~/.cache/vae_jax."""
  return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/vae_jax").expanduser()


@contextlib.contextmanager
def quiet(out: Any = None) -> Iterator[None]:
  """Sends what TFDS prints on standard output to `out` (default: nowhere) and holds back its log warnings."""
  log = logging.getLogger("absl")
  level = log.level
  log.setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO() if out is None else out):
      yield
  finally:
    log.setLevel(level)


def _shards(split: Split, what: str) -> list[Callable[[], Iterator[tuple[int, Example]]]]:
  count = min(split.n, max(1, math.ceil(split.size / SHARD_BYTES)))
  bounds = [split.n * i // count for i in range(count + 1)]

  def generate(a: int, b: int) -> Iterator[tuple[int, Example]]:
    for i in progress(range(a, b), b - a, what):
      yield i, split.example(i)

  return [functools.partial(generate, a, b) for a, b in itertools.pairwise(bounds)]


def _write(name: str, root: Path, plan: Plan) -> None:
  """Prepares `plan` in root/name/VERSION. TFDS writes into a temporary folder there and then renames it."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

  features: dict[str, Any] = {
    feature: tfds.features.Image(shape=(None, None, None))
    for feature in next(iter(plan.splits.values())).shapes
  }
  if plan.label:
    features["label"] = tfds.features.Scalar(np.int64)
  metadata = {"shapes": {split: s.shapes for split, s in plan.splits.items()}, "skipped": list(plan.skipped)}

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


def prepare(data: ConfigDict) -> Any:
  """The read-only TFDS builder of one of `plans.OWN`, prepared now if it was not before.

  Images that are left out are named on standard error when the data set is prepared.

  Its `info.metadata` has "shapes" {split: {feature: [h, w, c], 0 where it varies}} and "skipped", a list of
  the files left out, with the reasons.

  Raises:
    UserError: if the data is missing, damaged beyond `data.max_bad` images, or the cache cannot be written.
  """
  import tensorflow_datasets as tfds

  if data.name in ("digits", "photos"):
    root = Path(data.dir).expanduser() if data.dir else cache_dir()
  else:
    root = cache_dir() / plans.digest(data)
  target = root / data.name / VERSION
  if not (target / "dataset_info.json").is_file():
    plan = plans.plan(data)
    if not plan.splits:
      raise UserError(f"data.dir={data.dir}: no image could be decoded, e.g. {plan.skipped[0]}")
    try:
      _write(data.name, root, plan)
    except Exception as error:
      # Another process may have prepared the same meanwhile; then its result is as good.
      if not (target / "dataset_info.json").is_file():
        if isinstance(error, OSError):
          raise UserError(
            f"{root}: cannot write prepared data ({error}); set {CACHE_VARIABLE} to another folder"
          ) from error
        raise
    if not (target / "dataset_info.json").is_file():  # TFDS leaves a folder alone that is there already
      raise UserError(f"{target} is there but incomplete; delete this folder and run again")
    if plan.skipped:
      print(f"{data.dir}: {len(plan.skipped)} images skipped: {'; '.join(plan.skipped)}", file=sys.stderr)
  with quiet(sys.stderr):
    builder = tfds.builder_from_directory(os.fspath(target))
  if len(skipped := builder.info.metadata["skipped"]) > data.max_bad:
    raise plans.too_many(skipped, data.max_bad)
  return builder
