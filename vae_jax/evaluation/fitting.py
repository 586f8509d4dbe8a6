"""Fits priors to a trained model's latents (Ghosh et al. 2020, section 4), and says where they are over-fitted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax import distributions as dist
from vae_jax import priors
from vae_jax.errors import UserError
from vae_jax.evaluation.latents import encoded_images
from vae_jax.evaluation.records import describe, open_split
from vae_jax.generator import standard
from vae_jax.inference import TrainedVAE
from vae_jax.priors.base import Prior
from vae_jax.progress import FileProgress
from vae_jax.storage import fitted
from vae_jax.types import Array

ROWS = 1024  # latents that are scored at a time
OWN = "standard_normal"


class FittedPrior(NamedTuple):
  """A prior, how it was fitted and scored as JSON data, and lines that a person should read."""

  prior: Prior
  report: dict[str, Any]
  remarks: tuple[str, ...]


@standard()
def fit_prior(
  model: TrainedVAE, kind: str, *, components: int = 10, batch_size: int = 64, seed: int = 0
) -> FittedPrior:
  """Fits a density to the latents of the training images, and scores it on those of the validation images.

  Latents are a draw of q(z | x) for each image, or its code where the encoder is deterministic. Images are prepared as
  in evaluation: without random crops, flips, turns or exposure; what binarisation, dequantisation and degradation draw
  depends on seed and image alone.

  Args:
    kind: of `priors.KINDS`.
    components: of a mixture.
    batch_size: images encoded at a time; does not change what is fitted beyond rounding.
    seed: of all that is drawn.

  Returns:
    FittedPrior. `report["log_likelihood"]` has the mean log density of the latents of both splits, in nats an image:
    of the prior, of a Gaussian of full covariance, and of N(0, I).

  Raises:
    UserError: the model has no latents to decode, is conditional or a second stage; latents that are not finite; too
    few images.
  """
  started = time.monotonic()
  model.check_prior()
  data = model.config.data
  train, spread = latents_of(model, data.train, batch_size, seed)
  held, _ = latents_of(model, data.validation, batch_size, seed)
  with FileProgress(delay=2.0) as progress:

    def told(done: int, total: int) -> None:
      progress.update(f"fitting {kind}", done, total)

    fit = priors.fit(kind, train, components=components, seed=seed, progress=told)
  rivals = {
    kind: fit.prior,
    **({} if kind == "gaussian" else {"gaussian": priors.fit("gaussian", train).prior}),
  }
  likelihood = {
    part: {name: mean_log_prob(prior, z) for name, prior in rivals.items()} | {OWN: _standard_normal(z)}
    for part, z in (("train", train), ("validation", held))
  }
  for part, scores in likelihood.items():
    if lost := [name for name, value in scores.items() if not np.isfinite(value)]:
      raise UserError(
        f"prior {lost[0]!r} gives the {part} images a density that is not finite; fit another kind"
      )
  remarks = (*fit.remarks, *_overfitted(kind, likelihood["validation"]))
  report = {
    "prior": kind,
    "words": fit.prior.words,
    **fit.facts,
    "log_likelihood": likelihood,
    "latents": model.module.units,
    "encoded": "draws of q(z | x)" if spread else "codes",
    "train": {**describe(model, data.train), "images": len(train)},
    "validation": {**describe(model, data.validation), "images": len(held)},
    "family": model.config.model.name,
    "step": model.step,
    "weights": model.run.digest,
    "seed": seed,
    "remarks": list(remarks),
    "seconds": round(time.monotonic() - started, 2),
  }
  return FittedPrior(fit.prior, report, remarks)


def save_prior(model: TrainedVAE, found: FittedPrior) -> Path:
  """Writes a prior beside the run, in place of an earlier one of its kind; returns the path of its report."""
  if not model.run.folder:
    raise UserError("this model has no folder where a prior could lie; load it from one")
  return fitted.save(model.run.folder, found.report["prior"], priors.to_arrays(found.prior), found.report)


def latents_of(
  model: TrainedVAE, split: str, batch_size: int, seed: int
) -> tuple[Float[np.ndarray, "n d"], bool]:
  """The latents of a split's images, in order, float32; whether they are draws from a density with a spread."""
  found = encoded_images(model, open_split(model, split), split, batch_size, seed, ["draws"])
  return found.rows["draws"], found.spread


@jax.jit
def _log_prob(prior: Prior, z: Array) -> Array:
  return prior.log_prob(z)


def mean_log_prob(prior: Prior, z: Float[np.ndarray, "n d"]) -> float:
  """The mean log density of latents, in nats; summed in float64."""
  total = 0.0
  for start in range(0, len(z), ROWS):
    part = z[start : start + ROWS]
    filled = np.resize(part, (min(ROWS, len(z)), z.shape[1]))  # one shape: compiled once
    total += float(np.asarray(_log_prob(prior, jnp.asarray(filled)), np.float64)[: len(part)].sum())
  return total / len(z)


def _standard_normal(z: Float[np.ndarray, "n d"]) -> float:
  return float(-0.5 * (np.square(z.astype(np.float64)) + dist.latents.LOG_2PI).sum(axis=1).mean())


def _overfitted(kind: str, held: dict[str, float]) -> list[str]:
  """A line where another density is better on the images that were not fitted."""
  best = max((name for name in held if name != kind), key=lambda name: held[name])
  if held[kind] >= held[best]:
    return []
  remedy = {"mixture": "give fewer --components", "flow": "fit a mixture or a gaussian"}.get(
    kind, "more training images may help"
  )
  return [
    f"on the validation images the {kind} has {held[kind]:.3f} nats, less than {NAMES.get(best, best)} with "
    f"{held[best]:.3f}: it is over-fitted; {remedy}"
  ]


NAMES = {OWN: "N(0, I)", "gaussian": "a gaussian"}


def prior_table(report: dict[str, Any]) -> str:
  """A report as lines for a person."""
  r, scores = report, report["log_likelihood"]
  train, held = r["train"], r["validation"]
  lines = [
    f"{r['words']}, fitted to {r['encoded']} of {train['images']} images ({train['split']} of {train['data']}), "
    f"{r['latents']} latents, checkpoint of step {r['step']}",
    f"  nats an image{'train':>14}{'validation':>14} ({held['images']} images)",
  ]
  for name, value in scores["train"].items():
    shown = NAMES[OWN] if name == OWN else name
    lines.append(f"  {shown:13}{value:14.3f}{scores['validation'][name]:14.3f}")
  return "\n".join(lines)
