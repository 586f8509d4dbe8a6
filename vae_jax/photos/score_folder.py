"""A restoration model on a folder of clean photographs, beside classical baselines, as papers score it.

    scores, picture = benchmark(restore, "BSDS300/test", config.data.degrade, channels=3)
    print(table(scores))

What is compared, and what papers leave unsaid: `scores["protocol"]` holds all of it.

- Down-sampling: the clean image is cut at the bottom and right to a multiple of the factor ("modcrop"); the small one
  is rounded to 8 bits, as the file would be that a user has. Noise is neither clipped nor rounded.
- Every output, of the model and of the baselines, is clipped to [0, 1] and rounded to 8 bits before it is scored.
- PSNR and SSIM of Y leave `factor` pixels of each border out, none where nothing was down-sampled; PSNR of RGB and
  LPIPS see the whole image.
- The noise of an image is a function of `seed` and of its path below the folder: other files and `limit` do not count.
- Files X_LR.png beside X_HR.png or X.png are taken as pairs, in place of the run's own degradation.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax import metrics, pictures
from vae_jax.data.degrade import DEGRADATIONS, Degrade, bicubic_up, make_degrade
from vae_jax.data.images import decode
from vae_jax.data.plans import list_images
from vae_jax.errors import UserError
from vae_jax.photos.uncertainty import total_deviation
from vae_jax.progress import FileProgress
from vae_jax.types import Array, ArrayLike

COMPILED = ("ours", "bicubic")  # methods that JAX compiles, for each new size of image
REPEATED = 3  # images of a new size that are restored again, to be timed
LEAST_SIDE = 16  # pixels of a clean image
SSIM_WINDOW = 11  # what the crop must leave
LPIPS_SIDE = 32  # the deepest layer of AlexNet needs 31
CROP, CELL = 128, 256  # pixels of a detail on the contact sheet, and of its place there

METRICS = {
  "psnr_rgb": "dB over R, G and B, nothing cropped; 100 at most",
  "psnr_y": "dB of Y of MATLAB's rgb2ycbcr, unrounded; a grey image is its own Y; 100 at most",
  "ssim_y": "SSIM of the same Y: 11 x 11 Gaussian window of sigma 1.5, inside the image only",
  "lpips": "learned perceptual distance, nothing cropped; lower is better",
}

Restore = Callable[[np.ndarray], ArrayLike]
Draw = Callable[[np.ndarray, int], ArrayLike]
Denoise = Callable[[np.ndarray, float], np.ndarray]  # (noisy [h, w, c], sigma) -> [h, w, c]


class Case(NamedTuple):
  """An image to restore. name: relative path of the clean one, posix. low: of the pair, where there is one."""

  name: str
  high: Path
  low: Path | None


class Baseline(NamedTuple):
  words: str
  restore: Denoise


class Task(NamedTuple):
  """What is done to a clean image, and what is compared."""

  degrade: Degrade
  paired: bool  # the folder has the degraded images
  factor: int
  sigma: float | None  # of the noise, for the baselines; None: what was drawn for each image
  baselines: dict[str, Baseline]

  @property
  def crop(self) -> int:
    return self.factor if self.factor > 1 else 0


def benchmark(
  restore: Restore,
  folder: str | os.PathLike,
  degrade: Mapping[str, Any],
  *,
  channels: int,
  seed: int = 0,
  lpips: Callable[..., Array] | None = None,
  limit: int = 0,
  draw: Draw | None = None,
  samples: int = 8,
  pixel_noise: Callable[[np.ndarray], ArrayLike] | None = None,
  sheet: int = 8,
) -> tuple[dict[str, Any], np.ndarray]:
  """Scores `restore` and the baselines on every image below `folder`.

  Baselines: `bicubic` (MATLAB's imresize) of small images. Of noisy ones `bm3d` (PyPI bm3d, for non-commercial use) and
  `nlm` (scikit-image's non-local means) where they are installed, and `noisy`, the image as it came. Both are told the
  true sigma: that of the config, or the root mean square of the noise drawn where it differs from image to image.
  Photon noise is brought to unit variance for them, and back (`stabilised`). Of pairs of one size `input`.

  Args:
    restore: degraded float32 [h', w', c] -> float32 [h, w, c]; whole images of any size. Noise leaves [0, 1].
    folder: searched for images; sub-folders too.
    degrade: `config.data.degrade` of the run. Pairs may have identity here, else its factor.
    channels: 1 (grey, ITU-R BT.601 luma) or 3.
    seed: of noise.
    lpips: a `perceptual.LPIPS`, to score with it too images from 32 x 32 pixels.
    limit: only the first images, in order of their paths; 0: all.
    draw: (degraded, n) -> n random restorations, float32 [n, h, w, c]; see "uncertainty".
    samples: n, at least 2; without `draw` of no meaning.
    pixel_noise: degraded -> the standard deviation that draws leave out, float32 [h, w, c], see
      `uncertainty.total_deviation`.
    sheet: rows of the picture, at least 1.

  Returns:
    (scores, picture). The picture, uint8 [H, W, 3]: details of input, baseline, ours and original, a row an image.
    The scores, ready for JSON:
      protocol: what is compared, and how; `missing`: PyPI packages of baselines that are not installed.
      images: [{name, height, width (of what is scored), ours: {psnr_rgb (of colour), psnr_y, ssim_y, lpips},
        bicubic: {...}, ...}].
      mean: {ours: {...}, ...}, in float64, over all images; of LPIPS over those large enough, `lpips_images`.
      seconds: {ours: {mean, median, images}, ...}, without compilation, which the first image of a size may bring
        about: that is restored again, or, once a few are timed, has None in `images` and no part in the rest.
      skipped: [{name, reason}]: files that cannot be decoded, and images below 16 pixels or too small for SSIM.
      nonfinite: the names of scores that are not finite. Each of them, and each mean with one in it, is None; output
        that is infinite or NaN anywhere has no finite score.
      uncertainty (with `draw`): `correlation`, Pearson's over all pixels and channels of all images, of the standard
        deviation (of `samples` draws, and `pixel_noise`) with the absolute error of `restore`'s output (both
        unrounded); `correlation_per_image_mean`; the means of both, `mean_deviation` and `mean_error`, in units of
        [0, 1].

  Raises:
    UserError: no such folder, no image in it that can be scored, pairs that are incomplete, ambiguous or of another
      factor, a wrong value of `degrade`, `channels` or `limit`.
    ValueError: `restore` or `draw` returns another shape, or no floats.
  """
  if channels not in (1, 3) or limit < 0 or sheet < 1:
    raise UserError(f"channels={channels}, limit={limit}, sheet={sheet}: 1 or 3, 0 or more, 1 or more")
  if draw is not None and samples < 2:
    raise UserError(f"samples={samples}: a spread needs at least 2 draws; give more, or 0 to leave it out")
  degrade_image, degrade = make_degrade(degrade), dict(degrade)
  folder = Path(folder).expanduser()
  skipped: list[dict[str, str]] = []
  cases = _cases(folder)[: limit or None]
  asked, paired = len(cases), cases[0].low is not None
  cases, factor = _check_pairs(cases, degrade, channels, skipped) if paired else (cases, _factor(degrade))
  baselines, missing = _baselines(degrade, factor, paired)
  task = Task(degrade_image, paired, factor, _sigma(degrade), baselines)

  entries: list[dict[str, Any]] = []
  seconds: dict[str, list[float | None]] = {name: [] for name in ("ours", *baselines)}
  sizes: set[tuple[int, ...]] = set()
  rows: list[list[Panel]] = []
  pooled, correlations = Moments(), []
  for case in _shown(cases):
    opened = _open(case, task, channels, seed)
    if isinstance(opened, str):
      skipped.append(_skipped(case, opened))
      continue
    clean, degraded = opened
    degraded.setflags(write=False)  # what one method does to it, no other shall see
    told = _rms(degraded - clean) if task.sigma is None and degraded.shape == clean.shape else task.sigma
    methods = {"ours": (restore, degraded)} | {n: (b.restore, degraded, told) for n, b in baselines.items()}
    raw, outputs = {}, {}
    for name, call in methods.items():
      timed = functools.partial(_timed, "restore" if name == "ours" else name, clean.shape, *call)
      raw[name], taken = timed()
      outputs[name] = _eight_bits(raw[name])
      if name in COMPILED and degraded.shape not in sizes:  # so `taken` may hold compilation
        known = sum(one is not None for one in seconds[name])
        seconds[name].append(timed()[1] if known < REPEATED else None)
      else:
        seconds[name].append(taken)
    sizes.add(degraded.shape)
    scored = {name: _score(output, clean, task.crop, lpips) for name, output in outputs.items()}
    entry = {"name": case.name, "height": clean.shape[0], "width": clean.shape[1], **scored}
    if draw is not None:
      noise = None if pixel_noise is None else np.asarray(pixel_noise(degraded))
      own = Moments().add(*_spread_and_error(draw, samples, degraded, raw["ours"], clean, noise))
      pooled = pooled.merge(own)
      correlations.append(own.correlation)
      entry["correlation"] = own.correlation
    entries.append(entry)
    if len(rows) < sheet:
      rows.append(_row(case.name, degraded, outputs, clean, scored, task.factor))
  if not entries:
    raise UserError(
      f"{folder}: none of {asked} images can be scored ({skipped[0]['name']}: {skipped[0]['reason']}); "
      "choose another folder"
    )

  mean = {name: _means([entry[name] for entry in entries]) for name in seconds}
  scores: dict[str, Any] = {
    "protocol": _protocol(folder, degrade, task, channels, seed, missing, mean["ours"], lpips),
    "count": len(entries),
    **({"lpips_images": sum("lpips" in entry["ours"] for entry in entries)} if lpips is not None else {}),
    "mean": mean,
    "images": entries,
    "seconds": {name: _typical(some) for name, some in seconds.items()},
    "skipped": skipped,
  }
  if draw is not None:
    scores["protocol"]["samples"] = samples
    scores["uncertainty"] = {
      "samples": samples,
      "correlation": pooled.correlation,
      "correlation_per_image_mean": float(np.mean(correlations)),
      "mean_deviation": float(pooled.mean[0]),
      "mean_error": float(pooled.mean[1]),
    }
  bad: list[str] = []
  scores = _finite(scores, "", bad)
  return {**scores, "nonfinite": bad}, _sheet(rows, _caption(channels, task.crop))


def _shown(cases: Sequence[Case]) -> Iterator[Case]:
  """The cases, and how far they are on standard error."""
  what = f"scoring {len(cases)} image{'s' if len(cases) > 1 else ''}"
  with FileProgress() as meter:
    for done, case in enumerate(cases):
      meter.update(what, done, len(cases), note="" if done else "compiling")
      yield case


# --- files ---


def _cases(folder: Path) -> list[Case]:
  """The images below the folder in order of their paths, or its pairs; never both."""
  if not folder.is_dir():
    raise UserError(f"{str(folder)!r} is no folder; give one with clean photographs")
  names = list_images(folder)
  if not names:
    raise UserError(f"{folder}: no image files below this folder; give one with clean photographs")
  stems: dict[str, list[str]] = {}
  for name in names:
    stems.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
  lows = [stem for stem in stems if stem.endswith("_LR")]
  if not lows:
    return [Case(name, folder / name, None) for name in names]
  cases = []
  for stem in lows:
    base = stem.removesuffix("_LR")
    high, low = [n for s in (f"{base}_HR", base) for n in stems.pop(s, [])], stems.pop(stem)
    if len(high) != 1 or len(low) != 1:
      found = ", ".join(sorted(high + low))
      raise UserError(f"{folder}: {found}: a pair is one X_LR and one X_HR or X; add, rename or remove files")
    cases.append(Case(high[0], folder / high[0], folder / low[0]))
  if stems:
    alone = sorted(name for some in stems.values() for name in some)
    more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
    raise UserError(
      f"{folder}: pairs (X_LR) and single images ({', '.join(alone[:3])}{more}); keep one kind in a folder"
    )
  return sorted(cases)


def _check_pairs(
  cases: Sequence[Case], degrade: Mapping[str, Any], channels: int, skipped: list[dict[str, str]]
) -> tuple[list[Case], int]:
  """The pairs that can be decoded, and the one factor of all; the others go into `skipped`.

  The clean image may be larger by less than the factor at the bottom and right: it is cut there.
  """
  sound, wanted = [], 0 if degrade["name"] == "identity" else _factor(degrade)
  for case in cases:
    try:
      (h, w), (low_h, low_w) = (decode(p, channels).shape[:2] for p in (case.high, case.low) if p is not None)
    except UserError as error:
      skipped.append(_skipped(case, str(error)))
      continue
    factor = wanted or max(1, h // low_h)
    if (h // factor, w // factor) != (low_h, low_w):
      raise UserError(
        f"{case.name} of {h} x {w} and {case.low.name if case.low else ''} of {low_h} x {low_w} pixels: at a factor "
        f"of {factor} the second has {h // factor} x {w // factor}; remove or replace the pair"
      )
    wanted = factor
    sound.append(case)
  return sound, max(1, wanted)


def _skipped(case: Case, reason: str) -> dict[str, str]:
  """An entry of `skipped`; what is wrong with the clean image does not name it twice."""
  return {"name": case.name, "reason": reason.removeprefix(f"{case.high}: ").removeprefix(f"{case.name}: ")}


def _open(case: Case, task: Task, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray] | str:
  """(clean [h, w, c], degraded [h', w', c]), both float32, or why there is nothing to score."""
  try:
    clean = _to_float(decode(case.high, channels, name=case.name))
    low = None if case.low is None else _to_float(decode(case.low, channels, name=case.low.name))
  except UserError as error:
    return str(error)
  h, w = (n // task.factor * task.factor for n in clean.shape[:2])
  least = max(LEAST_SIDE, SSIM_WINDOW + 2 * task.crop)
  if min(h, w) < least:
    return f"{h} x {w} pixels; the least side is {least}"
  clean = clean[:h, :w]
  if low is not None:
    return clean, low
  degraded = np.asarray(task.degrade(_key(seed, case.name), clean))
  return clean, _eight_bits(degraded) if task.factor > 1 else degraded


def _key(seed: int, name: str) -> Array:
  """One for each path; `os.fsencode` takes names that are no text, too."""
  return jax.random.fold_in(
    jax.random.key(seed), int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big")
  )


def _to_float(pixels: np.ndarray) -> np.ndarray:
  return pixels.astype(np.float32) / 255


def _eight_bits(image: np.ndarray) -> np.ndarray:
  """As an 8-bit file holds it: clipped to [0, 1], in steps of 1 / 255. What is infinite becomes NaN, not white."""
  return np.rint(np.clip(_finite_or_nan(image), 0.0, 1.0) * np.float32(255)) / np.float32(255)


def _finite_or_nan(x: np.ndarray) -> np.ndarray:
  return np.where(np.isfinite(x), x, np.float32(np.nan))


# --- baselines ---


def _factor(degrade: Mapping[str, Any]) -> int:
  return int(degrade["factor"]) if "factor" in DEGRADATIONS[degrade["name"]][1] else 1


def _sigma(degrade: Mapping[str, Any]) -> float | None:
  """The sigma that the baselines are told; None where it differs from image to image."""
  if degrade["name"] == "poisson_gaussian":
    return 1.0  # after stabilisation
  if degrade["name"] == "gaussian_noise":
    return None if degrade["sigma_max"] > degrade["sigma"] else float(degrade["sigma"])
  return 0.0


def _baselines(
  degrade: Mapping[str, Any], factor: int, paired: bool
) -> tuple[dict[str, Baseline], list[str]]:
  """By name, the strongest first; and the packages that would give more."""
  if factor > 1:
    words = "MATLAB's imresize(x, factor, 'bicubic') of a double image"
    return {"bicubic": Baseline(words, lambda low, _: np.asarray(bicubic_up(low, factor)))}, []
  if paired:
    return {"input": Baseline("the degraded image itself", lambda degraded, _: degraded)}, []
  if degrade["name"] == "identity":
    return {}, []
  noisy = Baseline("the noisy image itself", lambda noisy, _: noisy)
  if _sigma(degrade) == 0:
    return {"noisy": noisy}, []  # there is nothing to remove
  found, missing = {}, []
  wrap, told = _untouched, "sigma given"
  if _sigma(degrade) is None:
    told = "given the root mean square of the noise of each image as sigma"
  if degrade["name"] == "poisson_gaussian":
    wrap = functools.partial(stabilised, peak=degrade["peak"], sigma=degrade["sigma"])
    told = "after the generalised Anscombe transform, then its exact unbiased inverse (Makitalo & Foi 2013)"
  nlm = "fast non-local means, patch_size=5, patch_distance=6, h=0.8*sigma"
  for name, module, package, denoise, words in (
    ("bm3d", "bm3d", "bm3d", _bm3d, "profile 'np'"),
    ("nlm", "skimage.restoration", "scikit-image", _nlm, nlm),
  ):
    if _installed(module):
      found[name] = Baseline(f"{package} {_version(package)}: {words}, {told}", wrap(denoise))
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
  """BM3D (Dabov et al. 2007; colour: by luminance), of Tampere University's package."""
  import bm3d

  noisy = noisy.astype(np.float64)
  if np.ptp(noisy) == 0:
    return noisy  # the package would divide by the range
  if noisy.shape[-1] == 1:
    return bm3d.bm3d(noisy[..., 0], sigma_psd=sigma)[..., None]
  return bm3d.bm3d_rgb(noisy, sigma_psd=sigma)


def _nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
  """Non-local means (Buades et al. 2005), with the h that scikit-image's documentation recommends."""
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
  """`denoise`, made for white Gaussian noise, for that of `degrade.poisson_gaussian`.

  The generalised Anscombe transform brings photon and read noise to about unit variance, whatever the brightness;
  `denoise` is told sigma 1; the closed form of the exact unbiased inverse goes back (Makitalo & Foi 2013).
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


# --- scores ---


def _timed(
  name: str, shape: tuple[int, ...], function: Callable[..., ArrayLike], *args: Any
) -> tuple[np.ndarray, float]:
  """What a method makes of an image, float32, and the seconds it took."""
  start = time.perf_counter()
  output = np.asarray(function(*args))
  taken = time.perf_counter() - start
  if output.shape != shape or not np.issubdtype(output.dtype, np.floating):
    raise ValueError(
      f"{name} returned {output.dtype}{list(output.shape)}, expected float32{list(shape)} in [0, 1]"
    )
  return output.astype(np.float32), taken


def _typical(seconds: list[float | None]) -> dict[str, Any]:
  known = [one for one in seconds if one is not None]
  return {"mean": float(np.mean(known)), "median": float(np.median(known)), "images": seconds}


@functools.partial(jax.jit, static_argnames="crop")
def _fidelity(output: np.ndarray, clean: np.ndarray, crop: int) -> dict[str, Array]:
  scores = {"psnr_y": metrics.psnr_y(output, clean, crop), "ssim_y": metrics.ssim_y(output, clean, crop)}
  return scores | ({"psnr_rgb": metrics.psnr_rgb(output, clean)} if clean.shape[-1] == 3 else {})


def _score(
  output: np.ndarray, clean: np.ndarray, crop: int, lpips: Callable[..., Array] | None
) -> dict[str, float]:
  found = {name: float(value) for name, value in _fidelity(output, clean, crop).items()}
  if lpips is not None and min(clean.shape[:2]) >= LPIPS_SIDE:
    found["lpips"] = float(lpips(output[None], clean[None])[0]) if np.isfinite(output).all() else math.nan
  return {name: found[name] for name in METRICS if name in found}


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {
    name: float(np.mean([s[name] for s in scores if name in s]))
    for name in METRICS
    if any(name in s for s in scores)
  }


def _finite(value: Any, where: str, bad: list[str]) -> Any:
  """`value` with None for each number that is not finite; their names are added to `bad`."""
  if isinstance(value, dict):
    return {k: _finite(v, f"{where}/{k}" if where else k, bad) for k, v in value.items()}
  if isinstance(value, list):
    return [
      _finite(v, f"{where}/{v['name']}" if isinstance(v, dict) else f"{where}/{i}", bad)
      for i, v in enumerate(value)
    ]
  if isinstance(value, float) and not math.isfinite(value):
    bad.append(where)
    return None
  return value


def _rms(x: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _protocol(
  folder: Path,
  degrade: Mapping[str, Any],
  task: Task,
  channels: int,
  seed: int,
  missing: list[str],
  scored: Mapping[str, float],
  lpips: Any,
) -> dict[str, Any]:
  factor, pairs = task.factor, task.paired
  values = {key: degrade[key] for key in DEGRADATIONS[degrade["name"]][1]}
  words = "pairs" if pairs else degrade["name"]
  words += f", factor {factor}" if factor > 1 else ""
  if not pairs:
    words += "".join(f", {key} {value:.4g}" for key, value in values.items() if key != "factor" and value)
  network = getattr(getattr(lpips, "extractor", None), "network", None)
  return {
    "folder": str(folder),
    "degradation": words,
    "degrade": {"name": degrade["name"], **values},
    "pairs": pairs,
    "factor": factor,
    "clean": f"cut at the bottom and right to a multiple of {factor}" if factor > 1 else "whole",
    "degraded": "as stored" if pairs else "rounded to 8 bits" if factor > 1 else "not clipped, not rounded",
    "outputs": "clipped to [0, 1] and rounded to 8 bits before every score",
    "crop": task.crop,
    "channels": channels,
    "seed": seed,
    "seconds": (
      f"without compilation: the first image of a size is restored again for its time; null once {REPEATED} are timed"
    ),
    "keys": "none" if pairs else "fold_in(key(seed), first 4 bytes of SHA-256 of the relative path)",
    "baselines": {name: baseline.words for name, baseline in task.baselines.items()},
    "missing": missing,
    "metrics": {name: words for name, words in METRICS.items() if name in scored},
    **({"lpips_network": network} if network else {}),
  }


# --- uncertainty ---


class Moments(NamedTuple):
  """Count, means and centred second moments of pairs of numbers, in float64, of all parts merged (Chan et al. 1983).

  No large sums are subtracted, so a small spread about a large mean survives.
  """

  number: int = 0
  mean: np.ndarray = np.zeros(2)
  centred: np.ndarray = np.zeros((2, 2))

  def add(self, x: np.ndarray, y: np.ndarray) -> Moments:
    both = np.stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
    mean = both.mean(axis=1)
    rest = both - mean[:, None]
    return self.merge(Moments(both.shape[1], mean, rest @ rest.T))

  def merge(self, other: Moments) -> Moments:
    number = self.number + other.number
    step = other.mean - self.mean
    centred = self.centred + other.centred + np.outer(step, step) * (self.number * other.number / number)
    return Moments(number, self.mean + step * (other.number / number), centred)

  @property
  def correlation(self) -> float:
    """Pearson's; NaN where one of the two does not vary beyond float32's resolution."""
    spread = np.sqrt(np.diag(self.centred) / self.number)
    if not (spread > 1e-7 * np.abs(self.mean)).all():
      return math.nan
    return float(self.centred[0, 1] / (self.number * spread[0] * spread[1]))


def _spread_and_error(
  draw: Draw,
  samples: int,
  degraded: np.ndarray,
  point: np.ndarray,
  clean: np.ndarray,
  noise: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Standard deviation by `samples` draws, and absolute error of the point estimate: float64 [h, w, c] each."""
  draws, _ = _timed("draw", (samples, *clean.shape), draw, degraded, samples)
  draws, point = _finite_or_nan(draws), _finite_or_nan(point)
  mean = draws.mean(axis=0, dtype=np.float64)
  variance = sum(np.square(one - mean) for one in draws) / (samples - 1)
  return total_deviation(np.asarray(variance), noise), np.abs(point.astype(np.float64) - clean)


# --- table ---

TITLES = {"psnr_rgb": "PSNR RGB", "psnr_y": "PSNR Y", "ssim_y": "SSIM Y", "lpips": "LPIPS"}
NAMES = {"bm3d": "BM3D", "nlm": "NLM"}
NAMED = 20  # skipped files in the table; the scores have all


def table(scores: Mapping[str, Any]) -> str:
  """The means as text: a row a method, a column a metric, with the difference to the first baseline."""
  mean, protocol = scores["mean"], scores["protocol"]
  first = next(iter(protocol["baselines"]), None)

  def cell(method: str, metric: str) -> str:
    digits = 2 if metric.startswith("psnr") else 4
    value, base = mean[method][metric], mean[first][metric] if first else None
    text = "nan" if value is None else f"{value:.{digits}f}"
    if first is None:
      return text
    bare = method == first or value is None or base is None
    return text + (" " * (digits + 5) if bare else f" {value - base:+{digits + 4}.{digits}f}")

  shown = [metric for metric in METRICS if metric in mean["ours"]]
  grey = protocol["channels"] == 1
  lines = [["", *(TITLES[metric].removesuffix(" Y" if grey else "") for metric in shown), "s/image"]]
  for method in mean:
    seconds = scores["seconds"][method]["median"]
    lines.append([NAMES.get(method, method), *(cell(method, metric) for metric in shown), f"{seconds:.3g}"])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  crop = f", {protocol['crop']} pixels of the border cropped" if protocol["crop"] else ""
  count = f"{scores['count']} image{'s' if scores['count'] > 1 else ''}"
  text = [f"{protocol['degradation']}: {count}{crop}, outputs rounded to 8 bits"]
  for number, (head, *cells) in enumerate(lines):
    # Titles stand above the values, not above the differences.
    aligned = [
      c.ljust(n) if number == 0 and c != "s/image" else c.rjust(n)
      for c, n in zip(cells, widths[1:], strict=True)
    ]
    text.append("  ".join([f"  {head.ljust(widths[0])}", *aligned]).rstrip())
  notes = [f"differences to {NAMES.get(first, first)}"] if first and len(mean) > 1 else []
  notes += ["LPIPS: lower is better"] if "lpips" in shown else []
  notes += [f"not installed: {', '.join(protocol['missing'])}"] if protocol["missing"] else []
  skipped = scores["skipped"]
  notes += [f"{len(skipped)} skipped"] if skipped else []
  notes += [f"{len(scores['nonfinite'])} not finite"] if scores["nonfinite"] else []
  text += [f"  ({'; '.join(notes)})"] if notes else []
  text += [f"  skipped {one['name']}: {one['reason']}" for one in skipped[:NAMED]]
  text += [f"  skipped {len(skipped) - NAMED} more"] if len(skipped) > NAMED else []
  if "uncertainty" in scores:
    u = scores["uncertainty"]
    value = "undefined" if u["correlation"] is None else f"{u['correlation']:.3f}"
    text.append(f"  uncertainty ({u['samples']} draws) and error of a pixel: correlation {value}")
  return "\n".join(text)


# --- contact sheet ---


class Panel(NamedTuple):
  """A cell of the contact sheet: column title, detail [h, w, c] in [0, 1], the line under it."""

  title: str
  detail: np.ndarray
  line: str


def _caption(channels: int, crop: int) -> str:
  words = "PSNR of the whole image"
  if crop:
    return f"{words}, {'Y, ' if channels == 3 else ''}{crop} pixels of the border cropped"
  return f"{words}, RGB" if channels == 3 else words


def _row(
  name: str,
  degraded: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  clean: np.ndarray,
  scored: Mapping[str, Mapping[str, float]],
  factor: int,
) -> list[Panel]:
  top, left, height, width = _telling(clean, factor)
  metric = "psnr_rgb" if factor == 1 and clean.shape[-1] == 3 else "psnr_y"

  def cut(image: np.ndarray, f: int = 1) -> np.ndarray:
    return image[top // f : (top + height) // f, left // f : (left + width) // f].copy()

  def decibels(method: str) -> str:
    return f"{scored[method][metric]:.2f} dB"

  plain = next((m for m in ("noisy", "input") if m in outputs), None)
  line = decibels(plain) if plain else f"{degraded.shape[0]} x {degraded.shape[1]} pixels"
  panels = [Panel(plain or "input", cut(degraded, factor), line)]
  baseline = next((m for m in outputs if m not in ("ours", plain)), None)
  ours = decibels("ours")
  if baseline:
    panels.append(Panel(NAMES.get(baseline, baseline), cut(outputs[baseline]), decibels(baseline)))
    ours += f"  ({scored['ours'][metric] - scored[baseline][metric]:+.2f})"
  return [*panels, Panel("ours", cut(outputs["ours"]), ours), Panel("original", cut(clean), name)]


def _telling(clean: np.ndarray, factor: int) -> tuple[int, int, int, int]:
  """(top, left, height, width), multiples of `factor`: the detail with the highest variance of small patches."""
  h, w = clean.shape[:2]
  height, width = (max(min(CROP, n) // factor, 1) * factor for n in (h, w))
  grey = clean.mean(axis=-1, dtype=np.float64)
  side = 7
  variance = np.maximum(_box(np.square(grey), side) - np.square(_box(grey, side)), 0)
  # The root, so that one hard edge does not outweigh texture. A window holds the patches that lie inside it.
  score = _box(np.sqrt(variance), height - side + 1, width - side + 1)[::factor, ::factor]
  row, column = np.unravel_index(np.argmax(score), score.shape)
  return int(row) * factor, int(column) * factor, height, width


def _box(x: np.ndarray, rows: int, columns: int = 0) -> np.ndarray:
  """Means over windows that lie inside: [h, w] -> [h - rows + 1, w - columns + 1]."""
  columns = columns or rows
  total = np.pad(x, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  window = total[rows:] - total[:-rows]
  return (window[:, columns:] - window[:, :-columns]) / (rows * columns)


def _sheet(rows: Sequence[Sequence[Panel]], caption: str) -> np.ndarray:
  """Lays the panels out, uint8 [H, W, 3]: titles above the columns, a line under each detail, the caption below."""
  from PIL import Image, ImageDraw, ImageFont

  gap, title, line, foot = 12, 36, 30, 34
  # Whole pixels of the original: all panels of a row are as large as it.
  shapes = [
    tuple(n * max(1, CELL // max(row[-1].detail.shape[:2])) for n in row[-1].detail.shape[:2]) for row in rows
  ]
  step = CELL + gap
  width = gap + len(rows[0]) * step
  height = title + sum(shape[0] + line + gap for shape in shapes) + foot
  picture = Image.new("RGB", (width, height), (pictures.BACKGROUND,) * 3)
  text = ImageDraw.Draw(picture)
  large, small = ImageFont.load_default(18), ImageFont.load_default(15)
  bright, dim = (235,) * 3, (pictures.TEXT,) * 3
  for j, panel in enumerate(rows[0]):
    text.text((gap + j * step + CELL / 2, title / 2), panel.title, bright, large, anchor="mm")
  top = title
  for row, shape in zip(rows, shapes, strict=True):
    for j, panel in enumerate(row):
      left = gap + j * step
      pixels = pictures.grid(pictures.beside(panel.detail[None], shape), pad=0, scale=1)
      cell = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
      picture.paste(cell, (left + (CELL - cell.width) // 2, top))
      words = _shortened(panel.line, small, CELL)
      text.text((left + CELL / 2, top + shape[0] + line / 2), words, dim, small, anchor="mm")
    top += shape[0] + line + gap
  text.text((gap, height - foot / 2 - 2), caption, dim, small, anchor="lm")
  return np.array(picture)


def _shortened(words: str, font: Any, width: int) -> str:
  """The end of a long name says more than its beginning. What the font lacks becomes "?"."""
  words = words.encode("ascii", "replace").decode()
  while font.getlength(words) > width and len(words) > 4:
    words = "..." + words.removeprefix("...")[1:]
  return words
