"""Measures in how many pictures of captioned scenes everything is found that the caption says.

    python benchmarks/scene_factors.py --classifier scenes.npz
    python benchmarks/scene_factors.py --classifier scenes.npz --workdir runs/scenes_vq_vae --output scenes.json

A picture counts if a classifier finds every factor of its caption: number, size, colour and shape of each group, and
the relation. The classifier is a small convolutional network, trained here on scenes of its own with all colours and
shapes, and kept in the file --classifier. What it finds in real pictures of the split is the upper bound of the score.

The pictures of a run are its samples for the captions of the split, where it takes texts, else its reconstructions of
the split's pictures. The intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from label_accuracy import wilson

import vae_jax
from vae_jax.compiling import jit
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import scenes, text
from vae_jax.data.sources import open_source

GROUP = (scenes.COUNTS, scenes.SIZES, scenes.COLOURS, scenes.SHAPES)
# How many values each factor may have: 0, where there is no second group, and its words.
SIZES = tuple(1 + len(words) for words in (*GROUP, scenes.RELATIONS, *GROUP))
ENDS = tuple(int(n) for n in np.cumsum(SIZES)[:-1])
STREAM = 100  # of the classifier's scenes: those of no split
HOW = {"--temperature": float, "--top_k": int, "--top_p": float, "--guidance": float, "--candidates": int}
NOISE = 0.05  # deviation of noise on its pictures, so that it does not read the faintest traces


class Classifier(nn.Module):
  """Pictures [b, 32, 32, 3] in [0, 1] -> logits of all factors, side by side [b, 41]."""

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = 2 * image - 0.4
    for width, kernel, stride in ((16, 5, 2), (32, 3, 1), (32, 3, 2)):
      x = nn.relu(nn.Conv(width, (kernel, kernel), (stride, stride))(x))
    x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
    return nn.Dense(sum(SIZES))(x)


def rendered(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Scenes of all colours and shapes: pictures uint8 [n, 32, 32, 3], factors int32 [n, 9]."""
  pictures, found = np.empty((n, scenes.SIDE, scenes.SIDE, 3), np.uint8), np.empty((n, len(SIZES)), np.int32)
  for i in range(n):
    draws, scene = scenes.Draws(STREAM + seed, i), None
    while scene is None:
      scene = scenes.drawn(draws)
    pictures[i], found[i] = scenes.render(scene, scenes.SIDE, STREAM + seed << 40 | i), scenes.factors(scene)
  return pictures, found


def train(steps: int, count: int, batch_size: int, seed: int = 0) -> Any:
  """The classifier's parameters, after `steps` of Adam on `count` scenes."""
  pictures, found = rendered(count, seed)
  model, tx = Classifier(), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  params = model.init(jax.random.key(seed), jnp.zeros((1, *pictures.shape[1:])))
  opt_state = tx.init(params)

  def step(params, opt_state, key, picture, wanted):
    image = picture.astype(jnp.float32) / 255
    image = image + NOISE * jax.random.normal(key, image.shape)

    def loss(params):
      logits = jnp.split(model.apply(params, image), ENDS, axis=-1)
      each = [optax.softmax_cross_entropy_with_integer_labels(x, wanted[:, i]) for i, x in enumerate(logits)]
      return sum(each).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  step, draw = jit(step), np.random.default_rng(seed)
  for i in range(steps):
    chosen, key = draw.integers(count, size=batch_size), jax.random.fold_in(jax.random.key(seed), i)
    params, opt_state, value = step(params, opt_state, key, pictures[chosen], found[chosen])
    if i % 100 == 99:
      print(f"classifier: step {i + 1}, loss {float(value):.4f}", file=sys.stderr, flush=True)
  return params


