"""Where the files that come with the package are: the configs, and the pretrained models."""

from __future__ import annotations

import importlib.resources
from pathlib import Path


def folder(name: str) -> Path:
  """The folder `configs` or `pretrained`: in the package where a wheel was installed, beside it in a checkout."""
  inside = Path(str(importlib.resources.files("vae_jax"))) / name
  return inside if inside.is_dir() else Path(__file__).parents[1] / name
