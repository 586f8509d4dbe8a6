"""Splits, npz files, TFDS sets by name, and what is not imported on the way."""

import subprocess
import sys

import numpy as np
import pytest

from vae_jax.configuration import base_config
from vae_jax.data import builders, examples, images
from vae_jax.data.sources import (
  list_splits,
  move,
  open_source,
  overlap,
  report,
)
from vae_jax.data.splits import parse_split, slice_bounds
from vae_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)
LABELS = np.arange(20) % 7


def config(name, folder="", **values):
  data = base_config().data
  data.update(name=name, dir=str(folder), **values)
  return data


@pytest.fixture
def npz(tmp_path):
  np.savez(tmp_path / "set.npz", image=IMAGES, label=LABELS)
  return config("npz", tmp_path / "set.npz")


@pytest.mark.parametrize(
  "split, expected",
  [
    ("train", slice(None)),
    ("train[:]", slice(None)),
    ("train[:90%]", slice(0, 18)),
    ("train[10%:20%]", slice(2, 4)),
    ("train[3:]", slice(3, None)),
    ("train[-5:]", slice(15, None)),
    ("train[-25%:]", slice(15, None)),
    ("train[:-10%]", slice(0, 18)),
    ("train[50%:12]", slice(10, 12)),
  ],
)
def test_slices(npz, split, expected):
  source = open_source(npz, split)
  got = source.load_all()
  np.testing.assert_array_equal(got["image"], IMAGES[expected])
  np.testing.assert_array_equal(got["label"], LABELS[expected])
  assert got["image"].dtype == np.uint8
  assert got["label"].dtype == np.int32
  assert len(source) == len(IMAGES[expected])
  np.testing.assert_array_equal(source[len(source) - 1]["image"], IMAGES[expected][-1])
  assert source[0]["label"] == LABELS[expected][0]
  assert isinstance(source[0]["label"], int)
  assert source.uniform_shape == (4, 5, 3)
  assert (source.name, source.split) == ("npz", split)
  for index in (len(source), -1):
    with pytest.raises(IndexError):
      source[index]


@pytest.mark.parametrize("n", [1, 7, 20, 999])
def test_percentages_share_out_a_split(n):
  for percent in range(1, 100):
    parts = [parse_split(s)[1] for s in (f"a[:{percent}%]", f"a[{percent}%:]", f"a[-{100 - percent}%:]")]
    cut = n * percent // 100
    if cut > 0:
      assert slice_bounds("a", parts[0], n) == (0, cut)
    assert slice_bounds("a", parts[1], n) == (cut, n)
    assert slice_bounds("a", parts[2], n) == (cut, n)


@pytest.mark.parametrize(
  "split, message",
  [
    ("test", "no split 'test', only train"),
    ("train[5:5]", "selects none of the 20"),
    ("train[90%:10%]", "selects none"),
    ("train[:2%]", "selects none"),
    ("train[:21]", "out of range"),
    ("train[-21:]", "out of range"),
    ("train[:101%]", "out of range"),
    ("train[5]", "must look like"),
    ("train[", "must look like"),
    ("", "must look like"),
    ("train[1:2:3]", "must look like"),
  ],
)
def test_bad_splits(npz, split, message):
  with pytest.raises(UserError, match=message) as error:
    open_source(npz, split)
  assert "\n" not in str(error.value)


def test_npz_folder_rank_three_and_channels(tmp_path):
  np.savez(tmp_path / "train.npz", image=IMAGES)
  np.savez_compressed(tmp_path / "test.npz", image=IMAGES[..., 0])
  assert list_splits(config("npz", tmp_path)) == {"train": 20, "test": 20}
  test = open_source(config("npz", tmp_path), "test")
  assert test.uniform_shape == (4, 5, 1)
  np.testing.assert_array_equal(test.load_all()["image"], IMAGES[..., :1])
  colour = open_source(config("npz", tmp_path, channels=3), "test")
  assert colour.uniform_shape == colour[0]["image"].shape == (4, 5, 3)
  grey = open_source(config("npz", tmp_path, channels=1), "train").load_all()
  np.testing.assert_array_equal(grey["image"], images.to_channels(IMAGES, 1))
  assert set(grey) == {"image"}


@pytest.mark.parametrize(
  "arrays, message",
  [
    ({"image": IMAGES / 255}, r"float64 \[20, 4, 5, 3\]"),
    ({"image": IMAGES[0, 0]}, r"uint8 \[5, 3\]"),
    ({"image": IMAGES[..., :2]}, "must be uint8"),
    ({"image": IMAGES[:0]}, "n > 0"),
    ({"image": np.array([None, "x"], object)}, "cannot be read"),
    ({"pictures": IMAGES}, "no array 'image', only pictures"),
    ({"image": IMAGES, "label": LABELS[:3]}, "'label'"),
    ({"image": IMAGES, "label": LABELS / 2}, "'label'"),
  ],
)
def test_bad_npz(tmp_path, arrays, message):
  np.savez(tmp_path / "x.npz", **arrays)
  with pytest.raises(UserError, match=message):
    open_source(config("npz", tmp_path / "x.npz"), "train")


