"""Distances between features against scipy's matrix root, loops over pairs and the formulas written out."""

import dataclasses
import itertools
import json
import os
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.errors import UserError
from vae_jax.metrics import features as module
from vae_jax.metrics.features import (
  ClassStatistics,
  FeatureSet,
  FeatureStatistics,
  Protocol,
  class_score,
  fid,
  frechet_distance,
  inception_score,
  kernel_distance,
  kernel_distance_subsets,
  kid,
  load_statistics,
  save_statistics,
)

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


# Statistics ---------------------------------------------------------------------------------------------------------


@given(divisions(37), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_statistics_do_not_depend_on_batches_padding_and_order(division, seed):
  values = (np.random.default_rng(seed).normal(size=(37, 5)) + 100.0).astype(np.float32)
  found = gathered(FeatureStatistics(VGG), values, **division, indexed=False)
  exact = values.astype(np.float64)
  assert found.count == 37
  np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-14)
  np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-12)
  np.testing.assert_array_equal(found.scatter, found.scatter.T)


def test_statistics_do_not_cancel_far_from_zero():
  # E[x^2] - E[x]^2 would have no digit left, and neither would float32.
  noise = np.random.default_rng(0).normal(size=(1000, 3))
  found = FeatureStatistics(VGG)
  for part in np.split(noise + 1e8, 20):
    found = found.update(part)
  np.testing.assert_allclose(found.covariance, np.cov(noise, rowvar=False), rtol=1e-5, atol=1e-7)


def test_statistics_take_jax_arrays_and_are_immutable():
  values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  first = FeatureStatistics(VGG).update(jnp.asarray(values[:4]), jnp.array([True, True, False, True]))
  before = first.scatter.copy()
  second = first.update(values[4:])
  kept = values[[0, 1, 3, 4, 5]].astype(np.float64)
  np.testing.assert_allclose(second.covariance, np.cov(kept, rowvar=False), rtol=1e-12)
  np.testing.assert_array_equal(first.scatter, before)
  assert first.count == 3
  half = statistics(jnp.array([[1.5, 2.0], [2.5, 4.0]], jnp.bfloat16))
  np.testing.assert_array_equal(half.covariance, [[0.5, 1.0], [1.0, 2.0]])


def test_statistics_refuse_what_they_cannot_count():
  some = statistics(np.eye(3))
  with pytest.raises(ValueError, match=r"\(3,\) cannot be merged with \(2,\)"):
    some.update(np.eye(2))
  with pytest.raises(ValueError, match="expected 2 axes"):
    some.update(np.zeros(3))
  with pytest.raises(UserError, match="'vgg16' and 'inception_fid'"):
    some.merge(statistics(np.eye(3), POOL))
  with pytest.raises(UserError, match="1 examples have no covariance"):
    _ = statistics(np.zeros((1, 3))).covariance
  with pytest.raises(UserError, match="0 examples have no covariance"):
    _ = FeatureStatistics(VGG).update(np.eye(3), np.zeros(3, bool)).covariance


# Frechet distance ---------------------------------------------------------------------------------------------------


def by_sqrtm(mean_a, cov_a, mean_b, cov_b):
  root = scipy.linalg.sqrtm(cov_a @ cov_b)
  return np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * np.real(root))


