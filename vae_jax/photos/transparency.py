"""Transparency of a photograph that is restored: colours that nobody sees must not change those that are seen."""

from __future__ import annotations

import numpy as np


def filled(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
  """Gives each pixel of alpha 0 the colour of the nearest one above 0, by Euclidean distance.

  A network sees neighbours. Without this, whatever is stored under alpha 0, mostly black, darkens the rim of a cut-out.
  A picture that is transparent everywhere stays as it is.

  pixels: float32 [h, w, c], not premultiplied. alpha: [h, w, 1], or None: opaque. Returns [h, w, c].
  """
  if alpha is None:
    return pixels
  clear = alpha[..., 0] <= 0
  if clear.all() or not clear.any():
    return pixels
  from scipy.ndimage import distance_transform_edt

  rows, columns = distance_transform_edt(clear, return_distances=False, return_indices=True)
  return pixels[rows, columns]


def enlarged(alpha: np.ndarray, factor: int) -> np.ndarray:
  """alpha [h, w, 1] enlarged: [factor * h, factor * w, 1], bicubic, clipped to [0, 1]."""
  from PIL import Image

  if factor == 1:
    return alpha
  height, width = alpha.shape[:2]
  plane = Image.fromarray(np.ascontiguousarray(alpha[..., 0], np.float32))
  large = plane.resize((factor * width, factor * height), Image.Resampling.BICUBIC)
  return np.clip(np.asarray(large), 0.0, 1.0)[..., None]
