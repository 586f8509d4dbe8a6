"""What a model is evaluated on: the records of a split, or a person's own images, as the model sees them."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import models, runs
from vae_jax.data import pipeline
from vae_jax.data.examples import expanded
from vae_jax.data.folders import list_images
from vae_jax.data.images import examine, open_image, read_file, to_channels
from vae_jax.data.prepare import make_prepare
from vae_jax.data.sources import IN_FOLDERS, Source, open_source, report
from vae_jax.data.suffixes import PICTURES, why_unread
from vae_jax.errors import UserError, printable
from vae_jax.generator import new_key
from vae_jax.inference import TrainedVAE
from vae_jax.photos.deep import layout
from vae_jax.training import steps
from vae_jax.types import Batch, Frozen

EXACT = ("1", "L", "P", "RGB")  # modes of Pillow whose pixels are grey levels or RGB as they are


def open_split(model: TrainedVAE, split: str) -> Source:
  """A split of the model's data. Reports what about them a person should know. Raises UserError."""
  check_place(model.config.data)
  source = open_source(model.config.data, split)
  report([source])
  return source


def check_place(data: ConfigDict) -> None:
  """Refuses data that have left the place where the run was trained on them."""
  if data.name in IN_FOLDERS and not os.path.exists(expanded(data.dir)):
    raise UserError(
      f"data.dir={data.dir}, from which this run was trained, is not there; give the place of the data with --data_dir"
    )


def describe(model: TrainedVAE, split: str) -> dict[str, Any]:
  """Which data a split is of: for files of scores."""
  data = model.config.data
  return {"data": data.name, "folder": data.dir or None, "split": split}