@pytest.mark.parametrize("d", [1, 2, 7, 40])
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_frechet_is_that_of_sqrtm(d, condition):
  rng = np.random.default_rng(d)
  for scale in (1e-6, 1.0, 1e6):
    mean_a, mean_b = rng.normal(size=(2, d)) * np.sqrt(scale)
    cov_a, cov_b = (scale * random_covariance(rng, d, condition) for _ in range(2))
    expected = by_sqrtm(mean_a, cov_a, mean_b, cov_b)
    found = frechet_distance(gaussian(mean_a, cov_a), gaussian(mean_b, cov_b))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_frechet_of_features_is_that_of_sqrtm():
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(2, 20, 20))
  a, b = (np.abs(rng.normal(size=(n, 20)) @ m) for n, m in zip((300, 500), mix, strict=True))
  expected = by_sqrtm(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
  np.testing.assert_allclose(frechet_distance(statistics(a), statistics(b)), expected, rtol=1e-9)


def test_frechet_of_diagonal_covariances():
  rng = np.random.default_rng(1)
  sigma_a, sigma_b = rng.uniform(0, 3, size=(2, 16))
  sigma_a[:4], sigma_b[2:6] = 0.0, 0.0  # degenerate directions: of one, of both, of the other
  mean = rng.normal(size=16)
  found = frechet_distance(gaussian(mean, np.diag(sigma_a**2)), gaussian(0 * mean, np.diag(sigma_b**2)))
  np.testing.assert_allclose(found, (mean**2).sum() + ((sigma_a - sigma_b) ** 2).sum(), rtol=1e-12)


def test_frechet_of_commuting_covariances():
  rng = np.random.default_rng(2)
  axes = np.linalg.qr(rng.normal(size=(30, 30)))[0]
  a, b = rng.uniform(0.1, 5, size=(2, 30))
  found = frechet_distance(
    gaussian(np.zeros(30), axes * a @ axes.T), gaussian(np.zeros(30), axes * b @ axes.T)
  )
  np.testing.assert_allclose(found, ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rtol=1e-11)


def test_frechet_counts_small_variances():
  # Each small variance of one side lies in a large one of the other: without it the result is 2 * 1e-5 * 8 higher.
  axes = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0]
  a = np.repeat([1.0, 1e-10], 8)
  found = frechet_distance(
    gaussian(np.zeros(16), axes * a @ axes.T), gaussian(np.zeros(16), axes * a[::-1] @ axes.T)
  )
  np.testing.assert_allclose(found, 16 * (1 - 1e-5) ** 2, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 63, 200])
def test_frechet_of_few_examples(n):
  """S_b = 4 S_a, of rank n - 1 < d = 64: the distance is |difference of means|^2 + Tr S_a."""
  values = np.random.default_rng(n).normal(size=(n, 64)) + 5
  a, b = statistics(values), statistics(2 * values)
  expected = np.square(values.mean(0)).sum() + np.cov(values, rowvar=False).trace()
  np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)
  np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-10)
  again = statistics(values[:1]).update(values[1:])
  assert 0 <= frechet_distance(a, again) < 1e-10 * expected


def test_frechet_of_singular_covariances_with_orthogonal_ranges():
  # sqrtm of a product that is zero up to rounding has no digits; here the answer is exact: both traces.
  axes = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
  a, b = axes[:, :100] @ axes[:, :100].T, axes[:, 100:] @ axes[:, 100:].T
  found = frechet_distance(gaussian(np.zeros(200), a), gaussian(np.zeros(200), 3 * b))
  np.testing.assert_allclose(found, 400, rtol=1e-11)


@given(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9), st.integers(0, 10**6), st.integers(-30, 30))
@settings(max_examples=80, deadline=None)
def test_frechet_is_finite_symmetric_and_never_negative(d, n, m, seed, exponent):
  rng = np.random.default_rng(seed)
  a = (rng.integers(-2, 3, size=(n, d)) * 10.0**exponent).astype(np.float32)  # often of low rank, or constant
  b = (rng.integers(-2, 3, size=(m, d)) * 10.0**exponent).astype(np.float32)
  there = frechet_distance(statistics(a), statistics(b))
  back = frechet_distance(statistics(b), statistics(a))
  scale = float(np.square(a.astype(np.float64)).sum() + np.square(b.astype(np.float64)).sum())
  assert np.isfinite(there) and there >= 0
  assert abs(there - back) <= 1e-6 * scale
  assert frechet_distance(statistics(a), statistics(a)) <= 1e-12 * scale


@pytest.mark.slow
def test_frechet_of_few_examples_in_2048_dimensions():
  values = np.random.default_rng(0).exponential(size=(300, 2048)).astype(np.float32)
  expected = (
    np.square(values.astype(np.float64).mean(0)).sum() + values.astype(np.float64).var(0, ddof=1).sum()
  )
  np.testing.assert_allclose(
    frechet_distance(statistics(values), statistics(2 * values)), expected, rtol=1e-9
  )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_kept(bad):
  clean = np.random.default_rng(0).normal(size=(8, 3))
  spoilt = clean.copy()
  spoilt[5, 1] = bad
  broken = statistics(spoilt[:4]).update(spoilt[4:])
  assert np.isnan(frechet_distance(broken, statistics(clean)))
  assert np.isnan(frechet_distance(statistics(clean), broken.update(clean)))
  assert np.isnan(kernel_distance(feature_set(spoilt), feature_set(clean)))
  assert np.isnan(kernel_distance_subsets(feature_set(clean), feature_set(spoilt), subsets=3, size=8)).all()
  classes = ClassStatistics(VGG, 8, 2).update(spoilt, np.arange(8))
  assert np.isnan(class_score(classes)).all()
  masked = FeatureStatistics(VGG).update(spoilt, np.arange(8) != 5)
  assert np.isfinite(frechet_distance(masked, statistics(clean)))


