"""Feature statistics as .npz files, under the names of pytorch-fid and the original FID code, with their protocol.

Such a file may also hold features themselves, which the kernel distance needs.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.features import (
  FeatureSet,
  FeatureStatistics,
  Protocol,
  check_dimensions,
  check_same,
  refuse_differing,
)
from vae_jax.storage.files import write_whole

# Bytes that a file of statistics may unpack to; those of 2,048 features have 34 MB.
MAX_STATISTICS = 256 << 20


def save_statistics(
  path: str | Path, statistics: FeatureStatistics, features: FeatureSet | None = None
) -> None:
  """Writes .npz with `mu` [d], `sigma` [d, d], `count` and `protocol` (JSON). The file appears whole or not at all.

  The names are those of pytorch-fid and the original FID code, which can read the file. Missing folders are made.

  Args:
    path: the file.
    statistics: of at least two examples.
    features: all or some of the examples' features, kept as `features` float32 [m, d] and `index` int64 [m].

  Raises:
    UserError: fewer than two examples; statistics or features that are not finite; features of another protocol, or too
      many to be read again; a path that cannot be written.
  """
  path = Path(path)
  mean, covariance = statistics.mean, statistics.covariance
  if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise UserError(f"{path}: not written, the statistics are not finite; look for nan in images or features")
  protocol = json.dumps(dataclasses.asdict(statistics.protocol))
  arrays: dict[str, Any] = {"mu": mean, "sigma": covariance, "count": statistics.count, "protocol": protocol}
  if features is not None:
    check_same(statistics, features)
    check_dimensions(len(mean), features.features.shape[1])
    if not np.isfinite(features.features).all():
      raise UserError(f"{path}: not written, the features are not finite; look for nan in images or features")
    arrays |= {"features": features.features, "index": features.index}
  if (total := sum(np.asarray(array).nbytes for array in arrays.values()) + 2**16) > MAX_STATISTICS:
    raise UserError(
      f"{path}: not written, it would have {total} bytes and at most {MAX_STATISTICS} are read; keep fewer features"
    )
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
  arrays = _read(path, ("mu", "sigma", "count", "protocol"))
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


def holds_features(path: str | Path) -> bool:
  """Whether a file of statistics has features too. UserError where it is missing or damaged."""
  return bool(_read(Path(path), ("features",)))


def load_features(path: str | Path, *, protocol: Protocol | None = None) -> FeatureSet:
  """Reads the features that `save_statistics` was given.

  Args:
    path: the file. Nothing in it is unpickled.
    protocol: what the file's protocol must be; any by default.

  Raises:
    UserError: the file is missing, damaged, holds no features, or features of another protocol.
  """
  path = Path(path)
  arrays = _read(path, ("features", "index", "protocol"))
  if problem := _not_features(arrays):
    raise UserError(f"{path}: {problem}; write it with metrics.save_statistics, given features")
  stated = _parse_protocol(path, arrays["protocol"].item())
  if protocol is not None:
    refuse_differing(stated, protocol, f"{path}: ")
  return FeatureSet(stated, ((arrays["features"].astype(np.float32), arrays["index"].astype(np.int64)),))


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Reads those of the arrays that the file has."""
  try:
    with open(path, "rb") as opened:  # np.load leaves a damaged file open that it opened itself
      if opened.read(2) != b"PK":
        raise ValueError("it is no zip file")
      with zipfile.ZipFile(opened) as archive:
        if (total := sum(member.file_size for member in archive.infolist())) > MAX_STATISTICS:
          raise ValueError(f"it would unpack to {total} bytes, at most {MAX_STATISTICS} are read")
      opened.seek(0)
      file = np.load(opened, allow_pickle=False)
      arrays = {key: np.asarray(file[key]) for key in keys if key in file.files}
  except Exception as error:  # damaged bytes raise whatever zipfile, zlib and numpy's parser meet first
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    raise UserError(
      f"{path}: cannot be read as .npz ({reason}); write it with metrics.save_statistics"
    ) from error
  return arrays


def _not_features(arrays: dict[str, np.ndarray]) -> str:
  """Says what keeps the arrays from being features, their indices and a protocol; empty if nothing does."""
  if missing := [key for key in ("features", "index", "protocol") if key not in arrays]:
    return f"has no array {missing[0]!r}"
  features, index, protocol = arrays["features"], arrays["index"], arrays["protocol"]
  if features.dtype.kind != "f" or features.ndim != 2 or not features.size:
    return f"'features' is {features.dtype} {list(features.shape)}, not floats [m, d]"
  if index.dtype.kind not in "iu" or index.shape != features.shape[:1] or len(np.unique(index)) < len(index):
    return f"'index' is {index.dtype} {list(index.shape)}, not {len(features)} different integers"
  if protocol.dtype.kind != "U" or protocol.ndim:
    return f"'protocol' is {protocol.dtype} {list(protocol.shape)}, not a text"
  return "" if np.isfinite(features).all() else "'features' is not finite"


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
  needed = {"network", "layer", "weights", "resize", "value_range"}  # what came later has a default
  try:
    entries = json.loads(text)
  except ValueError:
    entries = None
  if not isinstance(entries, dict) or not needed <= entries.keys() <= set(names):
    raise UserError(f"{path}: its protocol is not JSON with {', '.join(names)}; write the file again")
  wrong = [name for name in entries if not isinstance(entries[name], str)]
  if wrong:
    raise UserError(
      f"{path}: {wrong[0]} = {entries[wrong[0]]!r} in its protocol is no text; write the file again"
    )
  return Protocol(**entries)
