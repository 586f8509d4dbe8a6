"""Measures training throughput by batch size, and compares the losses on 1 to 8 devices.

    python benchmarks/scaling.py [--output benchmarks/results/scaling.json]

Batches of 32 to 4,096 on all devices, for the MLP and the convolutional VAE of `throughput.py` (on CPUs the latter to
512, because larger steps take too long). Then the MLP with 1,024 images a step on 1, 2, 4 and 8 CPU devices forced onto
this machine's cores. The second part shows that the losses agree. It says nothing about speed, as the devices share
cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import timing
from timing import Runner
from trainers import Trainer, conv_config, digits, mlp_config, noise

STEPS = 20


def batches(args) -> dict[str, dict[str, dict]]:
  """Workload -> batch -> images a second, seconds of the first call; runners of a workload take turns."""
  sizes = [32, 64] if args.quick else [32, 64, 128, 256, 512, 1024, 2048, 4096]
  pictures = {"mlp": digits()[0], "conv": noise(64, 16) if args.quick else noise(4096, 64)}
  configs = {"mlp": mlp_config, "conv": conv_config}
  result = {}
  for name, images in pictures.items():
    runners = []
    cpu = jax.default_backend() == "cpu"
    for size in [size for size in sizes if size <= 512 or name == "mlp" or not cpu]:
      calls = max(1, min(10, (2048 if name == "mlp" else 512) // size))
      runners.append(
        Runner(f"vae_jax {size}", partial(Trainer, configs[name](size), images, calls), size * calls)
      )
    found = timing.measure(runners, args.rounds, args.seconds)
    result[name] = {row.split()[1]: values for row, values in found.items()}
    for batch, row in result[name].items():
      print(f"{name:6s} batch {batch:>5s} {row['items_per_second']:>10g} images/s")
  return result


def forced(devices: int) -> dict:
  """The losses of a fresh process that sees `devices` CPU devices."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
  command = [sys.executable, __file__, "--train"]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def train() -> None:
  """What `forced` starts."""
  trainer = Trainer(mlp_config(1024), digits()[0], STEPS)
  trainer(1)
  print(
    json.dumps({"devices": jax.device_count(), "losses": np.asarray(trainer.losses, np.float64).tolist()})
  )


def main() -> None:
  parser = timing.parser(__doc__)
  parser.add_argument("--train", action="store_true", help="one training on the devices there are")
  args = parser.parse_args()
  if args.train:
    train()
    return
  about = timing.about()
  by_batch = batches(args)
  runs = [forced(n) for n in ([1, 2] if args.quick else [1, 2, 4, 8])]
  alone = np.array(runs[0]["losses"])
  for run in runs:
    losses = np.array(run.pop("losses"))
    run["last_loss"] = timing.rounded(losses[-1], 8)
    run["largest_relative_difference"] = float(np.abs(losses / alone - 1).max())
    print(
      f"{run['devices']} devices: loss {run['last_loss']} after {STEPS} steps, at most "
      f"{run['largest_relative_difference']:.1e} from one device's"
    )
  print("forced devices share the cores: they show that the result is the same, and nothing about speed")
  timing.finish({**about, "images_per_second_by_batch": by_batch, "forced_cpu_devices": runs}, args.output)


if __name__ == "__main__":
  main()
