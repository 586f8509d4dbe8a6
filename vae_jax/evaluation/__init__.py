"""What evaluate.py does with a trained model: whole-split scores, pictures, photographs restored, folders scored."""

from __future__ import annotations

import time
from pathlib import Path

from vae_jax import pictures
from vae_jax.evaluation.compressed import (
  check_compresses,
  compress_images,
  compression_table,
  decompress_images,
  levels_of,
  pictures_of,
)
from vae_jax.evaluation.factor_scores import factor_lines, factor_scores
from vae_jax.evaluation.fitting import fit_prior, latents_of, prior_table, save_prior
from vae_jax.evaluation.label_probes import probe_labels, probe_lines
from vae_jax.evaluation.members import member_table, scores_of_members
from vae_jax.evaluation.photographs import (
  benchmark_folder,
  restore_each_by_its_model,
  restore_photographs,
)
from vae_jax.evaluation.records import (
  check_conditions,
  condition,
  enlarged,
  exact_image,
  inputs,
  open_split,
  own_files,
  own_image,
  own_images,
  preparation,
  prepared,
  prepared_batches,
  readable,
  stream,
  tell_notes,
  tell_skipped,
  with_label,
)
from vae_jax.evaluation.results import suffix, write_json
from vae_jax.evaluation.scores import score_split, summary
from vae_jax.evaluation.shown import (
  completions,
  drawn,
  has_samples,
  interpolations,
  prior_line,
  reconstructions,
  samples,
  samples_of_texts,
  split_samples,
)
from vae_jax.inference import TrainedVAE

__all__ = [
  "benchmark_folder",
  "check_compresses",
  "check_conditions",
  "completions",
  "compress_images",
  "compression_table",
  "condition",
  "decompress_images",
  "drawn",
  "enlarged",
  "evaluate",
  "exact_image",
  "factor_lines",
  "factor_scores",
  "fit_prior",
  "has_samples",
  "inputs",
  "interpolations",
  "latents_of",
  "levels_of",
  "member_table",
  "open_split",
  "own_files",
  "own_image",
  "own_images",
  "pictures_of",
  "preparation",
  "prepared",
  "prepared_batches",
  "prior_line",
  "prior_table",
  "probe_labels",
  "probe_lines",
  "readable",
  "reconstructions",
  "restore_each_by_its_model",
  "restore_photographs",
  "samples",
  "samples_of_texts",
  "save_prior",
  "score_split",
  "scores_of_members",
  "stream",
  "suffix",
  "summary",
  "tell_notes",
  "tell_skipped",
  "with_label",
  "write_json",
]


def evaluate(
  model: TrainedVAE,
  folder: Path,
  split: str,
  *,
  samples: int,
  batch_size: int,
  seed: int = 0,
  suffix: str = "",
) -> dict:
  """Scores a split into metrics.json of `folder`, with pictures beside it; returns the scores.

  suffix: of the names of these files, see `results.suffix`.
  """
  started = time.monotonic()
  scores = score_split(model, split, samples=samples, batch_size=batch_size, seed=seed)
  scores["seconds"] = round(time.monotonic() - started, 2)
  num = model.config.evaluation.pictures
  batch = prepared(model, split, num, seed)
  write_json(folder / f"metrics{suffix}.json", scores)
  if model.module.reconstructs:
    pictures.save_png(folder / f"reconstructions{suffix}.png", reconstructions(model, batch))
  if has_samples(model):
    pictures.save_png(folder / f"samples{suffix}.png", split_samples(model, batch, num, seed))
  return scores
