"""What evaluate.py does with a trained model: whole-split scores, pictures, photographs restored, folders scored."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import metrics, pictures, runs
from vae_jax.data import pipeline
from vae_jax.data.images import decode
from vae_jax.data.plans import list_images
from vae_jax.data.prepare import check_first_batch, make_prepare
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError, printable
from vae_jax.inference import TILE, TrainedVAE
from vae_jax.objectives import load_scoring_network
from vae_jax.photos.files import Report, restore_files
from vae_jax.photos.score_folder import benchmark
from vae_jax.storage.files import write_whole
from vae_jax.training import parallel, scoring, steps
from vae_jax.types import ArrayLike, Batch, Frozen, seen


def score_split(
  model: TrainedVAE, split: str, *, samples: int, batch_size: int, seed: int = 0, limit: int = 0
) -> dict[str, Any]:
  """Scores a split: every example once, no batch dropped, nothing filtered.

  Args:
    split: as in `config.data.test`.
    samples: K of the importance-weighted bound (Burda et al. 2016); 0 leaves it out.
    batch_size: images at a time; does not change the scores.
    seed: of the posterior samples and of binarisation, dequantisation and degradation.
    limit: score only the first images; 0: all.

  Returns:
    Means over the split. Nats per image: `neg_elbo` = `rate` (KL) + `distortion` (negative log-likelihood), one
    posterior sample; `iwae_nll`, an upper bound on -log p(x) in expectation, tighter with `iwae_samples`. Bits per
    dimension: `bits_per_dim` (of iwae_nll, else of neg_elbo) and `neg_elbo_bits_per_dim`. `likelihood` in words;
    `mse`, `psnr` (dB), `ssim` (from 11 x 11 pixels) and `lpips` (where `config.evaluation.lpips` names a network) of
    reconstructions, means over images; `active_units` of `latent_units`; `examples`.
  """
  config = model.config
  source: pipeline.Source = open_source(config.data, split)
  if limit:
    source = pipeline.First(source, limit)
  placement = parallel.make_placement(jax.device_count())
  batch_size = -(-min(batch_size, len(source)) // placement.mesh.size) * placement.mesh.size
  check_first_batch(next(_stream(model, source, batch_size)), config.data, model.image_shape)
  prepare, frozen = preparation(model)
  if (lpips := load_scoring_network(config.evaluation)) is not None:
    frozen["lpips"] = lpips
  eval_step = parallel.compile_eval_step(
    scoring.make_eval_step(model.module, prepare, root=jax.random.key(seed), iwae_samples=samples),
    placement,
  )
  total = -(-len(source) // batch_size)
  means = scoring.score(
    eval_step,
    placement.put(model.variables),
    _progress(_stream(model, source, batch_size), total, split),
    placement,
    placement.put(frozen),
    codes=model.module.codes,
  )
  return {
    **means,
    **_bounds(model, means, samples),
    **({"absent": absent} if (absent := _absent(model, means, samples)) else {}),
    **({"lpips_network": config.evaluation.lpips} if "lpips" in means else {}),
    "likelihood": model.likelihood,
    "binarize": config.data.binarize,
    "dequantize": config.data.dequantize,
    "latent_units": model.module.units,
    "examples": len(source),
    "split": split,
    "step": model.step,
    "seed": seed,
  }


def _bounds(model: TrainedVAE, means: dict[str, float], samples: int) -> dict[str, Any]:
  """Scores of the likelihood; none of a model that bounds none."""
  if not model.can("bound"):
    return {}
  dims, continuous = int(np.prod(model.image_shape)), model.module.likelihood.continuous
  best = means.get("iwae_nll", means["neg_elbo"])
  return {
    "iwae_samples": samples if "iwae_nll" in means else 0,
    "bits_per_dim": metrics.bits_per_dim(best, dims, continuous),
    "neg_elbo_bits_per_dim": metrics.bits_per_dim(means["neg_elbo"], dims, continuous),
  }


def _absent(model: TrainedVAE, means: dict[str, float], samples: int) -> dict[str, str]:
  """The scores that a model cannot have, each with the reason."""
  name, absent = model.config.model.name, {}
  if not model.can("bound"):
    absent["neg_elbo"] = f"{name} bounds no likelihood"
  elif samples and "iwae_nll" not in means:
    absent["iwae_nll"] = f"{name} has no importance weights"
  if "psnr" not in means:
    absent["psnr"] = f"{name} gives no images back"
  return absent


def preparation(model: TrainedVAE) -> tuple[steps.Prepare, Frozen]:
  """How the records of a model's data become batches in evaluation, and what is frozen for it."""
  prepare = make_prepare(model.config.data, training=False)
  if model.run.first is None:
    return prepare, {}
  return runs.with_first_stage(prepare, model.run.first), {"first_stage": model.first.variables}


