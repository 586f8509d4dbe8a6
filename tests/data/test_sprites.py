"""Sprites: what a picture shows is what its factors say, by moments; no two pictures are alike; the records."""

import itertools
import pathlib

import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import images, sprites
from vae_jax.data.sources import list_splits, open_source
from vae_jax.errors import UserError


def config(*overrides):
  return apply_overrides(base_config(), ["data.name=sprites", *overrides]).data


def moments(picture):
  """The white pixels: their number, centre (x, y) and covariance, in pixels from the upper left corner."""
  rows, columns = np.nonzero(picture[..., 0])
  points = np.stack([columns, rows], axis=1) + 0.5
  return len(points), points.mean(axis=0), np.cov(points.T, bias=True)


def test_pictures_are_binary_and_only_the_ends_of_orientation_are_alike():
  """Also none is another one moved: x and y are part of it."""
  cut = {}
  for shape, scale, orientation in itertools.product(*(range(n) for n in sprites.VALUES[:3])):
    picture = sprites.render((shape, scale, orientation, 0, 31))
    assert picture.dtype == np.uint8 and picture.shape == (64, 64, 1) and {*np.unique(picture)} == {0, 255}
    rows, columns = (np.flatnonzero(picture[..., 0].any(axis=axis)) for axis in (1, 0))
    part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert columns[0] >= 1 and rows[-1] <= 62  # nothing is cut off
    cut.setdefault((part.shape, part.tobytes()), []).append((shape, scale, orientation))
  alike = [found for found in cut.values() if len(found) > 1]
  assert sorted(alike) == [[(s, c, 0), (s, c, 39)] for s in range(3) for c in range(6)]


@pytest.mark.parametrize("shape", range(3))
def test_area_and_centre_are_those_of_scale_and_place(shape):
  for scale, orientation in itertools.product(range(6), (0, 3, 17)):
    area, centre, _ = moments(sprites.render((shape, scale, orientation, 10, 20)))
    np.testing.assert_allclose(area, sprites.AREA * (0.5 + 0.1 * scale) ** 2, rtol=0.1)
    np.testing.assert_allclose(centre, [26.75, 36.9], atol=0.45)  # of a square along the axes
  one = sprites.render((shape, 2, 5, 3, 4))
  np.testing.assert_array_equal(np.roll(one, (6, 2), axis=(0, 1)), sprites.render((shape, 2, 5, 5, 10)))


def test_shapes_turn_clockwise():
  """The long axis of an ellipse, by moments; the tip of a heart, its farthest pixel; the corners of a square."""
  for orientation in (0, 4, 11, 25):
    angle = 2 * np.pi * orientation / 39
    _, _, covariance = moments(sprites.render((1, 5, orientation, 16, 16)))
    values, axes = np.linalg.eigh(covariance)
    np.testing.assert_allclose(np.abs(axes[:, 1] @ [np.cos(angle), np.sin(angle)]), 1, atol=1e-3)
    np.testing.assert_allclose(values[1] / values[0], 1.7**2, rtol=0.06)  # of semi-axes as 1.7 to 1
    for shape, corners, first in ((2, 1, np.pi / 2), (0, 4, np.pi / 4)):
      rows, columns = np.nonzero(sprites.render((shape, 5, orientation, 16, 16))[..., 0])
      away = columns + 0.5 - 32.75 + 1j * (rows + 0.5 - 32.9)
      turned = away[np.argmax(np.abs(away))] * np.exp(-1j * (angle + first))
      assert np.abs(np.angle(turned**corners)) < 0.12 * corners, (shape, orientation)


@pytest.mark.parametrize(
  "factors", [(3, 0, 0, 0, 0), (0, 0, -1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0.5, 0), (np.nan,) * 5]
)
def test_what_is_no_sprite_is_refused(factors):
  with pytest.raises(
    UserError, match="are those of no sprite; give whole numbers: shape 0 to 2, scale 0 to 5, or"
  ):
    sprites.render(factors)


def test_the_records_are_all_pictures_in_a_fixed_random_order():
  assert list_splits(config()) == {"train": 737_280}
  source = open_source(config(), "train[-5000:]")
  found = source.load_all()
  assert source.uniform_shape == (64, 64, 1) and source.full.factors == sprites.FACTORS
  assert found["factors"].shape == (5000, 5) and found["factors"].dtype == np.float32
  for i in (0, 77, 4999):
    np.testing.assert_array_equal(found["image"][i], sprites.render(found["factors"][i]))
  counts = [
    np.bincount(column.astype(int), minlength=n)
    for column, n in zip(found["factors"].T, sprites.VALUES, strict=True)
  ]
  assert [len(c) for c in counts] == [*sprites.VALUES]
  assert all(np.abs(c - 5000 / len(c)).max() < 5 * np.sqrt(5000 / len(c)) for c in counts)
  order = sprites._order()
  assert np.array_equal(np.sort(order), np.arange(sprites.COUNT))
  first = [record["factors"].tolist() for record in open_source(config(), "train").read([0, 1])]
  assert first == FIRST  # recorded: runs would continue on other data


FIRST = [[0, 5, 15, 3, 20], [0, 1, 27, 1, 2]]


def test_pictures_are_not_cropped():
  with pytest.raises(UserError, match=r"cuts the images of data\.name=sprites, and .*; set data\.fit=resize"):
    open_source(config("data.size=32,32"), "train")
  assert len(open_source(config("data.size=32,32", "data.fit=resize"), "train[:9]")) == 9


def test_dsprites_of_tfds_has_the_same_records(tmp_path, monkeypatch):
  """TFDS's own builder on a small file of the layout of dSprites, whose images are 0 and 1."""
  h5py = pytest.importorskip("h5py")
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.features import image_feature

  random, n = np.random.default_rng(0), 12
  classes = np.stack([random.integers(0, count, n) for count in sprites.VALUES], axis=1)
  with h5py.File(tmp_path / "dsprites.hdf5", "w") as file:
    file["imgs"] = np.stack([sprites.render(row)[..., 0] // 255 for row in classes])
    file["latents/classes"] = np.concatenate([np.zeros((n, 1), int), classes], axis=1)  # colour first
    file["latents/values"] = np.ones((n, 6))
  path = pathlib.Path(tmp_path / "dsprites.hdf5")
  monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda self, url: path)
  # What TFDS encodes by TensorFlow.
  monkeypatch.setattr(
    image_feature._ImageEncoder, "_encode_image", lambda self, x: images.encode_png(np.asarray(x))
  )
  data = config("data.name=dsprites", f"data.dir={tmp_path / 'tfds'}")
  source = open_source(data, "train[:10]")
  found = source.load_all()
  assert source.full.factors == sprites.FACTORS and source.full.unordered == {"shape"}
  assert {*map(tuple, found["factors"].astype(int))} <= {*map(tuple, classes)}
  for image, factors in zip(found["image"], found["factors"], strict=True):
    np.testing.assert_array_equal(image, sprites.render(factors))
  with pytest.raises(UserError, match=r"cuts the images of data\.name=dsprites"):
    open_source(
      apply_overrides(base_config(), ["data.name=dsprites", f"data.dir={data.dir}", "data.size=48"]).data,
      "train",
    )
