"""Files of feature statistics: what was saved comes back, and what does not fit is refused."""

import dataclasses
import json
import os
import zipfile

import numpy as np
import pytest
from feature_sets import POOL, VGG, feature_set, statistics

from vae_jax.errors import UserError
from vae_jax.metrics import FeatureSet, fid, load_features, load_statistics, save_statistics, statistics_files


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


def test_saved_features_come_back(tmp_path):
  values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
  path = tmp_path / "train.npz"
  given = FeatureSet(VGG).update(values, np.arange(20)[::-1])
  save_statistics(path, statistics(values), given)
  back = load_features(path, protocol=VGG)
  np.testing.assert_array_equal(back.features, values[::-1])
  np.testing.assert_array_equal(back.index, np.arange(20))
  assert back.protocol == VGG and load_statistics(path).count == 20
  with pytest.raises(UserError, match=r"train\.npz: features differ in network: 'vgg16' and 'inception_fid'"):
    load_features(path, protocol=POOL)
  with pytest.raises(UserError, match="features differ in network"):
    save_statistics(path, statistics(values, POOL), given)
  with pytest.raises(UserError, match="of 3 and of 2 dimensions"):
    save_statistics(path, statistics(values), feature_set(values[:, :2]))


def test_features_that_could_not_be_read_are_not_written(tmp_path, monkeypatch):
  values = np.random.default_rng(0).normal(size=(5000, 3))
  monkeypatch.setattr(statistics_files, "MAX_STATISTICS", 2**16 + 60_000)
  with pytest.raises(UserError, match="keep fewer features"):
    save_statistics(tmp_path / "a.npz", statistics(values), feature_set(values))
  assert not list(tmp_path.iterdir())
  save_statistics(tmp_path / "a.npz", statistics(values), feature_set(values[:2000]))
  assert load_features(tmp_path / "a.npz").count == 2000


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"features": None}, "no array 'features'"),
    ({"index": None}, "no array 'index'"),
    ({"protocol": None}, "no array 'protocol'"),
    ({"features": np.zeros(3)}, r"'features' is float64 \[3\]"),
    ({"features": np.zeros((3, 2), int)}, "not floats"),
    ({"features": np.zeros((0, 2)), "index": np.zeros(0, int)}, r"\[0, 2\]"),
    ({"features": np.full((3, 2), np.inf)}, "not finite"),
    ({"index": np.arange(2)}, "not 3 different integers"),
    ({"index": np.array([0, 1, 1])}, "not 3 different integers"),
    ({"index": np.arange(3.0)}, "'index' is float64"),
    ({"protocol": np.zeros(2)}, "not a text"),
    ({"features": np.array([[{}], [{}], [{}]])}, "cannot be read as .npz .Object arrays"),
  ],
)
def test_foreign_features_are_refused(tmp_path, changes, message):
  path = tmp_path / "stats.npz"
  good = {"features": np.zeros((3, 2), np.float32), "index": np.arange(3), **GOOD}
  np.savez(path, **{key: value for key, value in {**good, **changes}.items() if value is not None})
  with pytest.raises(UserError, match=message) as raised:
    load_features(path)
  assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_files_from_before_pooling_was_stated_are_read(tmp_path):
  older = {key: value for key, value in dataclasses.asdict(VGG).items() if key not in ("pooling", "version")}
  np.savez(tmp_path / "stats.npz", **{**GOOD, "protocol": json.dumps(older)})
  assert load_statistics(tmp_path / "stats.npz", protocol=VGG).protocol == VGG
