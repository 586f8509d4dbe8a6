"""Scores of how anomalous images are to a model: against other images, or a person's own within a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import metrics, pictures
from vae_jax.configuration import show
from vae_jax.data import pipeline
from vae_jax.data.prepare import check_first_batch
from vae_jax.errors import UserError
from vae_jax.evaluation.anomaly_sets import Images, of_files, of_label, of_place, of_split
from vae_jax.evaluation.records import Digest, preparation
from vae_jax.generator import new_key, standard
from vae_jax.inference import TrainedVAE
from vae_jax.progress import followed
from vae_jax.training import parallel, scoring, steps

NATS = ("neg_elbo", "iwae_nll", "rate", "distortion")  # of a model, where it has them
UNITS = {"complexity_corrected": "bits/dim"}  # of scores; others are in nats
SAME = ("name", "dir", "train", "without")  # keys of data that a background has in common with the run
COLUMNS = 16  # images in a row of the picture
LISTED = 20  # files whose scores are printed
TPR = 0.95


class Measured(NamedTuple):
  """What was measured of n images. nats: by name, float64 [n]; `background`, the bound of the other model, and
  `compared`, that of the same kind of this one. size: bits by a compressor, NaN where that cannot be compared. digest:
  of the images."""

  nats: dict[str, np.ndarray]
  size: np.ndarray
  digest: str

  @property
  def bound(self) -> np.ndarray:
    """The tightest bound on -log p(x), in nats."""
    return self.nats.get("iwae_nll", self.nats["neg_elbo"])

  @property
  def without_size(self) -> int:
    """How many images have no size to compare the bound with."""
    return int(np.isnan(self.size).sum())


class Judge:
  """A model, a background model where there is one, and how both look at images. Raises UserError: they cannot."""

  def __init__(
    self, model: TrainedVAE, background: TrainedVAE | None, samples: int, batch_size: int, seed: int
  ) -> None:
    _check_model(model)
    if background is not None:
      _check_background(model, background)
    self.model, self.background = model, background
    self.samples, self.batch_size, self.seed = samples, batch_size, seed
    self.placement = parallel.make_placement(jax.device_count())
    self._steps = [self._step(each) for each in (model, background) if each is not None]

  def measure(self, images: Images) -> Measured:
    """Every image once, in order."""
    source, size = images.source, self.placement.mesh.size
    batch_size = -(-min(self.batch_size, len(source)) // size) * size
    batches = pipeline.batches(images.data, source, batch_size=batch_size, training=False)
    nats: list[dict[str, np.ndarray]] = []
    sizes, digest = [], Digest()
    total = -(-len(source) // batch_size)
    for done, batch in enumerate(followed(digest.update(batches), total, f"scoring {images.what}")):
      if not done:
        check_first_batch(batch, images.data, self.model.image_shape, trained=True)
      placed = self.placement.put_batch({name: batch[name] for name in ("image", "index", "mask")})  # type: ignore[literal-required]
      found, *others = [jax.device_get(step(variables, placed, {})) for step, variables in self._steps]
      mask, image = np.asarray(batch["mask"]), found.pop("image")[np.asarray(batch["mask"])]
      if others:
        both = "iwae_nll" if "iwae_nll" in found and "iwae_nll" in others[0] else "neg_elbo"
        found |= {"compared": found[both], "background": others[0][both]}
      nats.append({name: np.asarray(found[name], np.float64)[mask] for name in found if name != "mask"})
      sizes.append(self._sizes(image))
    joined = {name: np.concatenate([part[name] for part in nats]) for name in nats[0]}
    return Measured(joined, np.concatenate(sizes), digest.hex)

  def scores(self, measured: Measured, mean: float) -> dict[str, np.ndarray]:
    """The scores by name, float64 [n]. mean: of the bound over the reference."""
    bound, dims = measured.bound, int(np.prod(self.model.image_shape))
    found = {name: measured.nats[name] for name in NATS if name in measured.nats}
    found["typicality"] = metrics.typicality(bound, mean)
    if "background" in measured.nats:
      ratio = metrics.likelihood_ratio(measured.nats["compared"], measured.nats["background"])
      found["likelihood_ratio"] = ratio
    if not measured.without_size:
      continuous = self.model.module.likelihood.continuous
      found["complexity_corrected"] = metrics.complexity_corrected(bound, measured.size, dims, continuous)
    return found

  @property
  def incomparable(self) -> str:
    """Why the bound cannot be compared with a size in bits; "" where it can."""
    if self.model.module.likelihood.continuous and not self.model.config.data.dequantize:
      return f"{self.model.likelihood} is a density, whose bits cannot be compared with the size of a file"
    return ""

  def absent(self, scores: dict[str, Any], *measured: Measured) -> dict[str, str]:
    """The scores that are not there, each with the reason."""
    reasons = {} if "iwae_nll" in scores else {"iwae_nll": self._without_weights()}
    if self.background is None:
      reasons["likelihood_ratio"] = "there is no --background, a run on images with mutated pixels"
    grey = sum(each.without_size for each in measured)
    why = self.incomparable or f"{grey} images have grey levels, of which Bernoulli is no likelihood"
    return reasons | ({"complexity_corrected": why} if grey else {})

  def _without_weights(self) -> str:
    name = self.model.config.model.name
    return "--samples 0" if not self.samples else f"{name} has no importance weights"

  def _step(self, each: TrainedVAE) -> tuple[Any, Any]:
    """A compiled step of one of the models, and its variables. Both see the images as the first prepares them."""
    prepare, _ = preparation(self.model)
    root = new_key(self.seed)
    score = scoring.make_eval_step(each.module, prepare, root=root, iwae_samples=self.samples)

    def step(variables: Any, batch: Any, frozen: Any) -> dict[str, Any]:
      found = score(variables, batch, frozen)
      kept = {name: found[name] for name in (*NATS, "mask") if name in found}
      keys = steps.example_keys(root, steps.PREPARE_STREAM, jnp.asarray(batch["index"]))
      record = {name: x for name, x in batch.items() if name != "mask"}
      return kept | ({"image": prepare(keys, record, frozen)["image"]} if each is self.model else {})

    return parallel.compile_eval_step(step, self.placement), self.placement.put(each.variables)

  def _sizes(self, image: np.ndarray) -> np.ndarray:
    """Bits of prepared images, float32 in [0, 1], by a compressor; NaN where the bound compares with none."""
    if self.incomparable:
      return np.full(len(image), np.nan)
    if self.model.module.likelihood.name == "bernoulli":
      binary = ((image == 0) | (image == 1)).all(axis=(1, 2, 3))
      return np.where(binary, metrics.compressed_bits(image > 0.5), np.nan)
    if self.model.config.data.dequantize:  # back to the level that the noise was added to
      return metrics.compressed_bits(np.minimum(256 * image, 255).astype(np.uint8))
    return metrics.compressed_bits(np.round(255 * image).astype(np.uint8))


def _check_model(model: TrainedVAE, flag: str = "") -> None:
  """Raises UserError for a model whose bound is none of an image alone. flag: what named the model."""
  name = model.config.model.name
  if why := model.module.UNBOUNDED:
    raise UserError(f"{flag}this run ({name}) has {why}; anomalies need a bound, as of mlp_vae or conv_vae")
  model.require("bound")
  if model.can("restore"):
    raise UserError(
      f"{flag}this run ({name}) bounds p(clean | degraded), which finds no anomalies; use a model of images, such as "
      "mlp_vae or conv_vae"
    )
  if model.can("complete"):
    raise UserError(
      f"{flag}this run ({name}) bounds hidden pixels given the others, and a part of an image is no image; use a model "
      "of whole images, such as mlp_vae or conv_vae"
    )
  if given := sorted(model.module.conditions):
    raise UserError(
      f"{flag}this run ({name}) bounds images given their {given[0]}, which anomalies have none of; use a model of "
      "images alone, such as mlp_vae or conv_vae"
    )


def _check_background(model: TrainedVAE, background: TrainedVAE) -> None:
  """Raises UserError where two bounds are not of the same thing."""
  _check_model(background, "--background: ")
  facts = [
    {
      "images": " x ".join(map(str, each.image_shape)),
      "inputs": " x ".join(map(str, each.input_shape)),
      "data.binarize": each.config.data.binarize,
      "data.dequantize": each.config.data.dequantize,
      "a likelihood that is a density": each.module.likelihood.continuous,
      "a likelihood of black and white": each.module.likelihood.name == "bernoulli",
    }
    for each in (model, background)
  ]
  for name, value in facts[0].items():
    if value != facts[1][name]:
      raise UserError(
        f"--background has {name} {facts[1][name]}, and this run {value}: their likelihoods are not of the same "
        "images; train it with this run's config and data.mutate alone"
      )


@standard()
def find_anomalies(
  model: TrainedVAE,
  split: str,
  *,
  against: Sequence[str] = (),
  label: int | None = None,
  background: TrainedVAE | None = None,
  samples: int = 100,
  batch_size: int = 64,
  seed: int = 0,
  num: int | None = None,
) -> tuple[dict[str, Any], np.ndarray | None]:
  """How well each score tells anomalous images from those of a split.

  Args:
    split: the normal images, as in `config.data.test`.
    against: the anomalous ones: files, folders, or one data set, see `anomaly_sets.of_place`.
    label: instead, the label in the split that is the anomaly; its images are no normal ones then.
    background: a model for `metrics.likelihood_ratio`, trained with data.mutate.
    samples: K of the importance-weighted bound; 0: none. The others then take neg_elbo.
    batch_size: images at a time; does not change the scores beyond rounding.
    seed: of posterior samples, binarisation, dequantisation and degradation.
    num: at most so many images from all over each set; None: all.

  Returns:
    As JSON data: `scores`, by name: `auroc`, its 95 % `interval` or None (`metrics.auroc_interval`),
    `average_precision`, `fpr_at_tpr` (of 0.95), and the means over both sets. `absent`: the scores that there are none
    of, with the reason, also where an image has one that is not finite. What was scored. And a picture: the images that
    the best of the scores finds least and most anomalous, of either set; None without a score.

  Raises:
    UserError: the model bounds no images alone; the background bounds others; an empty set; no such label.
  """
  judge = Judge(model, background, samples, batch_size, seed)
  reference = of_split(model, model.config.data.validation, num)
  if label is None:
    sets = [of_split(model, split, num), of_place(model, against, split, num)]
  else:
    sets = list(of_label(model, split, label, num))
  mean = float(judge.measure(reference).bound.mean())
  measured = [judge.measure(each) for each in sets]
  normal, anomalous = (judge.scores(each, mean) for each in measured)
  scores, absent = {}, judge.absent(normal, *measured)
  for name in (name for name in normal if name in anomalous):
    try:
      scores[name] = _compared(normal[name], anomalous[name]) | {"unit": UNITS.get(name, "nats")}
    except UserError as error:
      absent[name] = str(error)
  best = max(scores, key=lambda name: scores[name]["auroc"], default=None)
  found = {
    "scores": scores,
    "absent": absent,
    "best": best,
    "typical_nats": mean,
    "tpr": TPR,
    **{
      name: each.facts | {"digest": m.digest}
      for name, each, m in zip(("normal", "anomalous"), sets, measured, strict=True)
    },
    "reference": reference.facts,
    **_facts(judge, scores),
    "notes": [
      *_notes(model, background, label),
      *(note for each in sets for note in each.notes),
      *_alike(*(m.digest for m in measured)),
    ],
  }
  picture = _picture(sets, [x[best] for x in (normal, anomalous)] if best else None)
  return found, picture


def _compared(normal: np.ndarray, anomalous: np.ndarray) -> dict[str, Any]:
  """The figures of one score. Raises UserError where a score is not finite."""
  for name, scores in ("normal", normal), ("anomalous", anomalous):
    if bad := int(np.sum(~np.isfinite(scores))):
      raise UserError(f"the scores of {bad} of the {len(scores)} {name} images are not finite (nan or inf)")
  area = metrics.auroc_interval(normal, anomalous)
  return {
    "auroc": area.value,
    "interval": None if np.isnan(area.low) else [area.low, area.high],
    "average_precision": metrics.average_precision(normal, anomalous),
    "fpr_at_tpr": metrics.fpr_at_tpr(normal, anomalous, TPR),
    "normal_mean": float(normal.mean()),
    "anomalous_mean": float(anomalous.mean()),
  }


def _facts(judge: Judge, scores: dict[str, Any]) -> dict[str, Any]:
  """What the scores are by."""
  model, background = judge.model, judge.background
  return {
    "iwae_samples": judge.samples,
    "likelihood": model.likelihood,
    "binarize": model.config.data.binarize,
    "background": None if background is None else background.run.folder,
    "background_step": None if background is None else background.step,
    "background_mutate": None if background is None else background.config.data.get("mutate", 0.0),
    "compressor": "the smaller of PNG and bzip2" if "complexity_corrected" in scores else None,
    "step": model.step,
    "seed": judge.seed,
  }


def _notes(model: TrainedVAE, background: TrainedVAE | None, label: int | None) -> list[str]:
  """What a person should know of a comparison."""
  notes = []
  if label is not None and label not in model.config.data.get("without", ()):
    notes.append(
      f"this run was trained on images of label {label} too; train one with --config.data.without={label}"
    )
  if background is not None and not background.config.data.get("mutate", 0.0):
    notes.append("the background was trained on images without mutated pixels (data.mutate=0)")
  if background is not None:
    other = [key for key in SAME if background.config.data.get(key) != model.config.data.get(key)]
    said = [f"data.{key}={show(background.config.data.get(key))}" for key in other]
    if said:
      notes.append(
        f"the background was trained with {', '.join(said)}, unlike this run: if these are other images, the ratio "
        "compares data sets"
      )
  return notes


def _alike(normal: str, anomalous: str) -> list[str]:
  """A note where both sets have one digest."""
  return ["the anomalous images are the normal ones: all scores are by chance"] * (normal == anomalous)


def _picture(sets: Sequence[Images], scores: Sequence[np.ndarray] | None) -> np.ndarray | None:
  """Rows of images: of either set those that score least, then those that score most. None without scores."""
  if scores is None:
    return None
  num = min(COLUMNS, *(len(each) for each in scores))
  rows = {}
  for kind, images, values in zip(("normal", "anomalous"), sets, scores, strict=True):
    order = np.argsort(values, kind="stable")
    rows[f"{kind}: least"] = images.shown(order[:num].tolist())
    rows[f"{kind}: most"] = images.shown(order[::-1][:num].tolist())
  return pictures.compare(*rows.values(), columns=num, labels=tuple(rows))


@standard()
def judge_files(
  model: TrainedVAE,
  paths: Sequence[Path],
  split: str,
  *,
  background: TrainedVAE | None = None,
  samples: int = 100,
  batch_size: int = 64,
  seed: int = 0,
  num: int | None = None,
) -> tuple[dict[str, Any], list[UserError]]:
  """The scores of a person's images, and the percentage of the images of a split that score lower.

  Args: as `find_anomalies`; split: what the images are compared with. num: at most so many images of it.

  Returns:
    As JSON data: `files`, each with `file`, `scores` by name and `percentiles`; None for a number that is not finite,
    and for a percentile of or among such ones. And the files of folders that could not be read.

  Raises:
    UserError: as `find_anomalies`; a file that was named and cannot be read; no file that can.
  """
  judge = Judge(model, background, samples, batch_size, seed)
  own, failed = of_files(model, paths)
  reference = of_split(model, split, num)
  known = judge.measure(reference)
  mean = float(known.bound.mean())
  measured = judge.measure(own)
  scores, others = judge.scores(measured, mean), judge.scores(known, mean)
  scores = {name: x for name, x in scores.items() if name in others}
  places = {name: _places(others[name], scores[name]) for name in scores}
  files = [
    {
      "file": file,
      "scores": {name: _finite(x[i]) for name, x in scores.items()},
      "percentiles": {name: _finite(x[i]) for name, x in places.items()},
    }
    for i, file in enumerate(own.names)
  ]
  units = {name: UNITS.get(name, "nats") for name in scores}
  facts = {
    "typical_nats": mean,
    "reference": reference.facts | {"digest": known.digest},
    **_facts(judge, scores),
  }
  absent = judge.absent(scores, measured, known) | {
    name: "images of the split have scores that are not finite"
    for name, x in others.items()
    if not np.isfinite(x).all()
  }
  notes = [*_notes(model, background, None), *reference.notes, *own.notes]
  return {"files": files, "units": units, "absent": absent, **facts, "notes": notes}, failed


def _places(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Percentiles, NaN of what is not finite or among such."""
  places, finite = np.full(len(scores), np.nan), np.isfinite(scores)
  if finite.any() and np.isfinite(reference).all():
    places[finite] = metrics.percentiles(reference, scores[finite])
  return places


