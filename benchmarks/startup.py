"""Measures the cost around training: import, time to the first steps, checkpoints and logs, memory.

    python benchmarks/startup.py [--output benchmarks/results/startup.json]

import       `import vae_jax` and the parts that train, on top of `import jax`: fresh processes, taking turns
first call   from the start of `python train.py` (the default config) to the end of its first compiled loop
             (training.steps_per_call steps), with an empty and with a filled compilation cache of JAX
logs         3,050 steps with the default log_every (100) and checkpoint_every (1,000) against none before the last;
             timed from the end of the first compiled loop to the last row, so both leave out compilation, the
             validation scores and the last checkpoint; 30 rows and 3 checkpoints between
memory       peak resident memory of the whole default run, as the system reports it

Each run is a separate process in a new folder. Rounds alternate.
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
STEPS = 3050  # a multiple of the dispatch, past the third checkpoint

IMPORTS = {
  "jax": "import jax",
  "vae_jax": "import jax, vae_jax",
  "vae_jax, what inference needs": "import jax, vae_jax.inference",
  "vae_jax, what training needs": "import jax, vae_jax.training.loop",
}

# Runs train.main with the hooks that tell the time: FIRST prints and ends there.
CHILD = """
import json, os, sys, time
sys.path.insert(0, os.getcwd())
import jax
import train
from vae_jax.training import parallel, writers
first, argv = json.loads(sys.argv[1]), sys.argv[2:]
times, compile_train_call, scalars = {}, parallel.compile_train_call, writers.Writers.scalars

def timed(*args, **kinds):
  call = compile_train_call(*args, **kinds)
  def run(*args):
    out = call(*args)
    if "first" not in times:
      jax.block_until_ready(out)
      times["first"] = time.time()
      if first:
        print(json.dumps(times), flush=True)
        os._exit(0)
    return out
  return run

def row(self, step, split, *args):
  scalars(self, step, split, *args)
  if split == "train":
    times["last"] = time.time()

parallel.compile_train_call, writers.Writers.scalars = timed, row
train.main(argv)
print(json.dumps(times), flush=True)
"""


def child(first: bool, *flags: str, cache: str | None = None) -> dict[str, float]:
  """Seconds since the start of the process: "first" dispatch done, "last" row written."""
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  if cache:
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, "-c", CHILD, json.dumps(first), "--workdir", f"{workdir}/run", *flags]
    start = time.time()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(f"a run failed: {done.stderr.strip()[-500:]}")
  times = json.loads(done.stdout.splitlines()[-1])
  return {name: value - start for name, value in times.items()}


def imports(rounds: int) -> dict[str, float]:
  """Seconds of fresh processes by what they import, and what each adds to `import jax`."""
  times: dict[str, list[float]] = {name: [] for name in IMPORTS}
  for _ in range(rounds):
    for name, code in IMPORTS.items():
      start = time.perf_counter()
      subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
      times[name].append(time.perf_counter() - start)
  added = {
    f"{name}, on top of jax": statistics.median(b - a for a, b in zip(times["jax"], values, strict=True))
    for name, values in times.items()
    if name != "jax"
  }
  return {"jax": round(statistics.median(times["jax"]), 3)} | {k: round(v, 3) for k, v in added.items()}


def first_call(rounds: int) -> dict[str, float]:
  cold, warm = [], []
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as cache:
      cold.append(child(True, cache=cache)["first"])
      warm.append(child(True, cache=cache)["first"])
  return {
    "empty_cache_seconds": round(statistics.median(cold), 2),
    "filled_cache_seconds": round(statistics.median(warm), 2),
  }


def logs(rounds: int, steps: int) -> dict[str, Any]:
  """The share of the time that rows and checkpoints at the default intervals take."""
  seldom = [f"--config.training.{key}_every={steps}" for key in ("log", "checkpoint")]
  always = [f"--config.training.steps={steps}", f"--config.training.eval_every={steps}"]
  times: dict[str, list[float]] = {"default": [], "none": []}
  with tempfile.TemporaryDirectory() as cache:
    for _ in range(rounds):
      for name, flags in (("default", always), ("none", [*always, *seldom])):
        found = child(False, *flags, cache=cache)
        times[name].append(found["last"] - found["first"])
  shares = [1 - b / a for a, b in zip(times["default"], times["none"], strict=True)]
  return {
    "steps": steps,
    "default_seconds": round(statistics.median(times["default"]), 3),
    "none_seconds": round(statistics.median(times["none"]), 3),
    "share": round(statistics.median(shares), 4),
    "share_by_round": [round(share, 4) for share in shares],
  }


def default_run(steps: int | None) -> dict[str, float]:
  """Seconds and peak resident memory of `python train.py`."""
  with tempfile.TemporaryDirectory() as workdir:
    flags = ["--workdir", f"{workdir}/run"] + ([f"--config.training.steps={steps}"] if steps else [])
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
      process = subprocess.Popen([sys.executable, "train.py", *flags], cwd=ROOT, stdout=log, stderr=log)
      _, status, usage = os.wait4(process.pid, 0)
    if status:
      raise SystemExit("the default run failed; try python train.py")
  unit = 1 if sys.platform == "darwin" else 1024
  return {
    "seconds": round(time.perf_counter() - start, 1),
    "peak_resident_mib": round(usage.ru_maxrss * unit / 2**20),
  }


def main() -> None:
  args = timing.parser(__doc__).parse_args()
  rounds, few = args.rounds, max(1, args.rounds // 2)
  result = timing.about()
  for name, part in (
    ("import_seconds", lambda: imports(rounds)),
    ("first_call", lambda: first_call(few)),
    ("logs_and_checkpoints", lambda: logs(few, 150 if args.quick else STEPS)),
    ("default_run", lambda: default_run(100 if args.quick else None)),
  ):
    result[name] = part()
    print(f"{name}: {result[name]}", flush=True)
  timing.finish(result, args.output)


if __name__ == "__main__":
  main()
