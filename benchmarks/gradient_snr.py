"""Measures how noisy the encoder's gradient of the importance-weighted bound is, by the number of samples K.

    python benchmarks/gradient_snr.py --workdir runs/mnist_vae_burda --output benchmarks/results/gradient_snr.json
    python benchmarks/gradient_snr.py --config configs/mnist_vae.py --samples 1 4 16 64   # a fresh model

It takes the gradient of one batch of images many times, with new noise each time. The gradients are those of
`objective.gradient`: standard (Burda et al. 2016), stl (Roeder et al. 2017) and dreg (Tucker et al. 2019).

- snr: the length of the mean gradient, over the root of the summed variances of its elements. The square of the length
  is estimated without bias: less the variances over the number of draws. 0 where no signal is left of it.
- snr_elements: |mean| over standard deviation of each element, averaged over elements, as in Rainforth et al. 2018. An
  element without signal has about 0.8 / sqrt(draws), which is `floor`.
- cosine: of the mean gradient and that of dreg at the same K. The mean of stl is that of another bound where K > 1.
- slope: of log snr over log K, by least squares. Theory has -1/2 for standard and +1/2 for dreg, for large K.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import vae_jax
from vae_jax import runs
from vae_jax.cli.process import run
from vae_jax.data import pipeline
from vae_jax.data.prepare import make_prepare
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.generator import new_key, standard
from vae_jax.models.contract import Mode
from vae_jax.models.flexible_vae import FlexibleVAE
from vae_jax.models.vae import VAE
from vae_jax.objectives import ImportanceBound
from vae_jax.storage.files import write_bytes
from vae_jax.training import assemble, steps

GRADIENTS = ("standard", "stl", "dreg")
Gradient = Callable[[jax.Array], jax.Array]  # a key -> all elements of the encoder's gradient, [p]


def gradient_of(module: VAE, variables: Any, batch: Any, how: str, samples: int) -> Gradient:
  """The gradient of the mean bound over a batch in the encoder's parameters, by the noise of a key."""
  bound = ImportanceBound("iwae", squared=how == "dreg")
  mode = Mode(jnp.int32(0), new_key(0), True, samples, path=how != "standard", apart=how == "dreg")
  others, count = (
    {name: x for name, x in variables["params"].items() if name != "encoder"},
    len(batch["image"]),
  )

  def loss(encoder: Any, key: jax.Array) -> jax.Array:
    keys = jax.random.split(key, count)
    output: Any = module.apply({**variables, "params": {**others, "encoder": encoder}}, batch, keys, mode)
    return bound(output).mean()

  return lambda key: ravel_pytree(jax.grad(loss)(variables["params"]["encoder"], key))[0]


