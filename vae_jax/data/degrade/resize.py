"""Resizing: bicubic that agrees with MATLAB's, and other filters for making an image smaller."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from vae_jax.configuration.chains import FILTERS
from vae_jax.data.degrade.base import Border, checked, float_image, frozen, scatter, separable
from vae_jax.data.degrade.blur import gaussian_weights
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike, Key


def blur_down(key: Key, image: ArrayLike, factor: int, blur: float = 1.0, border: Border = "mirror") -> Array:
  """`gaussian_blur(image, blur)`, then `bicubic_down` by `factor`, both with this border. `key` is not used.

  image: [..., h, w, c] -> [..., ceil(h / factor), ceil(w / factor), c].
  """
  del key
  image = float_image(image)
  h, w = image.shape[-3:-1]
  return separable(image, _down_weights(h, factor, blur, border), _down_weights(w, factor, blur, border))


def bicubic_down(key: Key, image: ArrayLike, factor: int, border: Border = "mirror") -> Array:
  """MATLAB's `imresize(image, 1 / factor, 'bicubic')` of a double image. `key` is not used.

  Antialiased: the kernel of Keys (1981), a = -0.5, is widened by `factor`. border: "mirror" as newer releases of
  MATLAB, "replicate" as older ones.
  image: [..., h, w, c] -> [..., ceil(h / factor), ceil(w / factor), c]; not clipped.
  """
  return blur_down(key, image, factor, 0.0, border)


def down(image: ArrayLike, factor: int, filter: str) -> Array:
  """Makes an image smaller by a whole `factor` with one of `chains.FILTERS`; mirrored at the border, not clipped.

  Output pixel i (from 0) lies at (i + 0.5) * factor - 0.5 of the input. box, bilinear (a triangle), bicubic (Keys 1981,
  a = -0.5) and lanczos (3 lobes) are widened by `factor`, against aliasing. nearest takes the input pixel at that
  place, and, for even factors, of the two about it the later one: half a pixel to the right and below, as Pillow.
  image: [..., h, w, c] -> [..., ceil(h / factor), ceil(w / factor), c].
  """
  image = float_image(image)
  h, w = image.shape[-3:-1]
  rows, columns = (_down_weights(n, factor, 0.0, "mirror", filter) for n in (h, w))
  return separable(image, rows, columns)


def bicubic_up(image: ArrayLike, factor: int, border: Border = "mirror") -> Array:
  """MATLAB's `imresize(image, factor, 'bicubic')` of a double image; not clipped. border: as of `bicubic_down`.

  image: [..., h, w, c] -> [..., factor * h, factor * w, c].
  """
  h, w = np.shape(image)[-3:-1]
  return resize_bicubic(image, factor * h, factor * w, border)


def resize_bicubic(image: ArrayLike, out_h: int, out_w: int, border: Border = "mirror") -> Array:
  """MATLAB's `imresize(image, [out_h out_w], 'bicubic')` of a double image; not clipped.

  An axis that shrinks is antialiased. border: as of `bicubic_down`. image: [..., h, w, c] -> [..., out_h, out_w, c].
  Raises UserError for an output size below 1.
  """
  if out_h < 1 or out_w < 1:
    raise UserError(f"resize_bicubic to {out_h} x {out_w}: height and width must be at least 1")
  image = float_image(image)
  h, w = image.shape[-3:-1]
  rows = bicubic_weights(h, out_h, out_h / h, border).astype(np.float32)
  columns = bicubic_weights(w, out_w, out_w / w, border).astype(np.float32)
  return separable(image, rows, columns)


@functools.lru_cache(maxsize=256)
def bicubic_weights(n: int, n_out: int, scale: float, border: Border = "mirror") -> np.ndarray:
  """The matrix [n_out, n], float64, that resizes one axis as MATLAB's `imresize` does; each row sums to 1.

  Output pixel i (from 0) lies at (i + 0.5) / scale - 0.5 of the input. Below scale 1 the kernel is stretched
  by 1 / scale. Indices beyond the border mirror, the edge pixel repeated, or are those of the edge ("replicate").
  """
  return _weights(n, n_out, scale, border, "bicubic")


def _weights(n: int, n_out: int, scale: float, border: Border, filter: str) -> np.ndarray:
  centre = (np.arange(n_out) + 0.5) / scale - 0.5
  if filter == "nearest":
    return scatter(np.floor(centre + 0.5).astype(int)[:, None], np.ones((n_out, 1)), n, border)
  kernel, support = _KERNELS[filter]
  stretch = max(1.0, 1.0 / scale)
  first = np.floor(centre - support * stretch).astype(int)
  taps = first[:, None] + np.arange(math.ceil(2 * support * stretch) + 2)
  weights = kernel((centre[:, None] - taps) / stretch)
  return scatter(taps, weights / weights.sum(axis=1, keepdims=True), n, border)


@functools.lru_cache(maxsize=256)
def _down_weights(n: int, factor: int, blur: float, border: Border, filter: str = "bicubic") -> np.ndarray:
  """Blur and down-sampling of one axis as one matrix, float32 [ceil(n / factor), n]."""
  factor = checked("factor", factor)
  if filter not in FILTERS:
    raise UserError(f"filter={filter!r} is unknown{nearest(filter, FILTERS, what='filters')}")
  weights = _weights(n, -(-n // factor), 1.0 / factor, border, filter)
  if blur > 0:
    weights = weights @ gaussian_weights(n, blur, border)
  return frozen(weights.astype(np.float32))


def _keys_cubic(x: np.ndarray) -> np.ndarray:
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


# Each antialiasing filter with how far it reaches, in pixels of the smaller image.
_KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
  "box": (lambda x: (np.abs(x) < 0.5).astype(float), 0.5),
  "bilinear": (lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0),
  "bicubic": (_keys_cubic, 2.0),
  "lanczos": (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3.0),
}
