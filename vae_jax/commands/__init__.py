"""What evaluate.py can do with a trained model: one file a mode.

Each file is light at import, and has `HELP` (a line), `EXAMPLE` (its flags in an example), `FLAGS` (those that it takes
besides --workdir, --pretrained and --checkpoint; those that name its results first), `NEEDS` (an ability of the model,
see `models.contract.ABILITIES`, or None), `OUTPUT` (the suffixes of the file that it may write; none for a folder) and
`run(model, args)`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

MODES = (
  "score",
  "sample",
  "encode",
  "fit_prior",
  "reconstruct",
  "complete",
  "inpaint",
  "interpolate",
  "walk",
  "traverse",
  "attribute",
  "disentangle",
  "probe",
  "neighbours",
  "anomaly",
  "restore",
  "frechet",
  "benchmark",
  "compress",
  "decompress",
  "export",
)


def command(mode: str) -> ModuleType:
  """The file of a mode."""
  return importlib.import_module(f"vae_jax.commands.{mode}")
