"""How good an underwater photograph looks, without a reference: UIQM and UCIQE. Arithmetic is float32.

Both were published as formulas, and the programs in use fill their gaps differently, so scores compare only
under one protocol; each function names its own. All take [..., h, w, 3] sRGB in [0, 1], give [...], round
nothing, and raise ValueError for other channel counts, for integers and for images that are too small.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import float_image
from vae_jax.distributions import at_least, safe_sqrt
from vae_jax.types import Array, ArrayLike

BLOCK = 8
LUMA = (0.299, 0.587, 0.114)
PLIP = 1026.0  # gamma(M) and k(M) of PLIP arithmetic
BLACK = 1e-6  # grey levels; darker blocks have no contrast, whose slope would overflow
XYZ_OF_RGB = np.array(  # sRGB primaries, D65
  [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float32
)
WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)  # D65, 2 degrees


@jax.jit
def uiqm(image: ArrayLike) -> Array:
  """Underwater image quality measure, higher is better: 0.0282 uicm + 0.2953 uism + 3.5753 uiconm.

  Panetta, Gao & Agaian 2016, "Human-visual-system-inspired underwater image quality measures". The protocols
  are those of the three components. A constant image scores 0.0282 uicm: 0 for black, white and grey.
  Elsewhere, on scikit-image's astronaut()[::4, ::4] as uicm, uism, uiconm, uiqm: here 8.44, 6.86, 0.163,
  2.85; the code of FUnIE-GAN 8.44, 8.04, 0.084, 2.91 (10 x 10 blocks; a block whose edge map reaches 0 counts
  as flat; weight 0.144 for blue; contrast without PLIP, of extremes over all channels);
  PSNR-SSIM-UCIQE-UIQM-Python 8.95, 6.88, -0.157, 1.72 (unsigned opponent channels that wrap around, variance
  of the trimmed pixels, rounded edge maps, luma in 0..1 under PLIP constants for 0..255, contrast with the
  printed sign).
  Raises ValueError unless the image is RGB and at least 8 x 8.
  """
  return 0.0282 * uicm(image) + 0.2953 * uism(image) + 3.5753 * uiconm(image)


@jax.jit
def uicm(image: ArrayLike) -> Array:
  """Colourfulness, -0.0268 |mu| + 0.1586 |sigma| over the opponents R - G and (R + G) / 2 - B in 0..255.

  mu: their means without the lowest ceil(K / 10) and highest floor(K / 10) of K pixels. sigma^2: their mean
  squared distance to mu over all K pixels, trimmed ones included. Both as in the paper. From -7.64 (constant
  red or green) to 45.2 (half red, half cyan); 0 for grey. For images in 0..1 it would be 255 times smaller.
  Raises ValueError unless the image is RGB with at least 2 pixels.
  """
  red, green, blue = jnp.moveaxis(255.0 * _rgb(image), -1, 0)
  opponent = jnp.stack([red - green, (red + green) / 2.0 - blue], axis=-3)
  pixels = opponent.shape[-2] * opponent.shape[-1]
  values = opponent.reshape(*opponent.shape[:-2], pixels)
  kept = jnp.sort(values, axis=-1)[..., -(-pixels // 10) : pixels - pixels // 10]
  mean = jnp.mean(kept, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(values - mean), axis=-1)
  cast, spread = safe_sqrt(jnp.sum(jnp.square(mean), axis=(-2, -1))), safe_sqrt(jnp.sum(variance, axis=-1))
  return -0.0268 * cast + 0.1586 * spread


@jax.jit
def uism(image: ArrayLike) -> Array:
  """Sharpness: the EME of each channel's edge map, weighted 0.299, 0.587, 0.114 over R, G, B.

  Edge map: the channel in 0..255 times its Sobel magnitude sqrt((gx^2 + gy^2) / 2), which is in [0, 1]
  (kernel [1 2 1] / 4 by [-1 0 1], border pixels repeated), and at least 1: what is fainter than one grey
  level is no edge.
  EME: the mean over 8 x 8 blocks of 2 ln(max / min), without rows and columns beyond the last whole block.
  0 (flat) to 2 ln 255 = 11.1. What is done with blocks whose minimum is 0 decides the score; programs differ.
  Raises ValueError unless the image is RGB and at least 8 x 8.
  """
  channels = jnp.moveaxis(_rgb(image, BLOCK), -1, -3)
  top, bottom = _extremes(at_least(255.0 * channels * _sobel(channels), 1.0))
  return _luma(jnp.moveaxis(jnp.mean(2.0 * jnp.log(top / bottom), axis=(-2, -1)), -1, 0))


@jax.jit
def uiconm(image: ArrayLike) -> Array:
  """Contrast: logAMEE of the luma 0.299 R + 0.587 G + 0.114 B in 0..255, over whole 8 x 8 blocks.

  A block of extremes p > q has the PLIP contrast m = (p - q) / (p + q), by a - b = k (a - b) / (k - b) and
  a + b = a + b - a b / gamma with gamma = k = 1026, and adds -m ln m: 0 where flat, most (1 / e) at
  m = 1 / e, back to 0 at m = 1, which every block that holds a black pixel has. Blocks are averaged in PLIP,
  1 / n times a PLIP sum, which differs from the plain mean by less than 2e-4 of it.
  The printed formula is the negative of this, never positive, so that UIQM would reward flat images; and its
  sum is an ordinary one under a PLIP product by 1 / n, which moves the score towards 0 as images grow (-0.160
  in place of 0.163 for 256 blocks, about -0.08 for 128 x 128 of them). The sign here is that of AMEE, its
  precursor.
  Contrast above 1 / e lowers it: the score of a crisp photograph may rise where contrast is reduced.
  In [0, 0.368]. Raises ValueError unless the image is RGB and at least 8 x 8.
  """
  top, bottom = _extremes(_luma(jnp.moveaxis(255.0 * _rgb(image, BLOCK), -1, 0)))
  total = top + bottom - top * bottom / PLIP
  none = (top <= BLACK) | (top <= bottom) | (total <= 0.0)  # black or flat: as m = 1, 0; a nan stays one
  top, bottom, total = (jnp.where(none, value, x) for value, x in ((1.0, top), (0.0, bottom), (1.0, total)))
  contrast = PLIP * (top - bottom) / (PLIP - bottom) / total
  entropy = -contrast * jnp.log(contrast)
  return -PLIP * jnp.expm1(jnp.mean(jnp.log1p(-entropy / PLIP), axis=(-2, -1)))


@jax.jit
def uciqe(image: ArrayLike) -> Array:
  """Underwater colour image quality, higher is better: 0.4680 sigma_c + 0.2745 con_l + 0.2576 mu_s.

  Yang & Sowmya 2015, "An underwater color image quality evaluation metric". Protocol: CIELab (D65, 2 degrees)
  with all of L, a, b divided by 100, so that L is in [0, 1] and chroma C = sqrt(a^2 + b^2) in [0, 1.34].
  sigma_c: the standard deviation of C. con_l: the 99 % less the 1 % quantile of L (interpolated linearly
  between pixels). mu_s: the mean of the saturation C / sqrt(C^2 + L^2), 0 for black.
  Elsewhere, on scikit-image's astronaut()[::4, ::4], here 0.473: a plain reading with L, a, b unscaled, C / L
  and means of the extreme 1 % 38.4; PSNR-SSIM-UCIQE-UIQM-Python 11.4 (it takes every n-th pixel for the
  extreme n); the MATLAB program in circulation about 0.69 (a and b keep the offset 128 of their 8-bit code,
  so that grey has chroma, and sqrt(mean |1 - (mean C / C)^2|) stands for the deviation).
  A constant image scores 0.2576 times its saturation: 0 for black, below 5e-5 for grey and white (the
  primaries' white point differs from D65 in the fifth digit).
  Raises ValueError unless the image is RGB with at least 2 pixels.
  """
  lightness, a, b = jnp.moveaxis(_lab(_rgb(image)) / 100.0, -1, 0)
  chroma = safe_sqrt(jnp.square(a) + jnp.square(b))
  radius = safe_sqrt(jnp.square(chroma) + jnp.square(lightness))
  saturation = jnp.where(radius > 0.0, chroma / jnp.where(radius > 0.0, radius, 1.0), 0.0)
  pixels = lightness.reshape(*lightness.shape[:-2], lightness.shape[-2] * lightness.shape[-1])
  low, high = jnp.quantile(pixels, jnp.array([0.01, 0.99]), axis=-1)
  spread = safe_sqrt(jnp.var(chroma, axis=(-2, -1)))
  return 0.4680 * spread + 0.2745 * (high - low) + 0.2576 * jnp.mean(saturation, axis=(-2, -1))


def _rgb(image: ArrayLike, side: int = 1) -> Array:
  shape = jnp.shape(image)
  if len(shape) < 3 or shape[-1] != 3:
    raise ValueError(
      f"underwater measures need RGB images, [..., h, w, 3] with 3 channels; got shape {shape}"
    )
  if min(shape[-3:-1]) < side or shape[-3] * shape[-2] < 2:
    raise ValueError(
      f"images of {shape[-3]} x {shape[-2]} are too small for this measure; it needs "
      + (f"{side} x {side}" if side > 1 else "2 pixels")
    )
  return float_image(image)


def _luma(channels: Array) -> Array:
  """[3, ...] -> [...]."""
  return LUMA[0] * channels[0] + LUMA[1] * channels[1] + LUMA[2] * channels[2]


def _extremes(values: Array) -> tuple[Array, Array]:
  """Maximum and minimum of every whole block: [..., h, w] -> 2 x [..., h / 8, w / 8]; both NaN where a pixel is."""
  *batch, height, width = values.shape
  rows, columns = height // BLOCK, width // BLOCK
  values = values[..., : rows * BLOCK, : columns * BLOCK].reshape(*batch, rows, BLOCK, columns, BLOCK)
  blocks = jnp.moveaxis(values, -3, -2).reshape(*batch, rows, columns, BLOCK * BLOCK)
  # By place. On CPUs, jaxlib 0.10 loses NaN in max and min. Their gradients look for the pixels that are equal to them,
  # and find none where XLA computes the pixels again with other rounding.
  places = (jnp.argmax(blocks, axis=-1, keepdims=True), jnp.argmin(blocks, axis=-1, keepdims=True))
  top, bottom = (jnp.take_along_axis(blocks, place, axis=-1)[..., 0] for place in places)
  return top, bottom


def _sobel(values: Array) -> Array:
  """Gradient magnitude of [..., h, w] in [0, 1], in [0, 1]."""
  padded = jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
  smooth = (padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4.0
  across = smooth[..., 2:] - smooth[..., :-2]
  smooth = (padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]) / 4.0
  down = smooth[..., 2:, :] - smooth[..., :-2, :]
  return safe_sqrt((jnp.square(across) + jnp.square(down)) / 2.0)


def _lab(rgb: Array) -> Array:
  """sRGB in [0, 1] to CIELab (D65, 2 degrees): L in [0, 100], a and b within +-110."""
  curved = rgb > 0.04045  # each branch sees only what it is for, which keeps gradients finite
  linear = jnp.where(curved, ((jnp.where(curved, rgb, 1.0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
  xyz = jnp.matmul(linear, (XYZ_OF_RGB / WHITE[:, None]).T, precision=jax.lax.Precision.HIGHEST)
  far = xyz > 0.008856
  x, y, z = jnp.moveaxis(
    jnp.where(far, jnp.cbrt(jnp.where(far, xyz, 1.0)), 7.787 * xyz + 16.0 / 116.0), -1, 0
  )
  return jnp.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)
