"""Checks that memory, speed and log files stay constant in a long run of a tiny model.

    pip install -e .
    python benchmarks/long_run.py [--steps 200000] [--output JSON] [--plot SVG]

Runs train.py as a user does, with a VAE 64-16-4 on 8 x 8 noise and batch 16: a row of metrics every 100 steps;
validation, pictures and a checkpoint every 5,000. Reads resident memory from outside, twice a second. The result is the
largest value after the warm-up (the first tenth), relative to the value at the end of the warm-up. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timing

ROOT = Path(__file__).parents[1]
EVERY = 5000  # steps between validations, and between points of the curve
CONFIG = {
  "data.name": "npz",
  "model.hidden": "16",
  "model.latent_dim": "4",
  "training.batch_size": "16",
  "training.log_every": "100",
  "training.eval_every": str(EVERY),
  "training.checkpoint_every": str(EVERY),
  "evaluation.batch_size": "64",
  "evaluation.pictures": "16",
}


def write_data(folder: Path) -> None:
  random = np.random.default_rng(0)
  for split, n in (("train", 2000), ("validation", 100), ("test", 100)):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8))


def resident(pid: int) -> int:
  """Bytes; 0 where the process is gone."""
  try:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except (OSError, IndexError):
    return 0


def progress(log: Path, offset: int) -> tuple[int | None, int]:
  """The last step among the rows after `offset`, and the new offset."""
  if not log.exists():
    return None, offset
  with log.open("rb") as file:
    file.seek(offset)
    lines = file.read().splitlines(keepends=True)
  whole = [line for line in lines if line.endswith(b"\n")]
  return (json.loads(whole[-1])["step"] if whole else None), offset + sum(map(len, whole))


def watch(process: subprocess.Popen, log: Path, steps: int) -> list[tuple[int, float, int]]:
  """(step, seconds, bytes of resident memory), twice a second, until the process ends."""
  points, start, offset, step = [], time.monotonic(), 0, 0
  while process.poll() is None:
    time.sleep(0.5)
    found, offset = progress(log, offset)
    step = step if found is None else found
    if memory := resident(process.pid):
      points.append((step, time.monotonic() - start, memory))
      print(f"\rstep {step}/{steps}, {memory / 2**20:.0f} MiB ", end="", file=sys.stderr, flush=True)
  print(file=sys.stderr)
  return points


def summary(points: list[tuple[int, float, int]], steps: int) -> dict:
  """One row a tenth of the run: its largest memory and its steps a second."""
  rows = []
  for tenth in range(10):
    here = [p for p in points if tenth * steps / 10 <= p[0] <= (tenth + 1) * steps / 10 and p[0]]
    if len(here) > 1 and here[-1][0] > here[0][0]:
      speed = (here[-1][0] - here[0][0]) / (here[-1][1] - here[0][1])
      peak = max(p[2] for p in here) / 2**20
      rows.append(
        {"until": (tenth + 1) * steps // 10, "mib": round(peak, 1), "steps_per_second": round(speed)}
      )
  later = [row["mib"] for row in rows[1:]]
  speeds = [row["steps_per_second"] for row in rows[1:]]
  half = len(speeds) // 2
  return {
    "tenths": rows,
    "memory_after_warm_up": round(max(later) / rows[0]["mib"], 4),
    "speed_of_second_half": round(statistics.median(speeds[half:]) / statistics.median(speeds[:half]), 3),
  }


def plot(points: list[tuple[int, float, int]], steps: int) -> str:
  """Memory over steps, as SVG."""
  width, height, left, bottom = 640, 240, 60, 40
  top = 1.2 * max(p[2] for p in points) / 2**20

  def place(step: float, mib: float) -> str:
    return f"{left + (width - left - 20) * step / steps:.1f},{height - bottom - (height - bottom - 20) * mib / top:.1f}"

  line = " ".join(place(step, memory / 2**20) for step, _, memory in points if step)
  text = 'font-family="sans-serif" font-size="12" fill="#444"'
  marks = []
  for share in (0, 0.5, 1):
    x, y = place(share * steps, 0).split(",")
    marks.append(f'<text x="{x}" y="{float(y) + 18}" text-anchor="middle" {text}>{share * steps:,.0f}</text>')
    x, y = place(0, share * top).split(",")
    marks.append(
      f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end" {text}>{share * top:.0f}</text>'
    )
  corner, end, up = place(0, 0), place(steps, 0), place(0, top)
  return "\n".join(
    [
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
      f'<rect width="{width}" height="{height}" fill="white"/>',
      f'<polyline points="{up} {corner} {end}" fill="none" stroke="#444"/>',
      f'<polyline points="{line}" fill="none" stroke="#0a62c4" stroke-width="1.5"/>',
      *marks,
      f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle" {text}>steps</text>',
      f'<text x="{left + 8}" y="16" {text}>resident memory, MiB</text>',
      "</svg>\n",
    ]
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=200_000)
  parser.add_argument("--output", type=Path, metavar="JSON", help="where to write the figures")
  parser.add_argument("--plot", type=Path, metavar="SVG", help="where to draw memory over steps")
  args = parser.parse_args()
  if not Path("/proc/self/statm").exists():
    parser.error("resident memory is read from /proc, which this system has not; run it on Linux")
  with tempfile.TemporaryDirectory() as folder:
    data, workdir = Path(folder) / "data", Path(folder) / "run"
    data.mkdir()
    write_data(data)
    values = CONFIG | {"data.dir": str(data), "training.steps": str(args.steps)}
    command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir)]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    with tempfile.TemporaryFile("w+") as said:
      process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
      points = watch(process, workdir / "metrics.jsonl", args.steps)
      said.seek(0)
      if process.wait():
        sys.exit(f"train.py ended with {process.returncode}: {said.read()[-2000:]}")
    log = (workdir / "metrics.jsonl").stat().st_size
    events = sum(p.stat().st_size for p in (workdir / "tensorboard").rglob("*") if p.is_file())
    kept = sorted(p.name for p in (workdir / "checkpoints").iterdir())
  result = {
    "workload": "long run",
    "settings": values | {"data.dir": ""},
    **timing.about(),
    **summary(points, args.steps),
    "seconds": round(points[-1][1]),
    "bytes_of_log_a_row": round(log / (args.steps / 100 + args.steps / EVERY), 1),
    "bytes_of_tensorboard": events,
    "checkpoints_kept": kept,
  }
  for row in result["tenths"]:
    print(f"until step {row['until']:>8,}: {row['mib']:8.1f} MiB, {row['steps_per_second']:6,} steps/s")
  print(
    f"largest memory after the first tenth: {result['memory_after_warm_up']} times that of the first tenth"
  )
  print(f"speed of the second half: {result['speed_of_second_half']} times that of the first")
  if args.plot:
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    args.plot.write_text(plot(points, args.steps))
  timing.finish(result, args.output)


if __name__ == "__main__":
  main()
