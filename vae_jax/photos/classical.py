"""Classical methods of denoising and enlarging, each as its package documents it. None of them learns from data.

Denoisers: (noisy float [h, w, c], sigma) -> [h, w, c]. sigma is the standard deviation of the noise in the units of the
image, above 0. Nothing is clipped.
Enlargers, all by Pillow: (small float32 [h, w, c] in [0, 1], factor) -> [factor * h, factor * w, c], from 8-bit pixels
to 8-bit pixels. c is 1 or 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

Denoise = Callable[[np.ndarray, float], np.ndarray]

GRID = tuple(level / 255 for level in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50))  # of `best_sigma`
WINDOW = 5  # pixels a side, of `wiener`


def bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Denoises by BM3D (Dabov et al. 2007; colour: by luminance), of Tampere University's package."""
  import bm3d

  noisy = noisy.astype(np.float64)
  if np.ptp(noisy) == 0:
    return noisy  # the package would divide by the range
  if noisy.shape[-1] == 1:
    return bm3d.bm3d(noisy[..., 0], sigma_psd=sigma)[..., None]
  return bm3d.bm3d_rgb(noisy, sigma_psd=sigma)


def nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Denoises by non-local means (Buades et al. 2005), with the h that scikit-image's documentation recommends."""
  from skimage.restoration import denoise_nl_means

  denoised = denoise_nl_means(
    noisy,
    patch_size=5,
    patch_distance=6,
    h=0.8 * sigma,
    sigma=sigma,
    fast_mode=True,
    preserve_range=True,
    channel_axis=-1,
  )
  return denoised.reshape(noisy.shape)  # it drops a single channel


def wavelet(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Denoises by thresholds of wavelets, BayesShrink (Chang et al. 2000), as scikit-image's gallery sets it."""
  from skimage.restoration import denoise_wavelet

  denoised = denoise_wavelet(
    noisy.astype(np.float64),
    sigma=sigma,
    method="BayesShrink",
    mode="soft",
    rescale_sigma=True,
    convert2ycbcr=noisy.shape[-1] == 3,
    channel_axis=-1,
  )
  return denoised.reshape(noisy.shape)


def wiener(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Denoises by SciPy's local Wiener filter (Lee 1980), the method of MATLAB's wiener2, channel by channel.

  scikit-image's `restoration.wiener` is another method: it undoes a known blur. SciPy takes pixels beyond the border
  for black, so the image is extended by mirroring.
  """
  from scipy.signal import wiener as filtered

  border = WINDOW // 2
  wide = np.pad(noisy.astype(np.float64), ((border, border), (border, border), (0, 0)), "symmetric")
  with np.errstate(divide="ignore", invalid="ignore"):  # where nothing varies; SciPy then takes the mean
    planes = [filtered(plane, WINDOW, noise=sigma**2) for plane in np.moveaxis(wide, -1, 0)]
  return np.stack(planes, -1)[border:-border, border:-border]


def lanczos(small: np.ndarray, factor: int) -> np.ndarray:
  """Enlarges by Pillow's Lanczos filter of 3 lobes."""
  return _from_picture(_enlarge(small, factor, "LANCZOS"), small)


def bicubic_pillow(small: np.ndarray, factor: int) -> np.ndarray:
  """Enlarges by Pillow's bicubic filter."""
  return _from_picture(_enlarge(small, factor, "BICUBIC"), small)


def unsharp(small: np.ndarray, factor: int) -> np.ndarray:
  """Enlarges by Pillow's bicubic filter, then sharpens by its default unsharp mask: radius 2, 150 %, threshold 3."""
  from PIL import ImageFilter

  return _from_picture(_enlarge(small, factor, "BICUBIC").filter(ImageFilter.UnsharpMask()), small)


def _enlarge(small: np.ndarray, factor: int, resample: str) -> Image.Image:
  from PIL import Image

  pixels = np.rint(255 * np.clip(small, 0, 1)).astype(np.uint8)
  picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
  return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling[resample])


def _from_picture(picture: Image.Image, small: np.ndarray) -> np.ndarray:
  return (np.asarray(picture, np.float32) / 255).reshape(picture.height, picture.width, small.shape[-1])


def stabilised(denoise: Denoise, peak: float, sigma: float) -> Denoise:
  """Adapts `denoise`, made for white Gaussian noise, to the noise of `degrade.poisson_gaussian`.

  The generalised Anscombe transform brings photon and read noise to about unit variance, whatever the brightness;
  `denoise` is given sigma 1; the closed form of the exact unbiased inverse goes back (Makitalo & Foi 2013).
  """
  read = (peak * sigma) ** 2

  def restore(noisy: np.ndarray, level: float) -> np.ndarray:
    counts = peak * noisy.astype(np.float64)
    d = denoise(2 * np.sqrt(np.maximum(counts + 3 / 8 + read, 0)), level)
    d = np.maximum(d, 2 * math.sqrt(3 / 8))  # where the inverse is 0 without read noise; it diverges below
    a = math.sqrt(3 / 2)
    mean = d**2 / 4 + a / (4 * d) - 11 / (8 * d**2) + 5 * a / (8 * d**3) - 1 / 8 - read
    return np.maximum(mean, 0) / peak

  return restore


def best_sigma(
  denoise: Denoise, noisy: np.ndarray, clean: np.ndarray, start: float, grid: Sequence[float] = GRID
) -> np.ndarray:
  """Returns the output of `denoise` at the sigma of the ascending `grid` with the least squared error against `clean`.

  No method can do this without the clean image: it bounds what `denoise` can reach where sigma is unknown. The search
  starts at the sigma nearest to `start` and walks on while the error falls, so it may end in a local optimum.
  Errors are of outputs clipped to [0, 1] and rounded to 8 bits, over all channels.
  """
  outputs: dict[int, tuple[float, np.ndarray]] = {}

  def error(k: int) -> float:
    if not 0 <= k < len(grid):
      return math.inf
    if k not in outputs:
      output = denoise(noisy, grid[k])
      written = np.rint(255 * np.clip(output, 0, 1)) / 255
      outputs[k] = float(np.mean(np.square(written - clean, dtype=np.float64))), output
    return outputs[k][0]

  k = int(np.argmin(np.abs(np.log(np.asarray(grid)) - math.log(max(start, grid[0])))))
  step = 1 if error(k + 1) < error(k) else -1
  while error(k + step) < error(k):
    k += step
  return outputs[k][1]
