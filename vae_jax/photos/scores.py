"""The scores of an image, their means, and what they mean: the protocol of a comparison."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import metrics
from vae_jax.data.degrade import degrade_values
from vae_jax.photos.baselines import JPEG_BLOCK
from vae_jax.photos.cases import Task
from vae_jax.photos.stopwatch import REPEATED
from vae_jax.types import Array

LPIPS_SIDE = 32  # the deepest layer of AlexNet needs 31

METRICS = {
  "psnr_rgb": "dB over R, G and B, nothing cropped; 100 at most",
  "psnr_y": "dB of Y of MATLAB's rgb2ycbcr, unrounded; a grey image is its own Y; 100 at most",
  "psnr_b": "dB over all channels that counts JPEG's blocks (Yim & Bovik 2011), nothing cropped; 100 at most",
  "ssim_y": "SSIM of the same Y: 11 x 11 Gaussian window of sigma 1.5, inside the image only",
  "lpips": "learned perceptual distance, nothing cropped; lower is better",
  "blockiness": "differences of Y across the edges of JPEG's blocks relative to others, nothing cropped; 1 = no blocks",
}


@functools.partial(jax.jit, static_argnames=("crop", "block"))
def _fidelity(output: np.ndarray, clean: np.ndarray, crop: int, block: int) -> dict[str, Array]:
  colour = clean.shape[-1] == 3
  scores = {"psnr_y": metrics.psnr_y(output, clean, crop), "ssim_y": metrics.ssim_y(output, clean, crop)}
  if colour:
    scores["psnr_rgb"] = metrics.psnr_rgb(output, clean)
  if 0 < block < min(clean.shape[:2]):
    scores["psnr_b"] = metrics.psnr_b(output, clean, block)
    scores["blockiness"] = metrics.blockiness(
      metrics.rgb_to_y(output) if colour else output, factor=block // JPEG_BLOCK
    )
  return scores


def score(
  output: np.ndarray, clean: np.ndarray, crop: int, block: int, lpips: Callable[..., Array] | None
) -> dict[str, float]:
  """Scores an image by each of METRICS that applies to it. block: see `Task`."""
  found = {name: float(value) for name, value in _fidelity(output, clean, crop, block).items()}
  if lpips is not None and min(clean.shape[:2]) >= LPIPS_SIDE:
    found["lpips"] = float(lpips(output[None], clean[None])[0]) if np.isfinite(output).all() else math.nan
  return {name: found[name] for name in METRICS if name in found}


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Averages each metric over the images that have it."""
  return {
    name: float(np.mean([s[name] for s in scores if name in s]))
    for name in METRICS
    if any(name in s for s in scores)
  }


def without_nonfinite(value: Any, where: str, bad: list[str]) -> Any:
  """Returns `value` with None for each number that is not finite; their names are added to `bad`."""
  if isinstance(value, dict):
    return {k: without_nonfinite(v, f"{where}/{k}" if where else k, bad) for k, v in value.items()}
  if isinstance(value, list):
    return [
      without_nonfinite(v, f"{where}/{v['name']}" if isinstance(v, dict) else f"{where}/{i}", bad)
      for i, v in enumerate(value)
    ]
  if isinstance(value, float) and not math.isfinite(value):
    bad.append(where)
    return None
  return value


def protocol(folder: Path, task: Task, scored: Mapping[str, float], lpips: Any) -> dict[str, Any]:
  """Returns what is compared, and how, in words and numbers. scored: the metrics that there are."""
  degrade, factor, pairs = task.config, task.factor, task.paired
  values = degrade_values(degrade)
  network = getattr(getattr(lpips, "extractor", None), "network", None)
  return {
    "folder": str(folder),
    "degradation": "pairs" + (f", factor {factor}" if factor > 1 else "")
    if pairs
    else _in_words(degrade["name"], values),
    "degrade": {"name": degrade["name"], **values},
    "pairs": pairs,
    "factor": factor,
    "clean": f"cut at the bottom and right to a multiple of {factor}" if factor > 1 else "whole",
    "degraded": "as stored"
    if pairs
    else "rounded to 8 bits"
    if task.in_8_bits
    else "not clipped, not rounded",
    "outputs": "clipped to [0, 1] and rounded to 8 bits before every score",
    "crop": task.crop,
    **({"block": task.block} if task.block else {}),
    "channels": task.channels,
    "seed": task.seed,
    "seconds": (
      f"without compilation: the first image of a size is restored again for its time; null once {REPEATED} are timed"
    ),
    "keys": "none" if pairs else "fold_in(key(seed), first 4 bytes of SHA-256 of the relative path)",
    "baselines": {name: baseline.words for name, baseline in task.baselines.items()},
    "missing": task.missing,
    "metrics": {name: words for name, words in METRICS.items() if name in scored},
    **({"lpips_network": network} if network else {}),
  }


def _in_words(name: str, values: Mapping[str, Any]) -> str:
  """Describes a degradation: a chain as it is written, others by name and values."""
  if name == "chain":
    return values["chain"]
  words = f"{name}, factor {values['factor']}" if values.get("factor", 1) > 1 else name
  shown = {key: value for key, value in values.items() if key not in ("factor", "border") and value}
  words += "".join(f", {key} {value:.4g}" for key, value in shown.items())
  return words + (", border replicated" if values.get("border") == "replicate" else "")
