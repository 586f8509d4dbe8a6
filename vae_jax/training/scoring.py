"""The evaluation step, and the scores of a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax import metrics
from vae_jax.distributions import (
  streaming_logsumexp_init,
  streaming_logsumexp_update,
  streaming_logsumexp_value,
)
from vae_jax.generator import standard
from vae_jax.metrics.structure import WINDOW
from vae_jax.models.blocks import in_loop
from vae_jax.models.contract import Family, Mode
from vae_jax.objectives import Objective
from vae_jax.training.parallel import Placement
from vae_jax.training.steps import MODEL_STREAM, PREPARE_STREAM, STEP_STREAM, Metrics, Prepare, example_keys
from vae_jax.types import NO_FROZEN, Array, Batch, Frozen, Key, Variables

LOOKED_AT = ("mean", "logvar", "codes")  # latents that a split's scores are made of


def make_eval_step(
  model: Family,
  prepare: Prepare,
  *,
  root: Key,
  iwae_samples: int = 0,
  chunk: int = 10,
  objective: Objective | None = None,
) -> Callable[..., dict[str, Any]]:
  """`eval_step(variables, batch, frozen={})` -> per-example metrics, float32 [b], and the batch's mask, if it has one,
  by which the caller averages.

  The family's terms (one posterior sample); their sum by `Family.bound_name` where it bounds; mse, psnr (dB), ssim
  (from 11 x 11 pixels) and, where `frozen` has its network, lpips of the reconstruction, where there is one; `latents`:
  {"mean": [b, d], "logvar": [b, d], "codes": [b, n]}, what there is of them, `logvar` where the prior is N(0, I).
  With an objective also all its parts and, of a family that is rated by it, its loss, without terms over the batch and
  at the weights at which its schedules end. With iwae_samples = K > 0, and importance weights, also iwae_nll,
  -log (1/K) sum_k w_k, in memory independent of K: `chunk` samples at a time.
  What is drawn for an example depends on the root key and its index alone, not on batch size or devices.
  """

  objective = None if objective is None else objective.at_the_end()

  def eval_step(variables: Variables, batch: Batch, frozen: Frozen = NO_FROZEN) -> dict[str, Any]:
    ids = jnp.asarray(batch["index"])
    batch = prepare(example_keys(root, PREPARE_STREAM, ids), batch, frozen)
    keys = example_keys(root, MODEL_STREAM, ids)

    def score(draw: int | Array, samples: int) -> Any:
      drawn = jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys)
      mode = Mode(jnp.zeros((), jnp.int32), jax.random.fold_in(root, STEP_STREAM), samples=samples)
      return model.apply(variables, batch, drawn, mode)

    output = score(0, 1)
    scores: dict[str, Any] = dict(output.terms)
    if model.bound_name:
      scores[model.bound_name] = output.terms["distortion"] + output.terms["rate"]
    if output.reconstruction is not None:
      scores |= _image_scores(output.reconstruction, jnp.asarray(batch["image"]), frozen)
    looked_at = [name for name in LOOKED_AT if name != "logvar" or model.standard_prior]
    scores["latents"] = {name: output.latents[name] for name in looked_at if name in output.latents}
    if "mask" in batch:
      scores["mask"] = jnp.asarray(batch["mask"])
    if objective is not None:
      loss, parts = objective(output, batch, jnp.zeros(()), frozen)
      parts = ({"loss": loss} if model.RATED == "loss" else {}) | parts
      scores |= {name: part for name, part in parts.items() if name not in scores}
    if iwae_samples and output.log_weight is not None:
      scores["iwae_nll"] = _iwae_nll(score, ids.shape, iwae_samples, chunk)
    return scores

  return eval_step


def _image_scores(reconstruction: Array, image: Array, frozen: Frozen) -> Metrics:
  scores = {"mse": metrics.mse(reconstruction, image), "psnr": metrics.psnr_rgb(reconstruction, image)}
  if min(reconstruction.shape[1:3]) >= WINDOW:
    scores["ssim"] = metrics.ssim(reconstruction, image)
  if "lpips" in frozen:
    scores["lpips"] = frozen["lpips"](reconstruction, image)
  return scores


def _iwae_nll(score: Callable[[Any, int], Any], shape: tuple[int, ...], samples: int, chunk: int) -> Array:
  full, rest = divmod(samples, chunk)

  def add(state, draw, samples):
    return streaming_logsumexp_update(state, jax.nn.logsumexp(score(draw, samples).log_weight, axis=0))

  state = streaming_logsumexp_init(shape)
  if full:
    with in_loop():
      state, _ = jax.lax.scan(lambda s, d: (add(s, d, chunk), None), state, 1 + jnp.arange(full))
  if rest:
    state = add(state, 1 + full, rest)
  return jnp.log(samples) - streaming_logsumexp_value(state)


@standard()
def score(
  eval_step: Any,
  variables: Variables,
  batches: Iterator[Batch],
  placement: Placement,
  frozen: Frozen = NO_FROZEN,
  codes: int = 0,
  books: tuple[int, ...] = (),
) -> dict[str, float]:
  """Means of the per-example metrics over all examples of a split, in float64.

  With latent means of two images and more also `active_units`; where the prior is N(0, I) also `posterior_active`,
  `posterior_null` and `prior_gap` (see `metrics.Posteriors`). With `codes`, the size of a codebook: `codes_used`
  (share, over the split), `perplexity` and `dead_codes`; `books`: the codebook of each code (`contract.codebooks`).
  """
  means: dict[str, metrics.Mean] = {}
  active, posteriors, usage = None, None, metrics.CodeUsage(codes, books=books) if codes else None
  for batch in batches:
    out = jax.device_get(eval_step(variables, placement.put_batch(batch), frozen))
    mask, latents = out.pop("mask"), out.pop("latents")
    if "mean" in latents:
      active = (active or metrics.ActiveUnits()).update(latents["mean"], mask)
    if "logvar" in latents:
      posteriors = (posteriors or metrics.Posteriors()).update(latents["mean"], latents["logvar"], mask)
    if usage is not None:
      usage = usage.update(latents["codes"], mask)
    for name, values in out.items():
      means[name] = means.get(name, metrics.Mean()).update(values, mask)
  scores = {name: mean.value for name, mean in means.items()}
  if active is not None and active.count > 1:  # one image has no variance
    scores["active_units"] = active.active()
    if posteriors is not None:
      found = {"posterior_active": posteriors.active, "posterior_null": posteriors.null}
      scores |= {**found, "prior_gap": posteriors.prior_gap}
  if usage is not None:
    scores |= {"codes_used": usage.used, "perplexity": usage.perplexity, "dead_codes": usage.dead}
  return scores
