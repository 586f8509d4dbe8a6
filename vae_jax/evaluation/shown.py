"""Pictures of what a model makes: reconstructions, samples, completions, interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vae_jax import pictures
from vae_jax.errors import UserError
from vae_jax.evaluation.records import condition
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.priors.base import Prior
from vae_jax.types import ArrayLike, Batch, seen


def reconstructions(model: TrainedVAE, batch: Batch) -> np.ndarray:
  """A picture: each input above its reconstruction (and above the clean image, where the input is degraded)."""
  inputs = seen(batch)
  rows = {
    "input": pictures.beside(inputs, model.image_shape),
    "reconstruction": _cut(model, model.reconstruct(inputs, **condition(model, batch))),
  }
  if "degraded" in batch:
    rows["clean"] = np.asarray(batch["image"])
  return pictures.compare(*rows.values(), labels=tuple(rows))


def _cut(model: TrainedVAE, images: ArrayLike) -> np.ndarray:
  """Restorations cut to the clean image, which may be smaller by less than the factor."""
  height, width, _ = model.image_shape
  return np.asarray(images)[:, :height, :width]


def completions(
  model: TrainedVAE, batch: Batch, samples: int = 4, seed: int = 0, temperature: float = 1.0
) -> np.ndarray:
  """A picture with a column for each image: what is given of it, `samples` draws (none of a model without latents), the
  completion at the prior's mean, that of the deterministic network, and the image."""
  images = np.asarray(batch["image"])
  rows = {"given": model.given(images)}
  if model.draws_completions:
    draws = model.complete(images, new_key(seed), samples, temperature) if samples else ()
    rows |= {f"draw {i + 1}": np.asarray(draw) for i, draw in enumerate(draws)}
    rows["mean of z"] = np.asarray(model.complete(images))
  rows |= {"guess": np.asarray(model.guessed(images)), "image": images}
  return pictures.compare(*rows.values(), labels=tuple(rows))


def interpolations(model: TrainedVAE, batch: Batch, method: str, points: int = 12) -> np.ndarray:
  """A picture with a row for each pair of images: from the reconstruction of the one to that of the other."""
  ends = np.asarray(seen(batch))
  half = len(ends) // 2
  if not half:
    raise UserError("1 image is too few to interpolate; give at least 2")
  fields = {name: x[:half] for name, x in condition(model, batch).items()}
  rows = np.asarray(model.interpolate(ends[:half], ends[half : 2 * half], points, method, **fields))
  return pictures.grid(rows.reshape(-1, *model.image_shape), columns=points)


def has_samples(model: TrainedVAE) -> bool:
  """Whether `evaluate` draws samples of a model: of its prior, restorations or completions."""
  return any(map(model.can, ("sample", "restore", "complete")))


def drawn(model: TrainedVAE, suffix: str = "") -> list[str]:
  """The pictures that `evaluate` draws of a model, by name."""
  found = [f"reconstructions{suffix}.png"] if model.module.reconstructs else []
  return [*found, f"samples{suffix}.png"] if has_samples(model) else found


def prior_line(model: TrainedVAE, prior: Prior | None) -> str:
  """Which prior samples are drawn from, in words; empty where there is only the model's own."""
  if prior is not None:
    return f"prior: {prior.words}, fitted to the latents of the training images"
  if found := model.fitted_priors():
    return f"prior: the model's own; --prior {' | '.join(found)} draws from a fitted one"
  return ""


def samples(
  model: TrainedVAE,
  num: int,
  seed: int = 0,
  temperature: float = 1.0,
  label: int | None = None,
  prior: Prior | None = None,
  **options: Any,
) -> np.ndarray:
  """A picture of `num` samples of the prior, the model's own unless given; of a model with labels, of `label`, else of
  each in turn. options: others of `TrainedVAE.sample`, such as text, one or `num`, and top_k."""
  key = new_key(seed)
  if "label" not in model.module.needs:
    return pictures.grid(model.sample(key, num, temperature, prior=prior, label=label, **options))
  classes = model.config.model.classes
  labels = np.arange(num) % classes if label is None else label
  columns = classes if label is None and num >= classes else None
  drawn = model.sample(key, num, temperature, prior=prior, label=labels, **options)
  return pictures.grid(drawn, columns=columns)


def samples_of_texts(
  model: TrainedVAE, texts: Sequence[str], num: int, seed: int = 0, temperature: float = 1.0, **options: Any
) -> np.ndarray:
  """A picture with a row of `num` samples for each text, which stands beside it."""
  rows = [model.sample(seed, num, temperature, text=text, **options) for text in texts]
  return pictures.compare(*rows, columns=num, labels=texts)


def split_samples(model: TrainedVAE, batch: Batch, num: int, seed: int = 0) -> np.ndarray:
  """A picture: `num` samples of the prior, for the texts of the batch where the model needs some; of a model that
  restores or completes images, draws beneath each input of the batch."""
  if model.can("complete"):
    return completions(model, batch, samples=4, seed=seed)
  if model.can("sample"):
    told: dict[str, Any] = {}
    if "text" in model.module.conditions:
      told = {"text": batch["text"][np.arange(num) % len(batch["text"])]}
    return samples(model, num, seed, **told)
  inputs = seen(batch)
  rows = {"input": pictures.beside(inputs, model.image_shape), "restored": _cut(model, model.restore(inputs))}
  if model.can("draw"):
    draws = np.asarray(model.restore(inputs, new_key(seed), samples=3))
    rows |= {f"draw {i + 1}": _cut(model, draw) for i, draw in enumerate(draws)}
  return pictures.compare(*rows.values(), labels=tuple(rows))
