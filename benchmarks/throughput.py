"""Measures the speed of vae_jax beside PyTorch, for one workload in one run on one machine.

    pip install -e ".[demo]" torch
    python benchmarks/throughput.py WORKLOAD [--output benchmarks/results/WORKLOAD.json]

mlp       training a VAE 784-512-16 on binarised digits, batch 128
conv      training a convolutional VAE of 64 x 64 x 3 images, batch 256
superres  training a super-resolution VAE (x2, targets 128 x 128) with a loss on features of VGG-16, batch 8
iwae      importance-weighted NLL of 1,000 digits with 500 samples; also pythae's own, where it is installed
sample    10,000 digits from an MLP VAE
restore   one photograph of 1000 x 1000 enlarged twice, in tiles and whole

Both sides have the same network, batch, Adam (1e-3), likelihood and data on the device. First, the parameters are
copied from one side to the other, and outputs, loss and gradients are compared (--check stops there). vae_jax is its
own compiled training call, evaluation step or `TrainedVAE`. PyTorch runs eagerly and by torch.compile in channels_last;
on CPUs eagerly with 1 and with all threads. On a GPU both also run in bfloat16 (PyTorch: autocast), and float32
products are in TF32 on both sides. Runners take turns, so a slow moment of the machine affects all of them. The ratio
is the median over rounds, against the best PyTorch of the round. The first call, which compiles, is reported
separately. Memory is measured in a separate process for each runner.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import networks_torch as nets
import timing
import torch
from inference_workloads import iwae, restore, sample
from timing import Runner
from workloads import DEVICE, DTYPES, GPU, THREADS, conv, mlp, superres

WORKLOADS = {
  "mlp": mlp,
  "conv": conv,
  "superres": superres,
  "iwae": iwae,
  "sample": sample,
  "restore": restore,
}


def torch_limits(dtype: str, quick: bool) -> tuple[float, float]:
  n, size = timing.limit_sizes(quick)
  torch.set_num_threads(THREADS)
  a = torch.randn(n, n, device=DEVICE, dtype=getattr(torch, dtype))
  x, y = torch.ones(size, device=DEVICE), torch.ones(size, device=DEVICE)

  def timed(function: Callable[[], Any]) -> float:
    def run() -> None:
      function()
      nets.synchronize(DEVICE)

    return timing.best_seconds(run)

  return 2 * n**3 / timed(lambda: a @ a), 8 * size / timed(lambda: y.copy_(x))


def memory_of(runner: Runner) -> int:
  """Peak of what the runner adds to this process: of the GPU's memory there, else of resident memory."""
  before = timing.resident_bytes()
  runner.make()(2)
  if not GPU:
    return max(timing.peak_resident_bytes() - before, 0)
  if runner.name.startswith("vae_jax"):
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
  return torch.cuda.max_memory_allocated()


def memory_apart(name: str) -> float | None:
  """MiB, measured in a fresh process; None where it failed."""
  command = [sys.executable, __file__, *sys.argv[1:], "--alone", name]
  done = subprocess.run(command, capture_output=True, text=True)
  try:
    return round(json.loads(done.stdout.splitlines()[-1]) / 2**20, 1)
  except (IndexError, ValueError):
    return None


def main() -> None:
  parser = timing.parser(__doc__)
  parser.add_argument("workload", choices=WORKLOADS)
  parser.add_argument("--batch", type=int, help="images a training step, in place of the workload's own")
  parser.add_argument("--check", action="store_true", help="compare the two sides and time nothing")
  parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure memory")
  parser.add_argument("--alone", help="the memory of one runner, in bytes")
  args = parser.parse_args()
  if GPU and not torch.cuda.is_available():
    parser.error("jax sees a GPU and PyTorch none; install PyTorch with CUDA, or set JAX_PLATFORMS=cpu")
  torch.manual_seed(0)
  torch.backends.cudnn.benchmark = True
  warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork")
  about = timing.about()
  workload = WORKLOADS[args.workload](args)
  check = None if args.alone else workload.check()
  if GPU:
    torch.set_float32_matmul_precision("high")  # TF32, as jax has it and as cuDNN's convolutions are
  if args.alone:
    runner = next(r for r in workload.runners if r.name == args.alone)
    print(memory_of(runner))
    return
  print(f"the same network: {check}")
  if args.check:
    return
  limits = timing.device_limits(DTYPES, args.quick, [torch_limits])
  found = timing.measure(workload.runners, args.rounds, args.seconds)
  bounds = {}
  for dtype in DTYPES:
    if dtype in workload.ours:
      flops, moved = workload.cost(dtype)
      bounds[dtype] = timing.binding(flops, moved, dtype, limits)
      for row in found.values():
        if row["dtype"] == dtype and "by_round" in row:
          row |= timing.against_limits(row, flops, moved, limits)
  for name, row in found.items():
    if "by_round" in row and not (args.no_memory or args.quick):
      row["peak_memory_mib"] = memory_apart(name)
  ratios = {dtype: timing.ratio(found, name) for dtype, name in workload.ours.items()}
  if any(name.startswith("pythae") and "by_round" in row for name, row in found.items()):
    ratios["to pythae"] = timing.ratio(found, workload.ours["float32"], "pythae")
  result = {
    "workload": args.workload,
    "unit": workload.unit,
    "settings": workload.about | {"rounds": args.rounds, "quick": args.quick},
    **about,
    "torch": torch.__version__,
    "float32_products": "TF32" if GPU else "float32",
    "same_network": check,
    "limits": limits,
    "cost": bounds,
    "runners": found,
    "ratios": ratios,
    "process_peak_mib": round(timing.peak_resident_bytes() / 2**20),
  }
  table(result)
  timing.finish(result, args.output)


def table(result: dict[str, Any]) -> None:
  print(
    f"\n{result['workload']}: {result['hardware']}, jax {result['versions']['jax']}, torch {result['torch']}"
  )
  header = (f"{result['unit']}/s", "GFLOP/s", "of matmul", "of roof", "first call", "MiB")
  print(f"{'':48s}" + "".join(f"{h:>12s}" for h in header))
  for name, row in result["runners"].items():
    if "failed" in row:
      print(f"{name:48s}  failed: {row['failed'][:60]}")
      continue
    cells = (
      f"{row['items_per_second']:g}",
      f"{row['flops_per_second'] / 1e9:.4g}" if "flops_per_second" in row else "",
      f"{row['share_of_measured_matmul']:.1%}" if "share_of_measured_matmul" in row else "",
      f"{row['share_of_roofline']:.1%}" if "share_of_roofline" in row else "",
      f"{row['first_call_seconds']:.1f} s",
      f"{row.get('peak_memory_mib') or ''}",
    )
    print(f"{name:48s}" + "".join(f"{cell:>12s}" for cell in cells))
  for dtype, bound in result["cost"].items():
    print(
      f"{dtype}: {bound['flops_per_byte']} FLOPs a byte, the ridge is at {bound['ridge_flops_per_byte']}: "
      f"bound by {bound['bound_by']}"
    )
  for name, found in result["ratios"].items():
    if found:
      print(f"{name}: {found['ours']} is {found['median']} times {found['of']}")


if __name__ == "__main__":
  main()
