"""The classical methods that a restoration model is compared with: bicubic, BM3D, non-local means, the image itself.

Small images have `bicubic` (MATLAB's imresize). Noisy ones have `bm3d` (PyPI bm3d, for non-commercial use) and `nlm`
(scikit-image's non-local means) where they are installed, and `noisy`, the image as it came. Both denoisers are given
the true sigma: that of the config, or the root mean square of the noise drawn where it differs from image to image.
Photon noise is brought to unit variance for them, and back (`stabilised`). Pairs of one size have `input`.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

from vae_jax.configuration.chains import parse_chain
from vae_jax.data.degrade import bicubic_up

Denoise = Callable[[np.ndarray, float], np.ndarray]  # (noisy [h, w, c], sigma) -> [h, w, c]

NAMES = {"bm3d": "BM3D", "nlm": "NLM"}  # where a person reads them


class Baseline(NamedTuple):
  """A method, and what it is in the words of the protocol."""

  words: str
  restore: Denoise


def sigma_of(degrade: Mapping[str, Any]) -> float | None:
  """Returns the sigma that the baselines are given; None where it differs from image to image."""
  if degrade["name"] == "poisson_gaussian":
    return 1.0  # after stabilisation
  if degrade["name"] == "gaussian_noise":
    return None if degrade["sigma_max"] > degrade["sigma"] else float(degrade["sigma"])
  if degrade["name"] == "chain":
    adds_noise = any(step.name in ("noise", "camera") for step in parse_chain(degrade["chain"]))
    return None if adds_noise else 0.0
  return 0.0


def make_baselines(
  degrade: Mapping[str, Any], factor: int, paired: bool
) -> tuple[dict[str, Baseline], list[str]]:
  """Returns the baselines by name, the strongest first, and the packages that would give more."""
  if factor > 1:
    words = "MATLAB's imresize(x, factor, 'bicubic') of a double image"
    return {"bicubic": Baseline(words, lambda low, _: np.asarray(bicubic_up(low, factor)))}, []
  if paired:
    return {"input": Baseline("the degraded image itself", lambda degraded, _: degraded)}, []
  if degrade["name"] == "identity":
    return {}, []
  noisy = Baseline("the noisy image itself", lambda noisy, _: noisy)
  if sigma_of(degrade) == 0:
    return {"noisy": noisy}, []  # there is nothing to remove
  found, missing = {}, []
  wrap, given = _untouched, "sigma given"
  if sigma_of(degrade) is None:
    given = "given the root mean square of the noise of each image as sigma"
  if degrade["name"] == "poisson_gaussian":
    wrap = functools.partial(stabilised, peak=degrade["peak"], sigma=degrade["sigma"])
    given = "after the generalised Anscombe transform, then its exact unbiased inverse (Makitalo & Foi 2013)"
  nlm = "fast non-local means, patch_size=5, patch_distance=6, h=0.8*sigma"
  for name, module, package, denoise, words in (
    ("bm3d", "bm3d", "bm3d", _bm3d, "profile 'np'"),
    ("nlm", "skimage.restoration", "scikit-image", _nlm, nlm),
  ):
    if _installed(module):
      found[name] = Baseline(f"{package} {_version(package)}: {words}, {given}", wrap(denoise))
    else:
      missing.append(package)
  return {**found, "noisy": noisy}, missing


def _untouched(denoise: Denoise) -> Denoise:
  return denoise


def _installed(module: str) -> bool:
  try:
    importlib.import_module(module)
  except ImportError:
    return False
  return True


def _version(package: str) -> str:
  try:
    return version(package)
  except PackageNotFoundError:
    return "of unknown version"


def _bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Denoises by BM3D (Dabov et al. 2007; colour: by luminance), of Tampere University's package."""
  import bm3d

  noisy = noisy.astype(np.float64)
  if np.ptp(noisy) == 0:
    return noisy  # the package would divide by the range
  if noisy.shape[-1] == 1:
    return bm3d.bm3d(noisy[..., 0], sigma_psd=sigma)[..., None]
  return bm3d.bm3d_rgb(noisy, sigma_psd=sigma)


def _nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
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
