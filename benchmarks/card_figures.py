"""Scores a restoration model under the conditions of its model card, as a Markdown table.

    python benchmarks/card_figures.py --pretrained superres_x2 --input data/bsds/test --num 50
    python benchmarks/card_figures.py --pretrained denoise_grey --input data/bsds/test --num 8

PSNR in dB, on Y where a picture is enlarged and on RGB (or grey) elsewhere; mean over the first photographs of the
folder by name. Each score is that of the command benchmark with `--degrade CONDITION`, written to --folder. The
reference of denoisers is BM3D where it is installed (pip install bm3d), else non-local means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import vae_jax
from vae_jax.evaluation import benchmark_folder

QUALITIES = (95, 90, 75, 50, 30, 10)
NETWORKS = ("alexnet", "vgg16")
SIGMAS = (0, 5, 15, 25, 50, 75)


def conditions(model: Any) -> list[str]:
  """The chains that the card of a model has figures for; the first is what it was made for."""
  if model.factor > 1:
    down = f"down {model.factor}"
    clean = f"{down} bicubic"
    after = (
      [f"jpeg {q}" for q in QUALITIES[:-1]] + [f"noise {s}" for s in (2, 5, 10)] + ["sharpen 1", "blur 0.7"]
    )
    others = [f"{down} {name}" for name in ("lanczos", "box", "nearest")]
    return [clean, *(f"{clean}; {step}; round" for step in after), *(f"{one}; round" for one in others)]
  if "noise" in model.config.data.degrade.chain:
    return [f"noise {s}{end}" for end in ("", "; round") for s in SIGMAS]
  return [f"jpeg {q} {kind}" for kind in ("420", "444") for q in QUALITIES]


def row(condition: str, scores: dict[str, Any], factor: int) -> str:
  """A line of the table: the reference, the model, their difference; blockiness and PSNR-B where there are blocks."""
  mean, baselines = scores["mean"], scores["protocol"]["baselines"]
  metric = "psnr_y" if factor > 1 or "psnr_rgb" not in scores["mean"]["ours"] else "psnr_rgb"
  reference = next(iter(baselines))
  untouched = next((one for one in ("noisy", "input", "bicubic") if one in mean), reference)

  def value(method: str, name: str) -> str:
    found = mean[method].get(name)
    return "" if found is None else f"{found:.{3 if name == 'lpips' else 2}f}"

  cells = [condition, value(untouched, metric), value(reference, metric), value("ours", metric)]
  cells.append(f"{mean['ours'][metric] - mean[reference][metric]:+.2f}")
  cells += [
    value(method, name) for name in ("psnr_b", "blockiness", "lpips") for method in (untouched, "ours")
  ]
  uncertainty = scores.get("uncertainty") or {}
  cells += [f"{uncertainty[n]:.2f}" if uncertainty.get(n) is not None else "" for n in UNCERTAINTY.values()]
  return "| " + " | ".join(cells) + " |"


UNCERTAINTY = {"correlation": "correlation", "coverage": "coverage", "ratio": "rms_error_over_deviation"}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pretrained", required=True, help="name of a model, or the folder of a run")
  parser.add_argument("--input", required=True, type=Path, help="folder of clean photographs")
  parser.add_argument("--num", type=int, default=50, help="the first N photographs (default 50; 0: all)")
  parser.add_argument("--folder", type=Path, default=Path("evaluation/card"), help="where the scores go")
  parser.add_argument("--only", help="only conditions with this text")
  parser.add_argument(
    "--lpips", default="none", choices=("none", *NETWORKS), help="also LPIPS on this network"
  )
  args = parser.parse_args()
  model = vae_jax.load(args.pretrained)
  model.config.evaluation.lpips = args.lpips
  names = ["condition", "input", "reference", "model", "gain", "PSNR-B in", "out"]
  names += ["blockiness in", "out", "LPIPS in", "out", *UNCERTAINTY]
  print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
  for i, condition in enumerate(conditions(model)):
    if args.only and args.only not in condition:
      continue
    output = args.folder / Path(args.pretrained).name / f"{i:02}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    benchmark_folder(model, args.input, output, limit=args.num, degrade=condition)
    print(row(condition, json.loads(output.read_text()), model.factor), flush=True)


if __name__ == "__main__":
  main()
