"""Scores of a prior over codes: nats and bits of its codes, and with its first stage a bound of the images."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import metrics
from vae_jax.data import pipeline
from vae_jax.evaluation.records import preparation, stream
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.models.contract import Mode
from vae_jax.training import steps
from vae_jax.types import Batch, Frozen, Key


def code_scores(
  model: TrainedVAE, source: pipeline.Source, batch_size: int, seed: int, means: dict[str, float]
) -> tuple[dict[str, Any], str]:
  """What `code_nll` of a split's means says, -log p(codes) in nats; and why it bounds no image, or "". Nothing without.

  Returns:
    `bits_per_code`. `first_stage_distortion`, the first stage's -log p(image | codes) of the same images, and its
    `likelihood` in words. Their sum is a bound on -log p(image), in nats: `neg_elbo`, as the posterior of a first stage
    with codes is one of them, and -log p(codes) is its rate. `bits_per_dim` is the same per value. A prior with a
    condition bounds -log p(image | condition), so both have names of their own then, such as `neg_elbo_given_text`.
    There is no bound where the first stage has none, or where what it scores are other codes than those that it gives.
  """
  if "code_nll" not in means:
    return {}, ""
  nll = means["code_nll"]
  name, first, condition = model.config.model.name, model.first, model.module.condition
  found: dict[str, Any] = {"bits_per_code": nll / model.module.count / math.log(2)}
  bounds, below = f"{name} bounds images together with its first stage", first and first.config.model.name
  if first is None or not first.can("bound"):
    return found, f"{bounds}, and " + (f"{below} bounds no likelihood" if below else "it has none")
  distortion, same = _distortion(model, source, batch_size, seed)
  if not same:
    return found, f"{bounds}, and {below} scores other codes than it gives"
  dims, continuous = int(np.prod(model.image_shape)), first.module.likelihood.continuous
  given = "" if condition == "none" else f"_given_{condition}"
  total = nll + distortion
  found |= {
    "first_stage_distortion": distortion,
    "likelihood": first.likelihood,
    f"neg_elbo{given}": total,
    f"bits_per_dim{given}": metrics.bits_per_dim(total, dims, continuous),
  }
  why = f"{name} is told the {condition}: neg_elbo{given} bounds -log p(image | {condition})"
  return found, why if given else ""


def _distortion(model: TrainedVAE, source: pipeline.Source, batch_size: int, seed: int) -> tuple[float, bool]:
  """The mean -log p(image | codes) of the first stage, and whether it was that of the codes which the prior sees."""
  prepare, frozen = preparation(model)
  stage, mean, same = model.run.first, metrics.Mean(), True
  assert stage is not None
  module = stage.module

  @jax.jit
  def score(keys: Key, own: Key, key: Key, batch: Batch, frozen: Frozen) -> Any:
    ready = prepare(keys, batch, frozen)
    output: Any = module.apply(frozen["first_stage"], ready, own, Mode(jnp.zeros((), jnp.int32), key))
    equal = jnp.all(output.latents["codes"] == jnp.asarray(ready["codes"]), axis=-1)
    return output.terms["distortion"], equal

  root = new_key(seed)
  for batch in stream(model, source, batch_size):
    mask, ids = np.asarray(batch.pop("mask")), jnp.asarray(batch["index"])
    keys, own = (steps.example_keys(root, part, ids) for part in (steps.PREPARE_STREAM, steps.MODEL_STREAM))
    values, equal = jax.device_get(score(keys, own, root, batch, frozen))
    mean, same = mean.update(values, mask), same and bool(equal[mask].all())
  return mean.value, same


def code_lines(scores: dict[str, Any]) -> list[str]:
  """These scores as lines for a person."""
  s = scores
  if "masked_nll" in s:
    return [
      f"  masked NLL     {s['masked_nll']:10.3f} nats of the codes that were masked, no likelihood of all"
    ]
  told = [f"  text NLL       {s['text_nll']:10.3f} nats of a text"] if "text_nll" in s else []
  if "code_nll" not in s:
    return told
  lines = [
    f"  codes NLL      {s['code_nll']:10.3f} nats of an image's codes, {s['bits_per_code']:.4f} bits a code",
    *told,
  ]
  for given in ("", "_given_label", "_given_text"):
    if "first_stage_distortion" in s and f"neg_elbo{given}" in s:
      what = f" given the {given.removeprefix('_given_')}" if given else ""
      lines += [
        f"  -ELBO          {s[f'neg_elbo{given}']:10.3f} nats of an image{what}  = codes {s['code_nll']:.3f} + "
        f"distortion of the first stage {s['first_stage_distortion']:.3f}",
        f"  bits/dim       {s[f'bits_per_dim{given}']:10.4f}{what}",
      ]
  return lines
