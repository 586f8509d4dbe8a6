"""What a photograph looks like before it is restored: JPEG, noise, sharpened or blurred edges."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from vae_jax.data import images
from vae_jax.photos import compression
from vae_jax.photos.edges import Edges, edges
from vae_jax.photos.fitting import GOOD_QUALITY, NOISY
from vae_jax.photos.noise_level import noise_sigma

SHARPENED = 0.15  # halo, as a share of an edge's step
WIDE = 3.0  # pixels

_FINE_QUALITY = 90  # from which on JPEG leaves most of the fine noise


class Condition(NamedTuple):
  """The condition of one photograph.

  compression: of JPEG, see `compression.Compression`; None where none is seen. noise: standard deviation in grey
  levels (0 to 255). edges: see `edges.Edges`.
  """

  compression: compression.Compression | None
  noise: float
  edges: Edges

  @property
  def jpeg_quality(self) -> int | None:
    """1 to 100; None where the photograph was no JPEG, or its quality is not seen."""
    return None if self.compression is None else self.compression.quality

  @property
  def compressed(self) -> bool:
    """Whether JPEG has left blocks that matter."""
    return self.jpeg_quality is not None and self.jpeg_quality < GOOD_QUALITY

  @property
  def noisy(self) -> bool:
    return self.noise >= NOISY

  @property
  def sharpened(self) -> bool:
    return self.edges.halo is not None and self.edges.halo >= SHARPENED

  @property
  def wide(self) -> bool:
    """Whether even the sharpest edges are wide: blurred, or enlarged before."""
    return self.edges.width is not None and self.edges.width >= WIDE

  def remarks(self) -> list[str]:
    """What is worth a word, for a person; nothing of a clean photograph."""
    said = []
    if self.compressed and self.compression is not None:
      about = "" if self.compression.exact else "about "
      colours = f" ({self.compression.subsampling})" if self.compression.subsampling else ""
      said.append(f"JPEG quality {about}{self.jpeg_quality}{colours}")
    if self.noisy:
      said.append(f"noise about {self.noise:.0f} grey levels")
    if self.sharpened:
      said.append("edges sharpened")
    if self.wide:
      said.append(f"edges {self.edges.width:.0f} pixels wide (blurred or enlarged)")
    return said


def inspect_image(image: np.ndarray, known: compression.Compression | None = None) -> Condition:
  """Looks at a photograph [h, w, c], uint8 or float in [0, 1], c = 1 or 3; of a large one, at 16 parts.

  known: its compression, where the file says it; else it is looked for in the pixels. Noise of a JPEG is estimated from
  means of 2 x 2 pixels, as its fine part is gone (`noise_sigma`).
  """
  found = known or compression.of_pixels(image)
  fine = found is None or (found.quality or 0) >= _FINE_QUALITY
  return Condition(found, noise_sigma(image, 1 if fine else 2), edges(image))


def of_file(path: str | os.PathLike) -> compression.Compression | None:
  """The compression that a file states; None if it is no JPEG. Raises UserError for a file that cannot be read."""
  return compression.of_file(images.open_image(images.read_file(path)))
