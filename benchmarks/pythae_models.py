"""Trains six models by vae_jax and by pythae 0.1.2, on the same images, and compares speed and scores in one run.

    pip install -e ".[demo]" "torch==2.13.0" "pythae==0.1.2"
    python benchmarks/pythae_models.py [--output benchmarks/results/pythae_models.json]

Images: the 5,000 embedded digits; --data FOLDER: MNIST, four IDX files, of which 50,000 images are trained on.

vae, iwae (5 samples), beta_tcvae (beta 4), vampprior (50 pseudo-inputs)
          784-512-16 and back, Bernoulli pixels, images made black and white at 0.5
wae_mmd   convolutions of 16 and 32 channels, 512, 8 latents that are not drawn; grey images, |x - g(z)|^2 + 200 MMD^2
vq_vae    convolutions of 16 and 32 channels, 7 x 7 codes of 512; codes are moving averages; grey images

Speed, images/s in training. Runners take turns. A ratio is the median over rounds, against the better of 1 and of all
threads in the round. Left out of all: compilation, and what comes before the first epoch.
  vae_jax          the compiled calls of train.py with its own batches: images stay on the device, an epoch is a
                   permutation. Without its log rows, scores and checkpoints.
  pythae pipeline  TrainingPipeline on an array, as its users have it: a DataLoader without workers, which collates
                   single images, a progress bar, Adam as it comes. The seconds are those from the first to the last
                   batch of each epoch. Without its copy of the best model after each epoch, and without saving.
  torch loop       the same pythae model without pipeline: images lie in one tensor, a batch is an index, fused Adam.
Both sides have Adam (1e-3, constant), batches of 100, float32, and no moving average of parameters.

Scores. Each seed trains both for the same number of epochs: vae_jax by vae_jax.train, pythae by its pipeline. Both are
scored by `vae_jax.evaluate` on the test images, pythae's weights as parameters of the same network here. PSNR and MSE
are of reconstructions of posterior means; NLL is the importance-weighted bound. "whole seconds" are those of the call
that trains, with all that it does: compilation, checkpoints, pictures.

First, both get the same parameters, images and noise: reconstructions, losses and gradients must agree. Parameters
must be equally many. Where definitions of pythae differ, this is made equal or known by number:
- Sums over pixels, and bce: equal. Its |x - g|^2 is ours with a variance of 1/2, but for a constant.
- IWAE: its loss is the mean of log weights by normalised weights. Its gradient is that of the bound, ours.
- beta-TCVAE: it estimates the whole KL by a sample; ours has the closed form beside (beta - 1) * total correlation.
  Alike in expectation. Both have weighted sampling, because in pythae's stratified one, its default, the weights of the
  own example and of the next stand in columns 0 and 1 and not on the diagonal.
- VampPrior: its pseudo-inputs are a linear layer with a bias, clipped to [0, 1], that begins near 0. Ours are K images
  that begin at training images, without bounds. The bias is 784 parameters more.
- WAE: the MMD is the same, with the same kernel and scales.
- VQ-VAE: it takes the commitment as a mean over positions and channels beside a sum over pixels. Its factor is raised,
  so that both have 0.25 times the sum. Its codes begin as uniform noise, and none is restarted. Ours begin by k-means,
  and unused ones restart.
- Layers begin as those of each library: PyTorch's uniform noise, Flax's normal noise.

The figures are kept in the output after each part. The same command goes on with what is left.
"""

from __future__ import annotations

import importlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import studies
import timing
from ml_collections import ConfigDict
from timing import Runner

import vae_jax
from vae_jax.cli.process import run
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.inference import TrainedVAE
from vae_jax.runs import Run as TrainedRun
from vae_jax.storage.files import write_bytes
from vae_jax.training import assemble
from vae_jax.training.batches import train_batches
from vae_jax.types import image_spec

