"""Measures how often a classifier reads samples of a conditional model as the requested label.

    python benchmarks/label_accuracy.py --workdir runs/mnist_cvae --dir data/mnist --output benchmarks/results/cvae.json

The classifier is a small convolutional network, trained here on the training images of the data set. Its own accuracy
is measured on the test images, which neither it nor the model saw. Samples are the mean images of p(x | z, y), z from
p(z | y), with equal numbers of each label. The interval is Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import vae_jax
from vae_jax.compiling import jit
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.sources import open_source


class Classifier(nn.Module):
  """Grey images [b, 28, 28, 1] in [0, 1] -> logits [b, classes]."""

  classes: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image - 0.13
    for width in (16, 32):
      x = nn.relu(nn.Conv(width, (3, 3))(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
    return nn.Dense(self.classes)(x)


def load_split(folder: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Images float32 [n, h, w, 1] in [0, 1] and labels [n] of IDX files, or of the embedded digits where folder is ''."""
  data = ["data.name=idx", f"data.dir={folder}"] if folder else ["data.name=digits"]
  arrays = open_source(apply_overrides(base_config(), data).data, split).load_all()
  return arrays["image"].astype(np.float32) / 255, arrays["label"]


def train_classifier(images: np.ndarray, labels: np.ndarray, classes: int, steps: int, seed: int = 0):
  """A function images -> predicted labels, after `steps` of Adam on batches of 128."""
  model, tx = Classifier(classes), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
  params = model.init(jax.random.key(seed), images[:1])
  opt_state = tx.init(params)

  def step(params, opt_state, image, label):
    def loss(params):
      return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, image), label).mean()

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  step = jit(step)
  draw = np.random.default_rng(seed)
  for _ in range(steps):
    chosen = draw.integers(len(images), size=128)
    params, opt_state = step(params, opt_state, images[chosen], labels[chosen])
  predict = jit(lambda params, image: jnp.argmax(model.apply(params, image), axis=-1))
  return lambda x: np.concatenate(
    [np.asarray(predict(params, x[i : i + 500])) for i in range(0, len(x), 500)]
  )


def wilson(hits: int, n: int) -> list[float]:
  """Wilson's interval of 95 % for a share."""
  z, share = 1.96, hits / n
  middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  return [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, help="a run of a family with labels")
  parser.add_argument("--dir", default="", help="folder of the four IDX files ('': the embedded digits)")
  parser.add_argument("--num", type=int, default=10_000, help="samples, equally many of each label")
  parser.add_argument("--steps", type=int, default=2000, help="of the classifier")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output", help="a JSON file for the figures")
  args = parser.parse_args()
  model = vae_jax.load(args.workdir)
  classes = model.config.model.classes
  classify = train_classifier(*load_split(args.dir, "train"), classes, args.steps, args.seed)
  images, labels = load_split(args.dir, "test")
  wanted = np.arange(args.num) % classes
  key = jax.random.key(args.seed)
  parts = [
    np.asarray(model.sample(jax.random.fold_in(key, i), len(some), label=some))
    for i, some in enumerate(np.array_split(wanted, max(args.num // 1000, 1)))
  ]
  found = classify(np.concatenate(parts))
  hits = found == wanted
  figures = {
    "share_read_as_asked": float(hits.mean()),
    "interval_95": wilson(int(hits.sum()), args.num),
    "by_label": {str(k): float(hits[wanted == k].mean()) for k in range(classes)},
    "samples": args.num,
    "classifier_test_accuracy": float((classify(images) == labels).mean()),
    "classifier_steps": args.steps,
    "step": model.step,
    "seed": args.seed,
  }
  print(json.dumps(figures, indent=2))
  if args.output:
    Path(args.output).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  main()
