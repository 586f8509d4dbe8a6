"""The files that evaluation leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.storage.files import write_whole


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Writes whole or not at all; numbers that are not finite become null, and their names are listed."""
  bad = [k for k, v in content.items() if isinstance(v, float) and not np.isfinite(v)]
  content = {k: None if k in bad else v for k, v in content.items()} | ({"nonfinite": bad} if bad else {})
  text = json.dumps(content, indent=2, allow_nan=False) + "\n"
  write_whole(path, lambda file: file.write(text.encode()))
