"""What Keras writes as HDF5 (.h5, .weights.h5) -> {layer/weight: array}."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from vae_jax.storage import hdf5
from vae_jax.storage.limits import MAX_DEPTH, MAX_NAME, Refused, quote


def read_keras(data: bytes) -> dict[str, np.ndarray]:
  """Reads the weights of an HDF5 file, without those of an optimiser; links are not followed."""
  file = hdf5.File(data)
  arrays: dict[str, np.ndarray] = {}
  total = 0

  def walk(
    address: int, path: tuple[str, ...]
  ) -> Iterator[tuple[tuple[str, ...], hdf5.Part, hdf5.Part, int]]:
    """(path, array, its group, how many the group holds)"""
    if len(path) > MAX_DEPTH:
      raise Refused(f"holds groups nested without end, at {quote('/'.join(path))}")
    group = file.part(address)
    links = list(file.links(group))
    for name, target in links:
      here = (*path, name)
      if target is None:
        raise Refused(f"has a link {quote('/'.join(here))}, possibly to another file: links are not followed")
      item = file.part(target)
      if item.is_group:
        yield from walk(target, here)
      else:
        yield here, item, group, len(links)

  for path, item, group, count in walk(file.root, ()):
    if path[0] in ("optimizer_weights", "optimizer"):
      continue
    where = quote("/".join(path))
    try:
      array = file.array(item)
    except Refused as error:
      raise Refused(f"has {where}, {error}") from None
    total += array.nbytes
    if total > len(data):
      raise Refused(f"declares more bytes than it has, at {where}; it is damaged or was tampered with")
    name = _keras_name(path, file.text(group, "name"), count)
    if name in arrays:
      raise Refused(f"has two arrays that Keras would call {quote(name)}; save one network alone")
    arrays[name] = array
  return arrays


def _keras_name(path: tuple[str, ...], named: str | None, count: int) -> str:
  """Names a weight by where Keras puts it, one of `count` in its group -> "layer/weight", as "block1_conv1/kernel".

  Keras 3's .weights.h5: layers/<class>_<n>/vars/<i>, the layer's name in an attribute of vars. Before, and in whole
  models: [model_weights/]layer/[...]/layer/kernel:0.
  """
  if len(path) > 2 and path[-2] == "vars":
    names = {1: ("kernel",), 2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance")}
    weights, index = names.get(count, ()), path[-1]
    weight = weights[int(index)] if re.fullmatch("[0-9]{1,3}", index) and int(index) < len(weights) else index
    return f"{(named or path[-3])[:MAX_NAME]}/{weight}"
  return "/".join((*path[-2:-1], path[-1].split(":")[0]))