def test_frechet_refuses():
  rng = np.random.default_rng(0)
  a = statistics(rng.normal(size=(9, 3)))
  with pytest.raises(UserError, match="features of 3 and of 2 dimensions"):
    frechet_distance(a, statistics(rng.normal(size=(9, 2))))
  with pytest.raises(UserError, match="1 examples have no covariance"):
    frechet_distance(a, statistics(rng.normal(size=(1, 3))))
  with pytest.raises(UserError, match="variances from -1 to 1 is none"):
    frechet_distance(a, gaussian(np.zeros(3), np.diag([1.0, -1.0, 1.0])))


@pytest.mark.parametrize("entry", ["network", "layer", "weights", "resize", "value_range"])
def test_differing_protocols_are_refused(entry):
  values = np.random.default_rng(0).normal(size=(9, 3))
  other = dataclasses.replace(VGG, **{entry: "another"})
  message = f"features differ in {entry}: {getattr(VGG, entry)!r} and 'another'".replace("[", r"\[")
  for distance, make in ((frechet_distance, statistics), (kernel_distance, feature_set)):
    with pytest.raises(UserError, match=message) as raised:
      distance(make(values), make(values, other))
    assert "\n" not in str(raised.value)
    make(values).merge(make(values[:0], dataclasses.replace(VGG, note="of another day")))


def test_names_are_kept_for_inception(monkeypatch):
  values = np.random.default_rng(0).normal(size=(1001, 2))
  a, b = statistics(values, POOL), statistics(2 * values, POOL)
  assert fid(a, b) == frechet_distance(a, b) > 0.5
  sets = feature_set(values, POOL), feature_set(2 * values, POOL)
  with monkeypatch.context() as patch:  # the true one takes its time
    patch.setattr(module, "kernel_distance_subsets", lambda *args, **options: (args, options))
    assert kid(*sets, seed=3) == (sets, {"subsets": 100, "size": 1000, "seed": 3})
  classes = ClassStatistics(LOGITS, 1001).update(values, np.arange(1001))
  assert inception_score(classes) == class_score(classes)

  with pytest.raises(
    UserError, match="fid is defined on inception_fid pool2048, not on vgg16 relu5_3; call frechet"
  ):
    fid(statistics(values), statistics(values))
  with pytest.raises(UserError, match="not on inception_fid logits"):
    fid(statistics(values, LOGITS), statistics(values, LOGITS))
  with pytest.raises(UserError, match="features differ in network"):
    fid(a, statistics(values))
  with pytest.raises(UserError, match=r"kid is defined on .* call kernel_distance"):
    kid(feature_set(values), feature_set(values))
  with pytest.raises(
    UserError, match=r"inception_score is defined on .*logits, not on .*pool2048; call class_score"
  ):
    inception_score(ClassStatistics(POOL, 1001).update(values, np.arange(1001)))
  with pytest.raises(UserError, match="10 splits, not 2"):
    inception_score(ClassStatistics(LOGITS, 1001, 2).update(values, np.arange(1001)))


# Files --------------------------------------------------------------------------------------------------------------


def test_saved_statistics_come_back(tmp_path):
  rng = np.random.default_rng(0)
  noted = dataclasses.replace(POOL, note='Ümläute, "quotes"\n and lines')
  a, b = statistics(rng.normal(size=(50, 8)), noted), statistics(rng.normal(size=(50, 8)), POOL)
  path = tmp_path / "new" / "folder" / "train.npz"
  save_statistics(path, a)
  back = load_statistics(path)
  assert back.protocol == a.protocol and back.protocol.note == noted.note and back.count == 50
  np.testing.assert_array_equal(back.mean, a.mean)
  np.testing.assert_allclose(back.scatter, a.scatter, rtol=1e-15)
  np.testing.assert_allclose(fid(back, b), fid(a, b), rtol=1e-13)
  np.testing.assert_allclose(fid(back.merge(b), b), fid(a.merge(b), b), rtol=1e-13)
  assert os.listdir(path.parent) == ["train.npz"]
  # What the FID programs read: mean and covariance under their names.
  with np.load(path, allow_pickle=False) as file:
    np.testing.assert_array_equal(file["mu"], a.mean)
    np.testing.assert_array_equal(file["sigma"], a.covariance)
  load_statistics(path, protocol=POOL, count=50)
  with pytest.raises(UserError, match=r"train\.npz: features differ in resize: 'tf1' and 'bilinear'"):
    load_statistics(path, protocol=dataclasses.replace(POOL, resize="bilinear"))
  with pytest.raises(UserError, match="of 50 examples, count=49"):
    load_statistics(path, count=49)


