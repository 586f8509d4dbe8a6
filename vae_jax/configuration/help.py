"""Help: each key of a config with its value, meaning and range."""

from __future__ import annotations

import shutil
import textwrap

from ml_collections import ConfigDict

from vae_jax.configuration.values import keys_of, show, to_values
from vae_jax.keys import NAME

# The keys that most runs set; a family may lack some.
MOST_USED = (
  "data.name",
  "data.dir",
  "data.size",
  "model.name",
  "model.latent_dim",
  "objective.beta",
  "training.steps",
  "training.batch_size",
  "training.learning_rate",
  "training.seed",
)


def describe(config: ConfigDict, base: ConfigDict, width: int | None = None) -> str:
  """Help text: each key with its value, that of `base` if it differs, meaning and range. The most used keys come
  first, the others by section.

  `width`: columns; the terminal's unless given.
  """
  width = max(40, min(width or shutil.get_terminal_size().columns, 110))
  values, defaults = to_values(config), to_values(base)
  keys = keys_of(values["model.name"])
  first = [key for key in MOST_USED if key in keys]
  lines: list[str] = []
  for key in [*first, *(key for key in keys if key not in first)]:
    _, meaning, rule = keys[key]
    title = "most used:" if key in first else f"{key.split('.')[0]}:"
    if title not in lines:
      lines += ["", title] if lines else [title]
    default = "" if values[key] == defaults.get(key) else f"  (default {show(defaults[key])})"
    lines.append(f"  --config.{key}={show(values[key])}{default}")
    text = f"{meaning} [{rule.words}]" if rule and rule is not NAME else meaning
    indent = " " * 6
    lines += textwrap.wrap(
      text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
  return "\n".join(lines)
