"""What latents tell of labels: a linear probe and clusters of them, beside those of pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vae_jax import metrics
from vae_jax.data import pipeline
from vae_jax.data.sources import Source, overlap
from vae_jax.errors import UserError
from vae_jax.evaluation.latents import encoded_images, width
from vae_jax.evaluation.records import describe, open_split
from vae_jax.generator import standard
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import clustering, probes
from vae_jax.storage.capacity import check_memory

COPIES = 4  # of all features, that are in memory at once: the parts, joined, standardised, on the device


class Part(NamedTuple):
  """A split, its images that are looked at, their labels, and the different labels of all its images."""

  split: str
  source: Source
  chosen: pipeline.Chosen
  labels: np.ndarray
  known: np.ndarray


@standard()
def probe_labels(
  model: TrainedVAE, split: str, *, num: int | None = None, batch_size: int = 64, seed: int = 0
) -> dict[str, Any]:
  """Scores how well latents tell the labels of a split's images, by a linear probe and by k-means.

  Latents are posterior means, or the vectors of the codes where a model has codes. Probe and centres are fitted to the
  run's training split; the strength of the probe is chosen on its validation split. See `metrics.linear_probe` and
  `metrics.kmeans` for the protocols.

  Args:
    split: what is scored, as in `config.data.test`.
    num: at most so many images from all over each of the three splits.
    batch_size: images encoded at a time; does not change the scores beyond rounding.
    seed: of what preparation draws, and of the starts of k-means.

  Returns:
    As JSON data. `scores` of `latents` and of `pixels`, which are what the encoder sees: `probe` with the accuracy and
    its 95 % interval; `clusters`, as many as there are classes, with the accuracy by the best assignment, `nmi` and
    inertia, or `no_clusters`, why there are none; how many `features` there are, and how many of them are `constant`.
    `majority`: the accuracy of naming the most frequent label of the training images. `given`: fields that the encoder
    is given beside the image. `notes`, the `protocol` in numbers, and what was scored.

  Raises:
    UserError: the model has neither latents nor codes; the images have no labels, one label, or are fewer than the
    labels; latents that are not finite or all alike; too little memory.
  """
  if not model.can("tokens"):
    model.require("encode")
  data = model.config.data
  names = {"train": data.train, "validation": data.validation, "scored": split}
  parts = {name: _part(model, each, num) for name, each in names.items()}
  classes = _classes(model, parts)
  images, numbers = sum(len(part.labels) for part in parts.values()), int(np.prod(model.input_shape))
  needed = 4 * images * (width(model) + numbers) * COPIES
  check_memory(f"a probe of {images} images", needed, "give fewer images with --num")
  found = {
    name: encoded_images(model, part.chosen, part.split, batch_size, seed, ["means", "pixels"])
    for name, part in parts.items()
  }
  _check_spread(found["train"].rows["means"], parts["train"].split)
  labels = {name: part.labels for name, part in parts.items()}
  scores = {
    kind: _scored({name: each.rows[rows] for name, each in found.items()}, labels, classes, seed, kind)
    for kind, rows in (("latents", "means"), ("pixels", "pixels"))
  }
  values, counts = np.unique(labels["train"], return_counts=True)
  given = sorted(model.module.conditions)
  return {
    "scores": scores,
    "classes": classes,
    "majority": float(np.mean(labels["scored"] == values[np.argmax(counts)])),
    "latents": "vectors of codes" if model.can("tokens") else "posterior means",
    "given": given,
    "notes": [*_notes(parts, scores), *_given(given)],
    "protocol": {
      "strengths": list(probes.STRENGTHS),
      "tolerance": probes.TOLERANCE,
      "restarts": clustering.RESTARTS,
    },
    **{
      name: {**describe(model, parts[name].split), "images": len(labels[name]), "digest": found[name].digest}
      for name in ("train", "validation")
    },
    **describe(model, split),
    "examples": len(labels["scored"]),
    "digest": found["scored"].digest,
    "family": model.config.model.name,
    "step": model.step,
    "seed": seed,
  }


def _part(model: TrainedVAE, split: str, num: int | None) -> Part:
  source = open_split(model, split)
  labels = np.asarray(source.read_labels())
  places = pipeline.spread(len(source), len(source) if num is None else num)
  return Part(split, source, pipeline.Chosen(source, places), labels[places], np.unique(labels))


def _classes(model: TrainedVAE, parts: dict[str, Part]) -> int:
  """How many labels the training images have. Raises UserError: too few of them, or of images."""
  train = parts["train"]
  known = train.known
  if len(known) < 2:
    raise UserError(
      f"all images of {train.split} of data.name={model.config.data.name} have the label {known[0]}; a probe needs "
      "data of two labels and more (--data_dir)"
    )
  for part in parts.values():
    if len(part.labels) < len(known):
      raise UserError(
        f"{len(part.labels)} images of {part.split} are fewer than the {len(known)} labels; give more (--num, --split)"
      )
  if len(only := np.unique(train.labels)) < 2:
    raise UserError(
      f"the {len(train.labels)} images taken of {train.split} have the label {only[0]} alone; give a larger --num"
    )
  return len(known)


def _check_spread(means: np.ndarray, split: str) -> None:
  """Raises UserError where all images have the same latents."""
  if not np.any(means.std(axis=0) > probes.ALIKE * np.abs(means).max(axis=0)):
    raise UserError(
      f"the latents of all {len(means)} images of {split} are alike (posterior collapse), so they tell no labels; use "
      "another checkpoint, or train with a smaller objective.beta"
    )


def _scored(
  x: dict[str, np.ndarray], labels: dict[str, np.ndarray], classes: int, seed: int, kind: str
) -> dict[str, Any]:
  """The scores of one kind of features [n, d] of the three splits."""
  found = metrics.linear_probe(
    *((x[name], labels[name]) for name in ("train", "validation", "scored")), what=kind
  )
  return {
    "features": x["train"].shape[1],
    "constant": found.constant,
    "probe": {
      "accuracy": found.accuracy.value,
      "interval": [found.accuracy.low, found.accuracy.high],
      "strength": found.probe.strength,
      "validation": {f"{strength:g}": value for strength, value in found.validation.items()},
      "iterations": found.probe.iterations,
      "slope": found.probe.slope,
      "converged": found.probe.converged,
    },
    **_clustered(x, labels["scored"], classes, seed, kind),
  }


def _clustered(
  x: dict[str, np.ndarray], labels: np.ndarray, classes: int, seed: int, kind: str
) -> dict[str, Any]:
  """The scores of k-means as `clusters`, or why there are none as `no_clusters`."""
  try:
    centres = metrics.kmeans(x["train"], classes, seed=seed, what=kind)
  except UserError as error:  # too few different features, as of a model with few codes in use
    return {"no_clusters": str(error)}
  clusters = centres.nearest(x["scored"])
  return {
    "clusters": {
      "accuracy": metrics.clustering_accuracy(clusters, labels),
      "nmi": metrics.normalized_mutual_information(clusters, labels),
      "inertia": centres.inertia,
      "iterations": centres.iterations,
      "converged": centres.converged,
    },
  }


def _notes(parts: dict[str, Part], scores: dict[str, Any]) -> list[str]:
  """What a person should know of the scores, a line each."""
  notes = []
  scored, train = parts["scored"], parts["train"]
  for part, used in ((train, "fitted"), (parts["validation"], "chosen")):
    if overlap(part.source, scored.source):
      notes.append(
        f"{scored.split} has images of {part.split}, on which the probe was {used}: its scores are too high"
      )
  for part in (train, scored):
    if (missing := np.setdiff1d(part.known, part.labels)).size:
      names = ", ".join(map(str, missing[:10]))
      notes.append(
        f"none of the {len(part.labels)} images taken of {part.split} has the labels {names}; give a larger --num"
      )
  unknown = ~np.isin(scored.labels, train.labels)
  if unknown.any():
    names = ", ".join(map(str, np.unique(scored.labels[unknown])[:10]))
    notes.append(
      f"{unknown.sum()} images have labels that no training image has ({names}); a probe gets them wrong"
    )
  for kind, found in scores.items():
    probe, clusters = found["probe"], found.get("clusters")
    if not probe["converged"]:
      notes.append(
        f"the probe of {kind} stopped after {probe['iterations']} iterations at a slope of {probe['slope']:.2g}, above "
        f"{probes.TOLERANCE:g}: it has not converged"
      )
    if clusters is None:
      notes.append(f"no k-means of {kind}: {found['no_clusters']}")
    elif not clusters["converged"]:
      notes.append(
        f"k-means of {kind} stopped after {clusters['iterations']} iterations: it has not converged"
      )
  if constant := scores["latents"]["constant"]:
    notes.append(
      f"{constant} of the {scores['latents']['features']} latents are the same for all training images"
    )
  return notes


def _given(given: list[str]) -> list[str]:
  if not given:
    return []
  names = " and ".join(given)
  return [
    f"the encoder is given the {names} of each image, also of those scored: latents that tell labels may repeat it, "
    "and do not show that they are seen in the image"
  ]


def probe_lines(scores: dict[str, Any]) -> list[str]:
  """The scores as lines for a person."""
  s, train, held = scores, scores["train"], scores["validation"]
  lines = [
    f"{s['split']} of {s['data']}: {s['examples']} images, {s['classes']} labels, checkpoint of step {s['step']}; "
    f"{s['majority']:.4f} right by naming the most frequent label",
    f"  {s['latents']}, probed on {train['images']} images of {train['split']}, strengths chosen on "
    f"{held['images']} of {held['split']}",
    f"  {'':8}{'features':>9}   {'linear probe (95 %)':27}{'k-means':>8}{'NMI':>9}",
  ]
  for kind, found in s["scores"].items():
    probe, clusters = found["probe"], found.get("clusters")
    low, high = probe["interval"]
    shown = f"{probe['accuracy']:.4f} ({low:.4f} to {high:.4f})"
    told = f"{clusters['accuracy']:8.4f}{clusters['nmi']:9.4f}" if clusters else f"{'none':>8}{'none':>9}"
    lines.append(f"  {kind:8}{found['features']:9d}   {shown:27}{told}")
  return [*lines, *(f"note: {note}" for note in s["notes"])]