BATCH, GOAL = 100, 2.0
CONV = ("model.channels=16,32", "model.blocks=0", "training.steps_per_call=20")
SQUARED = ("model.likelihood=gaussian", f"model.sigma={0.5**0.5!r}")  # |x - g(z)|^2 and a constant
MODELS = {
  "vae": ("mlp_vae", ()),
  "iwae": ("mlp_vae", ("objective.name=iwae", "objective.samples=5")),
  "beta_tcvae": ("mlp_vae", ("objective.total_correlation=3.0",)),
  "vampprior": ("mlp_vae", ("model.prior=vamp", "model.components=50")),
  "wae_mmd": ("wae", (*CONV, *SQUARED, "model.dense=512", "model.latent_dim=8", "objective.mmd=200.0")),
  "vq_vae": ("vq_vae", (*CONV, *SQUARED, "model.codes=512", "model.code_dim=16")),
}
ADAM = ("training.warmup_steps=0", "training.final_learning_rate=1.0", "training.ema_decay=0.0")
SCORES = {"psnr": "PSNR, dB", "mse": "MSE", "iwae_nll": "NLL, nats", "perplexity": "perplexity"}
HIGHER = ("psnr", "perplexity")  # is better


class Sizes(NamedTuple):
  """What a result is of, beside the machine. images: to train on, 0: all. samples: of the NLL."""

  data: str
  images: int
  epochs: int
  seeds: int
  samples: int
  rounds: int
  seconds: float


def sizes_of(args: Any) -> Sizes:
  """The sizes that the flags ask for; tiny ones with --quick."""
  data = str(args.data) if args.data else ""
  if args.quick:
    return Sizes(data, 4 * BATCH, 1, 1, 10, 1, 0.05)
  if args.images % BATCH:
    raise UserError(f"--images={args.images} must be a multiple of {BATCH}, the batch size")
  return Sizes(data, args.images, args.epochs, args.seeds, args.samples, args.rounds, args.seconds)


