"""The classical methods that a restoration model is compared with, by what was done to the images.

- Small images: `bicubic` (MATLAB's imresize), and what a person has at hand: Pillow's `lanczos`, `bicubic_pillow` and
  `unsharp`, from 8 bits to 8 bits.
- Noisy images: `bm3d` (PyPI bm3d, for non-commercial use), `nlm` and `wavelet` (scikit-image) where they are installed,
  `wiener` (SciPy), and `noisy`, the image as it came. They are given the true sigma: of the config, or the root mean
  square of the noise drawn where it differs from image to image. Photon noise is brought to unit variance for them, and
  back (`classical.stabilised`).
- Pairs of one size, whose noise nobody knows: `bm3d` and `nlm` at the best sigma for each image, chosen by the clean
  one, and `input`.
- Images with other faults, such as JPEG's: `input`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

from vae_jax.configuration.chains import Step, parse_chain
from vae_jax.data.degrade import bicubic_up, factor_of
from vae_jax.photos import classical
from vae_jax.photos.classical import Denoise

NAMES = {  # where a person reads them
  "bm3d": "BM3D",
  "nlm": "NLM",
  "wiener": "Wiener",
  "lanczos": "Lanczos (Pillow)",
  "bicubic_pillow": "bicubic (Pillow)",
  "unsharp": "bicubic, unsharp mask (Pillow)",
  "bm3d_best": "BM3D, best sigma",
  "nlm_best": "NLM, best sigma",
}
UNTOUCHED = ("noisy", "input")  # the degraded image itself
JPEG_BLOCK = 8
NOISE = ("noise", "camera")  # steps of chains


# (degraded [h', w', c], sigma, clean [h, w, c]) -> [h, w, c]. Only a best sigma is chosen by the clean image.
Restore = Callable[[np.ndarray, float | None, np.ndarray], np.ndarray]


class Baseline(NamedTuple):
  """A method, and what it is in the words of the protocol."""

  words: str
  restore: Restore


class Denoiser(NamedTuple):
  """A denoiser, the packages that it needs, each with the module to import, and its settings in words."""

  denoise: Denoise
  packages: Mapping[str, str]
  settings: str


SKIMAGE = {"scikit-image": "skimage.restoration"}
DENOISERS = {  # the strongest first
  "bm3d": Denoiser(classical.bm3d, {"bm3d": "bm3d"}, "profile 'np'"),
  "nlm": Denoiser(
    classical.nlm, SKIMAGE, "fast non-local means, patch_size=5, patch_distance=6, h=0.8*sigma"
  ),
  "wavelet": Denoiser(
    classical.wavelet,
    {**SKIMAGE, "PyWavelets": "pywt"},
    "denoise_wavelet, method='BayesShrink', mode='soft', wavelet 'db1', colour in YCbCr",
  ),
  "wiener": Denoiser(
    classical.wiener,
    {"scipy": "scipy.signal"},
    f"signal.wiener, the local filter for noise of known variance, {classical.WINDOW} x {classical.WINDOW}, "
    "mirrored at the border",
  ),
}
ENLARGERS = {
  "lanczos": (classical.lanczos, "resize, LANCZOS"),
  "bicubic_pillow": (classical.bicubic_pillow, "resize, BICUBIC"),
  "unsharp": (classical.unsharp, "resize, BICUBIC, then ImageFilter.UnsharpMask() with its defaults"),
}
SEARCHED = ("bm3d", "nlm")  # at their best sigma, where sigma is unknown
LEVELS = ", ".join(f"{255 * sigma:.0f}" for sigma in classical.GRID)
BEST = (
  f"at the best sigma of {LEVELS} grey levels for each image, chosen by PSNR against the clean image, which nobody has "
  "for a new photograph; seconds are of the search"
)


def sigma_of(degrade: Mapping[str, Any]) -> float | None:
  """Returns the sigma that the baselines are given; None where it differs from image to image."""
  if degrade["name"] == "poisson_gaussian":
    return 1.0  # after stabilisation
  if degrade["name"] == "gaussian_noise":
    return None if degrade["sigma_max"] > degrade["sigma"] else float(degrade["sigma"])
  steps = steps_of(degrade)
  noisy = [i for i, step in enumerate(steps) if step.name in NOISE]
  if not noisy:
    return 0.0
  step, after = steps[noisy[0]], {step.name for step in steps[noisy[0] + 1 :]}
  fixed = step.name == "noise" and step.probability == 1 and len(step.values[0]) == 1  # no range, no choice
  return float(step.values[0][0]) / 255 if fixed and after <= {"round"} else None


def block_of(degrade: Mapping[str, Any]) -> int:
  """Returns the side of JPEG's blocks in pixels of the restored image; 0 for no JPEG, and for blocks anywhere.

  The last JPEG counts. What comes before the image is made smaller has blocks of 8 pixels of the restored image.
  """
  steps = steps_of(degrade)
  names = [step.name for step in steps]
  if "jpeg" not in names:
    return 0
  last = len(names) - names[::-1].index("jpeg")
  if "anywhere" in steps[last - 1].values[2]:
    return 0
  return JPEG_BLOCK * (factor_of(degrade) if "down" in names[:last] else 1)


def steps_of(degrade: Mapping[str, Any]) -> tuple[Step, ...]:
  """Returns the steps of a chain; none of other degradations."""
  return parse_chain(degrade["chain"]) if degrade["name"] == "chain" else ()


def make_baselines(
  degrade: Mapping[str, Any], factor: int, paired: bool
) -> tuple[dict[str, Baseline], list[str]]:
  """Returns the baselines by name, the usual reference first, and the packages that would give more."""
  if factor > 1:
    return _enlargers(factor), []
  if paired:
    found, missing = _denoisers(SEARCHED, _at_best_sigma, BEST, "_best")
    return {**found, "input": _untouched("the degraded image itself")}, missing
  if degrade["name"] == "identity":
    return {}, []
  if degrade["name"] == "chain" and sigma_of(degrade) == 0:
    return {"input": _untouched("the degraded image itself")}, []
  noisy = _untouched("the noisy image itself")
  if sigma_of(degrade) == 0:
    return {"noisy": noisy}, []  # there is nothing to remove
  adapt, given = _at_given_sigma, "sigma given"
  if sigma_of(degrade) is None:
    given = "given the root mean square of the noise of each image as sigma"
  if degrade["name"] == "poisson_gaussian":
    adapt = functools.partial(_after_stabilising, degrade["peak"], degrade["sigma"])
    given = "after the generalised Anscombe transform, then its exact unbiased inverse (Makitalo & Foi 2013)"
  found, missing = _denoisers(tuple(DENOISERS), adapt, given)
  return {**found, "noisy": noisy}, missing


def _untouched(words: str) -> Baseline:
  return Baseline(words, lambda degraded, sigma, clean: degraded)


def _enlargers(factor: int) -> dict[str, Baseline]:
  def enlarge(function: Callable[[np.ndarray, int], np.ndarray]) -> Restore:
    return lambda low, sigma, clean: function(low, factor)

  words = "MATLAB's imresize(x, factor, 'bicubic') of a double image"
  pillow = f"Pillow {_version('pillow')}, from 8-bit pixels to 8-bit pixels"
  return {
    "bicubic": Baseline(words, lambda low, sigma, clean: np.asarray(bicubic_up(low, factor))),
    **{name: Baseline(f"{pillow}: {how}", enlarge(function)) for name, (function, how) in ENLARGERS.items()},
  }


def _denoisers(
  names: Sequence[str], adapt: Callable[[Denoise], Restore], given: str, ending: str = ""
) -> tuple[dict[str, Baseline], list[str]]:
  """Returns the denoisers that are installed, their names with `ending`, and the packages that are missing."""
  found, missing = {}, dict[str, None]()
  for name in names:
    denoise, packages, settings = DENOISERS[name]
    absent = [package for package, module in packages.items() if not _installed(module)]
    missing |= dict.fromkeys(absent)
    if not absent:
      versions = ", ".join(f"{package} {_version(package)}" for package in packages)
      found[name + ending] = Baseline(f"{versions}: {settings}, {given}", adapt(denoise))
  return found, list(missing)


def _at_given_sigma(denoise: Denoise) -> Restore:
  return lambda noisy, sigma, clean: denoise(noisy, sigma) if sigma else noisy


def _after_stabilising(peak: float, read: float, denoise: Denoise) -> Restore:
  return _at_given_sigma(classical.stabilised(denoise, peak, read))


def _at_best_sigma(denoise: Denoise) -> Restore:
  def restore(degraded: np.ndarray, sigma: float | None, clean: np.ndarray) -> np.ndarray:
    error = float(np.sqrt(np.mean(np.square(degraded - clean, dtype=np.float64))))
    return classical.best_sigma(denoise, degraded, clean, error)

  return restore


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
