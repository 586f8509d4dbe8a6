"""The sets of images that are compared as normal and anomalous ones: of splits, other data sets, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vae_jax.data import pipeline
from vae_jax.data.examples import expanded
from vae_jax.data.sources import Source, open_source, overlap, report
from vae_jax.data.splits import parse_split
from vae_jax.errors import UserError, printable
from vae_jax.evaluation.records import enlarged, open_split, own_files, own_image, readable, tell_skipped
from vae_jax.inference import TrainedVAE
from vae_jax.types import Shape

IDX = "*-images[-.]idx3-ubyte*"  # files of the MNIST family


class Images(NamedTuple):
  """A set of images. data: how they are read. what: they in words. facts: the same as JSON data. names: of files."""

  source: pipeline.Source
  data: ConfigDict
  what: str
  facts: dict[str, Any]
  notes: tuple[str, ...] = ()
  names: tuple[str, ...] = ()

  def shown(self, indices: Sequence[int]) -> np.ndarray:
    """Some of them as the model's size has them, before noise and binarisation: uint8 [n, h, w, c]."""
    chosen = pipeline.Chosen(self.source, indices)
    batch = next(pipeline.batches(self.data, chosen, batch_size=len(indices), training=False))
    return np.asarray(batch["image"])


class _Decoded:
  """Images in memory, as a source."""

  def __init__(self, name: str, images: np.ndarray):
    self.name, self._images = name, images
    self.uniform_shape: Shape = images.shape[1:]

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": self._images[index]}

  def read(self, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    return map(self.__getitem__, indices)

  def load_all(self) -> dict[str, np.ndarray]:
    return {"image": self._images}


def of_split(model: TrainedVAE, split: str, num: int | None = None) -> Images:
  """A split of the model's data; num: at most so many images from all over it. Raises UserError."""
  source = open_split(model, split)
  return _of_source(model, model.config.data, split, source, num)._replace(notes=_trained_on(model, source))


def of_label(model: TrainedVAE, split: str, label: int, num: int | None = None) -> tuple[Images, Images]:
  """The images of a split without a label, and those with it. Raises UserError: no labels, or none on a side."""
  source = open_split(model, split)
  labels = np.asarray(source.read_labels())
  sides = [np.flatnonzero(labels != label), np.flatnonzero(labels == label)]
  if not all(len(side) for side in sides):
    known = ", ".join(map(str, sorted({*labels.tolist()})[:20]))
    raise UserError(
      f"--label {label}: {split} of {source.name} has the labels {known}; choose one of two or more"
    )
  normal, anomalous = (
    _of_source(model, model.config.data, split, pipeline.Chosen(source, side.tolist()), num) for side in sides
  )
  words = [f"{split} of {source.name} {how} label {label}" for how in ("without", "of")]
  facts, notes = normal.facts | {"what": words[0], "label": None}, _trained_on(model, source)
  return (
    normal._replace(what=words[0], facts=facts, notes=notes),
    anomalous._replace(what=words[1], facts=anomalous.facts | {"what": words[1], "label": label}),
  )


def _trained_on(model: TrainedVAE, source: Source) -> tuple[str, ...]:
  """A note where a split has images of the model's training split."""
  data = model.config.data
  if parse_split(source.split)[0] != parse_split(data.train)[0]:
    return ()
  if not overlap(source, open_source(data, data.train)):
    return ()
  note = f"{source.split} has images of {data.train}, on which this run was trained: they score lower than new ones"
  return (note,)


def of_place(model: TrainedVAE, places: Sequence[str], split: str, num: int | None = None) -> Images:
  """What `--against` names: a data set, of which `split` is taken, or image files and folders of them.

  A data set is one place: a folder of IDX or .npz files, a .npz file, or a name, such as digits, where there is no such
  file. Images of another size or number of channels become those of the model, and a note says so. Raises UserError.
  """
  if len(places) > 1 or not (data := _data_set(model, places[0])):
    files, failed = of_files(model, [Path(place) for place in places], "--against")
    if failed:
      names = f"{len(failed)} files of --against could not be read, first {failed[0]}"
      files = files._replace(notes=(*files.notes, names))
    return files if num is None else _thinned(files, num)
  try:
    source = open_source(data, split)
  except UserError as error:
    raise UserError(f"--against {places[0]}: {error}") from error
  report([source])
  found = _of_source(model, data, split, source, num)
  stored = tuple(source.full.shapes["image"])
  if stored == model.image_shape:
    return found
  sizes = " x ".join(map(str, stored)) if all(stored) else "of several sizes"
  note = f"the images of {found.what}, {sizes}, are resized to {' x '.join(map(str, model.image_shape))}"
  return found._replace(notes=(note,))


def of_files(
  model: TrainedVAE, paths: Sequence[Path], flag: str = "--input"
) -> tuple[Images, list[UserError]]:
  """A person's images, cut to the size of the model's, and what could not be read in folders, named on standard error.

  Raises UserError: a file that was named cannot be read; there are no images.
  """
  failed: list[UserError] = []
  small: list[str] = []
  found = list(
    readable(own_files(paths), lambda file: own_image(model, file, clean=True, small=small), failed)
  )
  if not found:
    raise failed[0] if failed else UserError(f"{flag} {paths[0]}: no images there; give files or a folder")
  tell_skipped(failed)
  names, images = zip(*found, strict=True)
  what = f"{len(names)} files of {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
  facts = {"what": what, "data": "files", "folder": [str(path) for path in paths], "images": len(names)}
  source = _Decoded("files", np.stack(images))
  notes = tuple(map(printable, enlarged(model, small)))
  return Images(source, _as_seen(model), what, facts, names=names, notes=notes), failed


def _of_source(
  model: TrainedVAE, data: ConfigDict, split: str, source: Source | pipeline.Chosen, num: int | None
) -> Images:
  what = f"{split} of {source.name}" + (f" in {data.dir}" if data.dir else "")
  facts = {"what": what, "data": data.name, "folder": data.dir or None, "split": split, "images": len(source)}
  found = Images(source, data, what, facts)
  return found if num is None else _thinned(found, num)


def _thinned(images: Images, num: int) -> Images:
  """At most so many images from all over a set."""
  chosen = pipeline.Chosen(images.source, pipeline.spread(len(images.source), num))
  return images._replace(source=chosen, facts=images.facts | {"images": len(chosen)})


def _as_seen(model: TrainedVAE) -> ConfigDict:
  """How other images are read for a model: at its size and with its channels, prepared as its own are."""
  data = model.config.data.copy_and_resolve_references()
  height, width, channels = model.image_shape
  with data.unlocked():
    data.update(
      size=(height, width),
      channels=channels,
      fit="resize",
      classes="",
      captions="none",
      byte_pairs=0,
      pairs=(),
      without=(),
    )
  return data


def _data_set(model: TrainedVAE, place: str) -> ConfigDict | None:
  """How the data set at a place is read; None where there are image files. Raises UserError: nothing is there."""
  data, path = _as_seen(model), expanded(place)
  if path.is_dir() and any(path.glob(IDX)):
    data.name, data.dir = "idx", place
  elif path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz"))):
    data.name, data.dir = "npz", place
  elif path.exists():
    return None
  elif path.name == place and not path.suffix:  # one word
    data.name, data.dir = place, ""
  else:
    raise UserError(
      f"--against {place} does not exist; give image files, folders, or a data set: a folder of IDX or .npz files, or "
      "a name"
    )
  return data