def config_of(name: str, sizes: Sizes, seed: int = 0) -> ConfigDict:
  """The config of a model of `MODELS` for a training of sizes.epochs. Raises UserError: data that cannot be read."""
  family, words = MODELS[name]
  likelihood = family == "mlp_vae"
  words = (*ADAM, *words, f"training.batch_size={BATCH}", f"training.seed={seed}")
  words += ("data.binarize=threshold", "training.steps_per_call=100") if likelihood else ()
  config = apply_overrides(base_config(family), list(words))
  config.evaluation.samples = sizes.samples
  if sizes.data:
    config.data.name, config.data.dir = "idx", sizes.data
    config.data.train, config.data.validation = "train[:50000]", "train[50000:]"
  if sizes.images:
    config.data.train = f"train[:{sizes.images}]"
  found = len(open_source(config.data, config.data.train))
  if found < BATCH or found % BATCH:
    raise UserError(
      f"data.train={config.data.train} has {found} images; give a multiple of {BATCH}: --images"
    )
  config.training.steps = sizes.epochs * (found // BATCH)
  config.training.eval_every = config.training.checkpoint_every = config.training.steps
  validate(config)
  return config


def images_of(config: ConfigDict) -> np.ndarray:
  """The training images as pythae takes them: float32 [n, 1, 28, 28] in [0, 1]."""
  raw = open_source(config.data, config.data.train).load_all()["image"].transpose(0, 3, 1, 2)
  if config.data.binarize == "threshold":
    return (raw > 127).astype(np.float32)
  return (raw / 255.0).astype(np.float32)


# --- vae_jax ---


class Ours:
  """The loop of train.py without what comes between its calls: call it with a number of calls."""

  def __init__(self, config: ConfigDict, folder: Path):
    made = assemble.assemble(config, folder)
    assert made.train.arrays is not None, "the images stay on the device"
    self.made, self.stored = made, made.placement.put(made.train.arrays)
    self.state, _ = assemble.start(made)
    calls = itertools.repeat(config.training.steps_per_call)
    self.batches = train_batches(config, made.train, 0, calls, made.placement)

  def __call__(self, calls: int) -> None:
    for batches in itertools.islice(self.batches, calls):
      self.state, _ = self.made.train_call(self.state, self.stored, batches, self.made.frozen)
    jax.block_until_ready(self.state)
    if int(self.state.skipped):
      raise RuntimeError(f"{int(self.state.skipped)} steps were skipped: their loss was not finite")


def scored(model: TrainedVAE, seconds: float) -> dict[str, float]:
  """The scores of `SCORES` that a model has on the test images, and the seconds of its training."""
  samples = model.config.evaluation.samples if model.config.model.name == "mlp_vae" else 0
  found = vae_jax.evaluate(model, samples=samples)
  row = {name: timing.rounded(found[name], 6) for name in SCORES if name in found}
  return {**row, "whole_seconds": round(seconds, 1)}


def our_scores(config: ConfigDict) -> dict[str, float]:
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    model = studies.trained(config, Path(folder) / "run")
    return scored(model, time.perf_counter() - start)


# --- both ---


def speed(name: str, config: ConfigDict, sizes: Sizes, theirs: Any, folder: Path) -> dict[str, Any]:
  """Images a second of all runners, and ratios."""
  images, mine = images_of(config), f"vae_jax {name}"
  calls = config.training.steps_per_call * BATCH
  runners = [Runner(mine, partial(Ours, config, folder), calls)]
  for n in theirs.threads():
    pipeline = partial(theirs.pipeline_runner, name, config, images, n)
    loop = partial(theirs.loop_runner, name, config, images, n)
    runners.append(Runner(f"pythae pipeline, {n} threads", pipeline, len(images)))
    runners.append(Runner(f"torch loop, {n} threads", loop, len(images)))
  found = timing.measure(runners, sizes.rounds, sizes.seconds)
  ratios = {"to pipeline": timing.ratio(found, mine, "pythae"), "to loop": timing.ratio(found, mine, "torch")}
  return {"runners": found, "ratios": ratios}


def best_threads(entry: dict[str, Any]) -> int:
  """The number of threads with which the pipeline was the fastest."""
  ratio = entry["ratios"]["to pipeline"]
  return int(ratio["of"].split(", ")[1].split()[0]) if ratio else 1


def their_scores(name: str, config: ConfigDict, theirs: Any, threads: int) -> dict[str, Any]:
  """As `our_scores`, of pythae's weights in our network; or "failed", where pythae's loss was not finite."""
  try:
    variables, seconds = theirs.trained(name, config, images_of(config), threads)
  except ArithmeticError as error:
    return {"failed": str(error)}
  config, spec = config.copy_and_resolve_references(), image_spec((28, 28, 1))
  return scored(TrainedVAE(TrainedRun(config, variables, spec, config.training.steps)), seconds)


def begun(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
  """The result to go on with: that of the file, or an empty one. Raises UserError: a file of other settings."""
  if path is None or not path.exists():
    return {"benchmark": "pythae_models", **settings, "models": {}}
  held = json.loads(path.read_text())
  for key, value in settings.items():
    if key != "load_average_at_start" and held.get(key) != value:
      raise UserError(f"{path} has {key} {held.get(key)}, not {value}; give another --output, or remove it")
  return held


def study(sizes: Sizes, only: list[str], output: Path | None, theirs: Any) -> dict[str, Any]:
  """Measures what is left to do, and returns all figures. theirs: the side of pythae, `pythae_torch`."""
  versions = {"torch": theirs.TORCH, "pythae": theirs.PYTHAE}
  settings = {"settings": {**sizes._asdict(), "batch_size": BATCH}, **timing.about(), **versions}
  result = begun(output, settings)

  def keep() -> None:
    if output:
      output.parent.mkdir(parents=True, exist_ok=True)
      write_bytes(output, (json.dumps(result, indent=2) + "\n").encode())

  for name in only:
    entry = result["models"].setdefault(name, {"scores": {}})
    if "agreement" not in entry:
      entry["agreement"] = theirs.agreement(name, config_of(name, sizes))
      print(f"{name}: the same model: {entry['agreement']}", flush=True)
      jax.clear_caches()
      keep()
    if "ratios" not in entry:
      config = config_of(name, sizes)
      with tempfile.TemporaryDirectory() as folder:
        entry |= speed(name, config, sizes, theirs, Path(folder) / "run")
      keep()
    for seed in range(sizes.seeds):
      rows, config = entry["scores"].setdefault(str(seed), {}), config_of(name, sizes, seed)
      sides = {
        "vae_jax": partial(our_scores, config),
        "pythae": partial(their_scores, name, config, theirs, best_threads(entry)),
      }
      for side, score in sides.items():
        if side not in rows:
          rows[side] = score()
          print(f"{name}, seed {seed}, {side}: {json.dumps(rows[side])}", flush=True)
          keep()
  return result


# --- tables ---


def measured(result: dict[str, Any]) -> dict[str, Any]:
  """The models whose speed is known; a study that was stopped has others."""
  return {name: entry for name, entry in result["models"].items() if "ratios" in entry}


def speeds_of(result: dict[str, Any]) -> str:
  """Images a second as a Markdown table; ratios with the lowest and the highest round."""
  lines = []
  for name, entry in measured(result).items():
    cells = [name]
    for begins in ("vae_jax", "pythae", "torch"):
      rows = [
        (row["items_per_second"], who)
        for who, row in entry["runners"].items()
        if who.startswith(begins) and "by_round" in row
      ]
      cells.append(_with_threads(*max(rows)) if rows else "failed")
    for ratio in entry["ratios"].values():
      rounds = ratio and ratio["by_round"]
      cells.append(f"{ratio['median']:.2f} ({min(rounds):.2f} to {max(rounds):.2f})" if ratio else "")
    lines.append(cells)
  heads = ("images/s", "vae_jax", "pythae pipeline", "torch loop", "to pipeline", "to loop")
  return studies.markdown(heads, lines)


def _with_threads(speed: float, who: str) -> str:
  return f"{speed:,.0f}" + (f" ({who.split(', ')[1]})" if ", " in who else "")


def scores_of(result: dict[str, Any]) -> str:
  """Scores as a Markdown table: means over seeds, and by how much each seed of vae_jax is better."""
  lines = []
  for name, entry in result["models"].items():
    pairs = [(rows["vae_jax"], rows["pythae"]) for rows in entry["scores"].values() if len(rows) == 2]
    if failed := [theirs["failed"] for _, theirs in pairs if "failed" in theirs]:
      lines.append([name, f"pythae failed: {failed[0]}", "", "", ""])
      pairs = [(ours, theirs) for ours, theirs in pairs if "failed" not in theirs]
    for score in (*SCORES, "whole_seconds"):
      both = [(ours[score], theirs[score]) for ours, theirs in pairs if score in ours and score in theirs]
      if both:
        means = [f"{statistics.mean(side):.4g}" for side in zip(*both, strict=True)]
        sign = 1 if score in HIGHER else -1
        better = ", ".join(f"{sign * (a - b):+.3g}" for a, b in both)
        lines.append([name, SCORES.get(score, "whole seconds"), *means, better])
  return studies.markdown(("", "score", "vae_jax", "pythae", "better by, each seed"), lines)


def goals_of(result: dict[str, Any]) -> str:
  """Which models reach the goal of speed."""
  ratios = {name: entry["ratios"]["to pipeline"] for name, entry in measured(result).items()}
  reached = [name for name, ratio in ratios.items() if ratio and ratio["median"] >= GOAL]
  return (
    f"at least {GOAL:g} times the pipeline: {', '.join(reached) or 'none'} ({len(reached)} of {len(ratios)})"
  )


def side_of_pythae() -> Any:
  """`pythae_torch`. Raises UserError where torch or pythae is not installed."""
  try:
    for package in ("torch", "pythae"):
      importlib.import_module(package)
  except ImportError as error:
    raise UserError(
      f'{error}; this benchmark needs both: pip install -e ".[demo]" "torch==2.13.0" "pythae==0.1.2"'
    ) from error
  return importlib.import_module("pythae_torch")


def parser() -> Any:
  p = timing.parser(__doc__)
  p.set_defaults(rounds=5, seconds=1.0)
  p.add_argument(
    "--data", type=Path, metavar="FOLDER", help="of the IDX files of MNIST; none: embedded digits"
  )
  p.add_argument("--images", type=int, default=0, help=f"to train on, a multiple of {BATCH}; 0: all")
  p.add_argument("--epochs", type=int, default=15, help="of the trainings that are scored")
  p.add_argument("--seeds", type=int, default=2, help="trainings that are scored, of each model and side")
  p.add_argument("--samples", type=int, default=200, help="of the importance-weighted bound")
  p.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
  return p


def main() -> None:
  args = parser().parse_args()
  if jax.default_backend() != "cpu":
    raise UserError("this benchmark is for CPUs; set JAX_PLATFORMS=cpu")
  sizes = sizes_of(args)
  result = study(sizes, args.only, args.output, side_of_pythae())
  print(
    f"\n{result['hardware']}, jax {jax.__version__}, torch {result['torch']}, pythae {result['pythae']}\n"
  )
  print("\n\n".join((speeds_of(result), scores_of(result), goals_of(result))))
  sys.stdout.flush()


if __name__ == "__main__":
  run(main)
