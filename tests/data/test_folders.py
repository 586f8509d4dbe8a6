"""Folders of images: what is read, in which split and class, and that the rest is named and counted."""

import numpy as np
import pytest

from vae_jax.configuration import base_config
from vae_jax.data import folders, images
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError


def config(folder, name="folder", **values):
  data = base_config().data
  data.update(name=name, dir=str(folder), **values)
  return data


def save(path, value=200):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(images.encode_png(np.full((4, 5, 3), value, np.uint8)))


def names(listing):
  return {split: [record.name for record in some] for split, some in listing.records.items()}


def test_pictures_that_are_not_read_are_named_and_counted(tmp_path):
  for name in ("a.png", "b.JPE", "c.avif"):
    save(tmp_path / name)  # by their names; what they are, their content says
  for name in ("x.heic", "y.HEIC", "deep/z.dng", ".hidden.heic", "notes.txt", "table.csv"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  found = folders.listing(config(tmp_path))
  assert names(found) == {"": ["a.png", "b.JPE", "c.avif"]}
  (line,) = found.remarks
  assert line.startswith("3 files look like pictures and are not read (2 .heic, 1 .dng): ")
  assert str(tmp_path / "deep" / "z.dng") in line and "PNG or JPEG" in line


def test_where_nothing_is_left_the_unread_ones_are_named(tmp_path):
  (tmp_path / "a.heic").write_bytes(b"x")
  with pytest.raises(
    UserError, match=r"no image files .*1 files look like pictures and are not read \(1 \.heic\)"
  ):
    open_source(config(tmp_path), "train")


def test_images_beside_the_folders_of_splits_are_named(tmp_path):
  for name in ("train/a.png", "test/b.png", "new/c.png", "d.png"):
    save(tmp_path / name)
  found = folders.listing(config(tmp_path))
  assert names(found) == {"train": ["a.png"], "test": ["b.png"]}
  (line,) = found.remarks
  assert line.startswith("2 images lie beside train/, test/ in ") and line.endswith(
    ": d.png, new/c.png; move them"
  )


def test_a_folder_of_a_split_without_one_to_train_on(tmp_path):
  save(tmp_path / "test" / "a.png")
  assert names(folders.listing(config(tmp_path))) == {"test": ["a.png"]}  # all that there is: to score it
  save(tmp_path / "training" / "b.png")
  found = folders.listing(config(tmp_path))
  assert names(found) == {"": ["test/a.png", "training/b.png"]}
  assert "has a folder test/ but no train/" in found.remarks[0]


def test_two_folders_of_one_split_are_refused(tmp_path):
  for name in ("train", "val", "validation"):
    save(tmp_path / name / "a.png")
  with pytest.raises(UserError, match=r"validation and .*val are two folders of the split validation"):
    folders.listing(config(tmp_path))


def test_labels_are_class_folders(tmp_path):
  for name in ("train/dogs/1.png", "train/cats/in/2.png", "test/dogs/3.png"):
    save(tmp_path / name, 100 if "dogs" in name else 200)
  data = config(tmp_path)
  for split, expected in ("train", {200: 0, 100: 1}), ("test", {100: 1}):  # by all splits, not each
    source = open_source(data, split)
    assert source.classes == ("cats", "dogs")
    assert {
      int(record["image"][0, 0, 0]): record["label"] for record in source.read(range(len(source)))
    } == expected
  data.classes = "birds,dogs,cats"  # those of the training, by name
  assert [record["label"] for record in open_source(data, "test").read([0])] == [1]
  assert {record["label"] for record in open_source(data, "train").read([0, 1])} == {1, 2}
  data.classes = "cats"
  with pytest.raises(UserError, match=r"the folder dogs is none of data\.classes=cats"):
    open_source(data, "test")


@pytest.mark.parametrize("others", [["x.png"], []])
def test_folders_that_are_no_classes(tmp_path, others):
  for name in ("cats/1.png", *(["dogs/2.png"] if others else []), *others):
    save(tmp_path / name)
  found = folders.listing(config(tmp_path))
  assert found.classes == () and found.loose == tuple(others)
  assert "label" not in open_source(config(tmp_path), "train")[0]


def test_pairs_name_what_they_pass_over(tmp_path):
  for side in "low", "high":
    save(tmp_path / side / "1.png")
    (tmp_path / side / "2.heic").write_bytes(b"x")
  found = folders.listing(config(tmp_path, "paired_folder"))
  assert names(found) == {"": ["1"]} and found.remarks[0].startswith("2 files look like pictures")
