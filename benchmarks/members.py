"""Times N runs in one program (training.vmap_seeds=N) against N runs one after the other.

    python benchmarks/members.py [--output benchmarks/results/members.json]

whole    seconds from the start of `python train.py` to its end, compilation, scores and checkpoints included; of the
         separate runs, the sum
steady   steps a second of all runs together, without what comes between steps: the median over rows of metrics.jsonl
         (images_per_second), without the first

Ratios are of one program over separate runs, so that 2 means twice as fast, or half the time. Each round trains both,
in turns, in new folders and without a compilation cache. A figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timing

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, MEMBERS = (512, 64), (2, 4, 8)  # the width of configs/mnist_vae.py, and a small one
STEPS = 2000


def run(hidden: int, steps: int, *words: str) -> tuple[float, float]:
  """Trains the default config in a process of its own. Returns its seconds, and the steps a second of all its runs."""
  every = max(steps // 10, 1)
  keys = [f"training.steps={steps}", f"training.log_every={every}", f"model.hidden={hidden}", *words]
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  with tempfile.TemporaryDirectory() as folder:
    workdir = Path(folder) / "run"
    command = [sys.executable, "train.py", "--workdir", str(workdir), *(f"--config.{key}" for key in keys)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
      raise SystemExit(f"a run failed: {done.stderr.strip()[-500:]}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    batch = json.loads((workdir / "config.json").read_text())["training"]["batch_size"]
  speeds = [row["images_per_second"] / batch for row in rows if row["split"] == "train"]
  return seconds, statistics.median(speeds[1:] or speeds)


def compare(hidden: int, members: int, steps: int) -> dict[str, float]:
  """A round: both ways once."""
  together, speed = run(hidden, steps, f"training.vmap_seeds={members}")
  apart = [run(hidden, steps, f"training.seed={seed}") for seed in range(members)]
  alone = statistics.median(one for _, one in apart)
  return {
    "whole": sum(seconds for seconds, _ in apart) / together,
    "steady": speed / alone,
    "together_seconds": together,
    "together_steps_per_second": speed,
    "alone_steps_per_second": alone,
  }


def main() -> None:
  parser = timing.parser(__doc__)
  parser.set_defaults(rounds=3)
  parser.add_argument("--members", type=int, nargs="+", default=MEMBERS, help="numbers of runs")
  parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN, help="widths of the hidden layer")
  args = parser.parse_args()
  steps = 20 if args.quick else STEPS
  result: dict[str, Any] = {**timing.about(), "steps": steps, "rows": []}
  for hidden in args.hidden:
    for members in args.members:
      rounds = [compare(hidden, members, steps) for _ in range(args.rounds)]
      row = {name: timing.rounded(statistics.median(one[name] for one in rounds)) for name in rounds[0]}
      ratios = {
        f"{name}_by_round": [timing.rounded(one[name]) for one in rounds] for name in ("whole", "steady")
      }
      result["rows"].append({"hidden": hidden, "members": members, **row, **ratios})
      print(json.dumps(result["rows"][-1]), flush=True)
  timing.finish(result, args.output)


if __name__ == "__main__":
  main()
