"""A restoration model on a folder of clean photographs, beside classical baselines, as papers score it.

    scores, picture = benchmark(restore, "BSDS300/test", config.data.degrade, channels=3)
    print(score_table.table(scores))

What is compared, and what papers leave unsaid: `scores["protocol"]` holds all of it.

- Down-sampling: the clean image is cut at the bottom and right to a multiple of the factor ("modcrop"); the small one
  is rounded to 8 bits, as the file would be that a user has. Noise is neither clipped nor rounded.
- Every output, of the model and of the baselines, is clipped to [0, 1] and rounded to 8 bits before it is scored.
- PSNR and SSIM of Y leave `factor` pixels of each border out, none where nothing was down-sampled; PSNR of RGB and
  LPIPS see the whole image.
- The noise of an image is a function of `seed` and of its path below the folder: other files and `limit` do not count.
- A picture with transparency is laid over white, whatever colours are stored where it cannot be seen.
- Files X_LR.png beside X_HR.png or X.png are taken as pairs, in place of the run's own degradation.

The scores, ready for JSON:

- protocol: what is compared, and how; `missing`: PyPI packages of baselines that are not installed.
- images: [{name, height, width (of what is scored), ours: {psnr_rgb (of colour), psnr_y, ssim_y, lpips; after JPEG
  psnr_b and blockiness}, bicubic: {...}, ...}].
- mean: {ours: {...}, ...}, in float64, over all images; of LPIPS over those large enough, `lpips_images`, and
  likewise `psnr_b_images`.
- seconds: {ours: {mean, median, per_megapixel, images}, ...}, without compilation, which the first image of a size may
  bring about: that is restored again, or, once a few are timed, has None in `images` and no part in the rest.
  `per_megapixel`: the median over images of seconds for 1e6 pixels of the degraded image.
- skipped: [{name, reason}]: files that cannot be decoded or are of a kind that is not read, and images below 16 pixels
  or too small for SSIM.
- failed: [{name, baseline, reason}]: baselines that raised an error or gave what is not finite; their scores of that
  image are not finite.
- nonfinite: the names of scores that are not finite. Each of them, and each mean with one in it, is None; output that
  is infinite or NaN anywhere has no finite score.
- uncertainty (with `deviation`), of the standard deviation and the absolute error of `restore`'s output (both
  unrounded), over all pixels and channels of all images: `correlation`, Pearson's; `correlation_per_image_mean`;
  `coverage`, the share of errors within 2 deviations (94% of a Laplace density, 95% of a normal one);
  `rms_error_over_deviation`, the ratio of the root mean squares; the means of both, `mean_deviation` and `mean_error`,
  in units of [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax.data.degrade import factor_of, make_degrade
from vae_jax.errors import UserError
from vae_jax.photos import baselines
from vae_jax.photos.baselines import Baseline, block_of, make_baselines, sigma_of
from vae_jax.photos.calibration import Calibration
from vae_jax.photos.cases import (
  Case,
  Task,
  check_pairs,
  eight_bits,
  list_cases,
  list_unread,
  open_case,
  skipped_entry,
)
from vae_jax.photos.contact_sheet import Detail, cut_details, make_sheet
from vae_jax.photos.scores import means, protocol, score, without_nonfinite
from vae_jax.photos.stopwatch import Stopwatch
from vae_jax.progress import FileProgress
from vae_jax.types import Array, ArrayLike

Restore = Callable[[np.ndarray], ArrayLike]


class Lost(NamedTuple):
  """What is not scored: `skipped` images and `failed` baselines of the scores."""

  skipped: list[dict[str, str]]
  failed: list[dict[str, str]]


def benchmark(
  restore: Restore,
  folder: str | os.PathLike,
  degrade: Mapping[str, Any],
  *,
  channels: int,
  seed: int = 0,
  lpips: Callable[..., Array] | None = None,
  limit: int = 0,
  draws: Sequence[Restore] = (),
  deviation: Callable[[np.ndarray], ArrayLike] | None = None,
  sheet: int = 8,
  white: int = 0,
) -> tuple[dict[str, Any], np.ndarray]:
  """Scores `restore` and the baselines (see `baselines`) on every image below `folder`.

  Args:
    restore: degraded float32 [h', w', c] -> float32 [h, w, c]; whole images of any size. Noise leaves [0, 1].
    folder: searched for images; sub-folders too.
    degrade: `config.data.degrade` of the run. Pairs may have identity here, else its factor.
    channels: 1 (grey, ITU-R BT.601 luma) or 3.
    seed: of noise.
    lpips: a `perceptual.LPIPS`, to score with it too images from 32 x 32 pixels.
    limit: only the first images, in order of their paths; 0: all.
    draws: random restorations, as `restore`; scored as the methods "draw 1", "draw 2", ...
    deviation: degraded -> the standard deviation of the clean image about `restore`'s output, float32 [h, w, c]; see
      "uncertainty".
    sheet: rows of the picture, at least 1.
    white: of grey images of more than 8 bits, as `config.data.white`.

  Returns:
    (scores, picture). The scores are described above. The picture, uint8 [H, W, 3]: see `contact_sheet`.

  Raises:
    UserError: no such folder, no image in it that can be scored, pairs that are incomplete, ambiguous or of another
      factor, a wrong value of `degrade`, `channels` or `limit`.
    ValueError: `restore`, a draw or `deviation` returns another shape, or no floats.
  """
  if channels not in (1, 3) or limit < 0 or sheet < 1:
    raise UserError(
      f"channels={channels}, limit={limit}, sheet={sheet}: channels must be 1 or 3, limit at least 0, sheet at least 1"
    )
  make_degrade(degrade)  # raises where a value is wrong
  folder = Path(folder).expanduser()
  found = list_cases(folder)[: limit or None]
  lost = Lost(list_unread(folder), [])
  cases, task = _make_task(found, dict(degrade), channels, seed, white, lost.skipped)
  ours = {"ours": restore} | {f"draw {k}": draw for k, draw in enumerate(draws, start=1)}
  watch = Stopwatch((*ours, *task.baselines))
  calibration = None if deviation is None else Calibration(deviation)
  entries, details = _score_images(ours, cases, task, lpips, watch, calibration, sheet, lost)
  if not entries:
    last = lost.skipped[-1]
    raise UserError(
      f"{folder}: none of {len(found)} images can be scored ({last['name']}: {last['reason']}); "
      "choose another folder"
    )
  scores = _summary(folder, task, lpips, entries, watch, calibration, lost)
  return scores, make_sheet(details, scores["mean"], channels, task.crop)


def _make_task(
  cases: Sequence[Case],
  degrade: Mapping[str, Any],
  channels: int,
  seed: int,
  white: int,
  skipped: list[dict[str, str]],
) -> tuple[Sequence[Case], Task]:
  """Returns the cases that can be scored, and what is done to them. Adds to `skipped`."""
  paired = cases[0].low is not None
  factor = factor_of(degrade)
  if paired:
    cases, factor = check_pairs(cases, degrade, channels, white, skipped)
  function = make_degrade(degrade)
  if degrade["name"] == "chain":
    function = jax.jit(function)  # many small operations: one by one they take ten times as long to compile
  block = 0 if paired else block_of(degrade)
  methods, missing = make_baselines(degrade, factor, paired)
  return cases, Task(
    degrade, function, channels, seed, paired, factor, sigma_of(degrade), block, methods, missing, white
  )


def _score_images(
  ours: Mapping[str, Restore],
  cases: Sequence[Case],
  task: Task,
  lpips: Callable[..., Array] | None,
  watch: Stopwatch,
  calibration: Calibration | None,
  sheet: int,
  lost: Lost,
) -> tuple[list[dict[str, Any]], list[Detail]]:
  """Returns "images" of the scores, and what the first `sheet` rows show. Adds to `lost`."""
  entries: list[dict[str, Any]] = []
  details: list[Detail] = []
  for case in _shown(cases):
    opened = open_case(case, task)
    if isinstance(opened, str):
      lost.skipped.append(skipped_entry(case, opened))
      continue
    clean, degraded = opened
    degraded.setflags(write=False)  # what one method does to it, no other shall see
    sigma = task.sigma_for(clean, degraded)
    methods = {name: (method, degraded) for name, method in ours.items()} | {
      name: (_tried(name, baseline, case.name, lost.failed), degraded, sigma, clean)
      for name, baseline in task.baselines.items()
    }
    raw = watch.run(methods, degraded.shape, clean.shape)
    outputs = {name: eight_bits(output) for name, output in raw.items()}
    scored = {name: score(output, clean, task.crop, task.block, lpips) for name, output in outputs.items()}
    entry = {"name": case.name, "height": clean.shape[0], "width": clean.shape[1], **scored}
    if calibration is not None:
      entry["correlation"] = calibration.add(degraded, raw["ours"], clean)
    entries.append(entry)
    if len(details) < sheet:
      details.append(cut_details(case.name, degraded, outputs, clean, scored, task.factor))
  return entries, details


def _tried(name: str, baseline: Baseline, image: str, failed: list[dict[str, str]]) -> baselines.Restore:
  """Makes a baseline give NaN where it fails; then `failed` gets an entry."""

  def restore(degraded: np.ndarray, sigma: float | None, clean: np.ndarray) -> np.ndarray:
    try:
      output = np.asarray(baseline.restore(degraded, sigma, clean), np.float32)
      if output.shape == clean.shape and np.isfinite(output).all():
        return output
      reason = "its output is not finite" if output.shape == clean.shape else f"its output is {output.shape}"
    except Exception as error:  # whatever another package raises
      reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failed.append({"name": image, "baseline": name, "reason": reason})
    return np.full(clean.shape, np.nan, np.float32)

  return restore


def _shown(cases: Sequence[Case]) -> Iterator[Case]:
  """Yields the cases, and shows how far they are on standard error."""
  what = f"scoring {len(cases)} image{'s' if len(cases) > 1 else ''}"
  with FileProgress() as progress:
    for done, case in enumerate(cases):
      progress.update(what, done, len(cases), note="" if done else "compiling")
      yield case


def _summary(
  folder: Path,
  task: Task,
  lpips: Callable[..., Array] | None,
  entries: list[dict[str, Any]],
  watch: Stopwatch,
  calibration: Calibration | None,
  lost: Lost,
) -> dict[str, Any]:
  """Returns the scores of the folder; None in place of those that are not finite."""
  mean = {name: means([entry[name] for entry in entries]) for name in watch.methods}
  scores: dict[str, Any] = {
    "protocol": protocol(folder, task, mean["ours"], lpips),
    "count": len(entries),
    **{
      f"{metric}_images": sum(metric in entry["ours"] for entry in entries)
      for metric, asked in (("lpips", lpips is not None), ("psnr_b", task.block > 0))
      if asked
    },
    "mean": mean,
    "images": entries,
    "seconds": watch.summary(),
    **lost._asdict(),
  }
  if calibration is not None:
    scores["uncertainty"] = calibration.summary()
  bad: list[str] = []
  scores = without_nonfinite(scores, "", bad)
  return {**scores, "nonfinite": bad}
