"""Distances between sets of images, on features that a network took of them: Fréchet (FID), kernel (KID), and the
inception score.

Features are float arrays [b, d] from whatever network; a `Protocol` says from which, and two sets under different
protocols are never compared. The names FID, KID and inception score are kept for the Inception network that they
are defined on. The accumulators are those of `accumulators.py`: float64, immutable, mergeable, nothing filtered; a
nan in the features is a nan in the result. Where the order of the examples matters (subsets, splits) it is that of
their indices, so that no result depends on batches, padding, devices or the order of merging.

At a finite number of examples FID is biased upwards and the inception score mostly downwards, by amounts that depend
on the model: compare them at one count only. KID is unbiased at any count, and so can be negative.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.metrics.accumulators import kept_rows
from vae_jax.storage.files import write_whole
from vae_jax.types import ArrayLike

INCEPTION = "inception_fid"
FID_LAYER = "pool2048"
SCORE_LAYER = "logits"  # inception_fid has them without bias
MAX_STATISTICS = (
  256 << 20
)  # bytes that a file of statistics may unpack to; those of 2,048 features have 34 MB
BLOCK = 1024  # examples a side of one tile of the kernel matrix


@dataclass(frozen=True)
class Protocol:
  """How features were taken: two sets are compared only where all but `note` agree.

  network: its name, as "inception_fid".
  layer: as "pool2048".
  weights: sha256 of the weights file.
  resize: how images came to the network's size, as "tf1", "bilinear", "none".
  value_range: what the pixels were, as "uint8" (rounded to 256 levels) or "float [0, 1]".
  note: free text: the data set, the date, the command.
  """

  network: str
  layer: str
  weights: str
  resize: str
  value_range: str
  note: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
  """Mean and covariance of features [., d], as (count, mean, scatter), merged by the formula of Chan et al. 1979."""

  protocol: Protocol
  count: int = 0
  mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
  scatter: np.ndarray = field(default_factory=lambda: np.zeros(()))

  def update(self, features: ArrayLike, mask: ArrayLike | None = None) -> FeatureStatistics:
    """With the features [b, d] added where `mask` [b] is True. ValueError if shapes differ."""
    kept = kept_rows(features, mask, ndim=2)
    if not len(kept):
      return self
    with np.errstate(invalid="ignore", over="ignore"):
      mean = kept.mean(axis=0)
      centred = kept - mean
      return self.merge(FeatureStatistics(self.protocol, len(kept), mean, centred.T @ centred))

  def merge(self, other: FeatureStatistics) -> FeatureStatistics:
    """Of both sets. UserError where the protocols differ, ValueError where the dimensions do."""
    _check_same(self, other)
    if not self.count or not other.count:
      return self if self.count else other
    if self.mean.shape != other.mean.shape:
      raise ValueError(f"features of shape {self.mean.shape} cannot be merged with {other.mean.shape}")
    count = self.count + other.count
    with np.errstate(invalid="ignore", over="ignore"):
      delta = other.mean - self.mean
      mean = self.mean + delta * (other.count / count)
      scatter = np.outer(delta, delta)
      scatter *= self.count * other.count / count
      scatter += self.scatter
      scatter += other.scatter
    return FeatureStatistics(self.protocol, count, mean, scatter)

  @property
  def covariance(self) -> np.ndarray:
    """float64 [d, d], over count - 1 as in numpy.cov and the original FID. UserError under two examples."""
    if self.count < 2:
      raise UserError(f"statistics of {self.count} examples have no covariance; give at least 2")
    return self.scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
  """The Fréchet distance of two Gaussians, squared, in float64 (Dowson & Landau 1982, equation 4).

  |mean_a - mean_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)). The trace of the root is the sum of the singular values of
  R_a^T R_b for any S = R R^T, which is real, and exact for singular covariances too (fewer examples than
  dimensions): nothing is added to the diagonal. Directions with less than d * 2^-52 of the largest variance are
  rounding and count as none. A result that rounding made negative is 0.

  Returns:
    At least 0; nan where the statistics are not finite.

  Raises:
    UserError: protocols or dimensions differ; fewer than two examples; a covariance with negative variances.
  """
  _check_same(a, b)
  covariances = a.covariance, b.covariance
  _check_dimensions(a.mean.shape[0], b.mean.shape[0])
  if not all(np.isfinite(part).all() for part in (a.mean, b.mean, *covariances)):
    return float("nan")
  root_a, root_b = (_root(covariance) for covariance in covariances)
  cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
  traces = np.trace(covariances[0]) + np.trace(covariances[1])
  return max(0.0, float(np.square(a.mean - b.mean).sum() + (traces - 2 * cross)))


def fid(a: FeatureStatistics, b: FeatureStatistics) -> float:
  """The Fréchet inception distance (Heusel et al. 2017): `frechet_distance` on the Inception pool features only.

  Published values are for 50,000 generated images, mostly against all training images. Raises as
  `frechet_distance`; UserError for any other network or layer.
  """
  _check_inception(a.protocol, FID_LAYER, "fid", "call frechet_distance, and do not call the result FID")
  return frechet_distance(a, b)


def _root(covariance: np.ndarray) -> np.ndarray:
  """R [d, r] of full column rank r with R R^T = covariance."""
  variances, axes = np.linalg.eigh(covariance)
  lowest, largest = variances[0], max(variances[-1], 0.0)
  if lowest < -1e-3 * largest:
    raise UserError(
      f"a covariance with variances from {lowest:g} to {largest:g} is none; compute the statistics again"
    )
  kept = variances > len(variances) * np.finfo(np.float64).eps * largest
  return axes[:, kept] * np.sqrt(variances[kept])


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
    _refuse_differing(stated, protocol, f"{path}: ")
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


@dataclass(frozen=True, eq=False)
class FeatureSet:
  """All features [., d], kept as float32, with the index of each example: 8 kB an image at d = 2048."""

  protocol: Protocol
  blocks: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # features [b, d] and indices [b]

  def update(self, features: ArrayLike, index: ArrayLike, mask: ArrayLike | None = None) -> FeatureSet:
    """With the features [b, d] of the examples `index` int [b] added where `mask` [b] is True.

    The index is the example's number in its data set, or in the order of generation. ValueError if shapes differ.
    """
    kept, indices = _kept_with_index(features, index, mask)
    if not len(kept):
      return self
    with np.errstate(over="ignore"):
      return self.merge(FeatureSet(self.protocol, ((kept.astype(np.float32), indices),)))

  def merge(self, other: FeatureSet) -> FeatureSet:
    """Of both sets. UserError where the protocols differ, ValueError where the dimensions do."""
    _check_same(self, other)
    if self.blocks and other.blocks:
      d, other_d = self.blocks[0][0].shape[1], other.blocks[0][0].shape[1]
      if d != other_d:
        raise ValueError(f"features [., {d}] cannot be merged with [., {other_d}]")
    return FeatureSet(self.protocol, self.blocks + other.blocks)

  @property
  def count(self) -> int:
    return sum(len(indices) for _, indices in self.blocks)

  @property
  def features(self) -> np.ndarray:
    """float32 [count, d] in the order of the indices. UserError where there are none, or an example came twice."""
    if not self.count:
      raise UserError("a set of no features: every batch was empty or masked; give at least 2 examples")
    indices = np.concatenate([indices for _, indices in self.blocks])
    order = np.argsort(indices)
    again = np.flatnonzero(np.diff(indices[order]) == 0)
    if len(again):
      raise UserError(
        f"example {indices[order][again[0]]} was added twice; give every example an index of its own"
      )
    return np.concatenate([features for features, _ in self.blocks])[order]


def kernel_distance(a: FeatureSet, b: FeatureSet) -> float:
  """The squared maximum mean discrepancy over all pairs, kernel (x.y / d + 1)^3 (Gretton et al. 2012, equation 3).

  The unbiased estimate: right on average at any number of examples, and so negative about as often as not where the
  two distributions agree. Time grows as the square of the counts; memory does not.

  Returns:
    nan where a feature is not finite.

  Raises:
    UserError: protocols or dimensions differ; fewer than two examples; an example added twice.
  """
  return _mmd(*_pair(a, b, at_least=2))


def kernel_distance_subsets(
  a: FeatureSet, b: FeatureSet, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
  """(mean, standard deviation) of `kernel_distance` over `subsets` pairs of random subsets of `size` examples each.

  A subset is drawn without replacement, and independently of the others. The mean is unbiased as `kernel_distance`
  is. The deviation (over `subsets`, as numpy.std) is that of one subset's value: it says how much a value from
  `size` examples varies, not how far the mean is from the truth.

  Raises:
    UserError: as `kernel_distance`; fewer than `size` examples; size < 2 or subsets < 1.
  """
  if size < 2 or subsets < 1:
    raise UserError(f"{subsets} subsets of {size} examples: give at least 1 subset of 2")
  x, y = _pair(a, b, at_least=size)
  rng = np.random.default_rng(seed)

  def draw(features: np.ndarray) -> np.ndarray:
    return features[rng.choice(len(features), size, replace=False)]

  values = [_mmd(draw(x), draw(y)) for _ in range(subsets)]
  with np.errstate(invalid="ignore"):
    return float(np.mean(values)), float(np.std(values))


def kid(a: FeatureSet, b: FeatureSet, *, seed: int = 0) -> tuple[float, float]:
  """The kernel inception distance (Binkowski et al. 2018): (mean, deviation) over 100 subsets of 1000 examples.

  `kernel_distance_subsets` on the Inception pool features only. Raises as it does; UserError for any other network
  or layer.
  """
  _check_inception(a.protocol, FID_LAYER, "kid", "call kernel_distance, and do not call the result KID")
  return kernel_distance_subsets(a, b, subsets=100, size=1000, seed=seed)


def _pair(a: FeatureSet, b: FeatureSet, at_least: int) -> tuple[np.ndarray, np.ndarray]:
  _check_same(a, b)
  fewest = min(a.count, b.count)
  if fewest < at_least:
    raise UserError(
      f"a set of {fewest} examples, but {at_least} are needed; add some, or draw smaller subsets"
    )
  x, y = a.features, b.features
  _check_dimensions(x.shape[1], y.shape[1])
  return x, y


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
  m, n = len(x), len(y)
  with np.errstate(invalid="ignore", over="ignore"):
    return float(
      _kernel_within(x) / (m * (m - 1))
      + _kernel_within(y) / (n * (n - 1))
      - 2 * _kernel_between(x, y) / (m * n)
    )


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  k = x @ y.T / x.shape[1] + 1
  return k * k * k


def _blocks(x: np.ndarray) -> list[np.ndarray]:
  return [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]


def _kernel_between(x: np.ndarray, y: np.ndarray) -> float:
  """The sum of the kernel over all pairs of x [m, d] and y [n, d], in float64."""
  total = 0.0
  for left in _blocks(x):
    left = left.astype(np.float64)
    total += sum(float(_kernel(left, right.astype(np.float64)).sum()) for right in _blocks(y))
  return total


def _kernel_within(x: np.ndarray) -> float:
  """The sum of the kernel over all ordered pairs of different rows of x [m, d], in float64."""
  total = 0.0
  for i, block in enumerate(_blocks(x)):
    left = block.astype(np.float64)
    own = _kernel(left, left)
    np.fill_diagonal(own, 0.0)
    total += float(own.sum()) + 2 * _kernel_between(left, x[(i + 1) * BLOCK :])
  return total


@dataclass(frozen=True, eq=False)
class ClassStatistics:
  """Sums over a classifier's probabilities in each of `splits` runs of examples, for the inception score.

  The split of an example follows from its index and `total`, the number of examples there will be: split s has
  the indices from s * total // splits up to (s + 1) * total // splits. `total` is therefore needed at the start.
  """

  protocol: Protocol
  total: int
  splits: int = 10
  counts: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))  # [splits]
  probabilities: np.ndarray = field(default_factory=lambda: np.zeros(()))  # [splits, c], sum of p
  negentropies: np.ndarray = field(default_factory=lambda: np.zeros(()))  # [splits], sum of sum_c p log p

  def __post_init__(self) -> None:
    if not 1 <= self.splits <= self.total:
      raise UserError(f"{self.total} examples in {self.splits} splits; give at least one example to each")

  @property
  def bounds(self) -> np.ndarray:
    """int [splits + 1], the first index of each split, and `total`."""
    return np.arange(self.splits + 1) * self.total // self.splits

  def update(self, logits: ArrayLike, index: ArrayLike, mask: ArrayLike | None = None) -> ClassStatistics:
    """With the logits [b, c] of the examples `index` int [b] added where `mask` [b] is True.

    ValueError if shapes differ or an index is not in 0 .. total - 1.
    """
    kept, indices = _kept_with_index(logits, index, mask)
    if not len(kept):
      return self
    if indices.min() < 0 or indices.max() >= self.total:
      raise ValueError(f"index {indices.min()} to {indices.max()} of {self.total} examples; it starts at 0")
    with np.errstate(invalid="ignore"):
      shifted = kept - kept.max(axis=1, keepdims=True)
      log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
      p = np.exp(log_p)
      split = np.searchsorted(self.bounds, indices, side="right") - 1
      counts = np.bincount(split, minlength=self.splits)
      probabilities, negentropies = np.zeros((self.splits, p.shape[1])), np.zeros(self.splits)
      np.add.at(probabilities, split, p)
      np.add.at(negentropies, split, (p * log_p).sum(axis=1))
    return self.merge(
      ClassStatistics(self.protocol, self.total, self.splits, counts, probabilities, negentropies)
    )

  def merge(self, other: ClassStatistics) -> ClassStatistics:
    """Of both. UserError where the protocols differ, ValueError where total, splits or the classes do."""
    _check_same(self, other)
    if (self.total, self.splits) != (other.total, other.splits):
      raise ValueError(
        f"{self.total} examples in {self.splits} splits cannot be merged with {other.total} in {other.splits}"
      )
    if not self.counts.any() or not other.counts.any():
      return self if self.counts.any() else other
    if self.probabilities.shape != other.probabilities.shape:
      raise ValueError(
        f"sums of shape {self.probabilities.shape} cannot be merged with {other.probabilities.shape}"
      )
    return dataclasses.replace(
      self,
      counts=self.counts + other.counts,
      probabilities=self.probabilities + other.probabilities,
      negentropies=self.negentropies + other.negentropies,
    )


def class_score(statistics: ClassStatistics) -> tuple[float, float]:
  """(mean, standard deviation) over the splits of exp(E_x KL(p(y | x) || p(y))), p(y) being the split's own mean.

  From 1 (all examples are classified alike) to the number of classes or of a split's examples, if fewer. The
  deviation is over `splits`, as numpy.std. Data in the order of their classes score low, as a split sees few of them.

  Returns:
    nan where a logit was not finite.

  Raises:
    UserError: a split has not all of its examples (an example added twice hides a missing one of its split).
  """
  expected = np.diff(statistics.bounds)
  counts = np.broadcast_to(statistics.counts, expected.shape)
  wrong = np.flatnonzero(counts != expected)
  if len(wrong):
    s = wrong[0]
    raise UserError(f"split {s} has {counts[s]} of its {expected[s]} examples; add every index once")
  marginal = statistics.probabilities / counts[:, None]
  with np.errstate(invalid="ignore"):
    log_marginal = np.log(np.where(marginal == 0, 1.0, marginal))  # 0 log 0 = 0
    divergence = statistics.negentropies / counts - (marginal * log_marginal).sum(axis=1)
    scores = np.exp(np.maximum(divergence, 0.0))  # rounding alone is below 0
    return float(scores.mean()), float(scores.std())


def inception_score(statistics: ClassStatistics) -> tuple[float, float]:
  """The inception score (Salimans et al. 2016), (mean, deviation): `class_score` of the Inception classifier only.

  The logits are the 1008 without bias, and a split is a run of examples, both as in the original code. Raises as
  `class_score`; UserError for any other network or layer, and for other than 10 splits.
  """
  _check_inception(
    statistics.protocol,
    SCORE_LAYER,
    "inception_score",
    "call class_score, and do not call it inception score",
  )
  if statistics.splits != 10:
    raise UserError(f"inception_score is defined on 10 splits, not {statistics.splits}; call class_score")
  return class_score(statistics)


def _check_inception(protocol: Protocol, layer: str, name: str, remedy: str) -> None:
  if (protocol.network, protocol.layer) != (INCEPTION, layer):
    raise UserError(
      f"{name} is defined on {INCEPTION} {layer}, not on {protocol.network} {protocol.layer}; {remedy}"
    )


def _check_same(a: Any, b: Any) -> None:
  _refuse_differing(a.protocol, b.protocol, "")


def _refuse_differing(a: Protocol, b: Protocol, prefix: str) -> None:
  for entry in dataclasses.fields(Protocol):
    left, right = getattr(a, entry.name), getattr(b, entry.name)
    if entry.compare and left != right:
      raise UserError(
        f"{prefix}features differ in {entry.name}: {left!r} and {right!r}; take both in one way"
      )


def _check_dimensions(d: int, other: int) -> None:
  if d != other:
    raise UserError(f"features of {d} and of {other} dimensions cannot be compared; take both from one layer")


def _kept_with_index(
  values: ArrayLike, index: ArrayLike, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
  """The rows of `values` where `mask` is True, in float64, and their indices, in int64."""
  kept, indices = kept_rows(values, mask, ndim=2), np.asarray(index)
  if indices.shape != np.shape(values)[:1] or indices.dtype.kind not in "iu":
    raise ValueError(
      f"index of shape {indices.shape} and type {indices.dtype} for values of shape {np.shape(values)}"
    )
  return kept, (indices if mask is None else indices[np.asarray(mask)]).astype(np.int64)
