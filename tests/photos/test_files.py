"""Files in, files out: what is written where, what is refused before work, and that no input is ever touched."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from photographs import png
from PIL import Image

from vae_jax.errors import UserError
from vae_jax.photos.files import Report, Treatment, restore_each, restore_files
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.restoring import Restorer
from vae_jax.photos.saving import save_photograph
from vae_jax.photos.uncertainty import uncertainty_picture
from vae_jax.progress import FileProgress

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


class Model:
  """Enlarges; darkens by half; the k-th sample adds k / 255. A pixel's deviation is a tenth of it. Notes what it is
  given."""

  def __init__(self, factor=1, channels=3):
    self.factor, self.channels, self.calls = factor, channels, []

  def __call__(self, image, key_index, progress):
    assert isinstance(image, np.ndarray) and image.dtype == np.float32 and image.flags.c_contiguous
    assert image.shape[2] == self.channels and image.min() >= 0 and image.max() <= 1
    self.calls.append((image.copy(), key_index))
    large = image.repeat(self.factor, axis=0).repeat(self.factor, axis=1)
    return large / 2 + np.float32((key_index or 0) / 255)

  def deviation(self, image):
    return image.repeat(self.factor, axis=0).repeat(self.factor, axis=1) / 10

  def run(self, inputs, output, **options):
    options |= {"factor": self.factor, "channels": self.channels, "deviation": self.deviation}
    return restore_files(self, inputs, output, **options)


def write(path, pixels=RGB, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)
  return path


def files(folder):
  return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if not p.is_dir())


def grey_levels(path):
  return np.asarray(Image.open(path)).astype(int)


def half(pixels):
  return np.floor(pixels / 2 + 0.5).astype(int)


@pytest.fixture
def tree(tmp_path):
  folder = tmp_path / "my photos"
  write(folder / "a b.png")
  write(folder / "Größe" / "日本 ñ.tif")
  write(folder / "Größe" / "deep" / "c.JPG", quality=100)
  write(folder / "d.gif", RGB[..., 0])
  (folder / "notes.txt").write_text("no image")
  write(folder / ".hidden.png")
  return folder


def test_a_tree_keeps_its_folders_and_names(tree, tmp_path):
  before = {p: p.read_bytes() for p in tree.rglob("*") if p.is_file()}
  report = Model(2).run(tree, tmp_path / "out" / "new")
  names = ["Größe/deep/c.JPG", "Größe/日本 ñ.tif", "a b.png", "d.png"]
  assert files(tmp_path / "out" / "new") == sorted(names)
  assert sorted(report.written) == sorted(tmp_path / "out" / "new" / n for n in names)
  assert report.failed == [] and report.check() is None
  expected = half(RGB.astype(int)).repeat(2, axis=0).repeat(2, axis=1)
  for name in ("a b.png", "Größe/日本 ñ.tif"):
    np.testing.assert_array_equal(grey_levels(tmp_path / "out" / "new" / name), expected)
  assert {p: p.read_bytes() for p in tree.rglob("*") if p.is_file()} == before


def test_one_file_to_a_file_or_a_folder(tmp_path):
  source = write(tmp_path / "in.png")
  report = Model().run(source, tmp_path / "new" / "out.tif")
  assert report.written == [tmp_path / "new" / "out.tif"]
  with Image.open(report.written[0]) as image:
    assert image.format == "TIFF"
  assert Model().run(str(source), tmp_path / "folder").written == [tmp_path / "folder" / "in.png"]
  assert Model().run([source], f"{tmp_path}/dotted.v2/").written == [tmp_path / "dotted.v2" / "in.png"]
  assert Model().run(source, tmp_path / "dotted.v2").written == [tmp_path / "dotted.v2" / "in.png"]


def test_several_inputs(tree, tmp_path):
  extra = write(tmp_path / "extra.png")
  report = Model().run([tree, extra, tree / "a b.png", extra], tmp_path / "out")
  assert len(report.written) == 5  # what is given twice is done once
  assert files(tmp_path / "out") == ["Größe/deep/c.JPG", "Größe/日本 ñ.tif", "a b.png", "d.png", "extra.png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [False, True])
def test_colour_and_grey(tmp_path, grey, channels):
  source = write(tmp_path / "a.png", RGB[..., 0] if grey else RGB)
  model = Model(channels=channels)
  model.run(source, tmp_path / "out")
  got = grey_levels(tmp_path / "out" / "a.png")
  np.testing.assert_array_equal(got, half(RGB[..., 0] if grey else RGB))
  images = [image for image, _ in model.calls]
  if grey or channels == 3:
    assert len(images) == 1
    for c in range(channels):
      np.testing.assert_allclose(images[0][..., c] * 255, RGB[..., 0 if grey else c], atol=1e-4)
  else:
    assert len(images) == 3
    for c in range(3):
      np.testing.assert_allclose(images[c][..., 0] * 255, RGB[..., c], atol=1e-4)


def test_grey_comes_back_as_luma(tmp_path):
  source = write(tmp_path / "a.png", RGB[..., 0])

  def tint(image, _, progress):
    return image * np.array((1, 0.5, 0), np.float32)

  restore_files(tint, source, tmp_path / "out", factor=1, channels=3)
  expected = np.floor((0.299 + 0.587 * 0.5) * RGB[..., 0] + 0.5)
  np.testing.assert_array_equal(grey_levels(tmp_path / "out" / "a.png"), expected)


def test_depth_alpha_and_metadata_are_kept(tmp_path):
  alpha = np.full((6, 8, 1), 0.25, np.float32)
  alpha[:, 4:] = 1
  exif = Image.Exif()
  exif[0x010F] = "Maker"
  given = Photograph(RNG.random((6, 8, 1), np.float32), alpha, 8, None, exif.tobytes())
  save_photograph(tmp_path / "a.png", given)
  Model(2).run(tmp_path / "a.png", tmp_path / "out")
  got = open_photograph(tmp_path / "out" / "a.png")
  assert got.alpha.shape == (12, 16, 1) and got.exif == given.exif
  np.testing.assert_allclose(got.alpha[:, 0], 64 / 255, atol=1e-6)
  np.testing.assert_allclose(got.alpha[:, -1], 1)

  save_photograph(tmp_path / "b.png", given._replace(alpha=None, bits=16))
  Model().run(tmp_path / "b.png", tmp_path / "out")
  got = open_photograph(tmp_path / "out" / "b.png")
  assert got.bits == 16
  np.testing.assert_allclose(got.pixels, given.pixels / 2, atol=1.01 / 65535)


@pytest.mark.parametrize(("white", "seen"), [(0, 4095 / 65535), (4095, 1.0)])
def test_grey_of_12_bits_has_the_white_of_the_run(tmp_path, white, seen):
  Image.fromarray(np.full((6, 8), 4095, np.uint16)).save(tmp_path / "a.png")
  found = []

  def restore(image, *_):
    found.append(image)
    return image

  restore_files(restore, tmp_path / "a.png", tmp_path / "out", factor=1, channels=1, white=white)
  np.testing.assert_allclose(found[0], seen, rtol=1e-6)
  np.testing.assert_allclose(open_photograph(tmp_path / "out" / "a.png").pixels, seen, atol=1e-5)


def test_samples(tmp_path):
  source = write(tmp_path / "a b.png", RGB // 2)
  model = Model()
  report = model.run(source, tmp_path / "out", samples=12)
  numbered = [f"a b_sample{k:02}.png" for k in range(1, 13)]
  names = ["a b.png", *numbered, "a b_mean.png", "a b_uncertainty.png"]
  assert [p.name for p in report.written] == names and files(tmp_path / "out") == sorted(names)
  assert [key for _, key in model.calls] == [None, *range(12)]
  base = (RGB // 2).astype(float) / 2
  for k, name in enumerate(numbered):
    np.testing.assert_array_equal(grey_levels(tmp_path / "out" / name), np.floor(base + k + 0.5))
  np.testing.assert_array_equal(grey_levels(tmp_path / "out" / "a b_mean.png"), np.floor(base + 5.5 + 0.5))
  deviation = (RGB // 2).mean(axis=-1) / 2550
  drawn = grey_levels(tmp_path / "out" / "a b_uncertainty.png")
  assert drawn.shape == uncertainty_picture(deviation).shape
  np.testing.assert_allclose(drawn, uncertainty_picture(deviation), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_uncertainty_is_the_deviation_of_what_is_seen(tmp_path, monkeypatch, channels):
  """Averaged over the photograph's channels, each by itself through a grey model; luma of a grey one."""
  seen = []
  monkeypatch.setattr(
    "vae_jax.photos.restoring.uncertainty_picture", lambda d: seen.append(d) or np.zeros((2, 2, 3), np.uint8)
  )
  model = Model(factor=2, channels=channels)
  for name, pixels in (("colour.png", RGB), ("grey.png", RGB[..., 0])):
    model.run(write(tmp_path / name, pixels), tmp_path / "out", samples=2)
    large = np.atleast_3d(pixels).mean(axis=-1).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(seen.pop(), large / 2550, atol=1e-6)