def test_statistics_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "train.npz"
  values = np.random.default_rng(0).normal(size=(9, 3))
  save_statistics(path, statistics(values))
  before = path.read_bytes()

  def torn(file, **arrays):
    file.write(b"PK half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "savez", torn)
  with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
    save_statistics(path, statistics(2 * values))
  assert path.read_bytes() == before and os.listdir(tmp_path) == ["train.npz"]
  monkeypatch.undo()
  with pytest.raises(UserError, match="cannot be written"):
    save_statistics(path / "below_a_file.npz", statistics(values))
  with pytest.raises(UserError, match="not finite"):
    save_statistics(path, statistics(values).update(np.full((1, 3), np.nan)))
  with pytest.raises(UserError, match="1 examples have no covariance"):
    save_statistics(path, statistics(values[:1]))
  assert path.read_bytes() == before


def test_statistics_of_other_programs_need_their_protocol(tmp_path):
  rng = np.random.default_rng(0)
  values = rng.normal(size=(50, 4))
  path = tmp_path / "fid_stats.npz"
  np.savez_compressed(path, mu=values.mean(0), sigma=np.cov(values, rowvar=False))
  for stated in ({}, {"protocol": POOL}, {"count": 50}):
    with pytest.raises(UserError, match="give load_statistics their protocol and count") as raised:
      load_statistics(path, **stated)
    assert "\n" not in str(raised.value)
  loaded = load_statistics(path, protocol=POOL, count=50)
  other = statistics(rng.normal(size=(50, 4)), POOL)
  np.testing.assert_allclose(fid(loaded, other), fid(statistics(values, POOL), other), rtol=1e-12)
  with pytest.raises(UserError, match="2 or more"):
    load_statistics(path, protocol=POOL, count=1)


GOOD = {"mu": np.zeros(2), "sigma": np.eye(2), "count": 5, "protocol": json.dumps(dataclasses.asdict(VGG))}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mu": None}, "no arrays 'mu' and 'sigma', only sigma, count"),
    ({"mu": None, "sigma": None, "count": None, "protocol": None, "image": np.zeros(3)}, "only others"),
    ({"mu": np.zeros(3)}, r"'mu' of shape \(3,\) and 'sigma' of shape \(2, 2\)"),
    ({"mu": np.zeros(2, int)}, "'mu' is int64 and 'sigma' float64"),
    ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"shape \(0,\)"),
    ({"mu": np.array([np.nan, 0])}, "not finite"),
    ({"sigma": np.array([[1, np.inf], [np.inf, 1]])}, "not finite"),
    ({"sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
    ({"sigma": -np.eye(2)}, "not symmetric with variances of at least 0"),
    ({"count": 5.0}, r"'count' is float64 \[\], not an integer"),
    ({"count": np.array([5, 5])}, r"'count' is int64 \[2\], not an integer"),
    ({"count": 1}, "of 1 examples"),
    ({"protocol": np.zeros(2)}, r"'protocol' is float64 \[2\], not a text"),
    ({"protocol": "not json"}, "its protocol is not JSON with network, layer"),
    ({"protocol": '["network"]'}, "its protocol is not JSON with network, layer"),
    ({"protocol": '{"network": "vgg16"}'}, "its protocol is not JSON with network, layer"),
    (
      {"protocol": '{"network": 3, "layer": "", "weights": "", "resize": "", "value_range": "", "note": ""}'},
      "network = 3 in its protocol is no text",
    ),
    ({"mu": np.array([{}, {}])}, "cannot be read as .npz .Object arrays"),
  ],
)
def test_foreign_files_are_refused(tmp_path, changes, message):
  path = tmp_path / "stats.npz"
  np.savez(path, **{key: value for key, value in {**GOOD, **changes}.items() if value is not None})
  with pytest.raises(UserError, match=message) as raised:
    load_statistics(path)
  assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_damaged_files_are_refused(tmp_path):
  whole, path = tmp_path / "whole.npz", tmp_path / "stats.npz"
  original = statistics(np.random.default_rng(0).normal(size=(20, 3)))
  save_statistics(whole, original)
  content = whole.read_bytes()
  with pytest.raises(UserError, match="No such file"):
    load_statistics(tmp_path / "missing.npz")
  with pytest.raises(UserError, match="Is a directory"):
    load_statistics(tmp_path)
  np.save(tmp_path / "array.npy", np.zeros(3))
  with pytest.raises(UserError, match="it is no zip file"):
    load_statistics(tmp_path / "array.npy")
  rng = np.random.default_rng(1)
  cuts = [content[:n] for n in (0, 1, 4, 100, len(content) // 2, len(content) - 1)]
  flips = []
  for position in rng.integers(0, len(content), 300):
    flipped = bytearray(content)
    flipped[position] ^= 1 << rng.integers(8)
    flips.append(bytes(flipped))
  refused = 0
  for damaged in [*cuts, *flips]:
    path.write_bytes(damaged)
    try:
      back = load_statistics(path)
    except UserError as error:
      assert "\n" not in str(error)
      refused += 1
    else:  # the damage is in what a zip file has no use for, as times and permissions
      np.testing.assert_array_equal(back.mean, original.mean)
      np.testing.assert_allclose(back.scatter, original.scatter, rtol=1e-15)
      assert back.protocol == original.protocol and back.count == original.count
  assert refused > 200
  assert zipfile.is_zipfile(whole)


# Kernel distance ----------------------------------------------------------------------------------------------------


def by_loops(x, y):
  """Equation 3 of Gretton et al. 2012, one pair at a time."""

  def k(a, b):
    return (float(np.dot(a, b)) / len(a) + 1) ** 3

  def within(z):
    n = len(z)
    return sum(k(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

  return within(x) + within(y) - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])


@pytest.mark.parametrize("block", [1, 4, 7, 1024])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (12, 19), (14, 14)])
def test_kernel_distance_is_that_of_loops(monkeypatch, block, m, n):
  monkeypatch.setattr(module, "BLOCK", block)
  rng = np.random.default_rng(m)
  x, y = rng.normal(size=(m, 6)).astype(np.float32), rng.gamma(2.0, size=(n, 6)).astype(np.float32)
  expected = by_loops(x.astype(np.float64), y.astype(np.float64))
  np.testing.assert_allclose(kernel_distance(feature_set(x), feature_set(y)), expected, rtol=1e-11)