def moments(gradient: Gradient, keys: jax.Array) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance of each element over the keys, one after the other (Welford 1962); float64 [p]."""

  def add(state: Any, key: jax.Array) -> Any:
    count, mean, squares = state
    value = gradient(key)
    away = value - mean
    mean = mean + away / (count + 1)
    return (count + 1, mean, squares + away * (value - mean)), None

  @jax.jit
  def all_of(keys: jax.Array) -> Any:
    zero = jnp.zeros(jax.eval_shape(gradient, keys[0]).shape, jnp.float32)
    return jax.lax.scan(add, (jnp.float32(0), zero, zero), keys)[0]

  _, mean, squares = all_of(keys)
  return np.asarray(mean, np.float64), np.asarray(squares, np.float64) / (len(keys) - 1)


def ratios(mean: np.ndarray, variance: np.ndarray, draws: int) -> dict[str, float]:
  """The two signal-to-noise ratios, and what they are made of. Elements that never move are left out."""
  moving = variance > 0
  noise = float(variance.sum())
  signal = max(float(np.square(mean).sum()) - noise / draws, 0.0)
  return {
    "snr": math.sqrt(signal / noise) if noise else math.inf,
    "snr_elements": float((np.abs(mean[moving]) / np.sqrt(variance[moving])).mean()) if noise else math.inf,
    "length": math.sqrt(signal),
    "deviation": math.sqrt(noise),
  }


def measure(
  module: VAE, variables: Any, batch: Any, samples: list[int], gradients: list[str], draws: int, seed: int
) -> list[dict[str, Any]]:
  """A row for each gradient and number of samples."""
  rows, keys = [], jax.random.split(new_key(seed), draws)
  for count in samples:
    means = {}
    for how in gradients:
      started = time.monotonic()
      mean, variance = moments(gradient_of(module, variables, batch, how, count), keys)
      means[how] = mean
      row = {"gradient": how, "samples": count, **ratios(mean, variance, draws)}
      rows.append(row | {"seconds": round(time.monotonic() - started, 2)})
    for row in rows[-len(gradients) :]:
      if "dreg" in means:
        a, b = means[row["gradient"]], means["dreg"]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        row["cosine"] = float(a @ b / lengths) if lengths else math.nan
  return rows


def slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
  """The slope of log snr over log K of each gradient, from the rows that have a signal."""
  found = {}
  for how in dict.fromkeys(row["gradient"] for row in rows):
    points = [(row["samples"], row["snr"]) for row in rows if row["gradient"] == how]
    points = [(math.log(k), math.log(snr)) for k, snr in points if 0 < snr < math.inf]
    if len(points) > 1:
      found[how] = float(np.polyfit(*zip(*points, strict=True), 1)[0])
  return found


def opened(args: argparse.Namespace) -> tuple[Any, Any, Any, int]:
  """Module, variables, config and step of the run, or of a fresh model. Raises UserError: no VAE."""
  if args.workdir is not None:
    found = runs.open_run(args.workdir, args.checkpoint)
    module, variables, config, step = found.module, found.variables, found.config, found.step
  else:
    config = vae_jax.config(args.config, args.words)
    with tempfile.TemporaryDirectory() as folder:
      parts = assemble.assemble(config, Path(folder) / "fresh")
      state, _ = assemble.start(parts)
    module, variables, step = parts.model, state.variables, 0
  if type(module) not in (VAE, FlexibleVAE):
    raise UserError(
      f"model.name={config.model.name} has no such gradients; give a run of mlp_vae or conv_vae"
    )
  if getattr(module, "flow", None) is not None and set(args.gradients) - {"standard"}:
    raise UserError(
      f"model.posterior={config.model.posterior} has no stl and dreg; give --gradients standard"
    )
  return module, jax.device_get(variables), config, step


def prepared(config: Any, split: str, images: int, seed: int) -> Any:
  """A batch from all over a split, as evaluation prepares it."""
  source = open_source(config.data, split)
  chosen = pipeline.Chosen(source, pipeline.spread(len(source), images))
  batch = next(pipeline.batches(config.data, chosen, batch_size=len(chosen), training=False))
  keys = steps.example_keys(new_key(seed), steps.PREPARE_STREAM, jnp.arange(len(chosen)))
  record: Any = {name: x for name, x in batch.items() if name not in ("mask", "index")}
  return make_prepare(config.data, training=False)(keys, record)


def table_of(rows: list[dict[str, Any]]) -> str:
  """The ratios as a Markdown table: a line for each K, a column for each gradient."""
  gradients = list(dict.fromkeys(row["gradient"] for row in rows))
  lines = [f"| K | {' | '.join(gradients)} |", "|---" * (len(gradients) + 1) + "|"]
  for count in dict.fromkeys(row["samples"] for row in rows):
    cells = [f"{row['snr']:.3g}" for row in rows if row["samples"] == count]
    lines.append(f"| {count} | {' | '.join(cells)} |")
  return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
  p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  which = p.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", help="a trained run of mlp_vae or conv_vae")
  which.add_argument("--config", type=Path, help="a fresh model of this config")
  p.add_argument("--checkpoint", default="newest", help="of the run: newest, best")
  p.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="K")
  p.add_argument("--gradients", nargs="+", default=list(GRADIENTS), choices=GRADIENTS)
  p.add_argument(
    "--images", type=int, default=16, help="of one batch, from the validation split (default 16)"
  )
  p.add_argument("--draws", type=int, default=200, help="of noise, for each row (default 200)")
  p.add_argument("--seed", type=int, default=0)
  p.add_argument("--output", type=Path, help="file of the rows, JSON")
  p.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of the config of a fresh model")
  return p


def study(args: argparse.Namespace) -> dict[str, Any]:
  """Everything that was measured, as JSON data. Raises UserError for numbers that make no measurement."""
  if min(args.samples) < 1 or args.images < 1 or args.draws < 2:
    raise UserError(
      f"samples from {min(args.samples)}, images={args.images}, draws={args.draws}: at least 1, 1, 2"
    )
  with standard():
    module, variables, config, step = opened(args)
    batch = prepared(config, config.data.validation, args.images, args.seed)
    rows = measure(module, variables, batch, args.samples, args.gradients, args.draws, args.seed)
  return {
    "model": str(args.workdir or args.config),
    "step": step,
    "split": config.data.validation,
    "images": len(batch["image"]),
    "draws": args.draws,
    "seed": args.seed,
    "floor": math.sqrt(2 / math.pi / args.draws),
    "rows": rows,
    "slope": slopes(rows),
  }


def main() -> None:
  args = parser().parse_args()
  found = study(args)
  print(table_of(found["rows"]))
  print("slope of log snr over log K: " + ", ".join(f"{how} {x:+.2f}" for how, x in found["slope"].items()))
  if args.output is not None:
    text = json.dumps(found, indent=2) + "\n"
    write_bytes(args.output, text.encode())


if __name__ == "__main__":
  run(main)