def classifier(file: Path, steps: int, count: int, batch_size: int) -> tuple[Any, dict[str, Any]]:
  """A function pictures in [0, 1] -> factors [n, 9], read from a file or trained and written to it, and what it is."""
  if not file.exists():
    began, processor = time.monotonic(), time.process_time()
    params = train(steps, count, batch_size)
    facts = {"steps": steps, "scenes": count, "batch_size": batch_size}
    facts |= {"processor_seconds": round(time.process_time() - processor, 1)}
    facts |= {"seconds": round(time.monotonic() - began, 1)}
    np.savez(file, **flatten_dict(jax.device_get(params), sep="/"), facts=json.dumps(facts))
  arrays = dict(np.load(file))
  facts, params = json.loads(str(arrays.pop("facts"))), unflatten_dict(arrays, sep="/")

  def found(image):
    return jnp.stack(
      [x.argmax(axis=-1) for x in jnp.split(Classifier().apply(params, image), ENDS, axis=-1)], 1
    )

  found = jit(found)
  return lambda x: np.concatenate([np.asarray(found(x[i : i + 250])) for i in range(0, len(x), 250)]), facts


def score(found: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
  """The share of pictures in which all factors are found, its interval, and the share of each factor."""
  hits = found == wanted
  whole = hits.all(axis=1)
  return {
    "share": float(whole.mean()),
    "interval_95": wilson(int(whole.sum()), len(whole)),
    "pictures": len(whole),
    "by_factor": {name: float(hits[:, i].mean()) for i, name in enumerate(scenes.FACTORS)},
  }


def made(
  model: Any, arrays: dict[str, np.ndarray], seed: int, batch_size: int, how: dict[str, Any]
) -> tuple[str, np.ndarray]:
  """What a run makes of a split: samples for its captions or reconstructions, and their pictures. how: of `sample`."""
  texts = [text.decode(tokens) for tokens in arrays["text"]]
  parts, with_text = [], "text" in model.module.conditions
  for start in range(0, len(texts), batch_size):
    some = slice(start, start + batch_size)
    if with_text:
      parts.append(model.sample(seed, len(texts[some]), start=start, text=texts[some], **how))
    else:
      parts.append(model.reconstruct(arrays["image"][some]))
  return "samples" if with_text else "reconstructions", np.concatenate([np.asarray(x) for x in parts])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "--classifier", required=True, type=Path, help=".npz of the classifier; written if not there"
  )
  parser.add_argument("--workdir", help="a run on data.name=scenes")
  parser.add_argument(
    "--splits", default="test,test_seen", help="whose captions and pictures, comma-separated"
  )
  parser.add_argument("--num", type=int, default=1000, help="pictures of each split")
  parser.add_argument("--steps", type=int, default=3000, help="of the classifier")
  parser.add_argument("--scenes", type=int, default=20_000, help="that the classifier is trained on")
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--seed", type=int, default=0, help="of the samples")
  for flag, kind in HOW.items():
    parser.add_argument(flag, type=kind, help="of the samples, as for evaluate.py --mode sample")
  parser.add_argument("--ranker", help="the run of a captioner, which chooses among --candidates")
  parser.add_argument("--output", help="a JSON file for the figures")
  args = parser.parse_args()
  model = None if args.workdir is None else vae_jax.load(args.workdir)
  if model is not None and model.image_shape != (scenes.SIDE, scenes.SIDE, 3):
    parser.error(
      f"--workdir {args.workdir}: a run of {model.image_shape}; the classifier looks at 32 x 32 x 3"
    )
  chosen = {flag[2:]: getattr(args, flag[2:]) for flag in HOW}
  how: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
  if (how or args.ranker) and (model is None or "text" not in model.module.conditions):
    parser.error(f"{', '.join(HOW)} and --ranker are of samples, and --workdir {args.workdir} takes no texts")
  find, facts = classifier(args.classifier, args.steps, args.scenes, args.batch_size)
  data = apply_overrides(base_config(), ["data.name=scenes"]).data
  figures: dict[str, Any] = {"classifier": facts}
  for split in args.splits.split(","):
    arrays = open_source(data, f"{split}[:{args.num}]").load_all()
    figures[split] = {"real": score(find(arrays["image"].astype(np.float32) / 255), arrays["factors"])}
    if model is not None:
      ranker = {} if args.ranker is None else {"ranker": vae_jax.load(args.ranker)}
      kind, pictures = made(model, arrays, args.seed, args.batch_size, {**how, **ranker})
      figures[split][kind] = score(find(pictures), arrays["factors"])
  how |= {} if args.ranker is None else {"ranker": Path(args.ranker).name}
  figures |= {} if model is None else {"step": model.step, "seed": args.seed, **how}
  print(json.dumps(figures, indent=2))
  if args.output:
    Path(args.output).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  main()