def test_kernel_distance_is_unbiased():
  """Of ten examples of each, averaged over many draws: the closed form for two Gaussians in one dimension."""
  rng = np.random.default_rng(0)
  shift = 0.5
  values = [
    kernel_distance(
      feature_set(rng.normal(size=(10, 1)), POOL), feature_set(rng.normal(size=(10, 1)) + shift, POOL)
    )
    for _ in range(3000)
  ]
  # E (xy + 1)^3 = E x^3 E y^3 + 3 E x^2 E y^2 + 3 E x E y + 1 for independent x and y; moments of N(mean, 1).
  moments = {mean: np.array([1, mean, 1 + mean**2, mean**3 + 3 * mean]) for mean in (0.0, shift)}
  difference = moments[0.0] - moments[shift]
  expected = (np.array([1, 3, 3, 1]) * difference**2).sum()
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values) - expected) < 4 * error and error < 0.2
  assert min(values) < 0  # and so it may be negative


@given(divisions(24), divisions(24))
@settings(max_examples=40, deadline=None)
def test_kernel_distances_do_not_depend_on_batches_padding_and_order(division, other):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=(24, 3)).astype(np.float32)
  a = gathered(FeatureSet(VGG), x, **division, indexed=True)
  b = gathered(FeatureSet(VGG), y, **other, indexed=True)
  assert a.count == 24
  np.testing.assert_array_equal(a.features, x)
  assert kernel_distance(a, b) == kernel_distance(feature_set(x), feature_set(y))
  found = kernel_distance_subsets(a, b, subsets=3, size=7)
  assert found == kernel_distance_subsets(feature_set(x), feature_set(y), subsets=3, size=7)


