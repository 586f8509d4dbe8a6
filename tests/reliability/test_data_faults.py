"""Faulty files and folders at every door: named in one line, or passed over and named; no hang, no half-built cache.

What existing tests hold is not repeated here: tests/data/test_images.py, test_builders.py, test_sources.py,
tests/photos/test_photograph.py, test_files.py, test_cases.py, tests/test_evaluation.py.
"""

import faulthandler
import functools
import glob
import gzip
import io
import json
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from said import PATIENCE

from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import builders, folders, images, inspection, pipeline, plans
from vae_jax.data.sources import list_splits, open_source, report
from vae_jax.errors import UserError, printable
from vae_jax.photos import files as restoring
from vae_jax.photos import photograph as photographs
from vae_jax.photos import score_folder as benchmark
from vae_jax.training.loop import train

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_hang():
  """What waits for ever, such as a pipe, shows where."""
  faulthandler.dump_traceback_later(300, exit=True)
  yield
  faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))
  return tmp_path / "cache"


def config(name, folder, **values):
  data = base_config().data
  data.update(name=name, dir=str(folder), **values)
  return data


def noise(h=24, w=20, c=3):
  return RANDOM.integers(0, 256, (h, w, c), np.uint8)


def encoded(kind="PNG", pixels=None):
  out = io.BytesIO()
  Image.fromarray(noise() if pixels is None else pixels).save(out, kind)
  return out.getvalue()


def below(folder, pattern="*"):
  """As `rglob`, also while another process removes what is there."""
  return [Path(path) for path in glob.glob(f"{glob.escape(str(folder))}/**/{pattern}", recursive=True)]


def stored(cache):
  return [path for path in below(cache) if path.is_file()]


def left(cache):
  """Folders of preparations that did not end."""
  return below(cache, "incomplete.*")


# --- single files ---


def chunk(name, content):
  return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@functools.cache