def test_npz_that_is_none(tmp_path):
  path = tmp_path / "x.npz"
  for content in (b"", b"rubbish", images.encode_png(IMAGES[0])):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is no \.npz file; save one with numpy\.savez"):
      open_source(config("npz", path), "train")
  path.write_bytes(b"PK\x03\x04rubbish")
  with pytest.raises(UserError, match=r"cannot be read as \.npz"):
    open_source(config("npz", path), "train")
  np.savez(path, image=IMAGES)
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(UserError, match=r"cannot be read as \.npz"):
    open_source(config("npz", path), "train")
  np.save(tmp_path / "y.npy", IMAGES)
  for place in (tmp_path / "y.npy", tmp_path, tmp_path / "nowhere", ""):
    with pytest.raises(UserError):
      open_source(config("npz", place), "train")


def toy(tmp_path, encode=images.encode_png, features=("image",)):
  """A TFDS set on disk that TFDS has no code for."""

  def example(i):
    return {"label": int(LABELS[i]), **{f: encode(IMAGES[i]) for f in features}}

  split = examples.Split(20, example, dict.fromkeys(features, (4, 5, 3)), 9)
  builders._write("toy", tmp_path, examples.Plan({"train": split}, label=True))
  return config("toy", tmp_path)


def test_prepared_tfds_set_by_name(tmp_path):
  source = open_source(toy(tmp_path), "train[5:]")
  got = source.load_all()
  assert source.uniform_shape is None  # the declared shape leaves it open
  np.testing.assert_array_equal(got["image"], IMAGES[5:])
  np.testing.assert_array_equal(got["label"], LABELS[5:])
  np.testing.assert_array_equal(source[3]["image"], IMAGES[8])
  np.testing.assert_array_equal([r["image"] for r in source.read([3, 0, 3])], IMAGES[[8, 5, 8]])
  with pytest.raises(IndexError, match="record 15 of toy"):
    source.read([0, 15])


def test_super_resolution_features(tmp_path):
  source = open_source(toy(tmp_path, features=("hr", "lr")), "train")
  assert set(source[0]) == {"image", "degraded", "label"}
  np.testing.assert_array_equal(source[2]["degraded"], IMAGES[2])


def test_set_without_images(tmp_path):
  with pytest.raises(UserError, match="no feature 'image'"):
    open_source(toy(tmp_path, features=("other",)), "train")


def test_images_of_several_sizes_cannot_be_stacked(tmp_path):
  sizes = iter([3, 4] * 10)
  source = open_source(toy(tmp_path, lambda image: images.encode_png(image[: next(sizes)])), "train")
  with pytest.raises(UserError, match=r"image 1 is .* and image 0 is"):
    source.load_all()


def test_damaged_record_is_named(tmp_path):
  source = open_source(toy(tmp_path, lambda image: b"rubbish"), "train")
  with pytest.raises(UserError, match="toy train, image 4: cannot be decoded"):
    source[4]


def test_unknown_data_set(tmp_path):
  with pytest.raises(UserError, match="did you mean 'mnist'"):
    open_source(config("mnits", tmp_path), "train")
  with pytest.raises(UserError, match="digits"):
    open_source(config("qqqqqqqqq", tmp_path), "train")


@pytest.mark.parametrize(
  "error, message",
  [
    (
      ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"),
      r'pip install -e "\.\[prepare\]"',
    ),
    (ModuleNotFoundError("no", name="h5py.x"), "pip install h5py and then"),
    (OSError("no network\nat all"), "could not be downloaded and prepared: OSError: no network at all"),
    (
      ConnectionError("HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: /x"),
      "no connection to example.org; connect this machine to the network, or prepare .* --config.data.dir to that",
    ),
  ],
)
def test_preparation_that_fails(tmp_path, monkeypatch, error, message):
  import tensorflow_datasets as tfds

  def fail(self, **kwargs):
    if isinstance(error, ImportError):
      raise RuntimeError("while encoding") from error
    raise error

  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
  with pytest.raises(UserError, match=message) as caught:
    open_source(config("mnist", tmp_path), "train")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "photos", "folder", "paired_folder", "idx", "npz", "mnist"])
def test_a_place_that_data_cannot_have_moved_to(tmp_path, name):
  data = config(name, tmp_path)
  with pytest.raises(UserError, match=f"^--data_dir {tmp_path}/nope.*data.name={name}"):
    move(data, f"{tmp_path}/nope")
  assert data.dir == str(tmp_path)
  if name in ("digits", "photos"):
    with pytest.raises(UserError, match="comes with a package and has no folder; leave --data_dir out"):
      move(data, str(tmp_path))
  else:
    move(data, str(tmp_path))