def test_subsets():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) * 1.5
  a, b = feature_set(x), feature_set(y)
  exact = kernel_distance(a, b)
  mean, deviation = kernel_distance_subsets(a, b, subsets=2000, size=15)
  assert deviation > 0
  assert abs(mean - exact) < 4 * deviation / np.sqrt(2000)
  assert kernel_distance_subsets(a, b, subsets=5, size=15) == kernel_distance_subsets(
    a, b, subsets=5, size=15
  )
  other = kernel_distance_subsets(a, b, subsets=5, size=15, seed=1)
  assert other != kernel_distance_subsets(a, b, subsets=5, size=15)
  # Subsets of all examples differ in their order only, and one subset does not deviate from itself.
  whole = kernel_distance_subsets(a, feature_set(y.repeat(2, 0)[:40]), subsets=4, size=40)
  np.testing.assert_allclose(whole, (kernel_distance(a, feature_set(y.repeat(2, 0)[:40])), 0), atol=1e-12)
  assert kernel_distance_subsets(a, b, subsets=1, size=15)[1] == 0


def test_deviation_is_that_of_the_subsets():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 20, 3)).astype(np.float32).astype(np.float64)
  draws = np.random.default_rng(7)
  values = []
  for _ in range(6):
    first = draws.choice(20, 5, replace=False)
    values.append(by_loops(x[first], y[draws.choice(20, 5, replace=False)]))
  found = kernel_distance_subsets(feature_set(x), feature_set(y), subsets=6, size=5, seed=7)
  np.testing.assert_allclose(found, (np.mean(values), np.std(values)), rtol=1e-10)


def test_feature_sets_are_float32_of_their_own():
  values = np.ones((3, 2), np.float32)
  found = feature_set(values)
  values[:] = 7.0
  np.testing.assert_array_equal(found.features, np.ones((3, 2)))
  assert found.features.dtype == np.float32
  jax_set = FeatureSet(VGG).update(
    jnp.array([[1.0], [2.0], [3.0]]), jnp.array([7, 9, 4]), jnp.array([True, False, True])
  )
  assert jax_set.count == 2 and isinstance(jax_set.features, np.ndarray)
  np.testing.assert_array_equal(jax_set.features, [[3.0], [1.0]])


def test_feature_sets_refuse():
  values = np.random.default_rng(0).normal(size=(9, 3))
  a = feature_set(values)
  with pytest.raises(UserError, match="example 4 was added twice"):
    kernel_distance(a, a.update(values[:1], np.array([4])))
  with pytest.raises(UserError, match="a set of 1 examples, but 2 are needed"):
    kernel_distance(a, feature_set(values[:1]))
  with pytest.raises(UserError, match="a set of 9 examples, but 1000 are needed"):
    kid(feature_set(values, POOL), feature_set(values, POOL))
  with pytest.raises(UserError, match="no features"):
    _ = FeatureSet(VGG).features
  with pytest.raises(UserError, match="of 3 and of 2 dimensions"):
    kernel_distance(a, feature_set(values[:, :2]))
  with pytest.raises(UserError, match="5 subsets of 1 examples"):
    kernel_distance_subsets(a, a, subsets=5, size=1)
  with pytest.raises(UserError, match="0 subsets of 5 examples"):
    kernel_distance_subsets(a, a, subsets=0, size=5)
  with pytest.raises(ValueError, match=r"\[., 3\] cannot be merged with \[., 2\]"):
    a.update(values[:, :2], np.arange(9))
  with pytest.raises(ValueError, match=r"index of shape \(8,\)"):
    a.update(values, np.arange(8))
  with pytest.raises(ValueError, match="type float64"):
    a.update(values, np.arange(9.0))


# Inception score ----------------------------------------------------------------------------------------------------


