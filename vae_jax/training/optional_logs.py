"""Logs that a config asks for beside metrics.jsonl: metrics.csv (training.csv) and wandb (training.wandb)."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.files import append_whole, write_bytes

HEADER = ("step", "split", "metric", "value")


def check_wandb(project: str) -> None:
  """Raises UserError where a project is named and wandb is not installed."""
  found = importlib.util.find_spec("wandb") if project else None
  # No origin: a folder ./wandb, which runs of wandb leave.
  if project and (found is None or found.origin is None):
    raise UserError(
      f"training.wandb={project} needs the package wandb; pip install 'vae_jax[wandb]', or leave training.wandb out"
    )


class CsvLog:
  """The numbers of metrics.jsonl as CSV with a fixed header: one number a line, because splits differ in metrics.

  Rows that are in metrics.jsonl at the start, such as those of a resumed run, are written first.
  """

  def __init__(self, path: Path, rows: Path):
    """rows: the metrics.jsonl beside it. Raises OSError and UserError."""
    text = _lines([HEADER])
    if rows.exists():
      text += "".join(_lines(_cells(json.loads(line))) for line in rows.read_text().splitlines())
    write_bytes(path, text.encode())
    self._file = io.FileIO(path, "a")

  def write(self, row: Mapping[str, Any]) -> None:
    """Adds a row of metrics.jsonl, whole or not at all. Raises OSError."""
    append_whole(self._file, _lines(_cells(row)).encode())

  def close(self) -> None:
    self._file.close()


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
  """step, split, metric, value; the value of a metric that is not finite is empty."""
  for name, value in row.items():
    if name not in ("step", "split", "nonfinite"):
      yield row["step"], row["split"], name, "" if value is None else repr(value)


def _lines(cells: Any) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(cells)
  return text.getvalue()


class Wandb:
  """A run of Weights & Biases. A resumed run continues it, by the id in workdir/wandb/run_id."""

  def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
    """Raises UserError where the run cannot be started."""
    check_wandb(project)
    import wandb

    path = workdir / "wandb" / "run_id"
    if path.exists():
      run_id = path.read_text().strip()
    else:
      run_id = secrets.token_hex(8)
      write_bytes(path, run_id.encode())
    try:
      self._run = wandb.init(
        project=project,
        name=workdir.resolve().name,
        dir=str(workdir),
        id=run_id,
        resume="allow",
        config=dict(config),
      )
    except Exception as error:  # no account, no network
      line = " ".join(str(error).split())[:200]
      raise UserError(
        f"training.wandb={project} cannot start ({line}); run 'wandb login', or set WANDB_MODE=offline"
      ) from None
    self._image = wandb.Image

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def image(self, step: int, name: str, picture: np.ndarray) -> None:
    self._run.log({name: self._image(picture)}, step=step)

  def close(self) -> None:
    self._run.finish()
