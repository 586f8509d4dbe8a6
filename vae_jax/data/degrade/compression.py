"""JPEG as libjpeg writes and reads it, baseline: a function of arrays that can be compiled and differentiated.

It repeats libjpeg's steps with their rounding, so that the result is what a decoder gives. Sources: ITU-T T.81, annex
K, for tables; for the rest jcparam.c, jccolor.c, jcsample.c, jfdctint.c, jidctint.c, jdsample.c and jdcolor.c of the
Independent JPEG Group's library.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.configuration.chains import SUBSAMPLINGS
from vae_jax.data.degrade.base import float_image
from vae_jax.data.degrade.light import straight_through
from vae_jax.data.jpeg_tables import CHROMA, LUMA
from vae_jax.errors import UserError, nearest
from vae_jax.types import Array, ArrayLike

# libjpeg's conversion of colours, in units of 1/65536. Its sums stay below 2**24: float32 holds them exactly.
_TO_YCC = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]], np.float32)
_TO_RGB = np.array([[0, 91881], [-22554, -46802], [116130, 0]], np.float32)


def jpeg(image: ArrayLike, quality: float | Array, subsampling: str = "420") -> Array:
  """What comes back when an image is stored as a JPEG of this quality (1 to 100, rounded): multiples of 1/255.

  subsampling: "444", or "420", which halves the resolution of colour. The image is clipped and rounded to 8 bits first,
  as files of it are. Images that are not of three channels are stored channel by channel, as grey ones. The gradient
  passes straight through what is rounded and clipped: it is that of the chain of linear maps.
  image: [h, w, c]; same shape out. Raises UserError for another subsampling.
  """
  if subsampling not in SUBSAMPLINGS:
    raise UserError(
      f"subsampling={subsampling!r} is unknown{nearest(subsampling, SUBSAMPLINGS, what='ones')}"
    )
  levels = _levels(255 * float_image(image))
  quality = _within(jnp.floor(jnp.asarray(quality, jnp.float32) + 0.5), 1, 100)
  luma = quantisation_table(LUMA, quality)
  if levels.shape[-1] != 3:
    return jnp.moveaxis(_coded(jnp.moveaxis(levels, -1, 0), luma), 0, -1) / 255
  ycc = _mixed(_TO_YCC, jnp.moveaxis(levels, -1, 0))
  brightness, colour = _rounded(ycc[:1]), _floor(ycc[1:] + 32767 / 65536) + 128  # halves of colour go down
  chroma = quantisation_table(CHROMA, quality)
  brightness = _coded(brightness, luma)
  colour = _coded(colour, chroma) if subsampling == "444" else _coded_at_half(colour, chroma)
  return jnp.moveaxis(_levels(brightness + _rounded(_mixed(_TO_RGB, colour - 128))), 0, -1) / 255


def quantisation_table(base: np.ndarray, quality: float | Array) -> Array:
  """A table of annex K, int [8, 8], scaled as libjpeg's `jpeg_set_quality` does for a baseline file.

  quality: a whole number from 1 to 100. float32 [8, 8], whole numbers from 1 to 255.
  """
  quality = jnp.asarray(quality, jnp.float32)
  # Halves keep quotients of whole numbers clear of the next whole number, whatever the rounding of the division.
  percent = jnp.where(quality < 50, jnp.floor(5000.5 / quality), 200 - 2 * quality)
  return _within(jnp.floor((base.astype(np.float32) * percent + 50.5) / 100), 1, 255)


def _within(values: Array, low: float, high: float) -> Array:
  """Clips, and keeps NaN, which `jnp.clip` may lose on CPUs."""
  return jnp.where(values < low, low, jnp.where(values > high, high, values))


def _coded(planes: Array, table: Array) -> Array:
  """Planes [k, h, w] of grey levels after transform, quantisation and back; the edge fills the last blocks."""
  k, h, w = planes.shape
  planes = _extended(planes, 8, 8) - 128
  rows, columns = planes.shape[1] // 8, planes.shape[2] // 8
  blocks = planes.reshape(k, rows, 8, columns, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64)
  coefficients = _descaled(blocks, _ROWS, 11)
  coefficients = _descaled(coefficients, _COLUMNS, 15)  # 8 times the orthonormal DCT
  steps = table.reshape(1, 64)
  quotients = coefficients / (8 * steps)
  whole = jnp.sign(quotients) * jnp.floor(jnp.abs(quotients) + 0.5)
  values = _descaled(straight_through(quotients, whole) * steps, _COLUMNS.T, 11)
  values = _descaled(values, _ROWS.T, 18) + 128
  planes = _levels(values).reshape(k, rows, columns, 8, 8).transpose(0, 1, 3, 2, 4)
  return planes.reshape(k, 8 * rows, 8 * columns)[:, :h, :w]


def _coded_at_half(planes: Array, table: Array) -> Array:
  """Planes [k, h, w] made smaller by averages of 2 x 2, coded, and enlarged by the triangle filter of libjpeg."""
  h, w = planes.shape[1:]
  wide = _extended(planes, 2, 16)  # of libjpeg, which fills blocks below after it averages
  fours = wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]
  bias = 1 + np.arange(fours.shape[2], dtype=np.float32) % 2  # rounds halves up and down in turn
  small = _coded(_floor((fours + bias[None, None]) / 4), table)[:, : -(-h // 2), : -(-w // 2)]
  if small.shape[2] <= 2:  # too narrow for libjpeg's filter
    return jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)[:, :h, :w]
  padded = jnp.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
  middle = 3 * padded[:, 1:-1]
  tall = _alternating(middle + padded[:, :-2], middle + padded[:, 2:], 1)
  middle = 3 * tall[:, :, 1:-1]
  left, right = middle + tall[:, :, :-2] + 8, middle + tall[:, :, 2:] + 7
  return _floor(_alternating(left, right, 2) / 16)[:, :h, :w]


def _alternating(first: Array, second: Array, axis: int) -> Array:
  """The entries of two arrays in turn along an axis."""
  shape = list(first.shape)
  shape[axis] *= 2
  return jnp.stack([first, second], axis + 1).reshape(shape)


def _extended(planes: Array, rows: int, columns: int) -> Array:
  """Planes [k, h, w] with sides of whole multiples, filled with the edge."""
  h, w = planes.shape[1:]
  return jnp.pad(planes, ((0, 0), (0, -h % rows), (0, -w % columns)), mode="edge")


def _mixed(matrix: np.ndarray, planes: Array) -> Array:
  """Planes [k, h, w] times a matrix [m, k] of multiples of 1/65536: [m, h, w]."""
  return jnp.einsum("mk,khw->mhw", matrix, planes, precision=jax.lax.Precision.HIGHEST) / 65536


def _levels(values: Array) -> Array:
  """Whole numbers from 0 to 255."""
  return straight_through(values, jnp.clip(jnp.floor(values + 0.5), 0, 255))


def _rounded(values: Array) -> Array:
  return straight_through(values, jnp.floor(values + 0.5))


def _floor(values: Array) -> Array:
  return straight_through(values, jnp.floor(values))


def _descaled(blocks: Array, matrix: np.ndarray, bits: int) -> Array:
  """Flat blocks [n, 64] times a matrix of fixed-point numbers, brought down by `bits` and rounded."""
  return _rounded(jnp.matmul(blocks, matrix, precision=jax.lax.Precision.HIGHEST) / 2**bits)


def _dct_matrix() -> np.ndarray:
  """The DCT of 8 values as libjpeg's integers make it, 8,192 * sqrt(8) times the orthonormal one; [8, 8], to `@` with.

  Loeffler, Ligtenberg and Moschytz (1989); names as in jfdctint.c.
  """
  x = np.eye(8, dtype=int)
  sums, (tmp7, tmp6, tmp5, tmp4) = x[:4] + x[:3:-1], x[:4] - x[:3:-1]
  tmp10, tmp13, tmp11, tmp12 = sums[0] + sums[3], sums[0] - sums[3], sums[1] + sums[2], sums[1] - sums[2]
  z1, z2 = -7373 * (tmp4 + tmp7), -20995 * (tmp5 + tmp6)
  z5 = 9633 * (tmp4 + tmp5 + tmp6 + tmp7)
  z3, z4 = z5 - 16069 * (tmp4 + tmp6), z5 - 3196 * (tmp5 + tmp7)
  even = 4433 * (tmp12 + tmp13)
  lines = [
    8192 * (tmp10 + tmp11),
    12299 * tmp7 + z1 + z4,
    even + 6270 * tmp13,
    25172 * tmp6 + z2 + z3,
    8192 * (tmp10 - tmp11),
    16819 * tmp5 + z2 + z4,
    even - 15137 * tmp12,
    2446 * tmp4 + z1 + z3,
  ]
  return np.stack(lines, axis=1)


# The transform of flat blocks: of their rows, and of their columns.
_ROWS = np.kron(np.eye(8), _dct_matrix()).astype(np.float32)
_COLUMNS = np.kron(_dct_matrix(), np.eye(8)).astype(np.float32)
