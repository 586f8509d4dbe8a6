"""Pictures of a latent space: walks through it, its principal directions, attributes, and what samples resemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vae_jax import pictures
from vae_jax.data import pipeline
from vae_jax.errors import UserError
from vae_jax.evaluation.records import condition, open_split, stream
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE, slerp
from vae_jax.priors.base import ALIKE, Prior
from vae_jax.progress import FileProgress
from vae_jax.types import Array, Batch, seen

DEVIATIONS = np.linspace(-3, 3, 9)  # columns of a traversal
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # columns of an attribute sheet


def walk(
  model: TrainedVAE,
  num: int,
  seed: int = 0,
  temperature: float = 1.0,
  label: int | None = None,
  prior: Prior | None = None,
  stops: int = 4,
  steps: int = 15,
) -> Iterator[np.ndarray]:
  """The frames of an animation: `num` closed walks through the latent space, side by side; uint8 [H, W, c] each.

  Each walk leads through `stops` draws from the prior and back, in `steps` frames from one to the next, on the arcs of
  `slerp`. label: of all images; by default each in turn, for models with labels. prior: a fitted one.
  """
  fields: dict[str, Any] = {}
  if "label" in model.module.conditions:
    fields["label"] = np.arange(num) % model.config.model.classes if label is None else np.full(num, label)
  elif label is not None:
    fields["label"] = label  # refused below
  repeated = {name: np.repeat(x, stops) if np.ndim(x) else x for name, x in fields.items()}
  z = model.latents(new_key(seed), num * stops, temperature, prior, **repeated)
  z = z.reshape(num, stops, -1).swapaxes(0, 1)
  fractions = jnp.arange(steps) / steps
  for i in range(stops):
    for latents in slerp(z[i], z[(i + 1) % stops], fractions):
      yield pictures.grid(model.decode(latents, **fields))


class Directions(NamedTuple):
  """centre [d], the mean; axes [k, d], unit vectors; deviations [k], along them; shares [k], of the variance; names."""

  centre: np.ndarray
  axes: np.ndarray
  deviations: np.ndarray
  shares: np.ndarray
  names: tuple[str, ...]


def principal_directions(means: np.ndarray, num: int) -> Directions:
  """The `num` directions of largest variance of posterior means [n, d], by their singular value decomposition.

  Fewer where there are fewer latents or images. Raises UserError for fewer than two images, or images that are alike to
  the encoder.
  """
  if len(means) < 2:
    raise UserError(f"{len(means)} image has no directions; give at least 2 (--split)")
  if not means.std(axis=0).max() > ALIKE * np.abs(means).max():
    raise UserError(
      f"the latents of all {len(means)} images are alike, so they have no directions; give other images (--split)"
    )
  centre = means.mean(axis=0)
  _, values, axes = np.linalg.svd(np.asarray(means, np.float64) - centre, full_matrices=False)
  num = min(num, len(values), len(means) - 1)
  variances = np.square(values) / (len(means) - 1)
  shares = variances / max(variances.sum(), 1e-300)
  names = tuple(str(i + 1) for i in range(num))
  return Directions(centre, axes[:num], np.sqrt(variances[:num]), shares[:num], names)


def unit_directions(means: np.ndarray, units: Sequence[int] = (), num: int = 0) -> Directions:
  """The directions of single latents of posterior means [n, d]; without `units`, of the `num` that vary most.

  Raises UserError for a unit that there is not, and as `principal_directions` does.
  """
  principal_directions(means, 1)
  d, variances = means.shape[1], means.var(axis=0, ddof=1)
  if wrong := [unit for unit in units if unit >= d]:
    raise UserError(f"unit {wrong[0]}: the model has the units 0 to {d - 1}; give some of them (--units)")
  chosen = list(units) or np.argsort(-variances, kind="stable")[:num].tolist()
  shares = variances / variances.sum()
  names = tuple(f"z{unit}" for unit in chosen)
  return Directions(means.mean(axis=0), np.eye(d)[chosen], np.sqrt(variances[chosen]), shares[chosen], names)


def traversed(
  model: TrainedVAE,
  known: Directions,
  start: np.ndarray | None,
  fields: dict[str, Any],
  columns: np.ndarray = DEVIATIONS,
) -> np.ndarray:
  """Images [k, columns, h, w, c], a row for each direction, at so many standard deviations along it.

  start: latents [d] in the middle of each row, or one for each row, [k, d]; None: the mean of the images. fields:
  conditions, one value each.
  """
  middle = np.atleast_2d(known.centre if start is None else start)[:, None]
  away = columns[None, :, None] * known.deviations[:, None, None] * known.axes[:, None]
  z = (middle + away).astype(np.float32)
  return np.stack([np.asarray(model.decode(row, **fields)) for row in z])


def centred(known: Directions, start: np.ndarray) -> np.ndarray:
  """Latents [d], for each direction with their part along it that of the mean of the images: [k, d].

  So a traversal of a single latent sets it to the same values whatever the start, and leaves the others.
  """
  parts = np.sum((known.centre - start) * known.axes, axis=1, keepdims=True)
  return start + parts * known.axes


def labels(known: Directions) -> list[str]:
  """What stands beside the rows of a traversal: the direction, and its share of the variance of the means."""
  return [f"{name}: {100 * share:.0f} %" for name, share in zip(known.names, known.shares, strict=True)]


def traversals(
  model: TrainedVAE, known: Directions, start: np.ndarray | None, fields: dict[str, Any]
) -> np.ndarray:
  """A picture of what `traversed` gives from -3 to 3 standard deviations, a row for each direction."""
  rows = traversed(model, known, start, fields)
  return pictures.compare(*rows, columns=len(DEVIATIONS), labels=labels(known))


def swings(
  model: TrainedVAE, known: Directions, start: np.ndarray | None, fields: dict[str, Any], steps: int = 12
) -> Iterator[np.ndarray]:
  """The frames of an animation that swings from -3 to 3 standard deviations and back, a row for each direction."""
  columns = -3 * np.cos(np.pi * np.arange(2 * steps) / steps)
  rows = traversed(model, known, start, fields, columns)
  for i in range(len(columns)):
    yield pictures.compare(*rows[:, i : i + 1], labels=labels(known))


def encoded(model: TrainedVAE, batch: Batch, size: int) -> np.ndarray:
  """The posterior means of a prepared batch, float32 [n, d], `size` images at a time.

  Raises UserError where one is not finite.
  """
  images, fields = np.asarray(seen(batch)), condition(model, batch)
  parts = []
  for first in range(0, len(images), size):
    chosen = slice(first, first + size)
    part = {name: np.asarray(x)[chosen] for name, x in fields.items()}
    parts.append(np.asarray(model.encode(images[chosen], **part).mean))
  means = np.concatenate(parts)
  _check_finite(means, "the latents of {} of {} images")
  return means


def _check_finite(values: np.ndarray, what: str) -> None:
  """Raises UserError where a row is not finite. what: has a place for the number of such rows, and for that of all."""
  if bad := int(np.sum(~np.isfinite(values).reshape(len(values), -1).all(axis=1))):
    raise UserError(
      f"{what.format(bad, len(values))} are not finite (nan or inf); use an earlier checkpoint of the run"
    )


def attribute(
  model: TrainedVAE, batch: Batch, means: np.ndarray, present: np.ndarray, absent: np.ndarray
) -> np.ndarray:
  """A picture: a row for each image, moved along the attribute's direction, from -1 to 1.5 times.

  The direction is the mean of the latents `present` [n, d] of images that have the attribute less that of images that
  lack it, `absent` (Larsen et al. 2016, section 4.2; White 2016). means: latents of the batch's images.

  Raises UserError where both means are equal.
  """
  direction = present.mean(axis=0) - absent.mean(axis=0)
  if not np.abs(direction).max() > ALIKE * max(np.abs(present).max(), np.abs(absent).max()):
    raise UserError(
      f"the {len(present)} examples with the attribute and the {len(absent)} without have the same mean latents, so "
      "there is no direction between them; give two different folders"
    )
  columns: dict[str, np.ndarray] = {"image": np.asarray(seen(batch))}
  for strength in STRENGTHS:
    moved = (means + strength * direction).astype(np.float32)
    columns[f"{strength:+g}"] = np.asarray(model.decode(moved, **condition(model, batch)))
  cells = np.stack(list(columns.values()), axis=1)
  return pictures.grid(cells.reshape(-1, *cells.shape[2:]), columns=len(columns))


def stored(model: TrainedVAE, split: str, num: int) -> np.ndarray:
  """`num` clean images from all over a split as stored, neither binarised nor dequantised: float32 in [0, 1]."""
  source = open_split(model, split)
  chosen = pipeline.spread(len(source), num)
  batch = next(stream(model, pipeline.Chosen(source, chosen), len(chosen)))
  return np.asarray(batch["image"], np.float32) / 255


class Neighbours(NamedTuple):
  """images uint8 [n, k, h, w, c], nearest first; distances [n, k]: root mean square of the pixels' differences."""

  images: np.ndarray
  distances: np.ndarray


