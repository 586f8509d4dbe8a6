"""Shared parts of the benchmarks: alternating rounds, limits of the device, the JSON and the table.

Import this module before jax: it stops jax from reserving the whole memory of a GPU, which PyTorch needs too.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

# Dense multiplications a second that the maker states, by a part of the device's name and the type.
STATED_PEAKS = {("H200", "bfloat16"): 989e12, ("H100", "bfloat16"): 989e12, ("A100", "bfloat16"): 312e12}

Run = Callable[
  [int], Any
]  # does n units; a float that it gives is its seconds, where not all of the call counts


class Runner(NamedTuple):
  """One way to do the work.

  name: begins with "torch", "pythae" or "vae_jax".
  make: makes `run(n)`, which does n units of the work and waits for the device.
  items: of a unit: images, digits, megapixels.
  dtype: runners of one dtype are compared with each other.
  """

  name: str
  make: Callable[[], Run]
  items: float
  dtype: str = "float32"


def parser(doc: str) -> Any:
  """Arguments that all have."""
  import argparse

  p = argparse.ArgumentParser(description=doc.splitlines()[0])
  p.add_argument("--output", type=Path, metavar="JSON", help="where to write the figures")
  p.add_argument("--rounds", type=int, default=7)
  p.add_argument(
    "--seconds", type=float, default=2.0, help="length of a runner's turn in a round, at least one unit"
  )
  p.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
  return p


def measure(runners: list[Runner], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
  """Compiles each runner, then lets them take turns. name -> items_per_second (median), by round, first_call_seconds;
  or "failed" and why."""
  ready: dict[str, tuple[Run, int]] = {}
  found: dict[str, dict[str, Any]] = {}
  for runner in runners:
    start = time.perf_counter()
    try:
      run = runner.make()
      run(1)  # compiles
      first = time.perf_counter() - start
      unit = seconds_of(run, 1)
    except Exception as error:
      if runner.name.startswith("vae_jax"):
        raise
      found[runner.name] = {"dtype": runner.dtype, "failed": f"{type(error).__name__}: {error}"[:300]}
      print(f"{runner.name}: {found[runner.name]['failed'].splitlines()[0]}", file=sys.stderr)
      continue
    ready[runner.name] = (run, max(1, round(seconds / unit)))
    found[runner.name] = {"dtype": runner.dtype, "first_call_seconds": round(first, 3), "by_round": []}
    print(f"{runner.name}: ready after {first:.1f} s", file=sys.stderr, flush=True)
  items = {runner.name: runner.items for runner in runners}
  for _ in range(rounds):
    for name, (run, units) in ready.items():
      found[name]["by_round"].append(units * items[name] / seconds_of(run, units))
  for row in found.values():
    if "by_round" in row:
      row["items_per_second"] = rounded(statistics.median(row["by_round"]))
      row["by_round"] = [rounded(x) for x in row["by_round"]]
  return found


def seconds_of(run: Run, units: int) -> float:
  """The seconds that the call takes, or those that it gives."""
  start = time.perf_counter()
  given = run(units)
  return given if isinstance(given, float) else time.perf_counter() - start


def ratio(found: dict[str, dict[str, Any]], ours: str, others: str = "torch") -> dict[str, Any] | None:
  """How many times as fast `ours` is as the best of `others` (a name's beginning) of its dtype: the median over rounds
  of the ratio to the best of that round."""
  rivals = {
    name: row["by_round"]
    for name, row in found.items()
    if name.startswith(others) and row["dtype"] == found[ours]["dtype"] and "by_round" in row
  }
  if not rivals:
    return None
  best = [max(values) for values in zip(*rivals.values(), strict=True)]
  ratios = [a / b for a, b in zip(found[ours]["by_round"], best, strict=True)]
  return {
    "ours": ours,
    "of": max(rivals, key=lambda name: statistics.median(rivals[name])),
    "median": round(statistics.median(ratios), 3),
    "by_round": [round(r, 3) for r in ratios],
  }


# --- the device ---


def cost(function: Any, *args: Any) -> tuple[float, float]:
  """(FLOPs, bytes read and written) of a jitted function by XLA's cost analysis, for arguments or their shapes.

  The body of a loop counts once. FLOPs are those of the program as written, or of the compiled one where XLA knows none
  of the first; bytes those of the compiled one, whose fusions it knows, but not the caches.
  """
  lowered = function.lower(*args)
  written, compiled = lowered.cost_analysis() or {}, lowered.compile().cost_analysis() or {}
  return written.get("flops") or compiled.get("flops", 0.0), compiled.get("bytes accessed", 0.0)


def device_limits(
  dtypes: list[str], quick: bool, also: list[Callable[[str, bool], tuple[float, float]]]
) -> dict:
  """The multiplications a second of one large matrix product by dtype, and the bytes a second of a copy (read and
  write), measured here: the best of jax and of `also`, functions (dtype, quick) -> the two."""
  result: dict[str, Any] = {"copy_bytes_per_second": 0.0, "flops_per_second": {}}
  for dtype in dtypes:
    pairs = [_jax_limits(dtype, quick), *(measured(dtype, quick) for measured in also)]
    result["flops_per_second"][dtype] = max(flops for flops, _ in pairs)
    result["copy_bytes_per_second"] = max(result["copy_bytes_per_second"], *(b for _, b in pairs))
  kind = jax.devices()[0].device_kind
  result["stated_flops_per_second"] = {
    dtype: peak for (name, dtype), peak in STATED_PEAKS.items() if name in kind and dtype in dtypes
  }
  return result


def limit_sizes(quick: bool) -> tuple[int, int]:
  """Rows of the matrices, numbers of the copied vector."""
  if quick:
    return 512, 2**22
  return (2048, 2**26) if jax.default_backend() == "cpu" else (8192, 2**29)


def best_seconds(run: Callable[[], Any], repeats: int = 7) -> float:
  run()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return min(times)


def _jax_limits(dtype: str, quick: bool) -> tuple[float, float]:
  n, size = limit_sizes(quick)
  a = jax.random.normal(jax.random.key(0), (n, n), dtype)
  product = jax.jit(lambda a: a @ a)
  x = jnp.ones(size, jnp.float32)
  add = jax.jit(lambda x: x + 1)
  multiplying = best_seconds(lambda: jax.block_until_ready(product(a)))
  copying = best_seconds(lambda: jax.block_until_ready(add(x)))
  return 2 * n**3 / multiplying, 8 * size / copying


def against_limits(row: dict, flops: float, moved: float, limits: dict) -> dict[str, Any]:
  """What a runner reaches of `flops` and bytes `moved` an item, and which limit binds."""
  speed, dtype = row["items_per_second"], row["dtype"]
  peak, bandwidth = limits["flops_per_second"][dtype], limits["copy_bytes_per_second"]
  stated = limits["stated_flops_per_second"].get(dtype)
  bound = min(peak / flops, bandwidth / moved if moved else float("inf"))
  result = {
    "flops_per_second": rounded(flops * speed),
    "share_of_measured_matmul": round(flops * speed / peak, 4),
    "share_of_roofline": round(speed / bound, 4),
  }
  return result | ({"share_of_stated_peak": round(flops * speed / stated, 4)} if stated else {})


def binding(flops: float, moved: float, dtype: str, limits: dict) -> dict[str, Any]:
  """Arithmetic intensity against the ridge where copying and multiplying take equally long."""
  ridge = limits["flops_per_second"][dtype] / limits["copy_bytes_per_second"]
  intensity = flops / moved if moved else float("inf")
  return {
    "flops_per_item": rounded(flops),
    "bytes_per_item": rounded(moved),
    "flops_per_byte": round(intensity, 2),
    "ridge_flops_per_byte": round(ridge, 2),
    "bound_by": "multiplication" if intensity > ridge else "memory",
  }


def hardware() -> str:
  device = jax.devices()[0]
  cpu = platform.processor() or platform.machine()
  info = Path("/proc/cpuinfo")
  if info.exists():
    cpu = next(
      (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu
    )
  cpu = f"{os.cpu_count()}-core CPU ({cpu})"
  return cpu if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}, {cpu}"


def resident_bytes() -> int:
  """Memory of this process now (Linux; 0 elsewhere)."""
  statm = Path("/proc/self/statm")
  return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def peak_resident_bytes() -> int:
  import resource

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


# --- results ---


def rounded(x: float, digits: int = 4) -> float | int:
  x = float(f"{x:.{digits}g}")
  return int(x) if abs(x) >= 10 ** (digits - 1) else x


def about() -> dict[str, Any]:
  load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
  versions = {"python": platform.python_version(), "jax": jax.__version__}
  return {"hardware": hardware(), "versions": versions, "load_average_at_start": load}


def finish(result: dict[str, Any], output: Path | None) -> None:
  if output:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {output}")
