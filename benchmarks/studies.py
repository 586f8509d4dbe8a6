"""What studies share that train one config several times: rows that are kept, going on, and a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import vae_jax
from vae_jax.errors import UserError
from vae_jax.inference import TrainedVAE
from vae_jax.storage.files import write_bytes

Row = dict[str, Any]


def trained(config: ConfigDict, folder: Path) -> TrainedVAE:
  """The model of a whole run, which goes on where it was stopped. Raises KeyboardInterrupt: it is stopped again."""
  model = vae_jax.train(config, folder)
  if model.step < config.training.steps:
    raise KeyboardInterrupt(f"stopped at step {model.step} of {folder}; the same command continues")
  return model


def rows(args: argparse.Namespace, wanted: Iterable[Row], make: Callable[..., Row]) -> list[Row]:
  """The rows of args.output/rows.json and those that are `wanted` and not there, each made, kept and shown in turn.

  wanted: what tells a row from the others, the arguments of `make`. Raises UserError: the rows are of another config or
  other words.
  """
  settings, path = {"config": str(args.config), "words": args.words}, args.output / "rows.json"
  held = json.loads(path.read_text()) if path.exists() else {**settings, "rows": []}
  if {key: held[key] for key in settings} != settings:
    raise UserError(
      f"{path} is of {held['config']} {' '.join(held['words'])}; give these, or another --output"
    )
  for row in wanted:
    if not any(row.items() <= {key: there[key] for key in row}.items() for there in held["rows"]):
      held["rows"].append({**row, **make(**row)})
      write_bytes(path, (json.dumps(held, indent=2) + "\n").encode())
      print(json.dumps(held["rows"][-1]), flush=True)
  return held["rows"]


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
  """A Markdown table."""
  return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def parser(doc: str | None, names: Iterable[str], what: str) -> argparse.ArgumentParser:
  """The flags of a study of what has these names."""
  p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument("--output", required=True, type=Path, help="folder of the runs and rows")
  p.add_argument("--only", nargs="+", default=list(names), choices=list(names), metavar=what)
  p.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of the config, for all runs")
  return p