def nearest(model: TrainedVAE, images: Array | np.ndarray, split: str, size: int, k: int = 3) -> Neighbours:
  """The `k` images of a split that are nearest to each of `images` [n, h, w, c] in [0, 1], over all pixels.

  Those of the split are the clean ones as stored, and what the run makes of them by mirroring (data.flip) and turning
  (data.rotate). Reports progress. Raises UserError where one of `images` is not finite.
  """
  wanted = np.asarray(images, np.float32).reshape(len(images), -1)
  _check_finite(wanted, "the pixels of {} of {} images")
  source = open_split(model, split)
  best = np.full((len(wanted), k), np.inf, np.float32)
  kept = np.zeros((len(wanted), k, *model.image_shape), np.uint8)
  with FileProgress() as progress:
    for done, batch in enumerate(stream(model, source, size)):
      progress.update(f"comparing with {split}", done * size, len(source))
      found = np.asarray(batch["image"])[np.asarray(batch["mask"])]
      for candidates in _seen_in_training(found, model.config.data):
        distances = _distances(wanted, candidates)
        both = np.concatenate([best, distances], axis=1)
        order = np.argsort(both, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(both, order, axis=1)
        for i, places in enumerate(order):
          kept[i] = np.stack([kept[i][p] if p < k else candidates[p - k] for p in places])
  return Neighbours(kept[:, : len(source)], best[:, : len(source)])


def _seen_in_training(images: np.ndarray, data: Any) -> Iterator[np.ndarray]:
  """Images [n, h, w, c], and what a run shows of them to its model: mirrored, turned."""
  for turns in range(4 if data.rotate else 1):
    turned = np.rot90(images, turns, axes=(1, 2))
    yield turned
    if data.flip:
      yield turned[:, :, ::-1]


def _distances(wanted: np.ndarray, candidates: np.ndarray) -> np.ndarray:
  """Root mean square differences [n, m] of wanted [n, pixels] in [0, 1] and candidates uint8 [m, h, w, c].

  In float64: a sum of squares less a product would leave some thousandths of a grey level of float32 between copies.
  """
  a, b = wanted.astype(np.float64), candidates.reshape(len(candidates), -1) / 255
  squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
  return np.sqrt(np.maximum(squares, 0) / a.shape[1]).astype(np.float32)