class Digest:
  """Computes a digest of the images, labels and texts of records, in order, independent of the batches.

  Images are those before noise and binarisation, at the size that the model sees.
  """

  def __init__(self) -> None:
    self._total = hashlib.sha256()

  @property
  def hex(self) -> str:
    return self._total.hexdigest()[:16]

  def update(self, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches."""
    for batch in batches:
      for i in np.flatnonzero(batch["mask"]):
        for name in ("image", "degraded", "label", "text"):
          if name in batch:
            value = np.asarray(batch[name])[i]  # type: ignore[literal-required]
            self._total.update(f"{name}{value.shape}".encode() + value.tobytes())
      yield batch


def preparation(model: TrainedVAE) -> tuple[steps.Prepare, Frozen]:
  """How the records of a model's data become batches in evaluation, and what is frozen for it."""
  prepare = make_prepare(model.config.data, training=False)
  if model.run.first is None:
    return prepare, {}
  return runs.with_first_stage(prepare, model.run.first), {"first_stage": model.first.variables}


def stream(model: TrainedVAE, source: pipeline.Source, batch_size: int) -> Iterator[Batch]:
  """A source's batches on the host, in order. Raises UserError: no labels or other ones, where the model needs them."""
  classes = models.classes(model.config.model)
  for batch in pipeline.batches(model.config.data, source, batch_size=batch_size, training=False):
    check_conditions(model, batch, source.name)
    if classes:
      pipeline.check_labels(np.asarray(batch["label"]), classes, source.name, trained=True)
    yield batch


def prepared_batches(
  model: TrainedVAE, batches: Iterable[Batch], seed: int, places: Sequence[int] | None = None
) -> Iterator[tuple[Batch, Batch, np.ndarray]]:
  """Batches of `stream`, each with what the model sees of it in evaluation, and with its mask, which is taken out.

  What is drawn for a record depends on the seed and on its `index` alone. places: where the records were chosen from a
  split, their places there, which `index` then is.
  """
  prepare, frozen = preparation(model)
  prepare, root = jax.jit(prepare), new_key(seed)
  for batch in batches:
    mask = batch.pop("mask")
    if places is not None:
      batch["index"] = np.asarray(places, np.int32)[batch["index"]]
    keys = steps.example_keys(root, steps.PREPARE_STREAM, jnp.asarray(batch["index"]))
    yield batch, prepare(keys, batch, frozen), np.asarray(mask)


def check_conditions(model: TrainedVAE, record: Mapping[str, Any], name: str) -> None:
  """Refuses a record or batch without what the model needs beside images. name: the data set."""
  for field in sorted(model.module.conditions - record.keys()):
    raise UserError(
      f"this run ({model.config.model.name}) needs a {field} for each image, and data.name={name} has none; "
      "give --data_dir or --split of data with it"
    )


def prepared(
  model: TrainedVAE, split: str, num: int, seed: int = 0, label: int | None = None, alike: bool = False
) -> Batch:
  """`num` images from all over a split as the model sees them: float32 `image`, `degraded` and what else there is.

  They are those of the scores, noise included: `index` is their place in the split.
  label: only images of that label. alike: image i and image i + num / 2 have one label, where the model needs labels.
  """
  source: pipeline.Source = open_split(model, split)
  chosen = pipeline.spread(len(source), num)
  if "label" in model.module.needs and (label is not None or alike):
    check_conditions(model, source[0], source.name)
    chosen = with_label(source, num, label, alike)[:num]
  batches = stream(model, pipeline.Chosen(source, chosen), len(chosen))
  return next(prepared_batches(model, batches, seed, chosen))[1]


def with_label(source: pipeline.Source, num: int, label: int | None, alike: bool) -> list[int]:
  """Which records to show: `num` of a label or, alike, pairs of one label, first ends before last ones.

  They come from all over the data set: it is looked through in a fixed random order.
  """
  by_label: dict[int, list[int]] = {}
  firsts: list[int] = []
  lasts: list[int] = []
  for i in pipeline.order(0, len(source), np.arange(len(source))).tolist():
    found = int(source[i]["label"])
    if label is not None and found != label:
      continue
    waiting = by_label.setdefault(found, [])
    waiting.append(i)
    if alike and len(waiting) == 2:
      firsts.append(waiting[0])
      lasts.append(waiting[1])
      waiting.clear()
    if (2 * len(firsts) if alike else len(waiting)) >= num:
      break
  chosen = firsts + lasts if alike else sorted(by_label.get(label if label is not None else -1, []))
  if not chosen:
    what = "two images of one label" if alike else f"image with the label {label}"
    raise UserError(f"{source.name} has no {what}; choose another --label or --split")
  return chosen


def condition(model: TrainedVAE, batch: Batch) -> dict[str, Any]:
  """The fields of a batch that a person would have to give beside images, such as labels."""
  return {name: batch[name] for name in model.module.conditions}  # type: ignore[literal-required]


def own_files(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
  """A person's files, and what looks like a picture in their folders; with each, whether it came from a folder."""
  return [
    (file, path.is_dir())
    for path in paths
    for file in ([path / name for name in list_images(path, PICTURES)] if path.is_dir() else [path])
  ]


def own_image(
  model: TrainedVAE, file: Path, clean: bool = False, small: list[str] | None = None
) -> np.ndarray:
  """One of a person's images as uint8 [h, w, c], cut to what the encoder takes; clean: to the model's clean images.

  small: gets the name and size of an image that is enlarged for this. Raises UserError: it is not read."""
  height, width, channels = model.image_shape if clean else model.input_shape
  if unread := why_unread(file.name):
    raise UserError(f"{file}: {unread}")
  found = examine(file, white=model.config.data.white)
  if found.alpha is not None and (found.alpha < 255).any():
    tell_notes(
      [f"{file} has transparent pixels, which are seen in their stored colours; lay it over a background"]
    )
  image = to_channels(found.pixels, channels)
  if small is not None and (image.shape[0] < height or image.shape[1] < width):
    small.append(f"{file} ({image.shape[0]} x {image.shape[1]})")
  return pipeline.fit({"image": image}, (height, width), "resize", None)["image"]


def exact_image(model: TrainedVAE, file: Path) -> np.ndarray:
  """One of a person's images as uint8 [h, w, c], with nothing changed. Raises UserError where the model takes no such
  images: another size, other channels, transparency, more than 8 bits, other colours than grey or RGB, frames."""
  if unread := why_unread(file.name):
    raise UserError(f"{file}: {unread}")
  content = read_file(file)
  found, wanted = examine(content, name=str(file)), tuple(model.input_shape)
  if found.pixels.shape != wanted:
    has, takes = (" x ".join(map(str, shape)) for shape in (found.pixels.shape, wanted))
    raise UserError(
      f"{file}: is {has}, and this model takes {takes}, which would change it; give such images"
    )
  image = open_image(content)
  faults = {
    "more than 8 bits a channel": image.mode.startswith(("I", "F")) or layout(image, content) is not None,
    "transparency": found.alpha is not None,
    f"colours of {image.mode}": image.mode not in EXACT,
    "several pictures": getattr(image, "n_frames", 1) > 1,
  }
  if lost := [what for what, there in faults.items() if there]:
    raise UserError(
      f"{file}: has {lost[0]}, which would be lost; give grey or RGB images of 8 bits without transparency, one a file"
    )
  return found.pixels


def readable(
  files: Sequence[tuple[Path, bool]], read: Callable[[Path], np.ndarray], failed: list[UserError]
) -> Iterator[tuple[str, np.ndarray]]:
  """Those of `own_files` that `read` can read, by name. What cannot be read in a folder is added to `failed`; a file
  that was given by name raises UserError."""
  for file, listed in files:
    try:
      image = read(file)
    except UserError as error:
      if not listed:
        raise
      failed.append(error)
      continue
    yield str(file), image


def tell_skipped(failed: Sequence[UserError]) -> None:
  """Names on standard error what could not be read, where something else was."""
  for error in failed:
    print(printable(f"skipped: {error}"), file=sys.stderr)


def enlarged(model: TrainedVAE, small: Sequence[str]) -> list[str]:
  """A note that some of a person's images are smaller than the model's, with one of them; none where there are none."""
  if not small:
    return []
  size = " x ".join(map(str, model.input_shape[:2]))
  which = f"{small[0]} is" if len(small) == 1 else f"{len(small)} images, such as {small[0]}, are"
  return [f"{which} smaller than the model's {size}, so enlarged"]


def tell_notes(notes: Sequence[str]) -> None:
  """Prints notes on standard error."""
  for note in notes:
    print(printable(f"note: {note}"), file=sys.stderr)


def own_images(model: TrainedVAE, paths: Sequence[Path], num: int) -> Batch:
  """Up to `num` of a person's images, cut to what the encoder takes and seen as they are.

  Folders are searched; what cannot be decoded in them is named and passed over, a file given by name is refused.
  """
  failed: list[UserError] = []
  small: list[str] = []
  found = readable(own_files(paths), lambda file: own_image(model, file, small=small), failed)
  cut = [image for _, image in itertools.islice(found, num)]
  if not cut:
    raise (
      failed[0]
      if failed
      else UserError(f"--input {paths[0]}: no images there; give image files or a folder with some")
    )
  tell_skipped(failed)
  tell_notes(enlarged(model, small))
  return {"image": np.stack(cut).astype(np.float32) / 255}


def inputs(
  model: TrainedVAE,
  paths: Sequence[Path] | None,
  split: str,
  num: int,
  seed: int = 0,
  label: int | None = None,
  alike: bool = False,
) -> Batch:
  """What to reconstruct or interpolate: the person's own images where `paths` names some, else those of a split.

  label: of the own images, or which ones of the split to take. alike: see `prepared`.
  """
  if label is not None and "label" not in model.module.needs:
    raise UserError(f"--label {label}: this run ({model.config.model.name}) knows no labels; leave it out")
  if not paths:
    return prepared(model, split, num, seed, label, alike)
  batch = own_images(model, paths, num)
  if "label" in model.module.needs:
    if label is None:
      raise UserError(f"this run ({model.config.model.name}) needs the label of your images; give --label")
    batch["label"] = np.full(len(batch["image"]), label, np.int32)
  for field in sorted(model.module.conditions - batch.keys()):
    raise UserError(
      f"this run ({model.config.model.name}) needs the {field} of your images, which --input does not give; leave "
      "--input out, or make them a data set (--data_dir)"
    )
  return batch
