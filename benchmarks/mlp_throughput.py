"""Training throughput of the 784-512-16 MLP VAE against the same network in a bare PyTorch loop, in one run.

    pip install -e ".[demo]" torch
    python benchmarks/mlp_throughput.py [--output benchmarks/results/mlp_throughput.json]

Same network, batch (128), Adam (1e-3), Bernoulli likelihood and dynamic binarisation, float32, data in memory, no
moving average. PyTorch runs eagerly with 1 and with all threads and counts with its better one. vae_jax runs its own
compiled training call with steps_per_call 1 and 100. The rounds alternate, so that a slow spell of the machine hits
all alike; the ratio is the median over rounds. Compilation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import torch

from vae_jax.config import base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.data.sources import open_source
from vae_jax.models import build
from vae_jax.objectives import make_objective
from vae_jax.training import parallel, state, steps

BATCH, HIDDEN, LATENT, STEPS = 128, 512, 16, 200


def torch_trainer(images: np.ndarray):
  """steps -> None: a plain training loop."""
  torch.manual_seed(0)
  linear = torch.nn.Linear
  encoder = torch.nn.Sequential(linear(784, HIDDEN), torch.nn.ReLU(), linear(HIDDEN, 2 * LATENT))
  decoder = torch.nn.Sequential(linear(LATENT, HIDDEN), torch.nn.ReLU(), linear(HIDDEN, 784))
  optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
  data = torch.from_numpy(images.reshape(len(images), -1))

  def run(n: int) -> None:
    for _ in range(n):
      x = torch.bernoulli(data[torch.randint(len(data), (BATCH,))].float() / 255)
      mean, logvar = encoder(x).chunk(2, dim=-1)
      z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
      distortion = torch.nn.functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
      rate = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
      optimizer.zero_grad(set_to_none=True)
      ((distortion + rate) / BATCH).backward()
      optimizer.step()

  return run


def jax_trainer(images: np.ndarray, steps_per_call: int):
  """steps -> None: the library's own training call over a data set on the device."""
  config = base_config()
  config.data.binarize = "dynamic"
  config.model.hidden, config.model.latent_dim = (HIDDEN,), LATENT
  config.training.batch_size = BATCH
  shape = images.shape[1:]
  placement = parallel.make_placement(BATCH)
  model, tx = build(config.model, shape), state.make_optimizer(config.training)
  step = steps.make_train_step(
    model,
    make_objective(config.objective),
    make_prepare(config.data, training=True),
    tx,
    state.make_learning_rate(config.training),
    samples=1,
    ema_decay=0.0,
    root=jax.random.key(0),
  )
  call = parallel.compile_train_call(steps.make_train_call(step), placement)
  held = [
    jax.device_put(
      state.init_state(model, tx, shape, shape, jax.random.key(1), ema=False), placement.replicated
    )
  ]
  stored = placement.put({"image": images})
  draw = np.random.default_rng(0)

  def run(n: int) -> None:
    for _ in range(n // steps_per_call):
      index = draw.integers(len(images), size=(steps_per_call, BATCH)).astype(np.int32)
      held[0], metrics = call(held[0], stored, placement.put_batch({"index": index}, axis=1))
    jax.block_until_ready(metrics)

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  config = base_config()
  images = open_source(config.data, "train").load_all()["image"]
  threads = os.cpu_count() or 1

  eager = torch_trainer(images)

  def with_threads(n: int):
    def run(count: int) -> None:
      torch.set_num_threads(n)
      eager(count)

    return run

  runners = {
    "torch, 1 thread": with_threads(1),
    f"torch, {threads} threads": with_threads(threads),
    "vae_jax, steps_per_call 1": jax_trainer(images, 1),
    "vae_jax, steps_per_call 100": jax_trainer(images, 100),
  }
  for run in runners.values():
    run(100)  # compiles, warms up
  speeds: dict[str, list[float]] = {name: [] for name in runners}
  ratios = []
  for _ in range(args.rounds):
    for name, run in runners.items():
      start = time.perf_counter()
      run(STEPS)
      speeds[name].append(STEPS * BATCH / (time.perf_counter() - start))
    best = max(values[-1] for name, values in speeds.items() if name.startswith("torch"))
    ratios.append(speeds["vae_jax, steps_per_call 100"][-1] / best)
  result = {
    "images_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
    "ratio": round(statistics.median(ratios), 2),
    "ratios": [round(r, 2) for r in ratios],
    "network": f"784-{HIDDEN}-{LATENT}",
    "batch_size": BATCH,
    "hardware": f"{threads}-core CPU ({platform.processor() or platform.machine()})",
    "jax": jax.__version__,
    "torch": torch.__version__,
  }
  for name, speed in result["images_per_second"].items():
    print(f"{name:30s}{speed:10d} images/s")
  print(f"vae_jax (100 steps per call) is {result['ratio']} times the better PyTorch loop")
  if args.output:
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  main()
