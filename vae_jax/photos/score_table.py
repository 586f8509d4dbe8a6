"""The scores of a folder as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vae_jax.photos.baselines import NAMES
from vae_jax.photos.scores import METRICS

TITLES = {
  "psnr_rgb": "PSNR RGB",
  "psnr_y": "PSNR Y",
  "psnr_b": "PSNR-B",
  "ssim_y": "SSIM Y",
  "lpips": "LPIPS",
  "blockiness": "blockiness",
}
DIGITS = {"psnr_rgb": 2, "psnr_y": 2, "psnr_b": 2, "ssim_y": 4, "lpips": 4, "blockiness": 3}
SECONDS = "s/MP"
NAMED = 20  # skipped files in the table; the scores have all


def table(scores: Mapping[str, Any]) -> str:
  """Writes the means as text: a row a method, a column a metric, with the difference to the first sound baseline."""
  mean, protocol = scores["mean"], scores["protocol"]
  first = next((one for one in protocol["baselines"] if None not in mean[one].values()), None)

  def cell(method: str, metric: str) -> str:
    digits = DIGITS[metric]
    value, base = mean[method][metric], mean[first][metric] if first else None
    text = "nan" if value is None else f"{value:.{digits}f}"
    if first is None:
      return text
    bare = method == first or value is None or base is None
    return text + (" " * (digits + 5) if bare else f" {value - base:+{digits + 4}.{digits}f}")

  shown = [metric for metric in METRICS if metric in mean["ours"]]
  grey = protocol["channels"] == 1
  lines = [["", *(TITLES[metric].removesuffix(" Y" if grey else "") for metric in shown), SECONDS]]
  for method in mean:
    seconds = scores["seconds"][method]["per_megapixel"]
    taken = "nan" if seconds is None else f"{seconds:.3g}"
    lines.append([NAMES.get(method, method), *(cell(method, metric) for metric in shown), taken])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  crop = f", {protocol['crop']} pixels of the border cropped" if protocol["crop"] else ""
  count = f"{scores['count']} image{'s' if scores['count'] > 1 else ''}"
  text = [f"{protocol['degradation']}: {count}{crop}, outputs rounded to 8 bits"]
  for number, (head, *cells) in enumerate(lines):
    # Titles stand above the values, not above the differences.
    aligned = [
      c.ljust(n) if number == 0 and c != SECONDS else c.rjust(n)
      for c, n in zip(cells, widths[1:], strict=True)
    ]
    text.append("  ".join([f"  {head.ljust(widths[0])}", *aligned]).rstrip())
  notes = [f"differences to {NAMES.get(first, first)}"] if first and len(mean) > 1 else []
  notes += ["LPIPS: lower is better"] if "lpips" in shown else []
  notes += ["blockiness: 1 = no blocks"] if "blockiness" in shown else []
  notes += ["s/MP: seconds for 1e6 pixels of the input"]
  notes += [f"not installed: {', '.join(protocol['missing'])}"] if protocol["missing"] else []
  skipped = scores["skipped"]
  notes += [f"{len(skipped)} skipped"] if skipped else []
  notes += [f"{len(scores['nonfinite'])} not finite"] if scores["nonfinite"] else []
  text += [f"  ({'; '.join(notes)})"]
  text += [f"  skipped {one['name']}: {one['reason']}" for one in skipped[:NAMED]]
  text += [f"  skipped {len(skipped) - NAMED} more"] if len(skipped) > NAMED else []
  failed = scores["failed"]
  text += [
    f"  {NAMES.get(one['baseline'], one['baseline'])} failed on {one['name']}: {one['reason']}"
    for one in failed[:NAMED]
  ]
  text += [f"  baselines failed on {len(failed) - NAMED} more"] if len(failed) > NAMED else []
  if "uncertainty" in scores:
    u = scores["uncertainty"]
    value = "undefined" if u["correlation"] is None else f"{u['correlation']:.3f}"
    share = "nan" if u["coverage"] is None else f"{u['coverage']:.1%}"
    text.append(
      f"  uncertainty: correlation with the error of a pixel {value}; {share} of errors within 2 deviations"
    )
  return "\n".join(text)