def _finite(value: float) -> float | None:
  return float(value) if np.isfinite(value) else None


def anomaly_lines(found: dict[str, Any]) -> Iterator[str]:
  """The comparison as lines for a person."""
  normal, anomalous, reference = (found[name] for name in ("normal", "anomalous", "reference"))
  yield (
    f"{anomalous['images']} anomalous images ({anomalous['what']}) against {normal['images']} normal ones "
    f"({normal['what']}), checkpoint of step {found['step']}; typical: {reference['images']} of {reference['what']}"
  )
  share = anomalous["images"] / (anomalous["images"] + normal["images"])
  yield f"  {'score':21} {'unit':8} {'AUROC':>7}  {'95 %':16}  {'AP':>6}  {'FPR at 95 % TPR':>15}"
  for name, s in found["scores"].items():
    ends = f"{s['interval'][0]:.4f} to {s['interval'][1]:.4f}" if s["interval"] else "of 1 image none"
    numbers = f"{s['average_precision']:6.3f}  {s['fpr_at_tpr']:15.3f}"
    yield f"  {name:21} {s['unit']:8} {s['auroc']:7.4f}  {ends:16}  {numbers}"
  yield f"  {'by chance':30} {0.5:7.4f}  {'':16}  {share:6.3f}  {0.95:15.3f}"
  yield from (f"  no {name}: {reason}" for name, reason in found["absent"].items())
  yield from (f"  note: {note}" for note in found["notes"])


def file_lines(found: dict[str, Any]) -> Iterator[str]:
  """The scores of files as lines for a person."""
  reference = found["reference"]
  yield (
    f"{len(found['files'])} files; in brackets the percentage of {reference['images']} images ({reference['what']}) "
    f"that score lower; checkpoint of step {found['step']}"
  )
  for one in found["files"][:LISTED]:
    yield f"  {one['file']}"
    for name, value in one["scores"].items():
      place = one["percentiles"][name]
      shown = "not finite" if value is None else f"{value:.3f} {found['units'][name]}"
      yield f"    {name:21} {shown:>20}" + ("" if place is None else f"  ({place:.1f} %)")
  if (more := len(found["files"]) - LISTED) > 0:
    yield f"  ... and {more} more in the JSON file"
  yield from (f"  no {name}: {reason}" for name, reason in found["absent"].items())
  yield from (f"  note: {note}" for note in found["notes"])