def _stream(model: TrainedVAE, source: pipeline.Source, batch_size: int) -> Iterator[Batch]:
  """A source's batches on the host, in order. Raises UserError: no labels or other ones, where the model needs them."""
  classes = model.config.model.get("classes", 0)
  for batch in pipeline.batches(model.config.data, source, batch_size=batch_size, training=False):
    check_conditions(model, batch, source.name)
    if classes:
      pipeline.check_labels(np.asarray(batch["label"]), classes, source.name, trained=True)
    yield batch


def check_conditions(model: TrainedVAE, record: Mapping[str, Any], name: str) -> None:
  """Refuses a record or batch without what the model needs beside images. name: the data set."""
  for field in sorted(model.module.conditions - record.keys()):
    raise UserError(
      f"this run ({model.config.model.name}) needs a {field} for each image, and data.name={name} has none; "
      "give --data_dir or --split of data with it"
    )


def _progress(batches: Iterator[Batch], total: int, split: str) -> Iterator[Batch]:
  from tqdm import tqdm

  return tqdm(batches, total=total, desc=f"scoring {split}", unit="batch", leave=False, delay=2)


def prepared(
  model: TrainedVAE, split: str, num: int, seed: int = 0, label: int | None = None, alike: bool = False
) -> Batch:
  """The first `num` images of a split as the model sees them: float32 `image`, `degraded` and what else there is.

  label: only images of that label. alike: image i and image i + num / 2 have one label, where the model needs labels.
  """
  source: pipeline.Source = open_source(model.config.data, split)
  if "label" in model.module.NEEDS and (label is not None or alike):
    check_conditions(model, source[0], source.name)
    source = pipeline.Chosen(source, with_label(source, num, label, alike))
  source = pipeline.First(source, num)
  batch = next(_stream(model, source, len(source)))
  prepare, frozen = preparation(model)
  keys = steps.example_keys(jax.random.key(seed), steps.PREPARE_STREAM, jnp.asarray(batch["index"]))
  batch.pop("mask")
  return jax.jit(prepare)(keys, batch, frozen)


def with_label(source: pipeline.Source, num: int, label: int | None, alike: bool) -> list[int]:
  """Which records to show: the first of a label or, alike, pairs of one label, first ends before last ones."""
  by_label: dict[int, list[int]] = {}
  firsts: list[int] = []
  lasts: list[int] = []
  for i in range(len(source)):
    found = int(source[i]["label"])
    if label is not None and found != label:
      continue
    waiting = by_label.setdefault(found, [])
    waiting.append(i)
    if alike and len(waiting) == 2:
      firsts.append(waiting[0])
      lasts.append(waiting[1])
      waiting.clear()
    if (2 * len(firsts) if alike else len(waiting)) >= num:
      break
  chosen = firsts + lasts if alike else by_label.get(label if label is not None else -1, [])
  if not chosen:
    what = "two images of one label" if alike else f"image with the label {label}"
    raise UserError(f"{source.name} has no {what}; choose another --label or --split")
  return chosen


def condition(model: TrainedVAE, batch: Batch) -> dict[str, Any]:
  """The fields of a batch that a person would have to give beside images, such as labels."""
  return {name: batch[name] for name in model.module.conditions}  # type: ignore[literal-required]


def reconstructions(model: TrainedVAE, batch: Batch) -> np.ndarray:
  """A picture: each input above its reconstruction (and above the clean image, where the input is degraded)."""
  inputs = seen(batch)
  rows = {
    "input": pictures.beside(inputs, model.image_shape),
    "reconstruction": _cut(model, model.reconstruct(inputs, **condition(model, batch))),
  }
  if "degraded" in batch:
    rows["clean"] = np.asarray(batch["image"])
  return pictures.compare(*rows.values(), labels=tuple(rows))


def _cut(model: TrainedVAE, images: ArrayLike) -> np.ndarray:
  """Restorations cut to the clean image, which may be smaller by less than the factor."""
  height, width, _ = model.image_shape
  return np.asarray(images)[:, :height, :width]


