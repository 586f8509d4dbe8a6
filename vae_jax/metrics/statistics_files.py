"""Feature statistics as .npz files, under the names of pytorch-fid and the original FID code, with their protocol."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import FeatureStatistics, Protocol, refuse_differing
from vae_jax.storage.files import write_whole

MAX_STATISTICS = (
  256 << 20
)  # bytes that a file of statistics may unpack to; those of 2,048 features have 34 MB


def save_statistics(path: str | Path, statistics: FeatureStatistics) -> None:
  """Writes .npz with `mu` [d], `sigma` [d, d], `count` and `protocol` (JSON). The file appears whole or not at all.

  The names are those of pytorch-fid and the original FID code, which can read the file. Missing folders are made.
  UserError for fewer than two examples, for statistics that are not finite, and where the path cannot be written.
  """
  path = Path(path)
  mean, covariance = statistics.mean, statistics.covariance
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise UserError(f"{path}: not written, the statistics are not finite; look for nan in images or features")
  protocol = json.dumps(dataclasses.asdict(statistics.protocol))
  arrays: dict[str, Any] = {"mu": mean, "sigma": covariance, "count": statistics.count, "protocol": protocol}
  write_whole(path, lambda file: np.savez(file, **arrays))


def load_statistics(
  path: str | Path, *, protocol: Protocol | None = None, count: int | None = None
) -> FeatureStatistics:
  """Reads what `save_statistics` wrote, or another program's .npz with `mu` [d] and `sigma` [d, d].

  Args:
    path: the file. Nothing in it is unpickled.
    protocol, count: of a file that does not state them (pytorch-fid, the original FID code): both are needed then.
      Where the file states them, what is given here must agree.

  Raises:
    UserError: the file is missing, damaged, or no such statistics; what it leaves open is not given.
  """
  path = Path(path)
  try:
    with open(path, "rb") as opened:  # np.load leaves a damaged file open that it opened itself
      if opened.read(2) != b"PK":
        raise ValueError("it is no zip file")
      with zipfile.ZipFile(opened) as archive:
        if (total := sum(member.file_size for member in archive.infolist())) > MAX_STATISTICS:
          raise ValueError(f"it would unpack to {total} bytes, at most {MAX_STATISTICS} are read")
      opened.seek(0)
      file = np.load(opened, allow_pickle=False)
      arrays = {
        key: np.asarray(file[key]) for key in ("mu", "sigma", "count", "protocol") if key in file.files
      }
  except Exception as error:  # damaged bytes raise whatever zipfile, zlib and numpy's parser meet first
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    raise UserError(
      f"{path}: cannot be read as .npz ({reason}); write it with metrics.save_statistics"
    ) from error
  problem = _not_statistics(arrays)
  if problem:
    raise UserError(f"{path}: {problem}; write it with metrics.save_statistics")
  stated = _parse_protocol(path, arrays["protocol"].item()) if "protocol" in arrays else protocol
  counted = int(arrays["count"]) if "count" in arrays else count
  if stated is None or counted is None:
    raise UserError(
      f"{path}: does not say which features it is of, and how many; give load_statistics their protocol and count"
    )
  if protocol is not None:
    refuse_differing(stated, protocol, f"{path}: ")
  if counted < 2 or count not in (None, counted):
    raise UserError(
      f"{path}: of {counted} examples, count={count}; give the number it was computed from, 2 or more"
    )
  mean, covariance = (arrays[key].astype(np.float64) for key in ("mu", "sigma"))
  return FeatureStatistics(stated, counted, mean, (covariance + covariance.T) * (0.5 * (counted - 1)))


def _not_statistics(arrays: dict[str, np.ndarray]) -> str:
  """What keeps the arrays from being a mean, a covariance, a count and a text; empty if nothing does."""
  if not {"mu", "sigma"} <= arrays.keys():
    return f"has no arrays 'mu' and 'sigma', only {', '.join(arrays) or 'others'}"
  mean, covariance = arrays["mu"], arrays["sigma"]
  if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
    return f"'mu' is {mean.dtype} and 'sigma' {covariance.dtype}, not floats"
  if mean.ndim != 1 or not mean.size or covariance.shape != mean.shape * 2:
    return f"'mu' of shape {mean.shape} and 'sigma' of shape {covariance.shape} are not [d] and [d, d]"
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    return "'mu' or 'sigma' is not finite"
  if (
    np.diagonal(covariance).min() < 0
    or np.abs(covariance - covariance.T).max() > 1e-4 * np.abs(covariance).max()
  ):
    return "'sigma' is not symmetric with variances of at least 0"
  if "count" in arrays and (arrays["count"].dtype.kind not in "iu" or arrays["count"].ndim):
    return f"'count' is {arrays['count'].dtype} {list(arrays['count'].shape)}, not an integer"
  if "protocol" in arrays and (arrays["protocol"].dtype.kind != "U" or arrays["protocol"].ndim):
    return f"'protocol' is {arrays['protocol'].dtype} {list(arrays['protocol'].shape)}, not a text"
  return ""


def _parse_protocol(path: Path, text: str) -> Protocol:
  names = [f.name for f in dataclasses.fields(Protocol)]
  try:
    entries = json.loads(text)
  except ValueError:
    entries = None
  if not isinstance(entries, dict) or sorted(entries) != sorted(names):
    raise UserError(f"{path}: its protocol is not JSON with {', '.join(names)}; write the file again")
  wrong = [name for name in names if not isinstance(entries[name], str)]
  if wrong:
    raise UserError(
      f"{path}: {wrong[0]} = {entries[wrong[0]]!r} in its protocol is no text; write the file again"
    )
  return Protocol(**entries)
