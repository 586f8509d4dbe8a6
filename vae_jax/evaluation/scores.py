"""Scores of a whole split."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vae_jax import metrics
from vae_jax.data import pipeline
from vae_jax.data.prepare import check_first_batch
from vae_jax.evaluation.code_scores import code_lines, code_scores
from vae_jax.evaluation.records import Digest, describe, open_split, preparation, prepared_batches, stream
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.accumulators import ACTIVE_BELOW, NULL_ABOVE
from vae_jax.models.contract import codebooks
from vae_jax.objectives import load_scoring_network
from vae_jax.progress import followed
from vae_jax.training import parallel, scoring

COMPARED = 2000  # most latents whose distances are measured: all pairs are


def score_split(
  model: TrainedVAE, split: str, *, samples: int, batch_size: int, seed: int = 0, limit: int = 0
) -> dict[str, Any]:
  """Scores a split: every example once, no batch dropped, nothing filtered.

  Args:
    split: as in `config.data.test`.
    samples: K of the importance-weighted bound (Burda et al. 2016); 0 leaves it out.
    batch_size: images at a time; does not change the scores.
    seed: of the posterior samples and of binarisation, dequantisation and degradation.
    limit: score only the first images; 0: all.

  Returns:
    Means over the split. Nats per image: `neg_elbo` = `rate` (KL) + `distortion` (negative log-likelihood), one
    posterior sample; `iwae_nll`, an upper bound on -log p(x) in expectation, tighter with `iwae_samples`. Bits per
    dimension: `bits_per_dim` (of iwae_nll, else of neg_elbo) and `neg_elbo_bits_per_dim`. `likelihood` in words, and
    `sigma`, its learned scale; `mse`, `psnr` (dB), `ssim` (from 11 x 11 pixels) and `lpips` (where
    `config.evaluation.lpips` names a network) of reconstructions, means over images; `active_units` of `latent_units`.
    Where the prior is N(0, I): `posterior_active` and `posterior_null`, the units whose mean posterior variance is
    below and above `posterior_thresholds`, and `prior_gap`, nats by which q(z) is at least from the prior
    (`metrics.Posteriors`). A second stage over latents has nats of latents: `neg_elbo_latents` = `rate` + `distortion`;
    `prior_nll_latents`, -log N(z; 0, I) of the same latents; and what `latent_fit` says. A prior over codes has
    `code_nll`, nats of an image's codes, and what `code_scores` says. What was scored: `data`,
    `folder` (as given; null where the data set has none), `split`, `examples` and their `digest` (`records.Digest`).
  """
  config = model.config
  source: pipeline.Source = open_split(model, split)
  if limit:
    source = pipeline.First(source, limit)
  placement = parallel.make_placement(jax.device_count())
  batch_size = -(-min(batch_size, len(source)) // placement.mesh.size) * placement.mesh.size
  check_first_batch(next(stream(model, source, batch_size)), config.data, model.image_shape, trained=True)
  prepare, frozen = preparation(model)
  if (lpips := load_scoring_network(config.evaluation)) is not None:
    frozen["lpips"] = lpips
  eval_step = parallel.compile_eval_step(
    scoring.make_eval_step(model.module, prepare, root=new_key(seed), iwae_samples=samples),
    placement,
  )
  total, scored = -(-len(source) // batch_size), Digest()
  means = scoring.score(
    eval_step,
    placement.put(model.variables),
    followed(scored.update(stream(model, source, batch_size)), total, f"scoring {split}"),
    placement,
    placement.put(frozen),
    codes=model.module.codes,
    books=codebooks(model.module.layout),
  )
  of_codes, unbounded = code_scores(model, source, batch_size, seed, means)
  return {
    **means,
    **_bounds(model, means, samples),
    **({"absent": absent} if (absent := _absent(model, means, samples, unbounded)) else {}),
    **({"posterior_thresholds": [ACTIVE_BELOW, NULL_ABOVE]} if "posterior_null" in means else {}),
    **_sigma(model),
    **(latent_fit(model, source, batch_size, seed) if "latents" in model.module.needs else {}),
    **({"lpips_network": config.evaluation.lpips} if "lpips" in means else {}),
    "likelihood": model.likelihood,
    **of_codes,
    "binarize": config.data.binarize,
    "dequantize": config.data.dequantize,
    "latent_units": model.module.units,
    **describe(model, split),
    "examples": len(source),
    "digest": scored.hex,
    "step": model.step,
    "seed": seed,
  }


def _bounds(model: TrainedVAE, means: dict[str, float], samples: int) -> dict[str, Any]:
  """Scores of the likelihood; none of a model that bounds none."""
  if not model.can("bound"):
    return {}
  dims = model.module.scored or int(np.prod(model.image_shape))
  continuous = model.module.likelihood.continuous
  best = means.get("iwae_nll", means["neg_elbo"])
  return {
    "iwae_samples": samples if "iwae_nll" in means else 0,
    "bits_per_dim": metrics.bits_per_dim(best, dims, continuous),
    "neg_elbo_bits_per_dim": metrics.bits_per_dim(means["neg_elbo"], dims, continuous),
  }


def _sigma(model: TrainedVAE) -> dict[str, float]:
  """The learned scale of the likelihood, in units of the [0, 1] range, where it is one number for all pixels."""
  likelihood, log_scale = getattr(model.module, "likelihood", None), model.params.get("log_scale")
  if (
    likelihood is None
    or likelihood.deviation is None
    or log_scale is None
    or np.shape(log_scale)
    or model.told
  ):
    return {}
  return {"sigma": float(likelihood.deviation(log_scale))}


def latent_fit(model: TrainedVAE, source: pipeline.Source, batch_size: int, seed: int) -> dict[str, Any]:
  """How well a second stage samples the latents of its first stage.

  Returns:
    Energy distances (`metrics.energy_distance`; unbiased, so they may be negative) to the first stage's latents, drawn
    for up to 2,000 records from all over the source: `latents_distance` of as many samples of the second stage,
    `latents_distance_prior` of as many draws from N(0, I), from which the first stage samples by itself, unless its
    prior is learned. `latents_compared`: how many. Nothing of a single record, or of a family that draws no latents.
  """
  num = min(len(source), COMPARED)
  if num < 2 or not hasattr(model.module, "latents"):
    return {}
  chosen = pipeline.spread(len(source), num)
  batches = stream(model, pipeline.Chosen(source, chosen), min(batch_size, num))
  found = [
    np.asarray(ready["latents"])[mask] for _, ready, mask in prepared_batches(model, batches, seed, chosen)
  ]
  encoded, key = np.concatenate(found), new_key(seed)
  prior = np.random.default_rng(seed).standard_normal(encoded.shape)
  return {
    "latents_distance": metrics.energy_distance(model.latents(key, num), encoded),
    "latents_distance_prior": metrics.energy_distance(prior, encoded),
    "latents_compared": num,
  }


def _absent(model: TrainedVAE, means: dict[str, Any], samples: int, unbounded: str) -> dict[str, str]:
  """The scores that a model cannot have, each with the reason. unbounded: why a prior over codes bounds no image."""
  name, absent = model.config.model.name, {}
  if "code_nll" in means:
    absent = {"neg_elbo": unbounded} if unbounded else {}
  elif not model.can("bound"):
    bounds = "no likelihood" if not model.module.bound_name else "the density of latents, not of images"
    why = model.module.UNBOUNDED
    absent["neg_elbo"] = f"{name} has {why}" if why else f"{name} bounds {bounds}"
  elif samples and "iwae_nll" not in means:
    absent["iwae_nll"] = f"{name} has no importance weights"
  absent |= model.module.absent
  if "psnr" not in means:
    absent["psnr"] = f"{name} gives no images back"
  return absent


def summary(scores: dict[str, Any]) -> str:
  """The scores as lines for a person."""
  s = scores
  sigma = f", sigma {s['sigma']:.4f}" if "sigma" in s else ""
  lines = [
    f"{s['split']}: {s['examples']} images, checkpoint of step {s['step']}, likelihood: {s['likelihood']}{sigma}"
  ]
  lines += code_lines(s)
  if "neg_elbo" in s and "rate" in s:
    lines.append(
      f"  -ELBO          {s['neg_elbo']:10.3f} nats  = rate {s['rate']:.3f} + distortion {s['distortion']:.3f}"
    )
  if "neg_elbo_latents" in s:
    lines.append(
      f"  latents -ELBO  {s['neg_elbo_latents']:10.3f} nats of {s['latent_units']} latents, not of an image  = rate "
      f"{s['rate']:.3f} + distortion {s['distortion']:.3f}; N(0, I) has {s['prior_nll_latents']:.3f}"
    )
  if "iwae_nll" in s:
    lines.append(f"  NLL (IWAE-{s['iwae_samples']})".ljust(17) + f"{s['iwae_nll']:10.3f} nats")
  if "guess" in s:
    lines.append(f"  guess          {s['guess']:10.3f} nats, of the network without latents")
  if "bits_per_dim" in s and "code_nll" not in s:
    lines.append(f"  bits/dim       {s['bits_per_dim']:10.4f}")
  if "psnr" in s:
    lines.append(f"  reconstruction {s['psnr']:10.2f} dB PSNR, MSE {s['mse']:.5f}{_similarity(s)}")
  if "active_units" in s:
    lines.append(f"  active units   {s['active_units']:10.0f} of {s['latent_units']}")
  if "posterior_null" in s:
    lines.append(_posteriors(s))
  if "latents_distance" in s:
    lines.append(
      f"  latents        {s['latents_distance']:10.4f} energy distance of {s['latents_compared']} samples to the first "
      f"stage's, {s['latents_distance_prior']:.4f} of N(0, I)"
    )
  if "codes_used" in s:
    lines.append(
      f"  codes          {s['codes_used']:10.1%} used, {s['dead_codes']} dead, perplexity {s['perplexity']:.1f}"
    )
  return "\n".join([*lines, *(f"  no {name}: {reason}" for name, reason in s.get("absent", {}).items())])


def _posteriors(scores: dict[str, Any]) -> str:
  """The diagnosis of posterior variances as a line."""
  s, (low, high) = scores, scores["posterior_thresholds"]
  between = s["latent_units"] - s["posterior_active"] - s["posterior_null"]
  return (
    f"  posteriors     {s['posterior_active']:10.0f} active (variance < {low:g}), {s['posterior_null']:.0f} null "
    f"(> {high:g}), {between:.0f} between; q(z) is at least {s['prior_gap']:.3f} nats from the prior"
  )


def _similarity(scores: dict[str, Any]) -> str:
  return "".join(f", {name.upper()} {scores[name]:.4f}" for name in ("ssim", "lpips") if name in scores)
