"""Scores of how anomalous an image is to a density model, higher meaning more so. Pure functions, on the host.

`nll` is -log p(x) or a bound on it, in nats, float [n]: of one image each. By itself it is no good score, as simple
images are likely under models of other ones (Nalisnick et al. 2019, "Do deep generative models know what they don't
know?"). Each function here corrects for that in a way of its own.
"""

from __future__ import annotations

import bz2
import io

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.density import bits_per_dim
from vae_jax.types import ArrayLike

PNG_FRAME = 57  # bytes of every PNG file: signature, header, and the frames of its data and end


def typicality(nll: ArrayLike, mean: float) -> np.ndarray:
  """|nll - mean|, in nats, float64 [n]. mean: of nll over images that the model was trained for.

  The test of typicality of Nalisnick et al. 2019 ("Detecting out-of-distribution inputs to deep generative models using
  typicality") for a single image. The paper's is of the mean of a batch of them, which tells more. An image may be too
  likely as well as too unlikely.
  """
  return np.abs(np.asarray(nll, np.float64) - mean)


def likelihood_ratio(nll: ArrayLike, background: ArrayLike) -> np.ndarray:
  """nll - background, in nats, float64 [n]: minus the log likelihood ratio of Ren et al. 2019.

  background: the nll of the same images under a model of images with mutated pixels, which knows their background and
  not what is arranged in it. Raises UserError where the shapes differ.
  """
  nll, background = np.asarray(nll, np.float64), np.asarray(background, np.float64)
  if nll.shape != background.shape:
    raise UserError(
      f"nll of shape {nll.shape} and of the background {background.shape}: give the same images"
    )
  return nll - background


def complexity_corrected(nll: ArrayLike, size: ArrayLike, dims: int, continuous: bool = False) -> np.ndarray:
  """The nll less the size of the image by a lossless compressor, in bits per dimension, float64 [n]: Serra et al. 2020.

  size: bits, see `compressed_bits`. dims: h w c. continuous: nll is of a density over dequantised grey levels; that of
  others cannot be compared with a size. Raises UserError where the shapes differ.
  """
  nll, size = np.asarray(nll, np.float64), np.asarray(size, np.float64)
  if nll.shape != size.shape:
    raise UserError(f"nll of shape {nll.shape} and size of {size.shape}: give the same images")
  return bits_per_dim(nll, dims, continuous) - size / dims


def compressed_bits(images: ArrayLike) -> np.ndarray:
  """Size of each image by the better of two lossless compressors, in bits, float64 [n].

  PNG by Pillow, at its best, less the 57 bytes that every PNG has; and bzip2 of the bytes, row by row. So do Serra et
  al. 2020, with other compressors. images: uint8 [n, h, w, 1 or 3], or bool of black and white ones, of which a pixel
  is a bit before compression too. Raises UserError for others.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype not in (np.uint8, np.bool_):
    raise UserError(
      f"images of {images.dtype} {list(images.shape)}: give uint8 [n, h, w, 1 or 3], or bool of black and white ones"
    )
  return np.array([8.0 * min(_png(image), _bzip2(image)) for image in images])


def _png(image: np.ndarray) -> int:
  """Bytes of what is in a PNG file."""
  from PIL import Image

  total = 0
  planes = [image[..., 0]] if image.shape[2] == 1 else [image]
  if image.dtype == np.bool_:  # a file of bits has one channel
    planes = [image[..., c] for c in range(image.shape[2])]
  for plane in planes:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, format="PNG", optimize=True)
    total += file.tell() - PNG_FRAME
  return total


def _bzip2(image: np.ndarray) -> int:
  """Bytes of a bzip2 file."""
  packed = np.packbits(image) if image.dtype == np.bool_ else image
  return len(bz2.compress(packed.tobytes(), 9))
