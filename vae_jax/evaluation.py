"""What evaluate.py does with a trained model: whole-split scores, pictures, photographs restored, folders scored."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import metrics, pictures
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
from vae_jax.training import parallel, steps
from vae_jax.training.loop import score
from vae_jax.types import ArrayLike, Batch


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
  shape = pipeline.image_shape(config.data, source)
  if limit:
    source = pipeline.First(source, limit)
  placement = parallel.make_placement(jax.device_count())
  batch_size = -(-min(batch_size, len(source)) // placement.mesh.size) * placement.mesh.size
  check_first_batch(next(_stream(model, source, batch_size)), config.data, model.image_shape)
  eval_step = parallel.compile_eval_step(
    steps.make_eval_step(
      model.module, make_prepare(config.data, training=False), root=jax.random.key(seed), iwae_samples=samples
    ),
    placement,
  )
  params = placement.put(model.params)
  total = -(-len(source) // batch_size)
  frozen = steps.Frozen(lpips=load_scoring_network(config.evaluation))
  means = score(
    eval_step,
    params,
    _progress(_stream(model, source, batch_size), total, split),
    placement,
    placement.put(frozen),
  )

  dims, continuous = int(np.prod(shape)), model.module.likelihood.continuous
  best = means["iwae_nll"] if samples else means["neg_elbo"]
  return {
    **means,
    "iwae_samples": samples,
    "bits_per_dim": metrics.bits_per_dim(best, dims, continuous),
    "neg_elbo_bits_per_dim": metrics.bits_per_dim(means["neg_elbo"], dims, continuous),
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


def _stream(model: TrainedVAE, source: pipeline.Source, batch_size: int) -> Iterator[Batch]:
  return pipeline.batches(model.config.data, source, batch_size=batch_size, training=False)


def _progress(batches: Iterator[Batch], total: int, split: str) -> Iterator[Batch]:
  from tqdm import tqdm

  return tqdm(batches, total=total, desc=f"scoring {split}", unit="batch", leave=False, delay=2)


def prepared(model: TrainedVAE, split: str, num: int, seed: int = 0) -> Batch:
  """The first `num` images of a split as the model sees them: float32 `image`, and `degraded` where there is one."""
  source = pipeline.First(open_source(model.config.data, split), num)
  batch = next(_stream(model, source, len(source)))
  keys = steps.example_keys(jax.random.key(seed), steps.PREPARE_STREAM, jnp.asarray(batch["index"]))
  batch.pop("mask")
  return jax.jit(make_prepare(model.config.data, training=False))(keys, batch)


def reconstructions(model: TrainedVAE, batch: Batch) -> np.ndarray:
  """A picture: each input above its reconstruction (and above the clean image, where the input is degraded)."""
  seen = batch.get("degraded", batch["image"])
  rows = {
    "input": pictures.beside(seen, model.image_shape),
    "reconstruction": _cut(model, model.reconstruct(seen)),
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


def inputs(model: TrainedVAE, paths: Sequence[Path] | None, split: str, num: int, seed: int = 0) -> Batch:
  """What to reconstruct or interpolate: the person's own images where `paths` names some, else those of a split."""
  return own_images(model, paths, num) if paths else prepared(model, split, num, seed)


def interpolations(model: TrainedVAE, batch: Batch, method: str, points: int = 12) -> np.ndarray:
  """A picture with a row for each pair of images: from the reconstruction of the one to that of the other."""
  seen = np.asarray(batch.get("degraded", batch["image"]))
  half = len(seen) // 2
  if not half:
    raise UserError("1 image is too few to interpolate; give at least 2")
  rows = np.asarray(model.interpolate(seen[:half], seen[half : 2 * half], points, method))
  return pictures.grid(rows.reshape(-1, *model.image_shape), columns=points)


def summary(scores: dict[str, Any]) -> str:
  """The scores as lines for a person."""
  s = scores
  lines = [
    f"{s['split']}: {s['examples']} images, checkpoint of step {s['step']}, likelihood: {s['likelihood']}",
    f"  -ELBO          {s['neg_elbo']:10.3f} nats  = rate {s['rate']:.3f} + distortion {s['distortion']:.3f}",
  ]
  if "iwae_nll" in s:
    lines.append(f"  NLL (IWAE-{s['iwae_samples']})".ljust(17) + f"{s['iwae_nll']:10.3f} nats")
  return "\n".join(
    [
      *lines,
      f"  bits/dim       {s['bits_per_dim']:10.4f}",
      f"  reconstruction {s['psnr']:10.2f} dB PSNR, MSE {s['mse']:.5f}{_similarity(s)}",
      f"  active units   {s['active_units']:10d} of {s['latent_units']}",
    ]
  )


def _similarity(scores: dict[str, Any]) -> str:
  return "".join(f", {name.upper()} {scores[name]:.4f}" for name in ("ssim", "lpips") if name in scores)


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes whole or not at all; numbers that are not finite become null, and their names are listed."""
  bad = [k for k, v in content.items() if isinstance(v, float) and not np.isfinite(v)]
  content = {k: None if k in bad else v for k, v in content.items()} | ({"nonfinite": bad} if bad else {})
  text = json.dumps(content, indent=2, allow_nan=False) + "\n"
  write_whole(path, lambda file: file.write(text.encode()))


def _samples(model: TrainedVAE, batch: Batch, num: int, seed: int = 0) -> np.ndarray:
  """A picture: `num` samples of the prior; of a model that restores, draws beneath each input of the batch."""
  key = jax.random.key(seed)
  if model.module.unconditional:
    return pictures.grid(model.sample(key, num))
  seen = batch.get("degraded", batch["image"])
  rows = {"input": pictures.beside(seen, model.image_shape), "restored": _cut(model, model.restore(seen))}
  if model.module.units:
    draws = np.asarray(model.restore(seen, key, samples=3))
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
  pictures.save_png(folder / "reconstructions.png", reconstructions(model, batch))
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
  model.can_restore()
  if samples:
    model.can_draw()
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
  model.can_restore()
  if samples:
    model.can_draw()
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