def own_images(model: TrainedVAE, paths: Sequence[Path], num: int) -> Batch:
  """Up to `num` of a person's images, cut to what the encoder takes and seen as they are.

  Folders are searched; what cannot be decoded in them is named and passed over, a file given by name is refused.
  """
  height, width, channels = model.input_shape
  cut: list[np.ndarray] = []
  failed: list[UserError] = []
  for path in paths:
    for file in [path / name for name in list_images(path)] if path.is_dir() else [path]:
      if len(cut) == num:
        break
      try:
        image = decode(file, channels)
      except UserError as error:
        if not path.is_dir():
          raise
        failed.append(error)
        continue
      cut.append(pipeline.fit({"image": image}, (height, width), "resize", None)["image"])
  if not cut and failed:
    raise failed[0]
  for reason in failed:
    print(printable(f"skipped: {reason}"), file=sys.stderr)
  if not cut:
    raise UserError(f"--input {paths[0]}: no images there; give image files or a folder with some")
  return {"image": np.stack(cut).astype(np.float32) / 255}


def inputs(
  model: TrainedVAE,
  paths: Sequence[Path] | None,
  split: str,
  num: int,
  seed: int = 0,
  label: int | None = None,
  alike: bool = False,
) -> Batch:
  """What to reconstruct or interpolate: the person's own images where `paths` names some, else those of a split.

  label: of the own images, or which ones of the split to take. alike: see `prepared`.
  """
  if label is not None and "label" not in model.module.NEEDS:
    raise UserError(f"--label {label}: this run ({model.config.model.name}) knows no labels; leave it out")
  if not paths:
    return prepared(model, split, num, seed, label, alike)
  batch = own_images(model, paths, num)
  if "label" in model.module.NEEDS:
    if label is None:
      raise UserError(f"this run ({model.config.model.name}) needs the label of your images; give --label")
    batch["label"] = np.full(len(batch["image"]), label, np.int32)
  return batch


def interpolations(model: TrainedVAE, batch: Batch, method: str, points: int = 12) -> np.ndarray:
  """A picture with a row for each pair of images: from the reconstruction of the one to that of the other."""
  ends = np.asarray(seen(batch))
  half = len(ends) // 2
  if not half:
    raise UserError("1 image is too few to interpolate; give at least 2")
  fields = {name: x[:half] for name, x in condition(model, batch).items()}
  rows = np.asarray(model.interpolate(ends[:half], ends[half : 2 * half], points, method, **fields))
  return pictures.grid(rows.reshape(-1, *model.image_shape), columns=points)


def summary(scores: dict[str, Any]) -> str:
  """The scores as lines for a person."""
  s = scores
  lines = [
    f"{s['split']}: {s['examples']} images, checkpoint of step {s['step']}, likelihood: {s['likelihood']}"
  ]
  if "neg_elbo" in s:
    lines.append(
      f"  -ELBO          {s['neg_elbo']:10.3f} nats  = rate {s['rate']:.3f} + distortion {s['distortion']:.3f}"
    )
  if "iwae_nll" in s:
    lines.append(f"  NLL (IWAE-{s['iwae_samples']})".ljust(17) + f"{s['iwae_nll']:10.3f} nats")
  if "bits_per_dim" in s:
    lines.append(f"  bits/dim       {s['bits_per_dim']:10.4f}")
  if "psnr" in s:
    lines.append(f"  reconstruction {s['psnr']:10.2f} dB PSNR, MSE {s['mse']:.5f}{_similarity(s)}")
  if "active_units" in s:
    lines.append(f"  active units   {s['active_units']:10.0f} of {s['latent_units']}")
  if "codes_used" in s:
    lines.append(
      f"  codes          {s['codes_used']:10.1%} used, {s['dead_codes']} dead, perplexity {s['perplexity']:.1f}"
    )
  return "\n".join([*lines, *(f"  no {name}: {reason}" for name, reason in s.get("absent", {}).items())])


