"""A restoration network of colours as one of grey images."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

HEADS = ("head", "latent_head", "spread_head")
MAKE_PIXELS = (*HEADS, *(f"fine_{name}/out" for name in HEADS))


def of_equal_channels(params: dict[str, Any], strides: tuple[int, int, int], told: bool) -> dict[str, Any]:
  """Returns parameters that make of a grey image what `params` make of it as a colour image of 3 equal channels.

  Kernels that read pixels are summed over the channels, and those that make pixels are averaged: the grey image is the
  mean of the channels. Parameters of a network of grey images come back as they are.

  strides: pixels between the positions of the trunk, of the target encoder (in the clean image), and of the estimator
  of noise. told: whether the trunk reads two channels more, of the noise.
  """
  flat = flatten_dict(params, sep="/")
  reads = ("trunk/stem/kernel", "target_encoder/stem/kernel", "estimator/filters/kernel")
  sizes = {name: stride**2 for name, stride in zip(reads, strides, strict=True) if name in flat}
  if reads[0] not in flat or flat[reads[0]].shape[-2] != 3 * sizes[reads[0]] + 2 * told:
    return params
  for name, pixels in sizes.items():
    seen, rest = jnp.split(flat[name], [3 * pixels], axis=-2)
    seen = seen.reshape(*seen.shape[:-2], pixels, 3, seen.shape[-1]).sum(axis=-2)
    flat[name] = jnp.concatenate([seen, rest], axis=-2)
  for name in (f"{name}/{part}" for name in MAKE_PIXELS for part in ("kernel", "bias")):
    if name in flat:
      flat[name] = flat[name].reshape(*flat[name].shape[:-1], -1, 3).mean(axis=-1)
  return unflatten_dict(flat, sep="/")
