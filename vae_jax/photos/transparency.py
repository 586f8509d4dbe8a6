"""Transparency of a photograph that is restored: a network sees colours, a person sees colours times alpha."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
  """A photograph with transparency, and what joins its restored colours to its enlarged alpha.

  colours: float32 [h, w, c], what the network is given, see `filled`.
  alpha: [factor * h, factor * w, 1], enlarged.
  gain: [factor * h, factor * w, 1], how much of the network's detail is seen, premultiplied; never above alpha.
  rest: [factor * h, factor * w, c], what is seen of the picture beside gain * (the network's output), premultiplied.
  """

  colours: np.ndarray
  alpha: np.ndarray
  gain: np.ndarray
  rest: np.ndarray

  def join(self, restored: np.ndarray) -> np.ndarray:
    """Restored colours -> colours that fit alpha, not premultiplied, in [0, 1].

    Alpha is enlarged smoothly and the network's edges are sharp, so colours of both sides of an edge would meet the
    alpha of the other: dark rims where a light object has a dark shadow. Therefore the premultiplied picture is
    enlarged as alpha is, and the network adds its detail, weighted by the lowest alpha near a pixel. Opaque areas
    are the network's output, and a cut-out of one colour keeps it.
    """
    seen = self.gain * restored + self.rest
    alpha = np.where(self.alpha > 0, self.alpha, np.float32(1))
    return np.where(self.alpha > 0, np.clip(seen / alpha, 0, 1), restored)


def layer(pixels: np.ndarray, alpha: np.ndarray, factor: int) -> Layer:
  """pixels [h, w, c], not premultiplied, and alpha [h, w, 1], both in [0, 1], for an enlargement by `factor`."""
  from scipy.ndimage import minimum_filter

  colours = filled(pixels, alpha)
  if factor == 1:  # nothing is resampled: each pixel keeps its alpha
    return Layer(colours, alpha, alpha, np.zeros_like(colours))
  large = enlarged(alpha, factor)
  gain = np.minimum(enlarged(minimum_filter(alpha, (3, 3, 1)), factor), large)
  return Layer(colours, large, gain, enlarged(alpha * pixels, factor) - gain * enlarged(colours, factor))


def filled(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """Gives each pixel of alpha 0 the colour of the nearest one above 0, by Euclidean distance.

  Without this, whatever is stored under alpha 0, mostly black, changes the rim of a cut-out. A picture that is
  transparent everywhere stays as it is. pixels: float32 [h, w, c], not premultiplied. alpha: [h, w, 1].
  """
  clear = alpha[..., 0] <= 0
  if clear.all() or not clear.any():
    return pixels
  from scipy.ndimage import distance_transform_edt

  rows, columns = distance_transform_edt(clear, return_distances=False, return_indices=True)
  return pixels[rows, columns]


def enlarged(values: np.ndarray, factor: int) -> np.ndarray:
  """[h, w, c] -> [factor * h, factor * w, c], bicubic (Keys 1981, a = -1/2), clipped to [0, 1]."""
  from PIL import Image

  if factor == 1:
    return values
  size = factor * values.shape[1], factor * values.shape[0]
  planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(values, 2, 0)]
  large = [np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes]
  return np.clip(np.stack(large, axis=2), 0.0, 1.0)