def bomb(side=100_000):
  """A PNG of 20 KB that claims so many pixels along each side."""
  head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  body = zlib.compress(bytes(20_000_000), 9)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def swollen(name, head):
  """A PNG with a chunk of text or profile that inflates to 8 MB."""
  content, png = zlib.compress(bytes(2**23), 9), encoded()
  return png[:33] + chunk(name, head + content) + png[33:]


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
showpage
"""


def faults(folder):
  """Makes every fault a file can have in `folder`, and three sound files; {name: why it is refused}."""
  folder.mkdir(parents=True)
  contents = {
    "bomb.png": (bomb(), "above the limit of 200000000"),
    "empty.png": (b"", "the file is empty"),
    "half.jpg": (encoded("JPEG")[:700], "truncated"),
    "text.png": (b"this is no picture", "none of PNG, JPEG"),
    "short.png": (b"hi", "too short for an image"),
    "profile.png": (swollen(b"iCCP", b"profile\0\0"), "too large"),
    "comment.png": (swollen(b"zTXt", b"Comment\0\0"), "too large"),
    "postscript.png": (POSTSCRIPT, "none of PNG, JPEG"),
    "caf\u00e9 \u65e5\u672c.png": (b"rubbish", "none of PNG, JPEG"),
    "two\nlines.png": (b"rubbish", "none of PNG, JPEG"),
    "escape\x1b[2J.png": (b"rubbish", "none of PNG, JPEG"),
    "latin\udce9.png": (b"rubbish", "none of PNG, JPEG"),  # the byte e9, which is no UTF-8
  }
  for name, (content, _) in contents.items():
    (folder / name).write_bytes(content)
  reasons = {name: reason for name, (_, reason) in contents.items()}
  with open(folder / "huge.png", "wb") as file:
    file.truncate(3 * 2**30)  # with holes: no bytes on the disk
  reasons["huge.png"] = "above the limit of 2147483648"
  os.mkfifo(folder / "pipe.png")
  (folder / "device.png").symlink_to("/dev/zero")
  reasons |= {"pipe.png": "not a regular file", "device.png": "not a regular file"}
  with socket.socket(socket.AF_UNIX) as server:
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    server.bind("socket.png")
    os.chdir(here)
  reasons["socket.png"] = "cannot be read"
  (folder / "itself.png").symlink_to("itself.png")
  (folder / "gone.png").symlink_to(folder / "nowhere")
  (folder / "below.png").symlink_to(folder / "empty.png" / "x.png")
  reasons |= dict.fromkeys(("itself.png", "gone.png", "below.png"), "cannot be read")
  (folder / "locked.png").write_bytes(b"")
  (folder / "locked.png").chmod(0)
  reasons["locked.png"] = "the file is empty"
  if not os.access(folder / "locked.png", os.R_OK):  # root may read all
    reasons["locked.png"] = "cannot be read (Permission denied)"
  (folder / "folder.png").mkdir()
  (folder / "folder.png" / "up").symlink_to("..")
  (folder / "folder.png" / "round").symlink_to(folder)
  # Sound: in a folder with a suffix, of another format than its name says, of a name that is no text.
  (folder / "folder.png" / "a b.png").write_bytes(encoded())
  (folder / "really_jpeg.png").write_bytes(encoded("JPEG"))
  (folder / "sound\n\u00fc\udcff.png").write_bytes(encoded())
  return reasons


SOUND = 3


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
  """A file that is there once Ghostscript was started."""
  place, started = tmp_path / "bin", tmp_path / "started"
  place.mkdir()
  (place / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
  (place / "gs").chmod(0o755)
  monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
  return started


def check_all(said, reasons):
  """Each fault is named once, with its reason. said: {name: what was said}."""
  assert set(said) == set(reasons)
  for name, reason in reasons.items():
    assert reason in said[name] and "\n" not in said[name].replace(name, ""), (name, said[name])


def test_every_fault_of_a_file(tmp_path, ghostscript):
  reasons = faults(tmp_path / "in")
  for read in images.decode, photographs.open_photograph:
    said = {}
    for name in reasons:
      with pytest.raises(UserError) as error:
        read(tmp_path / "in" / name)
      path = str(tmp_path / "in" / name)
      assert str(error.value).startswith(f"{path}: ") and "; " in str(error.value)  # with a remedy
      said[name] = str(error.value).removeprefix(path)
    check_all(said, reasons)
  assert not ghostscript.exists()


def test_every_fault_in_a_folder_of_a_data_set(tmp_path, cache, capfd, ghostscript):
  reasons = faults(tmp_path / "in")
  data = config("folder", tmp_path / "in", max_bad=len(reasons))
  assert sum(list_splits(data).values()) == SOUND
  report([open_source(data, "train")])
  out, err = capfd.readouterr()
  assert out == "" and err.count("\n") == 1 and "\x1b" not in err
  assert f"{len(reasons)} images skipped" in err
  said = {}
  for part in err.strip().split(f"{tmp_path / 'in'}/")[1:]:
    name, _, reason = part.partition(": ")
    said[next(n for n in reasons if printable(n) == name)] = reason
  check_all(said, reasons)
  assert not left(cache) and not ghostscript.exists()
  builder = builders.prepare(data).builder  # the names come back from the cache as they went in
  assert any("latin\udce9.png" in line for line in builder.info.metadata["skipped"])
  with pytest.raises(UserError, match=rf"more than data\.max_bad={len(reasons) - 1} images"):
    list_splits(config("folder", tmp_path / "in", max_bad=len(reasons) - 1))


def test_every_fault_in_pairs(tmp_path, capfd):
  reasons = faults(tmp_path / "in" / "low")
  for name in folders.list_images(tmp_path / "in" / "low"):
    path = tmp_path / "in" / "high" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded())
  data = config("paired_folder", tmp_path / "in", max_bad=len(reasons))
  assert sum(list_splits(data).values()) == SOUND
  assert any(f"{len(reasons)} images skipped" in line for line in open_source(data, "train").remarks)


def test_every_fault_in_a_folder_to_restore(tmp_path):
  reasons = faults(tmp_path / "in")
  report = restoring.restore_files(
    lambda image, index, progress: image, tmp_path / "in", tmp_path / "out", factor=1, channels=3
  )
  check_all({path.name: reason for path, reason in report.failed}, reasons)
  assert len(report.written) == SOUND
  assert sorted(p.name for p in (tmp_path / "out").rglob("*.png") if p.is_file()) == sorted(
    ("a b.png", "really_jpeg.png", "sound\n\u00fc\udcff.png")
  )


@pytest.mark.parametrize("name", ["pipe.png", "device.png", "huge.png"])
def test_a_fault_given_by_name_to_restore(tmp_path, name):
  faults(tmp_path / "in")
  report = restoring.restore_files(
    lambda image, index, progress: image, tmp_path / "in" / name, tmp_path / "o.png", factor=1, channels=3
  )
  assert report.written == [] and not (tmp_path / "o.png").exists()
  with pytest.raises(UserError, match=f"1 image could not be restored: .*{name}"):
    report.check()


def test_every_fault_in_a_folder_to_score_or_reconstruct(tmp_path, capfd):
  reasons = faults(tmp_path / "in")
  model = SimpleNamespace(input_shape=(16, 16, 3), config=base_config())
  assert evaluation.own_images(model, [tmp_path / "in"], 100)["image"].shape == (SOUND, 16, 16, 3)
  err = capfd.readouterr().err
  assert all(reason in err for reason in reasons.values()) and err.count("skipped: ") == len(reasons)
  degrade = base_config().data.degrade
  degrade.name, degrade.sigma = "gaussian_noise", 0.0
  scores, picture = benchmark.benchmark(lambda low: low, tmp_path / "in", degrade, channels=3)
  check_all({entry["name"]: entry["reason"] for entry in scores["skipped"]}, reasons)
  assert len(scores["images"]) == SOUND and picture.ndim == 3
  json.dumps(scores).encode()


def test_a_run_that_is_refused_says_so_in_one_line_whatever_the_names(tmp_path):
  faults(tmp_path / "in")
  done = subprocess.run(
    [sys.executable, str(ROOT / "train.py"), "--workdir", str(tmp_path / "run"), "--config.data.name=folder",
     f"--config.data.dir={tmp_path / 'in'}", "--config.data.max_bad=0", "--config.model.likelihood=gaussian"],
    capture_output=True, timeout=PATIENCE, env=os.environ | {"PYTHONUTF8": "1", "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  assert (done.returncode, done.stdout) == (2, b""), done.stderr
  assert done.stderr.startswith(b"error: more than data.max_bad=0") and done.stderr.count(b"\n") == 1
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_random_damage_is_a_user_error_or_a_picture(kind, tmp_path):
  content = encoded(kind)
  for _ in range(60):
    damaged = bytearray(content[: RANDOM.integers(len(content) // 2, len(content) + 1)])
    for place in RANDOM.integers(0, len(damaged), RANDOM.integers(0, 6)):
      damaged[place % (200 if place % 2 else len(damaged))] = RANDOM.integers(0, 256)
    (tmp_path / "x.png").write_bytes(damaged)
    for read in images.decode, photographs.open_photograph:
      try:
        picture = read(tmp_path / "x.png")
      except UserError as error:
        assert "\n" not in str(error)
        continue
      pixels = picture if isinstance(picture, np.ndarray) else picture.pixels
      assert pixels.ndim == 3 and pixels.shape[2] in (1, 3)


# --- modes ---


def tiff(values, bits, photometric, order="<", kind=1):
  """An uncompressed grey TIFF of one strip, by hand. values: unsigned [h, w], or float32."""
  height, width = values.shape
  if bits == 12:
    pairs = values.reshape(-1, 2).astype(np.uint32)
    joined = pairs[:, 0] << 12 | pairs[:, 1]
    data = b"".join(int(v).to_bytes(3, "big") for v in joined)
  else:
    data = values.astype({8: "u1", 16: order + "u2", 32: order + "f4"}[bits]).tobytes()
  tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height,
          279: len(data), 339: kind}  # fmt: skip
  start = 8 + 2 + 12 * len(tags) + 4
  tags[273] = start
  head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
  entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
  return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + data


def test_white_may_be_zero_in_a_tiff(tmp_path):
  """Against the same picture in 8 bits, which Pillow turns round, and in 16 with black as zero."""
  grey = noise(4, 6, 1)[..., 0]
  deep = grey.astype(np.uint16) * 257
  expected = np.asarray(Image.open(io.BytesIO(tiff(255 - grey, 8, 0))))
  np.testing.assert_array_equal(expected, grey)
  level = grey / np.float32(255)
  for content in (
    tiff(255 - grey, 8, 0),
    tiff(65535 - deep, 16, 0),
    tiff(deep, 16, 1),
    tiff(deep, 16, 1, ">"),
    tiff(1 - level, 32, 0, kind=3),
  ):
    np.testing.assert_array_equal(images.decode(content)[..., 0], grey)
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_allclose(
      photographs.open_photograph(tmp_path / "a.tif").pixels[..., 0], level, atol=1e-4
    )


def test_12_bits_are_scaled():
  values = np.array([[0, 8, 9, 2047], [2048, 4086, 4087, 4095]], np.uint16)
  expected = np.rint(values * (255 / 4095)).astype(np.uint8)
  np.testing.assert_array_equal(images.decode(tiff(values, 12, 1))[..., 0], expected)


def test_damaged_exif_costs_the_exif_alone():
  pixels = noise()
  for junk in (b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", exif=junk)
    assert images.decode(out.getvalue()).shape == pixels.shape


def test_large_images_are_decoded_one_after_the_other(tmp_path, monkeypatch):
  """Eight threads with 200 megapixels each would need more memory than most machines have."""
  monkeypatch.setattr(images, "LARGE", 100)
  monkeypatch.setattr(inspection, "THREADS", 4)
  at_once, most, upright = [], [], images.upright

  def slow(values, orientation):
    at_once.append(1)
    most.append(len(at_once))
    time.sleep(0.02)
    at_once.pop()
    return upright(values, orientation)

  monkeypatch.setattr(images, "upright", slow)
  (tmp_path / "in").mkdir()
  for i in range(8):
    (tmp_path / "in" / f"{i}.png").write_bytes(encoded())
  list_splits(config("folder", tmp_path / "in"))
  assert len(most) == 8 and max(most) == 1


# --- arrays ---


def npz(path, member, content, shape=None):
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {"descr": "|u1", "fortran_order": False, "shape": shape or (len(content),)}
  )
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(f"{member}.npy", head.getvalue() + content)


def test_arrays_that_claim_more_than_they_hold(tmp_path):
  npz(tmp_path / "x.npz", "image", b"few", (10**6, 10**6, 10**3, 3))
  with pytest.raises(UserError, match=r"x\.npz: .*memory"):
    open_source(config("npz", tmp_path / "x.npz"), "train")
  npz(tmp_path / "x.npz", "image", b"few", (8, 8, 8, 3))
  with pytest.raises(UserError, match=r"x\.npz: cannot be read as \.npz"):
    open_source(config("npz", tmp_path / "x.npz"), "train")
  for prefix in "train", "t10k":
    for kind, sizes in (("images", (2**32 - 1,) * 3), ("labels", (9,))):
      content = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(9)
      (tmp_path / f"{prefix}-{kind}-idx{len(sizes)}-ubyte.gz").write_bytes(gzip.compress(content))
  with pytest.raises(UserError, match=r"train-images.*claims 7922\d* bytes of data, and this machine"):
    open_source(config("idx", tmp_path), "train")


def test_an_archive_larger_than_the_memory(tmp_path, monkeypatch):
  npz(tmp_path / "x.npz", "image", bytes(2**20), (2**10, 32, 32))
  assert (tmp_path / "x.npz").stat().st_size < 2**12
  sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 200}
  monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
  with pytest.raises(UserError, match=r"claims 1048704 bytes of data, and this machine has 819200 of memory"):
    open_source(config("npz", tmp_path / "x.npz"), "train")


def test_random_damage_to_an_archive(tmp_path):
  np.savez_compressed(tmp_path / "x.npz", image=noise(6, 4, 4)[..., None], label=np.arange(6))
  content, refused = (tmp_path / "x.npz").read_bytes(), 0
  for _ in range(150):
    damaged = bytearray(content)
    for place in RANDOM.integers(0, len(damaged), RANDOM.integers(1, 4)):
      damaged[place] = RANDOM.integers(0, 256)
    (tmp_path / "x.npz").write_bytes(damaged)
    try:
      assert open_source(config("npz", tmp_path / "x.npz"), "train").load_all()["image"].shape == (6, 4, 4, 1)
    except UserError as error:
      refused += 1
      assert "\n" not in str(error)
  assert refused > 50


@pytest.mark.parametrize("label", [2**31, -(2**31) - 1, 2**63])
def test_labels_beyond_32_bits(tmp_path, label):
  labels = np.array([0, label], np.uint64 if label == 2**63 else np.int64)
  np.savez(tmp_path / "x.npz", image=np.zeros((2, 3, 3), np.uint8), label=labels)
  with pytest.raises(UserError, match=r"'label' is from .*32-bit integers"):
    open_source(config("npz", tmp_path / "x.npz"), "train")


# --- folders ---


def test_folders_that_may_not_be_entered(tmp_path):
  (tmp_path / "closed" / "in").mkdir(parents=True)
  (tmp_path / "closed").chmod(0)
  if os.access(tmp_path / "closed", os.X_OK):
    pytest.skip("root may enter any folder")
  try:
    for name in "folder", "paired_folder", "idx", "npz":
      with pytest.raises(UserError, match="closed"):
        open_source(config(name, tmp_path / "closed" / "in"), "train")
    with pytest.raises(UserError, match="closed"):
      restoring.restore_files(None, tmp_path / "closed" / "in", tmp_path / "out", factor=1, channels=3)
  finally:
    (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("folder", ["x" * 300, "y/" * 3000, "~nobody_of_this_name/in"])
@pytest.mark.parametrize("name", ["folder", "paired_folder", "idx", "npz", "digits"])
def test_paths_that_cannot_be(tmp_path, monkeypatch, name, folder):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError) as error:
    open_source(config(name, folder), "train")
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_an_empty_class_and_an_empty_split(tmp_path):
  for name in "cats", "dogs":
    (tmp_path / "a" / name).mkdir(parents=True)
  for i in range(5):
    (tmp_path / "a" / "dogs" / f"{i}.png").write_bytes(encoded())
  assert sum(list_splits(config("folder", tmp_path / "a")).values()) == 5
  for name in "train", "validation", "test":
    (tmp_path / "b" / name).mkdir(parents=True)
  (tmp_path / "b" / "test" / "0.png").write_bytes(encoded())
  with pytest.raises(UserError, match=r"no split 'train', only test; .*data\.train=test\[90%:\]"):
    open_source(config("folder", tmp_path / "b"), "train")


def test_one_image_is_a_training_set_and_no_validation_set(tmp_path):
  (tmp_path / "only.png").write_bytes(encoded())
  data = config("folder", tmp_path)
  assert list_splits(data) == {"train": 1}
  with pytest.raises(UserError, match=r"e\.g\. data\.validation=train\[90%:\]"):
    open_source(data, "validation")
  assert len(open_source(data, "train[90%:]")) == 1  # what it proposes


def test_partners_of_another_extension_or_case(tmp_path):
  for side, name in (("low", "a.png"), ("high", "a.JPG"), ("low", "B.png"), ("high", "b.png")):
    (tmp_path / side).mkdir(exist_ok=True)
    (tmp_path / side / name).write_bytes(encoded())
  with pytest.raises(UserError, match="no partner for B, b; add or remove"):
    list_splits(config("paired_folder", tmp_path))
  (tmp_path / "high" / "b.png").rename(tmp_path / "high" / "B.tif")
  assert list_splits(config("paired_folder", tmp_path)) == {"train": 2}


def test_pairs_of_two_scales(tmp_path):
  for name, factor in (("a", 2), ("b", 3), ("c", 2)):
    for side, times in (("low", 1), ("high", factor)):
      (tmp_path / side).mkdir(exist_ok=True)
      (tmp_path / side / f"{name}.png").write_bytes(encoded(pixels=noise(4 * times, 5 * times)))
  with pytest.raises(
    UserError, match=r"a\.png is 2 times as large as its partner and .*b\.png 3 times; keep"
  ):
    list_splits(config("paired_folder", tmp_path))


def test_one_grey_image_among_those_in_colour_is_found_before_training(tmp_path):
  (tmp_path / "train").mkdir()
  for i in range(6):
    (tmp_path / "train" / f"{i}.png").write_bytes(encoded(pixels=noise() if i != 4 else noise()[..., 0]))
  data = config("folder", tmp_path, size=(8, 8))
  with pytest.raises(UserError, match=r"some images are grey.*set data\.channels=1 or data\.channels=3"):
    pipeline.image_shape(data, open_source(data, "train"))
  data.channels = 3
  source = open_source(data, "train")
  assert pipeline.image_shape(data, source) == (8, 8, 3)
  (batch,) = pipeline.batches(data, source, batch_size=8, training=False)
  assert batch["image"].shape == (8, 8, 8, 3)


# --- preparation ---


def remove(folder):
  (folder / "3.png").unlink()


def replace(folder):
  (folder / "3.png").write_bytes(b"rubbish")


def shorten(folder):
  content = (folder / "3.png").read_bytes()
  (folder / "3.png").write_bytes(content[: len(content) // 2])


def add(folder):
  (folder / "new.png").write_bytes(encoded())


@pytest.mark.parametrize("change", [remove, replace, shorten, add])
@pytest.mark.parametrize("when", ["listed", "checked"])
def test_a_folder_that_changes_while_it_is_read(tmp_path, cache, monkeypatch, change, when):
  folder = tmp_path / "in"
  folder.mkdir()
  for i in range(8):
    (folder / f"{i}.png").write_bytes(encoded())
  before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
  data = config("folder", folder)
  with monkeypatch.context() as patch:
    plan = plans.plan

    def changing(data):
      if when == "listed":
        change(folder)
        return plan(data)
      made = plan(data)
      change(folder)
      return made

    patch.setattr(plans, "plan", changing)
    with pytest.raises(UserError, match=r"(3|new)\.png(: cannot be read| changed while)") as error:
      open_source(data, "train")
  assert "\n" not in str(error.value) and not stored(cache) and not left(cache)
  # As it was, to the nanosecond: nothing of the failed attempt is taken for it.
  (folder / "new.png").unlink(missing_ok=True)
  for name, (content, moment) in before.items():
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(moment, moment))
  assert sum(list_splits(data).values()) == 8
  found = [open_source(data, split) for split in list_splits(data)]
  got = {source[i]["image"].tobytes() for source in found for i in range(len(source))}
  assert got == {images.decode(content).tobytes() for content, _ in before.values()}


def test_a_disk_that_fills_up_while_data_is_prepared(tmp_path, cache):
  """The system's limit on the size of a file in place of a full disk: the write fails in the same place."""
  (tmp_path / "in").mkdir()
  for i in range(12):
    (tmp_path / "in" / f"{i}.png").write_bytes(encoded(pixels=noise(64, 64)))
  data = config("folder", tmp_path / "in")
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
  try:
    with pytest.raises(
      UserError,
      match=r"cannot write prepared data .*free some space, or set the environment variable VAE_JAX_DATA",
    ) as error:
      open_source(data, "train")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert "\n" not in str(error.value) and not stored(cache) and not left(cache)
  assert sum(list_splits(data).values()) == 12


