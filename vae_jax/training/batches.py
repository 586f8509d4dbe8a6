"""The batches of a run, dispatch by dispatch, and how long the dispatches are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import models
from vae_jax.data import pipeline
from vae_jax.training import parallel
from vae_jax.training.assemble import Split
from vae_jax.types import Batch


def calls(step: int, total: int, longest: int, *intervals: int) -> Iterator[int]:
  """Lengths of the dispatches from `step` to `total`: one length that ends at every multiple of the intervals.

  It is the largest divisor of all intervals that is at most `longest`, so that the scan compiles once; a shorter call
  comes first where a resumed run stands between multiples, and last where `total` is none.
  """
  common = math.gcd(*intervals)
  length = max(d for d in range(1, min(longest, common) + 1) if common % d == 0)
  while step < total:
    size = min(length - step % length, total - step)
    yield size
    step += size


def train_batches(
  config: ConfigDict, split: Split, step: int, sizes: Iterable[int], placement: parallel.Placement
) -> Iterator[Batch]:
  """Per dispatch, its batches with a leading axis of steps, on the devices. Resident splits send indices alone."""
  for batches in _of_run(config, split, step, sizes, placement.shard):
    yield placement.put_batch(batches, axis=1)


def batches_together(
  configs: Sequence[ConfigDict], split: Split, step: int, sizes: Sequence[int], placement: parallel.Placement
) -> Iterator[Batch]:
  """As `train_batches`, of several runs: their batches along a third axis, after steps and examples."""
  streams = [_of_run(config, split, step, sizes, placement.shard) for config in configs]
  for group in zip(*streams, strict=True):
    joined: Any = jax.tree.map(lambda *x: np.stack(x, axis=2), *group)
    yield placement.put_batch(joined, axis=1)


def _of_run(
  config: ConfigDict, split: Split, step: int, sizes: Iterable[int], shard: tuple[int, int]
) -> Iterator[Any]:
  """Per dispatch, this process's part of its batches, on the host."""
  t = config.training
  if split.arrays is not None:
    for size in sizes:
      places = pipeline.positions(step, size, t.batch_size)
      index = pipeline.order(t.seed, len(split.source), places)
      process, processes = shard
      local = t.batch_size // processes
      yield {"index": index[:, process * local : (process + 1) * local]}
      step += size
    return
  stream = pipeline.batches(
    config.data,
    split.source,
    batch_size=t.batch_size,
    training=True,
    seed=t.seed,
    start=step,
    steps=t.steps - step,
    shard=shard,
  )
  stream = with_known_labels(config, stream)
  for size in sizes:
    group = list(itertools.islice(stream, size))
    yield jax.tree.map(lambda *x: np.stack(x), *group)


def with_known_labels(config: ConfigDict, stream: Iterator[Batch]) -> Iterator[Batch]:
  """The same batches. Raises UserError where one has a label that the model has no place for."""
  for batch in stream:
    if classes := models.classes(config.model):
      pipeline.check_labels(np.asarray(batch["label"]), classes, config.data.name)
    yield batch