def _similarity(scores: dict[str, Any]) -> str:
  return "".join(f", {name.upper()} {scores[name]:.4f}" for name in ("ssim", "lpips") if name in scores)


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes whole or not at all; numbers that are not finite become null, and their names are listed."""
  bad = [k for k, v in content.items() if isinstance(v, float) and not np.isfinite(v)]
  content = {k: None if k in bad else v for k, v in content.items()} | ({"nonfinite": bad} if bad else {})
  text = json.dumps(content, indent=2, allow_nan=False) + "\n"
  write_whole(path, lambda file: file.write(text.encode()))


def has_samples(model: TrainedVAE) -> bool:
  """Whether `evaluate` draws samples of a model: of its prior, or restorations."""
  return model.can("sample") or model.can("restore")


def drawn(model: TrainedVAE) -> list[str]:
  """The pictures that `evaluate` draws of a model."""
  found = ["reconstructions.png"] if model.module.reconstructs else []
  return [*found, "samples.png"] if has_samples(model) else found


def samples(
  model: TrainedVAE, num: int, seed: int = 0, temperature: float = 1.0, label: int | None = None
) -> np.ndarray:
  """A picture of `num` samples of the prior; of a model with labels, of `label`, else of each in turn."""
  key = jax.random.key(seed)
  if "label" not in model.module.NEEDS:
    return pictures.grid(model.sample(key, num, temperature, label=label))
  classes = model.config.model.classes
  labels = np.arange(num) % classes if label is None else label
  columns = classes if label is None and num >= classes else None
  return pictures.grid(model.sample(key, num, temperature, label=labels), columns=columns)


def _samples(model: TrainedVAE, batch: Batch, num: int, seed: int = 0) -> np.ndarray:
  """A picture: `num` samples of the prior; of a model that restores, draws beneath each input of the batch."""
  if model.can("sample"):
    return samples(model, num, seed)
  inputs = seen(batch)
  rows = {"input": pictures.beside(inputs, model.image_shape), "restored": _cut(model, model.restore(inputs))}
  if model.can("draw"):
    draws = np.asarray(model.restore(inputs, jax.random.key(seed), samples=3))
    rows |= {f"draw {i + 1}": _cut(model, draw) for i, draw in enumerate(draws)}
  return pictures.compare(*rows.values(), labels=tuple(rows))


def evaluate(
  model: TrainedVAE, folder: Path, split: str, *, samples: int, batch_size: int, seed: int = 0
) -> dict:
  """Scores a split into metrics.json of `folder`, with pictures beside it; returns the scores."""
  started = time.monotonic()
  scores = score_split(model, split, samples=samples, batch_size=batch_size, seed=seed)
  scores["seconds"] = round(time.monotonic() - started, 2)
  num = model.config.evaluation.pictures
  batch = prepared(model, split, num, seed)
  write_json(folder / "metrics.json", scores)
  if model.module.reconstructs:
    pictures.save_png(folder / "reconstructions.png", reconstructions(model, batch))
  if has_samples(model):
    pictures.save_png(folder / "samples.png", _samples(model, batch, num, seed))
  return scores


def restore_photographs(
  model: TrainedVAE,
  inputs: Sequence[Path],
  output: str | Path,
  *,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
) -> Report:
  """Restores a person's photographs, whole, into `output`: see `restoring.restore_files`."""
  model.require("restore")
  if samples:
    model.require("draw")
  key = jax.random.key(seed)

  def restore(image: np.ndarray, index: int | None, progress: Callable[[int, int], None]) -> np.ndarray:
    if index is None:
      return model.restore_image(image, tile=tile, ensemble=ensemble, progress=progress)
    return model.restore_image(image, jax.random.fold_in(key, index), tile=tile, progress=progress)

  return restore_files(
    restore,
    inputs,
    output,
    factor=model.factor,
    channels=model.input_shape[2],
    samples=samples,
    pixel_noise=lambda image: model.pixel_noise(image, tile=tile),
  )


def benchmark_folder(
  model: TrainedVAE,
  folder: Path,
  output: Path,
  *,
  limit: int = 0,
  samples: int = 0,
  seed: int = 0,
  tile: int = TILE,
  ensemble: bool = False,
) -> dict[str, Any]:
  """Scores a folder of clean photographs into `output` (.json), a contact sheet beside it (.png); returns the scores.

  See `benchmark.benchmark`. With samples >= 2 also how well the map of uncertainty, of so many draws, tells the error.
  """
  model.require("restore")
  if samples:
    model.require("draw")
  key = jax.random.key(seed)

  def draw(degraded: np.ndarray, num: int) -> np.ndarray:
    keys = [jax.random.fold_in(key, k) for k in range(num)]
    return np.stack([model.restore_image(degraded, k, tile=tile) for k in keys])

  scores, picture = benchmark(
    lambda degraded: model.restore_image(degraded, tile=tile, ensemble=ensemble),
    folder,
    model.config.data.degrade,
    channels=model.input_shape[2],
    seed=seed,
    lpips=load_scoring_network(model.config.evaluation),
    limit=limit,
    draw=draw if samples else None,
    samples=samples,
    pixel_noise=lambda degraded: model.pixel_noise(degraded, tile=tile),
  )
  write_json(output, scores)
  pictures.save_png(output.with_suffix(".png"), picture)
  return scores