def by_formula(logits, splits):
  logits = logits.astype(np.float64)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  scores, n = [], len(p)
  for s in range(splits):
    part = p[s * n // splits : (s + 1) * n // splits]
    scores.append(np.exp(np.mean([(q * (np.log(q) - np.log(part.mean(0)))).sum() for q in part])))
  return np.mean(scores), np.std(scores)


@given(divisions(43), st.sampled_from([1, 2, 10, 43]))
@settings(max_examples=60, deadline=None)
def test_class_score_does_not_depend_on_batches_padding_and_order(division, splits):
  logits = (np.random.default_rng(0).normal(size=(43, 6)) * 3).astype(np.float32)
  found = gathered(ClassStatistics(VGG, 43, splits), logits, **division, indexed=True)
  np.testing.assert_allclose(class_score(found), by_formula(logits, splits), rtol=1e-12, atol=1e-13)


def test_class_score_of_known_cases():
  sure = np.full((40, 8), -1e4)
  sure[np.arange(40), np.arange(40) % 8] = 1e4  # p underflows to 0 elsewhere: 0 log 0 = 0
  score = class_score(ClassStatistics(VGG, 40, 5).update(jnp.asarray(sure), jnp.arange(40)))
  np.testing.assert_allclose(score, (8, 0), atol=1e-12)
  one_class = sure[np.zeros(40, int)]
  assert class_score(ClassStatistics(VGG, 40, 5).update(one_class, np.arange(40))) == (1, 0)
  unsure = class_score(ClassStatistics(VGG, 40, 5).update(np.zeros((40, 8)), np.arange(40)))
  np.testing.assert_allclose(unsure, (1, 0), atol=1e-12)
  for seed in range(20):  # all alike: rounding does not bring the score below 1
    alike = np.tile(np.random.default_rng(seed).normal(size=8), (40, 1))
    score, deviation = class_score(ClassStatistics(VGG, 40, 1).update(alike, np.arange(40)))
    assert 1 <= score < 1 + 1e-12 and deviation == 0
  # Splits are runs of indices: in the order of the classes, every split sees one class only.
  by_class = sure[np.argsort(np.arange(40) % 8, kind="stable")]
  np.testing.assert_allclose(class_score(ClassStatistics(VGG, 40, 8).update(by_class, np.arange(40))), (1, 0))


def test_class_statistics_refuse():
  logits = np.random.default_rng(0).normal(size=(20, 4))
  found = ClassStatistics(VGG, 20)
  with pytest.raises(UserError, match="split 0 has 0 of its 2 examples"):
    class_score(found)
  with pytest.raises(UserError, match="split 9 has 1 of its 2 examples"):
    class_score(found.update(logits[:19], np.arange(19)))
  with pytest.raises(UserError, match="split 9 has 3 of its 2 examples"):
    class_score(found.update(logits, np.arange(20)).update(logits[:1], np.array([19])))
  for index in (20, -1):
    with pytest.raises(ValueError, match=f"index {index} to {index} of 20 examples"):
      found.update(logits[:1], np.array([index]))
  with pytest.raises(UserError, match="5 examples in 10 splits"):
    ClassStatistics(VGG, 5)
  with pytest.raises(UserError, match="5 examples in 0 splits"):
    ClassStatistics(VGG, 5, 0)
  with pytest.raises(ValueError, match="20 examples in 10 splits cannot be merged with 20 in 5"):
    found.merge(ClassStatistics(VGG, 20, 5))
  with pytest.raises(UserError, match="features differ in network"):
    found.merge(ClassStatistics(LOGITS, 20))
  with pytest.raises(ValueError, match=r"\(10, 4\) cannot be merged with \(10, 3\)"):
    found.update(logits, np.arange(20)).update(logits[:, :3], np.arange(20))


# Against torchmetrics -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_distances_are_those_of_torchmetrics():
  torch = pytest.importorskip("torch")
  pytest.importorskip("torchmetrics")
  from torchmetrics.image.fid import _compute_fid
  from torchmetrics.image.inception import InceptionScore
  from torchmetrics.image.kid import poly_mmd

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 6)).astype(np.float32), rng.gamma(2.0, size=(30, 6)).astype(np.float32)
  a, b = statistics(x), statistics(y)
  parts = [torch.from_numpy(part) for s in (a, b) for part in (s.mean, s.covariance)]
  np.testing.assert_allclose(frechet_distance(a, b), float(_compute_fid(*parts)), rtol=1e-9)
  doubles = [torch.from_numpy(values.astype(np.float64)) for values in (x, y)]
  expected = float(poly_mmd(*doubles))
  np.testing.assert_allclose(kernel_distance(feature_set(x), feature_set(y)), expected, rtol=1e-9)

  metric = InceptionScore(feature=torch.nn.Identity(), splits=1)  # in one split its shuffling does not matter
  metric.update(torch.from_numpy(3 * x))
  found = class_score(ClassStatistics(VGG, 30, 1).update(3 * x, np.arange(30)))[0]
  np.testing.assert_allclose(found, float(metric.compute()[0]), rtol=1e-5)
