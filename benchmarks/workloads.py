"""The type of a workload of `throughput.py`, and the workloads that train."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import networks_torch as nets
import numpy as np
import superres_torch
import torch
from agreement import check_training
from timing import Runner
from trainers import Trainer, conv_config, digits, mlp_config, noise, step_cost, superres_config

GPU = jax.default_backend() == "gpu"
DEVICE = "cuda" if GPU else "cpu"
DTYPES = ["float32", "bfloat16"] if GPU else ["float32"]
THREADS = torch.get_num_threads()


class Workload(NamedTuple):
  """unit: what is counted. ours: the runner of vae_jax, by dtype, that is compared. check: what both sides agree on, or
  AssertionError. cost: dtype -> (FLOPs, bytes) an item. about: settings for the JSON."""

  unit: str
  runners: list[Runner]
  ours: dict[str, str]
  check: Callable[[], dict[str, Any]]
  cost: Callable[[str], tuple[float, float]]
  about: dict[str, Any]


# --- training ---


def modes() -> list[tuple[str, str, int | None]]:
  """(label, mode of torch.compile or "eager", threads) of the runners in PyTorch."""
  if GPU:
    compiled = [("compile", "default", None), ("compile reduce-overhead", "reduce-overhead", None)]
    return [("eager", "eager", None), *compiled]
  eager = [(f"eager, {n} threads", "eager", n) for n in sorted({1, THREADS})]
  return [*eager, (f"compile, {THREADS} threads", "default", THREADS)]


def training(
  config: Any, images: np.ndarray, network: Callable[[], torch.nn.Module], calls: list[int]
) -> Workload:
  """calls: values of steps_per_call, of which the last is compared."""
  batch, shape = config.training.batch_size, images.shape[1:]
  runners, ours = [], {}
  for dtype in DTYPES:
    for label, mode, threads in modes():
      kinds = {"device": DEVICE, "mode": mode, "threads": threads, "bfloat16": dtype == "bfloat16"}
      kinds["binarize"] = config.data.binarize == "dynamic"
      make = partial(lambda kinds: nets.Trainer(network(), images, batch, **kinds), kinds)
      runners.append(Runner(f"torch, {label}, {dtype}", make, batch, dtype))
    for n in calls:
      name = f"vae_jax, steps_per_call {n}, {dtype}"
      runners.append(Runner(name, partial(Trainer, config, images, n, dtype), batch * n, dtype))
      ours[dtype] = name
  return Workload(
    "images",
    runners,
    ours,
    lambda: check_training(config, shape, network()),
    lambda dtype: step_cost(config, shape, dtype),
    {"batch_size": batch, "image": list(shape), "config": config.model.to_dict()},
  )


def mlp(args: Any) -> Workload:
  config = mlp_config(args.batch or 128)
  images, data = digits()
  hidden, latent = config.model.hidden[0], config.model.latent_dim
  made = training(config, images, lambda: nets.MLPVAE(hidden, latent), [1, 2 if args.quick else 100])
  return made._replace(about=made.about | {"data": data})


def conv(args: Any) -> Workload:
  config, size = conv_config(args.batch or (8 if args.quick else 256)), 16 if args.quick else 64
  m, images = config.model, noise(2 * config.training.batch_size, size)
  return training(
    config,
    images,
    lambda: nets.ConvVAE(tuple(m.channels), m.blocks, m.dense, m.latent_dim, size),
    [1, 2 if args.quick else 10],
  )


def superres(args: Any) -> Workload:
  config, size = superres_config(args.batch or (2 if args.quick else 8)), 32 if args.quick else 128
  m, weight = config.model, config.objective.perceptual.weight
  # On CPUs one step a call, as in its config.
  return training(
    config,
    noise(8 * config.training.batch_size, size),
    lambda: superres_torch.SuperResolution(tuple(m.channels), m.blocks, m.latent_dim, weight, float(m.sigma)),
    [1, 10] if GPU else [1],
  )
