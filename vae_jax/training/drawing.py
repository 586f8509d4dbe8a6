"""The pictures of a run: fixed images and fixed noise, to compare over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import runs
from vae_jax.data import pipeline
from vae_jax.models.contract import Family
from vae_jax.training import parallel, steps
from vae_jax.types import Batch, Frozen, Key, Spec, Variables, seen


def shown(config: ConfigDict, source: pipeline.Source) -> Batch:
  """The images of pictures, from all over a split."""
  chosen = pipeline.spread(len(source), config.evaluation.pictures)
  images = pipeline.Chosen(source, chosen)
  return next(pipeline.batches(config.data, images, batch_size=len(chosen), training=False))


def make_draw(
  model: Family,
  config: ConfigDict,
  spec: Spec,
  prepare: steps.Prepare,
  root: Key,
  stage: runs.Run | None = None,
) -> Callable[..., Any]:
  """`draw(variables, batch, frozen)` -> rows by label, and samples.

  Rows: input, reconstruction, and clean where the input is degraded; none of a model that gives no images back.
  Samples: of the prior, decoded by the first stage where there is one; of a model that draws restorations or
  completions, what the inputs may have been; of others, None.
  """
  n = config.evaluation.pictures

  def draw(variables: Variables, batch: Any, frozen: Frozen):
    ids = jnp.arange(batch["image"].shape[0])
    batch = prepare(steps.example_keys(root, steps.PREPARE_STREAM, ids), batch, frozen)
    rows: dict[str, Any] = {}
    if model.reconstructs:
      h, w = batch["image"].shape[1:3]  # a degraded image may stand for a larger one, of whole multiples
      restored: Any = model.apply(variables, batch, method="reconstruct")
      rows = {"input": seen(batch), "reconstruction": restored[:, :h, :w]}
      if "degraded" in batch:
        rows["clean"] = batch["image"]
    samples = model.can & {"sample", "draw", "complete"}
    if not samples:
      return rows, None
    condition = batch
    if "sample" in samples:  # as many as asked for, whatever the number of images
      ids = jnp.arange(n)
      condition = {name: x[ids % len(x)] for name, x in batch.items() if name in model.conditions}
      if "label" in condition:  # each in turn
        condition["label"] = ids % config.model.classes
    elif "degraded" not in batch:
      condition = {**batch, "degraded": seen(batch)}
    keys = steps.example_keys(root, steps.MODEL_STREAM, ids)
    noise = jax.vmap(lambda key: model.noise(key, spec))(keys)
    drawn: Any = model.apply(variables, noise, condition, method="generate")
    return rows, drawn if stage is None else runs.decoded_by(stage)(drawn, frozen)

  return draw


def compile_draw(draw: Callable[..., Any], shown: Batch, placement: parallel.Placement) -> Callable[..., Any]:
  """Compiles `draw`, as (variables, frozen) -> what it gives for the images of `shown`, on the host."""
  real = int(np.sum(shown["mask"]))  # without the padding of a short batch
  batch: Any = jax.tree.map(lambda values: values[:real], shown)
  compiled = jax.jit(draw, out_shardings=placement.replicated if placement.fsdp else None)
  return lambda variables, frozen: jax.device_get(compiled(variables, batch, frozen))
