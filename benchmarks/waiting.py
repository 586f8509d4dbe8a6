"""Measures the share of time train.py waits for data (from its own log rows), and how fast folders are read.

    pip install -e .
    python benchmarks/waiting.py [--output benchmarks/results/waiting.json]

digits   10,000 images of 28 x 28 x 1 in the devices' memory, the MLP of the default config, batch 128
cifar    50,000 images of 32 x 32 x 3 in the devices' memory, a convolutional VAE, batch 128
folder   JPEG files of 160 x 160 pixels, read and decoded while training (data.resident_mb=0), the same VAE, batch 16

The images are generated: coloured waves with noise, whose JPEG files are as large as photographs. "waiting" counts all
time in which the next batch was not ready, even if the device was busy, so it is an upper bound. `images_per_second` of
`reading` is the rate of the pipeline alone, without a model. A device that trains faster waits, or needs more
data.workers and cores.
"""

from __future__ import annotations

import argparse
import itertools
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
from PIL import Image

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.data.sources import open_source

ROOT = Path(__file__).parents[1]
CONV = "model.name=conv_vae model.channels=32,64 model.blocks=1 model.likelihood=gaussian"
# Dispatches of steps, so that rows come often on a CPU too.
RUNS = {
  "digits": ("data.name=npz training.steps=4000 training.log_every=500 training.batch_size=128", 10_000),
  "cifar": (f"data.name=npz {CONV} training.steps=60 training.log_every=10 training.batch_size=128", 50_000),
  "folder": (
    f"data.name=folder data.resident_mb=0 {CONV} training.steps=30 training.log_every=5 training.batch_size=16",
    2_000,
  ),
}
SHAPES = {"digits": (28, 28, 1), "cifar": (32, 32, 3), "folder": (160, 160, 3)}


def pictures(random: np.random.Generator, n: int, shape: tuple[int, int, int]) -> np.ndarray:
  """uint8 [n, h, w, c]: three waves a channel, and noise."""
  h, w, c = shape
  y, x = np.mgrid[:h, :w][..., None] / 32
  values = np.empty((n, *shape), np.uint8)
  for i in range(n):
    a, b, phase = random.uniform(-6, 6, (3, 3, c))
    waves = sum(np.sin(a[k] * y + b[k] * x + phase[k]) for k in range(3))
    values[i] = np.clip(128 + 35 * waves + random.normal(0, 8, shape), 0, 255)
  return values


def write_data(name: str, folder: Path, count: int) -> None:
  random = np.random.default_rng(0)
  for split, n in (("train", count), ("validation", 64), ("test", 64)):
    images = pictures(random, n, SHAPES[name])
    if name != "folder":
      np.savez(folder / f"{split}.npz", image=images)
      continue
    (folder / split).mkdir()
    for i, image in enumerate(images):
      Image.fromarray(image).save(folder / split / f"{i:05d}.jpg", quality=90)


def trained(name: str, data: Path, workdir: Path, quick: bool) -> dict:
  """The rows of a run of train.py: share of waiting and images a second, medians after the first row."""
  options = dict(part.split("=", 1) for part in RUNS[name][0].split())
  if quick:
    options |= {"training.steps": "6", "training.log_every": "2", "training.batch_size": "8"}
  steps = options["training.steps"]
  options |= {"data.dir": str(data), "training.eval_every": steps, "training.checkpoint_every": steps}
  options |= {"evaluation.batch_size": "64", "evaluation.pictures": "8"}
  command = [sys.executable, "train.py", "--workdir", str(workdir)]
  command += [f"--config.{key}={value}" for key, value in options.items()]
  subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
  every, batch = int(options["training.log_every"]), int(options["training.batch_size"])
  times = [b["seconds"] - a["seconds"] for a, b in itertools.pairwise(rows)]
  return {
    "waiting": statistics.median(row["waiting"] for row in rows[1:]),
    "largest_of_a_row": max(row["waiting"] for row in rows[1:]),
    "images_per_second": timing.rounded(every * batch / statistics.median(times)),
    "config": options | {"data.dir": "..."},
  }


def reading(data: Path, workers: int, seconds: float) -> float:
  """Images a second of the pipeline alone."""
  overrides = f"data.name=folder data.resident_mb=0 data.dir={data} data.workers={workers}"
  config = apply_overrides(base_config(), overrides.split())
  source = open_source(config.data, "train")
  stream = pipeline.batches(config.data, source, batch_size=32, training=True, steps=10**6)
  for _ in range(4):  # the first come from a standing start
    next(stream)
  count, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    next(stream)
    count += 32
  return count / (time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output", type=Path, metavar="JSON", help="where to write the figures")
  parser.add_argument(
    "--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing"
  )
  args = parser.parse_args()
  result: dict[str, dict] = {}
  for name, (_, count) in RUNS.items():
    with tempfile.TemporaryDirectory() as folder:
      data = Path(folder) / "data"
      data.mkdir()
      print(f"{name}: making images, training", file=sys.stderr, flush=True)
      write_data(name, data, 64 if args.quick else count)
      result[name] = trained(name, data, Path(folder) / "run", args.quick)
      print(
        f"{name}: waited {result[name]['waiting']:.2%} of the time, at {result[name]['images_per_second']} images/s"
      )
      if name == "folder":
        size = statistics.mean(path.stat().st_size for path in (data / "train").iterdir())
        rates = {n: timing.rounded(reading(data, n, 0.2 if args.quick else 5)) for n in (1, 2, 4)}
        result["reading"] = {"bytes_a_file": round(size), "images_per_second_by_workers": rates}
        print("reading alone:", ", ".join(f"{rate} images/s with {n} workers" for n, rate in rates.items()))
  timing.finish({**timing.about(), "cores": os.cpu_count(), **result}, args.output)


if __name__ == "__main__":
  main()
