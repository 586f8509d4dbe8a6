"""The images of a folder that a model is scored on: which they are, and each as a clean and a degraded array."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax.data.degrade import Degrade, factor_of
from vae_jax.data.folders import list_images
from vae_jax.data.images import decode
from vae_jax.data.suffixes import PICTURES, why_unread
from vae_jax.errors import UserError
from vae_jax.generator import new_key
from vae_jax.photos.baselines import Baseline, steps_of
from vae_jax.types import Array

LEAST_SIDE = 16  # pixels of a clean image
SSIM_WINDOW = 11  # what the crop must leave


class Case(NamedTuple):
  """An image to restore. name: relative path of the clean one, posix. low: of the pair, where there is one."""

  name: str
  high: Path
  low: Path | None


class Task(NamedTuple):
  """What is done to a clean image, and what is compared."""

  config: Mapping[str, Any]  # `config.data.degrade`
  degrade: Degrade  # as the config says
  channels: int
  seed: int
  paired: bool  # the folder has the degraded images
  factor: int
  sigma: float | None  # of the noise, for the baselines; None: what was drawn for each image
  block: int  # side of JPEG's blocks in the output, in pixels; 0: no JPEG
  baselines: dict[str, Baseline]
  missing: list[str]  # packages of baselines that are not installed
  white: int  # of grey images of more than 8 bits; 0: as the files say, else 65535

  @property
  def crop(self) -> int:
    return self.factor if self.factor > 1 else 0

  @property
  def in_8_bits(self) -> bool:
    """Whether the degraded images are what an 8-bit file holds: small ones, and those of chains that end so."""
    ends = steps_of(self.config)[-1:]
    return self.factor > 1 or any(step.name in ("round", "jpeg") and step.probability == 1 for step in ends)

  def sigma_for(self, clean: np.ndarray, degraded: np.ndarray) -> float | None:
    """Returns the sigma of an image, for the baselines: the root mean square of its noise where `sigma` is None."""
    if self.sigma is None and degraded.shape == clean.shape:
      return float(np.sqrt(np.mean(np.square(degraded - clean, dtype=np.float64))))
    return self.sigma


def list_cases(folder: Path) -> list[Case]:
  """Lists the images below the folder in order of their paths, or its pairs; never both."""
  if not folder.is_dir():
    raise UserError(f"{str(folder)!r} is not a folder; give a folder of clean photographs")
  names = list_images(folder)
  if not names:
    raise UserError(f"{folder}: no images in this folder; give a folder of clean photographs")
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


def list_unread(folder: Path) -> list[dict[str, str]]:
  """Entries of `skipped` for the files below the folder that look like pictures and are not read."""
  names = list_images(folder, PICTURES)
  return [{"name": name, "reason": reason} for name in names if (reason := why_unread(name))]


def check_pairs(
  cases: Sequence[Case], degrade: Mapping[str, Any], channels: int, white: int, skipped: list[dict[str, str]]
) -> tuple[list[Case], int]:
  """Returns the pairs that can be decoded, and the one factor of all. The others go into `skipped`.

  The clean image may be larger by less than the factor at the bottom and right: it is cut there.
  """
  sound, wanted = [], 0 if degrade["name"] == "identity" else factor_of(degrade)
  for case in cases:
    try:
      pair = [decode(path, channels, white=white) for path in (case.high, case.low) if path is not None]
    except UserError as error:
      skipped.append(skipped_entry(case, str(error)))
      continue
    (h, w), (low_h, low_w) = (image.shape[:2] for image in pair)
    factor = wanted or max(1, h // low_h)
    if (h // factor, w // factor) != (low_h, low_w):
      raise UserError(
        f"{case.name} of {h} x {w} and {case.low.name if case.low else ''} of {low_h} x {low_w} pixels: at a factor "
        f"of {factor} the second has {h // factor} x {w // factor}; remove or replace the pair"
      )
    wanted = factor
    sound.append(case)
  return sound, max(1, wanted)


def skipped_entry(case: Case, reason: str) -> dict[str, str]:
  """Makes an entry of `skipped`; what is wrong with the clean image does not name it twice."""
  return {"name": case.name, "reason": reason.removeprefix(f"{case.high}: ").removeprefix(f"{case.name}: ")}


def open_case(case: Case, task: Task) -> tuple[np.ndarray, np.ndarray] | str:
  """Returns (clean [h, w, c], degraded [h', w', c]), both float32, or why there is nothing to score."""
  try:
    clean = _opened(case.high, task, case.name)
    low = None if case.low is None else _opened(case.low, task, case.low.name)
  except UserError as error:
    return str(error)
  h, w = (n // task.factor * task.factor for n in clean.shape[:2])
  least = max(LEAST_SIDE, SSIM_WINDOW + 2 * task.crop)
  if min(h, w) < least:
    return f"{h} x {w} pixels; the least side is {least}"
  clean = clean[:h, :w]
  if low is not None:
    return clean, low
  degraded = np.asarray(task.degrade(_key(task.seed, case.name), clean))
  return clean, eight_bits(degraded) if task.factor > 1 else degraded


def _key(seed: int, name: str) -> Array:
  """Makes one key for each path; `os.fsencode` takes names that are no text, too."""
  return jax.random.fold_in(
    new_key(seed), int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big")
  )


def _opened(path: Path, task: Task, name: str) -> np.ndarray:
  """float32 [h, w, c] in [0, 1]. A picture with transparency is scored as it is seen over white."""
  return decode(path, task.channels, name=name, over=255, white=task.white).astype(np.float32) / 255


def eight_bits(image: np.ndarray) -> np.ndarray:
  """Clips to [0, 1] and rounds to steps of 1 / 255, as an 8-bit file has it. Infinity becomes NaN, not white."""
  return np.rint(np.clip(finite_or_nan(image), 0.0, 1.0) * np.float32(255)) / np.float32(255)


def finite_or_nan(x: np.ndarray) -> np.ndarray:
  return np.where(np.isfinite(x), x, np.float32(np.nan))
