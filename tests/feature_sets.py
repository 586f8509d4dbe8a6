"""Features of made-up sets of images, and the ways in which one set may be divided into batches."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from vae_jax.metrics import FeatureSet, FeatureStatistics, Protocol

POOL = Protocol("inception_fid", "pool2048", "6a" * 32, "tf1", "uint8")
LOGITS = dataclasses.replace(POOL, layer="logits")
VGG = Protocol("vgg16", "relu5_3", "1b" * 32, "none", "float [0, 1]")


def gaussian(mean, covariance, count=100, protocol=VGG):
  """Statistics with exactly this mean and covariance."""
  mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
  return FeatureStatistics(protocol, count, mean, covariance * (count - 1))


def random_covariance(rng, d, condition=10.0):
  axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
  return axes * np.geomspace(1, condition, d) @ axes.T


def statistics(values, protocol=VGG):
  return FeatureStatistics(protocol).update(values)


def feature_set(values, protocol=VGG):
  return FeatureSet(protocol).update(values, np.arange(len(values)))


def legacy_sets(seed, n, m, d):
  """Real [n, d] and fake [m, d] by NumPy's legacy generator, whose numbers are the same in every version."""
  rs = np.random.RandomState(seed)
  real = rs.normal(size=(n, d)).astype(np.float32)
  return real, (0.7 * rs.normal(size=(m, d)) + 0.3).astype(np.float32)


def gathered(empty, values, sizes, order, devices, padding, indexed):
  """Batches of `sizes`, taken in `order`, each padded to one size, dealt to `devices` and merged."""
  ends = np.cumsum(sizes)
  starts, width = ends - sizes, max(sizes)
  parts = [empty] * devices
  for turn, i in enumerate(order):
    rows = np.arange(starts[i], ends[i])
    part = np.full((width, values.shape[1]), padding, values.dtype)
    part[: len(rows)] = values[rows]
    index = np.concatenate([rows, np.zeros(width - len(rows), int)])
    mask = np.arange(width) < len(rows)
    arguments = (part, index, mask) if indexed else (part, mask)
    parts[turn % devices] = parts[turn % devices].update(*arguments)
  while len(parts) > 1:
    parts = [parts[-1].merge(parts[0]), *parts[1:-1]]
  return parts[0]


@st.composite
def divisions(draw, total):
  cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=8)))
  sizes = np.diff([0, *cuts, total])
  order = draw(st.permutations(range(len(sizes))))
  devices, padding = draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 1e30, np.nan, np.inf]))
  return {"sizes": sizes, "order": order, "devices": devices, "padding": padding}