PREPARE = """
import glob, hashlib, os, sys, time
from pathlib import Path
from vae_jax.configuration import base_config
from vae_jax.data import images
from vae_jax.data.sources import open_source
read = images.read_file
folder, gate, cache = sys.argv[1], Path(sys.argv[2]), os.environ["VAE_JAX_DATA"]

def written():
  return set(filter(os.path.isfile, glob.glob(f"{cache}/**/incomplete.*/**/*", recursive=True)))

remains = written()

def slow(path):  # once it has begun to write, waits until the gate is open
  while written() - remains and not gate.exists():
    time.sleep(0.01)
  return read(path)

images.read_file = slow
data = base_config().data
data.update(name="folder", dir=folder)
print(hashlib.sha256(open_source(data, "train").load_all()["image"].tobytes()).hexdigest())
"""


def test_a_preparation_that_is_killed_and_two_at_once(tmp_path, cache):
  folder = tmp_path / "in"
  folder.mkdir()
  for i in range(60):
    (folder / f"{i}.png").write_bytes(encoded())
  gate = tmp_path / "gate"

  def start():
    return subprocess.Popen(
      [sys.executable, "-c", PREPARE, str(folder), str(gate)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def started(before=()):
    """A process that is about to write, with some of its files on the disk."""
    process = start()
    while not any(stored(place) for place in set(left(cache)) - set(before)):
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    return process

  killed = started()
  killed.send_signal(signal.SIGKILL)
  assert killed.communicate()[0] == "" and killed.returncode == -signal.SIGKILL
  remains = left(cache)
  assert remains and not below(cache, builders.VERSION)
  first = started(before=remains)
  first.send_signal(signal.SIGSTOP)
  assert not set(remains) & set(left(cache))
  second = start()
  try:
    assert "waiting for another process" in second.stderr.readline()
  finally:
    gate.touch()
    first.send_signal(signal.SIGCONT)
  ended = [process.communicate(timeout=PATIENCE) for process in (first, second)]
  assert [first.returncode, second.returncode] == [0, 0], ended
  assert ended[0][0] == ended[1][0] and len(ended[0][0].strip()) == 64
  assert len(below(cache, builders.VERSION)) == 1 and not left(cache)


@pytest.mark.parametrize(
  "fault", ["shard cut", "shard damaged", "shard gone", "info", "features", "metadata"]
)
def test_prepared_data_that_is_damaged_is_named(tmp_path, cache, fault):
  (tmp_path / "in").mkdir()
  for i in range(2):
    (tmp_path / "in" / f"{i}.png").write_bytes(encoded())
  data = config("folder", tmp_path / "in")
  assert list_splits(data) == {"train": 2}
  (shard,) = (path for path in stored(cache) if "array_record" in path.name)
  content = shard.read_bytes()
  if fault == "shard cut":
    shard.write_bytes(content[: len(content) // 2])
  elif fault == "shard damaged":
    shard.write_bytes(content[:200] + bytes(b ^ 1 for b in content[200:2000]) + content[2000:])
  elif fault == "shard gone":
    shard.unlink()
  else:
    name = {"info": "dataset_info.json", "features": "features.json", "metadata": "metadata.json"}[fault]
    (shard.parent / name).write_bytes(b"{")
  with pytest.raises(UserError, match=f"{shard.parent}: prepared data cannot be read .*delete this") as error:
    open_source(data, "train").load_all()
  assert "\n" not in str(error.value)


# --- training ---


def test_batches_larger_than_a_streamed_data_set(tmp_path):
  """Three images in batches of eight: every image once in each epoch, across the borders of batches."""
  for i in range(3):
    (tmp_path / f"{i}.png").write_bytes(encoded(pixels=noise(9 + i, 12)))
  (tmp_path / "train").mkdir()
  for path in sorted(tmp_path.glob("?.png")):
    path.rename(tmp_path / "train" / path.name)
  data = config("folder", tmp_path, size=(8, 8))
  source = open_source(data, "train")
  made = list(pipeline.batches(data, source, batch_size=8, training=True, steps=3))
  index = np.concatenate([batch["index"] for batch in made])
  assert [len(batch["image"]) for batch in made] == [8, 8, 8]
  assert all(sorted(epoch) == [0, 1, 2] for epoch in index.reshape(-1, 3).tolist())


@pytest.mark.parametrize("fault", ["damaged", "vanished"])
def test_a_stream_that_breaks_ends_with_one_line(tmp_path, fault):
  """A record that fails in a thread of the pipeline."""
  (tmp_path / "train").mkdir()
  for i in range(3):
    (tmp_path / "train" / f"{i}.png").write_bytes(encoded(pixels=noise(9 + i, 12)))
  data = config("folder", tmp_path, size=(8, 8))
  source = open_source(data, "train")
  shard = next(path for path in stored(tmp_path / "cache") if "array_record" in path.name)
  if fault == "damaged":
    content = shard.read_bytes()
    shard.write_bytes(content[:200] + bytes(b ^ 1 for b in content[200:2000]) + content[2000:])
  else:
    shard.unlink()
  with pytest.raises(UserError, match="prepared data cannot be read"):
    list(pipeline.batches(data, source, batch_size=8, training=True, steps=3))


@pytest.mark.parametrize(
  "likelihood",
  [
    "gaussian",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("bernoulli", "laplace", "logistic_mixture")),
  ],
)
def test_images_of_one_colour_train_and_score_finitely(tmp_path, likelihood):
  np.savez(tmp_path / "x.npz", image=np.full((2, 12, 12, 1), 255, np.uint8))
  sigma = ["model.sigma=optimal"] if likelihood == "gaussian" else []
  settings = apply_overrides(base_config(), [
    "data.name=npz", f"data.dir={tmp_path / 'x.npz'}", "data.validation=train", "data.binarize=none",
    "model.hidden=8", "model.latent_dim=2", f"model.likelihood={likelihood}", "model.mixtures=2",
    "training.steps=6", "training.batch_size=8", "training.log_every=3", "training.eval_every=6",
    "training.checkpoint_every=6", "training.warmup_steps=1", "training.learning_rate=0.1",
    "evaluation.batch_size=8", "evaluation.pictures=2", *sigma,
  ])  # fmt: skip
  state = train(settings, tmp_path / "run")
  assert int(state.step) == 6 and int(state.skipped) == 0
  rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert rows[-1]["split"] == "validation" and "ssim" in rows[-1]
  for row in rows:
    # What is not finite is written as null.
    assert all(isinstance(v, str) or (v is not None and math.isfinite(v)) for v in row.values()), row
