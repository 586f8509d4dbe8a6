"""Transparency of a photograph that is restored: a network sees colours, a person sees colours times alpha."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class CutOut(NamedTuple):
  """A photograph with transparency, h rows and w columns, that is enlarged by `factor`.

  colours: float32 [h, w, c], what the network is given, see `filled`.
  seen: [h, w, c], the stored colours times alpha.
  alpha: [h, w, 1]. lowest: [h, w, 1], the lowest alpha of a pixel and its neighbours.
  """

  colours: np.ndarray
  seen: np.ndarray
  alpha: np.ndarray
  lowest: np.ndarray
  factor: int

  def layer(self, first: int, last: int) -> Layer:
    """What joins rows first..last - 1 of the restored picture to its alpha."""
    if self.factor == 1:  # nothing is resampled: each pixel keeps its alpha
      alpha = self.alpha[first:last]
      return Layer(alpha, alpha, np.zeros_like(self.colours[first:last]))
    colours, seen, alpha, lowest = (enlarged(values, self.factor, first, last) for values in self[:4])
    gain = np.minimum(lowest, alpha)
    return Layer(alpha, gain, seen - gain * colours)


class Layer(NamedTuple):
  """What joins restored colours to the enlarged alpha, for some rows of the result, W columns.

  alpha: [rows, W, 1], enlarged.
  gain: [rows, W, 1], how much of the network's detail is seen, premultiplied; never above alpha.
  rest: [rows, W, c], what is seen of the picture beside gain * (the network's output), premultiplied.
  """

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


def cut_out(pixels: np.ndarray, alpha: np.ndarray, factor: int) -> CutOut:
  """pixels [h, w, c], not premultiplied, and alpha [h, w, 1], both in [0, 1], for an enlargement by `factor`."""
  from scipy.ndimage import minimum_filter

  return CutOut(filled(pixels, alpha), alpha * pixels, alpha, minimum_filter(alpha, (3, 3, 1)), factor)


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


def enlarged(values: np.ndarray, factor: int, first: int = 0, last: int | None = None) -> np.ndarray:
  """Rows first..last - 1, or all, of an enlargement of [h, w, c], bicubic (Keys 1981, a = -1/2), clipped to [0, 1]."""
  from PIL import Image

  height, width = values.shape[:2]
  last = factor * height if last is None else last
  if factor == 1:
    return values[first:last]
  top, bottom = first // factor, -(-last // factor)  # rows of `values` that these come from, each as a whole
  above, below = max(0, top - 3), min(height, bottom + 3)  # and what the filter reaches
  wide, box = factor * width, (0, top - above, factor * width, bottom - above)

  def large(plane: np.ndarray) -> np.ndarray:
    # Columns first: in one call Pillow chooses an order by the size, and the last bit depends on it.
    across = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(
      (wide, below - above), Image.Resampling.BICUBIC
    )
    return np.asarray(across.resize((wide, factor * (bottom - top)), Image.Resampling.BICUBIC, box))

  planes = [large(values[above:below, :, c]) for c in range(values.shape[2])]
  rows = np.stack(planes, axis=2)[first - factor * top : last - factor * top]
  return np.clip(rows, 0.0, 1.0)