def test_no_map_without_a_deviation(tmp_path):
  source = write(tmp_path / "a.png")
  restore_files(Model(), source, tmp_path / "out", factor=1, channels=3, samples=2)
  assert files(tmp_path / "out") == ["a.png", "a_mean.png", "a_sample01.png", "a_sample02.png"]


def test_one_sample_has_no_deviation(tmp_path):
  source = write(tmp_path / "a.png")
  Model().run(source, tmp_path / "out.png", samples=1)
  assert files(tmp_path) == ["a.png", "out.png", "out_sample01.png"]


def test_names_of_a_hundred_samples(tmp_path):
  report = Model().run(write(tmp_path / "a.png", RGB[:2, :2]), tmp_path / "out", samples=100)
  assert report.written[1].name == "a_sample001.png" and report.written[100].name == "a_sample100.png"


def bad(folder):
  """The names of six files that are no photographs."""
  write(folder / "whole.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
  data = (folder / "whole.png").read_bytes()
  (folder / "empty.png").write_bytes(b"")
  (folder / "half.png").write_bytes(data[: len(data) // 2])
  (folder / "text.jpg").write_bytes(b"hello")
  (folder / "gone.png").symlink_to(folder / "nowhere")
  return ["empty.png", "gone.png", "half.png", "text.jpg"]


def test_one_bad_file_does_not_stop_the_rest(tmp_path):
  names = bad(tmp_path / "in")
  report = Model().run(tmp_path / "in", tmp_path / "out")
  assert files(tmp_path / "out") == ["whole.png"] and report.written == [tmp_path / "out" / "whole.png"]
  assert [path for path, _ in report.failed] == [tmp_path / "in" / name for name in names]
  assert "empty" in report.failed[0][1] and str(tmp_path) not in report.failed[0][1]
  with pytest.raises(UserError) as error:
    report.check()
  message = str(error.value)
  assert "\n" not in message and "4 images could not be restored: " in message and "and 1 more" in message
  assert all(name in message for name in names[:3])


def test_pictures_that_are_not_read_are_named(tmp_path):
  """What looks like a picture and cannot be read fails; what does not look like one is no concern of ours.

  The content counts, as for every file (l.heic is a PNG), but for raw files, whose content may be a preview.
  """
  folder = tmp_path / "in"
  for name in ("a.png", "b.jfif", "c.JPE", "d.pnm", "e.avif", "f.jp2", "g.dib", "h.mpo"):
    kind = {".jfif": "JPEG", ".JPE": "JPEG", ".mpo": "JPEG", ".dib": "BMP", ".jp2": "JPEG2000"}
    write(folder / name, format=kind.get(Path(name).suffix))
  for name in ("j.DNG", "notes.txt", "film.mp4", "report.pdf", "l.heic"):
    (folder / name).write_bytes((folder / "a.png").read_bytes())
  for name in ("i.heic", "k.psd"):
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
  report = Model().run(folder, tmp_path / "out")
  names = ["a.png", "b.jfif", "c.JPE", "d.png", "e.png", "f.png", "g.png", "h.png", "l.png"]
  assert files(tmp_path / "out") == names and sorted(path.name for path in report.written) == names
  failed = {path.name: why for path, why in report.failed}
  assert sorted(failed) == ["i.heic", "j.DNG", "k.psd"]
  assert failed["i.heic"] == "HEIC is not read; convert it to PNG, TIFF or JPEG"
  assert failed["j.DNG"].startswith("raw files of cameras are not read; convert it")
  with pytest.raises(UserError, match=r"^3 images could not be restored: .*i\.heic \(HEIC is not read"):
    report.check()
  only = tmp_path / "only"
  only.mkdir()
  (only / "x.heic").write_bytes(b"")
  assert [path.name for path, _ in Model().run(only, tmp_path / "none").failed] == ["x.heic"]


def test_a_cut_out_is_restored_without_its_hidden_colours(tmp_path):
  """Estimate, draws, mean and uncertainty do not depend on what is stored under alpha 0, at any factor."""
  alpha = np.zeros((6, 8), np.uint8)
  alpha[1:5, 1:7], alpha[2:4, 2:6] = 120, 255
  for factor in (1, 2):
    seen = []
    for hidden in (0, 255):
      pixels = np.where(alpha[..., None] > 0, RGB, hidden).astype(np.uint8)
      source = write(tmp_path / f"in{hidden}" / "a.png", np.dstack([pixels, alpha]))
      report = Model(factor).run(source, tmp_path / f"out{factor}{hidden}", samples=2)
      assert len(report.written) == 5
      pictures = [np.asarray(Image.open(path)).astype(int) for path in report.written]
      seen.append([p[..., :3] * p[..., 3:] if p.shape[2] == 4 else p for p in pictures])
    for one, other in zip(*seen, strict=True):
      np.testing.assert_array_equal(one, other)
    inside = pictures[0][factor * 2 + factor : factor * 4 - factor, factor * 3 : factor * 5, :3]
    if factor == 1:
      np.testing.assert_array_equal(pictures[0][2:4, 2:6, :3], half(RGB[2:4, 2:6]))
    assert inside.max(initial=0) <= 128  # the model halves


def test_one_bad_file_alone(tmp_path):
  (tmp_path / "a.png").write_bytes(b"")
  report = Model().run(tmp_path / "a.png", tmp_path / "out.png")
  assert report.written == [] and not (tmp_path / "out.png").exists()
  Model().run(tmp_path / "a.png", tmp_path / "new" / "folder")
  assert not (tmp_path / "new").exists()
  with pytest.raises(UserError, match=r"a\.png \(.*the file is empty"):
    report.check()


def test_failures_of_the_model(tmp_path):
  for name in "abcd":
    write(tmp_path / "in" / f"{name}.png", np.full((3, 3, 3), ord(name), np.uint8))

  def restore(image, _, progress):
    which = chr(round(float(image[0, 0, 0]) * 255))
    if which == "a":
      raise UserError("too small for this model")
    if which == "b":
      raise MemoryError
    return image * (np.nan if which == "c" else 1)

  report = restore_files(restore, tmp_path / "in", tmp_path / "out", factor=1, channels=3)
  assert files(tmp_path / "out") == ["d.png"]
  reasons = [reason for _, reason in report.failed]
  assert reasons[0] == "too small for this model" and "memory" in reasons[1] and "NaN" in reasons[2]

  def broken(image, _, progress):
    raise RuntimeError("a bug")

  with pytest.raises(RuntimeError, match="a bug"):
    restore_files(broken, tmp_path / "in", tmp_path / "out", factor=1, channels=3)
  with pytest.raises(ValueError, match=r"restore made \[3, 3, 3\] of \[3, 3, 3\], not \[6, 6, 3\]"):
    restore_files(lambda image, _, p: image, tmp_path / "in", tmp_path / "out", factor=2, channels=3)


def test_what_the_format_cannot_hold_is_known_before_work(tmp_path):
  source = write(tmp_path / "a.png", np.dstack([RGB, RGB[..., :1]]))
  model = Model()
  report = model.run(source, tmp_path / "out.jpg")
  assert model.calls == [] and "transparency" in report.failed[0][1]
  long = write(tmp_path / "long.webp", RNG.integers(0, 256, (1, 5000, 3), np.uint8))
  model = Model(4)
  assert "at most 16383" in model.run(long, tmp_path / "out").failed[0][1] and model.calls == []


def refused(tmp_path, inputs, output, match, **options):
  """Refused in one line, before any work, and with nothing made."""
  before = {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}
  model = Model()
  with pytest.raises(UserError, match=match) as error:
    model.run(inputs, output, **options)
  assert "\n" not in str(error.value) and model.calls == []
  assert {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")} == before


def test_an_input_is_never_overwritten(tree, tmp_path):
  refused(tmp_path, tree, tree, r"never overwritten")
  refused(tmp_path, tree / "a b.png", tree, r"a b\.png is the input .*a b\.png")
  refused(tmp_path, tree / "a b.png", tree / "a b.png", "never overwritten")
  refused(tmp_path, tree / "a b.png", tree / ".." / "my photos" / "a b.png", "never overwritten")
  (tmp_path / "link").symlink_to(tree)
  refused(tmp_path, tree, tmp_path / "link", "never overwritten")
  refused(tmp_path, tmp_path / "link", tree, "never overwritten")
  (tmp_path / "soft.png").symlink_to(tree / "a b.png")
  refused(tmp_path, tree / "a b.png", tmp_path / "soft.png", "never overwritten")
  os.link(tree / "a b.png", tmp_path / "hard.png")
  refused(tmp_path, tree / "a b.png", tmp_path / "hard.png", "never overwritten")
  # The output of one may be the input that comes later, also through the name of a sample.
  other = write(tmp_path / "out" / "x.png")
  refused(
    tmp_path, [write(tmp_path / "x.png"), other], tmp_path / "out", "both be written to|never overwritten"
  )
  write(tmp_path / "s" / "y.png")
  sampled = write(tmp_path / "out" / "y_sample01.png")
  refused(tmp_path, [tmp_path / "s", sampled], tmp_path / "out", "never overwritten|both", samples=1)


def test_case_of_a_name(tmp_path, monkeypatch):
  """On a disk where A.png and a.png are one file, as `stat` tells."""
  source = write(tmp_path / "a.png")
  stat, exists = Path.stat, Path.exists

  def blind(path):
    return path.with_name(path.name.lower())

  monkeypatch.setattr(Path, "stat", lambda self, **k: stat(blind(self), **k))
  monkeypatch.setattr(Path, "exists", lambda self, **k: exists(blind(self), **k))
  with pytest.raises(UserError, match=r"A\.png is the input"):
    Model().run(source, tmp_path / "A.png")


def test_two_inputs_of_one_name(tmp_path):
  for folder in ("one", "two"):
    write(tmp_path / folder / "sub" / "a.png")
  inputs = [tmp_path / "one", tmp_path / "two"]
  refused(
    tmp_path,
    inputs,
    tmp_path / "out",
    r"one/sub/a\.png and .*two/sub/a\.png would both be written to .*rename",
  )
  refused(tmp_path, [p / "sub" / "a.png" for p in inputs], tmp_path / "out", "both be written to")
  write(tmp_path / "three" / "b.gif", RGB[..., 0])
  write(tmp_path / "three" / "b.png")
  refused(tmp_path, tmp_path / "three", tmp_path / "out", r"b\.gif and .*b\.png would both")
  write(tmp_path / "four" / "c.png")
  write(tmp_path / "four" / "c_mean.png")
  refused(tmp_path, tmp_path / "four", tmp_path / "out", r"c\.png and .*c_mean\.png would both", samples=2)
  Model().run(tmp_path / "four", tmp_path / "fine")
  write(tmp_path / "five" / "d.png")
  write(tmp_path / "five" / "D.PNG")
  refused(tmp_path, tmp_path / "five", tmp_path / "out", "would both be written to")
  write(tmp_path / "six" / "e\u0301.png")
  write(tmp_path / "six" / "\u00e9.png")
  refused(tmp_path, tmp_path / "six", tmp_path / "out", "would both be written to")


def test_an_output_inside_the_input_is_no_input(tree):
  for _ in range(2):  # an earlier run's outputs are replaced
    report = Model().run(tree, tree / "restored")
    assert len(report.written) == 4 and report.failed == []
  assert len([f for f in files(tree) if f.startswith("restored/")]) == 4
  write(tree / "restored too" / "z.png")  # a name that only begins alike
  assert len(Model().run(tree, tree / "restored").written) == 5


def test_an_output_around_the_input(tree):
  report = Model().run(tree, tree.parent)
  assert len(report.written) == 4 and (tree.parent / "a b.png").exists()


def test_outputs_of_an_earlier_run_are_replaced(tmp_path):
  source = write(tmp_path / "a.png")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "a.png").write_bytes(b"old")
  Model().run(source, tmp_path / "out")
  np.testing.assert_array_equal(grey_levels(tmp_path / "out" / "a.png"), half(RGB.astype(int)))


def test_replaced_files_are_counted(tmp_path):
  source = write(tmp_path / "in" / "a.png")
  assert Model().run(source, tmp_path / "out").remarks() == []
  write(tmp_path / "in" / "b.png")
  write(tmp_path / "out" / "b_sample02.png")
  report = Model().run(tmp_path / "in", tmp_path / "out", samples=2)
  assert [path.name for path in report.replaced] == ["a.png", "b_sample02.png"]
  assert report.remarks() == ["2 of 10 files replaced earlier ones"]
  report = Model().run(source, tmp_path / "out", samples=2)  # the uncertainty too
  assert report.remarks() == ["5 of 5 files replaced earlier ones"]


def test_the_first_of_several_frames_is_restored_and_said(tmp_path):
  frames = [Image.fromarray(np.full((4, 4), 10 + 60 * i, np.uint8)) for i in range(3)]
  for name in ("a.gif", "b.webp", "c.png", "d.tif"):
    (tmp_path / "in").mkdir(exist_ok=True)
    options = {"lossless": True} if name == "b.webp" else {}
    frames[0].save(tmp_path / "in" / name, save_all=True, append_images=frames[1:], **options)
  write(tmp_path / "in" / "e.png")
  report = Model().run(tmp_path / "in", tmp_path / "out")
  report.check()
  assert report.remarks() == [
    f"{tmp_path / 'in' / name}: the first of 3 frames" for name in ("a.gif", "b.webp", "c.png", "d.tif")
  ]
  for name in ("a.png", "b.webp", "c.png", "d.tif"):
    assert (grey_levels(tmp_path / "out" / name) == 5).all()


def test_colours_that_a_format_cannot_hold_are_said(tmp_path):
  """A PNG of linear light (gamma 1) as JPEG looks darker; one that says sRGB in its four ways does not."""
  srgb = [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)), (b"cICP", bytes([1, 13, 0, 1]))]
  for name, chunks in (("linear.png", [(b"gAMA", struct.pack(">I", 100000))]), ("srgb.png", srgb)):
    (tmp_path / name).write_bytes(png(RGB, 2, 8, chunks))
  for suffix in (".png", ".jpg"):
    for name in ("linear", "srgb"):
      report = Model().run(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}{suffix}")
      said = (
        f"{tmp_path / 'out' / name}.jpg: the format cannot hold gAMA, so colours look different; save as .png"
      )
      assert report.remarks() == ([said] if (name, suffix) == ("linear", ".jpg") else [])


def test_resolution_is_kept(tmp_path):
  write(tmp_path / "a.jpg", dpi=(300, 300))
  Model().run(tmp_path / "a.jpg", tmp_path / "out", samples=2)
  for name in ("a.jpg", "a_sample01.jpg", "a_mean.jpg"):
    with Image.open(tmp_path / "out" / name) as image:
      assert image.info["dpi"] == (300, 300)


# Each in its own way


def test_each_photograph_in_its_own_way(tmp_path, capsys):
  """Restored by its model, copied byte for byte, copied into another format, or refused; a line is printed before."""
  for name in ("a.png", "b.jpg", "d.png"):
    write(tmp_path / "in" / name)
  for name in ("b.webp", "c.gif"):
    write(tmp_path / "in" / name, save_all=True, append_images=[Image.fromarray(RGB // 2)])
  dark = Model()

  def treat(path, photograph):
    assert photograph.pixels.shape == (6, 8, 3)
    if path.name == "d.png":
      raise UserError("this one not")
    return Treatment(Restorer(dark, 1, 3), "dark") if path.name == "a.png" else Treatment(None, "as it is")

  report = restore_each(treat, tmp_path / "in", tmp_path / "out", samples=1)
  assert files(tmp_path / "out") == ["a.png", "a_sample01.png", "b.jpg", "b.webp", "c.png"]
  assert sorted(path.name for path in report.written) == files(tmp_path / "out")
  assert [(path.name, why) for path, why in report.failed] == [("d.png", "this one not")]
  assert [(path.name, frames) for path, frames in report.partial] == [("c.gif", 2)]
  assert len(dark.calls) == 2
  for name in ("b.jpg", "b.webp"):
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
  with Image.open(tmp_path / "in" / "c.gif") as image:
    np.testing.assert_array_equal(grey_levels(tmp_path / "out" / "c.png"), image.convert("RGB"))
  said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("restoring")]
  assert said == ["a.png: dark", "b.jpg: as it is", "b.webp: as it is", "c.gif: as it is"]
  again = restore_each(treat, tmp_path / "in", tmp_path / "out")
  assert sorted(path.name for path in again.replaced) == ["a.png", "b.jpg", "b.webp", "c.png"]


# How far it is


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_of_each_restoration_count(tmp_path, monkeypatch, channels):
  write(tmp_path / "in" / "a.png")
  (tmp_path / "in" / "b.png").write_bytes(b"")
  seen = []
  monkeypatch.setattr(
    FileProgress, "update", lambda self, what, done, total, note="": seen.append((what, done, total, note))
  )

  def restore(image, _, progress):
    progress(1, 2)
    progress(2, 2)
    return image

  restore_files(restore, tmp_path / "in", tmp_path / "out", factor=1, channels=channels, samples=1)
  assert seen.pop() == ("restoring b.png (2 of 2)", 0, 2, "")
  assert {(what, total) for what, _, total, _ in seen} == {("restoring a.png (1 of 2)", 2)}
  # Estimate and draws are compiled apart.
  assert [done for _, done, _, note in seen if note] == [0, 1]
  parts = 2 * (3 if channels == 1 else 1)  # colour by channels, through a grey model
  done = list(dict.fromkeys(done for _, done, _, _ in seen))
  np.testing.assert_allclose(done, np.arange(2 * parts + 1) / parts)


def test_bad_requests(tree, tmp_path):
  one = tree / "a b.png"
  (tmp_path / "file").write_bytes(b"")
  (tmp_path / "empty").mkdir()
  write(tmp_path / "there.png")
  out = tmp_path / "out"
  for inputs, output, match in (
    (tmp_path / "nothing.png", out, r"nothing\.png does not exist"),
    ([one, tmp_path / "nothing"], out, "does not exist"),
    ([], out, "no input"),
    (tmp_path / "empty", out, "no images"),
    ([tree, tmp_path / "empty"], out, "no images"),
    (tree, tmp_path / "file", "is a file, but these inputs need a folder"),
    (tree, tmp_path / "there.png", "is a file, but these inputs need a folder"),
    (one, tmp_path / "file", "is a file"),
    (tree, out / "all.png", "names one file, but there are several inputs"),
    ([one, tree / "d.gif"], out / "all.png", "names one file"),
    (one, out / "a.gif", r"write one of \.png"),
    (one, out / "a.pgn", r"end the name of a folder with /"),
    (one, tmp_path / "file" / "sub", "sub cannot be made: .*file is not a folder"),
    (one, tmp_path / "file" / "a.png", "cannot be made"),
  ):
    refused(tmp_path, inputs, output, match)
  for options in ({"factor": 0}, {"factor": 1.5}, {"samples": -1}, {"channels": 2}, {"factor": True}):
    with pytest.raises(UserError, match=next(iter(options)) + "|channels"):
      restore_files(Model(), one, out, **{"factor": 1, "channels": 3, **options})
  assert not out.exists()


def test_a_disk_error_is_one_files_failure(tmp_path):
  write(tmp_path / "in" / "a.png")
  write(tmp_path / "in" / "b.png")
  (tmp_path / "out" / "a.png").mkdir(parents=True)  # a folder where a file is wanted
  report = Model().run(tmp_path / "in", tmp_path / "out")
  assert report.written == [tmp_path / "out" / "b.png"]
  assert "cannot be written" in report.failed[0][1] and "a.png" in report.failed[0][1]


def test_check_names_what_failed():
  assert Report([Path("a")], [], [], [], []).check() is None
  with pytest.raises(UserError, match=r"^1 image could not be restored: x\.png \(why\)$"):
    Report([], [(Path("x.png"), "why")], [], [], []).check()


def test_the_uncertainty_of_a_cut_out_is_what_is_seen(tmp_path, monkeypatch):
  """The deviation, times the part of it that is seen: all of it inside, nothing outside."""
  seen = []
  monkeypatch.setattr(
    "vae_jax.photos.restoring.uncertainty_picture", lambda d: seen.append(d) or np.zeros((2, 2, 3), np.uint8)
  )
  alpha = np.zeros((12, 12, 1), np.uint8)
  alpha[2:10, 2:10] = 255
  source = write(tmp_path / "a.png", np.concatenate([np.full((12, 12, 3), 99, np.uint8), alpha], -1))

  def restore(image, index, progress):
    return image.repeat(2, 0).repeat(2, 1)

  def deviation(image):
    return np.full((24, 24, 3), 0.1, np.float32)

  restore_files(restore, source, tmp_path / "out", factor=2, channels=3, samples=2, deviation=deviation)
  np.testing.assert_allclose(seen[0][8:16, 8:16], 0.1, rtol=1e-5)
  assert seen[0].max() <= 0.1 + 1e-6 and not seen[0][:, :2].any() and not seen[0][:2].any()