def test_data_moves_to_a_file_or_the_home_folder(tmp_path, monkeypatch):
  np.savez(tmp_path / "new.npz", image=IMAGES)
  monkeypatch.setenv("HOME", str(tmp_path))
  data = config("npz", "old")
  move(data, "~/new.npz")
  assert len(open_source(data, "train")) == 20
  with pytest.raises(UserError, match="is not a folder"):
    move(config("folder", "old"), str(tmp_path / "new.npz"))


def test_images_that_are_enlarged_are_reported_once(npz, capsys):
  assert open_source(npz, "train").remarks == ()
  npz.size = (4, 6)
  source = open_source(npz, "train")
  for _ in range(2):
    report([source, source])
  err = capsys.readouterr().err
  assert (
    err
    == f"note: {npz.dir}: train has images of 4 x 5 pixels; those smaller than data.size=4,6 are enlarged\n"
  )


def test_splits_that_share_records(npz):
  parts = [open_source(npz, f"train{bounds}") for bounds in ("", "[:5]", "[5:]", "[4:6]")]
  shared = [(i, j) for i in range(4) for j in range(i) if overlap(parts[i], parts[j])]
  assert shared == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_nothing_heavy_is_imported(tmp_path):
  code = """
import sys
import numpy as np
from vae_jax.configuration import base_config
from vae_jax.data.sources import open_source
data = base_config().data
np.savez(sys.argv[1] + "/x.npz", image=np.zeros((3, 2, 2), np.uint8))
data.update(name="npz", dir=sys.argv[1] + "/x.npz")
assert len(open_source(data, "train").load_all()["image"]) == 3
assert not {"tensorflow_datasets", "grain", "PIL"} & set(sys.modules), "npz"
data.update(name="digits", dir=sys.argv[1])
assert open_source(data, "train")[0]["image"].shape == (28, 28, 1)
assert not {"tensorflow", "torch", "mlxtend", "sklearn", "skimage"} & set(sys.modules), "digits"
"""
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_incomplete_tfds_folder(tmp_path):
  (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
  with pytest.raises(UserError, match="incomplete; delete"):
    open_source(config("mnist:3.0.1", tmp_path), "train")


def split_files(folder):
  """20 images and labels for training and validation, the first 7 for a test."""
  for split, some in (("train", slice(None)), ("validation", slice(4, 9)), ("test", slice(0, 7))):
    np.savez(folder / f"{split}.npz", image=IMAGES[some], label=LABELS[some])


def test_labels_are_left_out_of_training_and_validation_alone(tmp_path):
  split_files(tmp_path)
  data = config("npz", tmp_path, without=(2, 5), train="train[3:]")
  source, kept = (
    open_source(data, "train[3:]"),
    np.flatnonzero(~np.isin(LABELS, [2, 5]) & (np.arange(20) >= 3)),
  )
  got = source.load_all()
  np.testing.assert_array_equal(got["image"], IMAGES[kept])
  np.testing.assert_array_equal(got["label"], LABELS[kept])
  assert len(source) == len(kept) and source.read_labels() == LABELS[kept].tolist()
  np.testing.assert_array_equal(source[len(kept) - 1]["image"], IMAGES[kept[-1]])
  with pytest.raises(IndexError):
    source[len(kept)]
  assert source.remarks == ("data.without=2,5: 5 of the 17 images of train[3:] are left out",)
  assert open_source(data, "validation").read_labels() == [4, 6, 0, 1]
  assert open_source(data, "test").read_labels() == list(range(7))  # not touched
  assert len(open_source(data, "train")) == 20  # not the split that is trained on


def test_labels_are_left_out_of_prepared_sets_too():
  data = config("digits", without=(7,))
  found, whole = (open_source(each, "validation") for each in (data, config("digits")))
  kept = [i for i, label in enumerate(whole.read_labels()) if label != 7]
  assert 0 < len(kept) < len(whole) and 7 not in found.read_labels()
  np.testing.assert_array_equal(found.load_all()["image"], whole.load_all()["image"][kept])


def test_labels_that_cannot_be_left_out(tmp_path):
  split_files(tmp_path)
  with pytest.raises(
    UserError, match=r"data\.without=9: train of npz has no image of label 9, only of 0, 1, 2"
  ):
    open_source(config("npz", tmp_path, without=(9,)), "train")
  assert len(open_source(config("npz", tmp_path, without=(3,)), "validation")) == 5  # has none of it
  with pytest.raises(UserError, match=r"data\.without=4,5,6,0,1 leaves no image of validation"):
    open_source(config("npz", tmp_path, without=(4, 5, 6, 0, 1)), "validation")
  np.savez(tmp_path / "train.npz", image=IMAGES)
  with pytest.raises(UserError, match=r"the records of data\.name=npz have no labels"):
    open_source(config("npz", tmp_path, without=(1,)), "train")
