"""Photographs restored some rows at a time: the files of whole arrays, in little memory; refused if they cannot fit."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from photographs import RGB, photograph
from PIL import Image

from vae_jax.errors import UserError
from vae_jax.photos import saving
from vae_jax.photos.files import Treatment, restore_each, restore_files
from vae_jax.photos.photograph import Photograph, open_photograph
from vae_jax.photos.restoring import Restorer, images_of
from vae_jax.photos.saving import save_photograph
from vae_jax.photos.transparency import cut_out
from vae_jax.photos.uncertainty import uncertainty_picture
from vae_jax.storage import capacity


def cut(whole, heights=(1, 30, 7)):
  """Bands of a few heights, again and again, from the top down."""
  first = turn = 0
  while first < len(whole):
    yield whole[first : first + heights[turn % len(heights)]]
    first += heights[turn % len(heights)]
    turn += 1


def large(image, factor, seed):
  """Enlarged, with noise that leaves [0, 1]."""
  noise = np.random.default_rng(seed).normal(0, 0.3, (factor * image.shape[0], factor * image.shape[1], 1))
  return (image.repeat(factor, 0).repeat(factor, 1) + noise).astype(np.float32)


def deviation_of_pixels(image, factor):
  return 0.01 + 0.1 * image.repeat(factor, 0).repeat(factor, 1)


def expected(given, factor, samples):
  """The photographs that whole arrays give, and the picture of uncertainty: estimate, draws, mean."""
  joined = None if given.alpha is None else cut_out(given.pixels, given.alpha, factor)
  pixels = given.pixels if joined is None else joined.colours
  layer = None if joined is None else joined.layer(0, factor * len(pixels))

  def kept(values):
    if layer is None:
      return given._replace(pixels=values)
    return given._replace(pixels=layer.join(values), alpha=layer.alpha)

  made = [np.clip(large(pixels, factor, seed), 0, 1) for seed in range(samples + 1)]
  mean = np.zeros_like(made[0])
  for k, draw in enumerate(made[1:]):  # in float32, as the files
    mean += (draw - mean) / np.float32(k + 1)
  deviation = deviation_of_pixels(pixels, factor).mean(axis=-1)
  shown = uncertainty_picture(deviation if layer is None else deviation * layer.gain[..., 0])
  return [kept(values) for values in (*made, mean)], shown


@pytest.mark.parametrize("kind", ["colour", "grey of 16 bits", "cut-out"])
def test_files_are_those_of_whole_arrays(tmp_path, monkeypatch, kind):
  """Bit for bit, whatever the heights of bands, and where each is cut into strips of a few rows."""
  monkeypatch.setattr(saving, "_STRIP", 500)
  given = {
    "colour": photograph(3, False, 8, 23, 17),
    "grey of 16 bits": photograph(1, False, 16, 23, 17),
    "cut-out": photograph(3, True, 8, 23, 17),
  }[kind]
  if kind == "cut-out":
    given.alpha[:9], given.alpha[15:18] = 0, 1
  save_photograph(tmp_path / "a.png", given)
  given, factor, channels = open_photograph(tmp_path / "a.png"), 2, given.pixels.shape[2]
  restore_files(
    lambda image, index, _: cut(large(image, factor, 0 if index is None else 1 + index)),
    tmp_path / "a.png",
    tmp_path / "out",
    factor=factor,
    channels=channels,
    samples=3,
    deviation=lambda image: cut(deviation_of_pixels(image, factor), (5,)),
  )
  pictures, shown = expected(given, factor, 3)
  names = ("a.png", "a_sample01.png", "a_sample02.png", "a_sample03.png", "a_mean.png")
  for name, picture in zip(names, pictures, strict=True):
    save_photograph(tmp_path / "whole" / name, picture)
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a_uncertainty.png")), shown)
  assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_bands_of_other_channels(tmp_path, channels):
  """Grey by a model of colour, and colour by channels, as with whole arrays."""
  Image.fromarray(RGB[..., 0] if channels == 3 else RGB).save(tmp_path / "a.png")
  for folder, form in (("bands", cut), ("whole", np.asarray)):
    restore_files(
      lambda image, *_, form=form: form(large(image, 1, 5)),
      tmp_path / "a.png",
      tmp_path / folder,
      factor=1,
      channels=channels,
    )
  assert (tmp_path / "bands" / "a.png").read_bytes() == (tmp_path / "whole" / "a.png").read_bytes()


@pytest.mark.parametrize(
  ("channels", "sigmas"), [(1, (0.1, 0.2, 0.3)), (3, (0.1,))], ids=["each channel", "whole"]
)
def test_each_image_gets_its_noise(tmp_path, channels, sigmas):
  """In the estimate, in draws and in their deviation."""
  Image.fromarray(RGB).save(tmp_path / "a.png")
  given = []

  def restore(image, index, progress, sigma):
    given.append((index, sigma))
    return image

  def deviation(image, sigma):
    given.append(("deviation", sigma))
    return np.zeros_like(image)

  restorer = Restorer(restore, 1, channels, deviation, sigmas=sigmas)
  restore_each(lambda *_: Treatment(restorer), tmp_path / "a.png", tmp_path / "out", samples=2)
  assert given == [(what, sigma) for what in (None, 0, 1, "deviation") for sigma in sigmas]


def test_what_a_model_is_given_of_a_photograph(tmp_path):
  """One image or one of each channel; what is stored under alpha 0 is not seen."""
  given = photograph(3, True, 8)
  given.alpha[:], given.alpha[0, 0] = 1, 0
  one, channels = images_of(given, 3), images_of(given, 1)
  assert len(one) == 1 and any(np.array_equal(one[0][0, 0], given.pixels[at]) for at in ((0, 1), (1, 0)))
  np.testing.assert_array_equal(np.concatenate(channels, axis=2), one[0])
  grey = photograph(1, False, 8)
  np.testing.assert_array_equal(images_of(grey, 3)[0], grey.pixels.repeat(3, axis=2))


@pytest.mark.parametrize("rows", [4, 6])
def test_bands_of_too_few_or_too_many_rows(tmp_path, rows):
  Image.fromarray(RGB).save(tmp_path / "a.png")
  with pytest.raises(ValueError, match=rf"restore made \[{rows}, 7, 3\] of \[5, 7, 3\], not \[5, 7, 3\]"):
    restore_files(
      lambda *_: cut(np.zeros((rows, 7, 3), np.float32), (2,)),
      tmp_path / "a.png",
      tmp_path / "out",
      factor=1,
      channels=3,
    )
  assert not (tmp_path / "out").exists()


def test_each_file_is_announced_before_the_next_work(tmp_path):
  for name in ("a", "b"):
    Image.fromarray(RGB).save(tmp_path / f"{name}.png")
  seen = []

  def restore(image, index, _):
    seen.append(index)
    return image

  def written(path):
    assert path.is_file()
    seen.append(path.name)

  report = restore_files(
    restore,
    [tmp_path / "a.png", tmp_path / "b.png"],
    tmp_path / "out",
    factor=1,
    channels=3,
    samples=2,
    deviation=np.zeros_like,
    written=written,
  )
  order = [None, ".png", 0, "_sample01.png", 1, "_sample02.png", "_mean.png", "_uncertainty.png"]
  assert seen == [f"{name}{x}" if isinstance(x, str) else x for name in "ab" for x in order]
  assert [path.name for path in report.written] == [x for x in seen if isinstance(x, str)]


def test_an_interrupt_leaves_whole_files_alone(tmp_path):
  """Ctrl-C in the middle of a draw: what was finished stays, and no temporary file."""
  Image.fromarray(RGB).save(tmp_path / "a.png")

  def restore(image, index, _):
    yield image[:2]
    if index == 1:
      raise KeyboardInterrupt
    yield image[2:]

  with pytest.raises(KeyboardInterrupt):
    restore_files(restore, tmp_path / "a.png", tmp_path / "out", factor=1, channels=3, samples=3)
  assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "a_sample01.png"]


def test_what_cannot_fit_is_refused_before_work(tmp_path, monkeypatch):
  """Sizes by hand. 40 x 30 x 2: 4,800 pixels; three bytes, and four for Pillow; 12 where there is uncertainty."""
  Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(tmp_path / "a.png")
  calls = []

  def restore(image, *_):
    calls.append(1)
    return image.repeat(2, 0).repeat(2, 1)

  def run(output="out", **options):
    before = len(calls)
    sizes = {"factor": 2, "channels": 3, "deviation": lambda image: np.ones((60, 80, 3), np.float32)}
    report = restore_files(restore, tmp_path / "a.png", tmp_path / output, **sizes, **options)
    assert bool(report.failed) == (len(calls) == before) == (report.written == [])
    return report.failed[0][1] if report.failed else ""

  for needed, options in ((7, {}), (15, {"whole": True}), (12, {"samples": 2})):
    monkeypatch.setattr(capacity, "available_memory", lambda needed=needed: needed * 4800)
    assert run(**options) == ""
    monkeypatch.setattr(capacity, "available_memory", lambda needed=needed: needed * 4800 - 1)
    assert re.fullmatch(
      r"the result of 80 x 60 pixels needs at least 0\.0\d+ MB of memory, 0\.0\d+ MB are available; cut the "
      "picture into parts, or close other programs",
      run(**options),
    )
  monkeypatch.setattr(capacity, "available_memory", lambda: 5 * 3600 - 1)
  assert run().startswith("a photograph of 40 x 30 pixels needs at least 0.018 MB of memory, 0.018 MB are")
  monkeypatch.setattr(capacity, "available_memory", lambda: None)  # nobody knows
  # Floats of the mean of colours; a bitmap is not compressed.
  for a_pixel, output, options in ((12, "out", {"samples": 2}), (3, "a.bmp", {"samples": 0})):
    needed = a_pixel * 4800
    monkeypatch.setattr(capacity, "free_space", lambda folder, needed=needed: needed)
    assert run(output, **options) == ""
    monkeypatch.setattr(capacity, "free_space", lambda folder, needed=needed: needed - 1)
    assert re.search(
      r"needs at least .* MB of disk, .* MB are free; free some space or", run(output, **options)
    )


def test_a_full_disk_while_draws_are_counted_is_one_files_failure(tmp_path, monkeypatch):
  Image.fromarray(RGB).save(tmp_path / "a.png")

  def full(self, first, rows):
    raise UserError(f"{tmp_path}: a temporary file cannot be written (No space left on device)")

  monkeypatch.setattr("vae_jax.storage.scratch.Scratch.write", full)
  report = restore_files(
    lambda image, *_: image, tmp_path / "a.png", tmp_path / "out", factor=1, channels=3, samples=2
  )
  assert "No space left" in report.failed[0][1] and os.listdir(tmp_path / "out") == ["a.png"]


@pytest.mark.skipif(
  not Path("/proc/self/status").exists(), reason="the peak of a process's memory is Linux's"
)
def test_memory_does_not_hold_the_floats_of_a_result(tmp_path):
  """Estimate, two draws, mean and uncertainty of a cut-out of 4 megapixels: peak above that of a small picture.

  A result has 48 MB of floats. Arrays of whole results took 680 MB; rows at a time take 120.
  """
  samples = np.full((1000, 1000, 4), 99, np.uint8)
  samples[:500, :, 3] = 255
  Image.fromarray(samples).save(tmp_path / "large.tif")
  Image.fromarray(samples[:20, -20:]).save(tmp_path / "small.tif")
  program = """
    import re
    import sys
    import numpy as np
    from vae_jax.photos.files import restore_files

    def bands(image):
      for first in range(0, len(image), 64):
        yield image[first : first + 64].repeat(2, 0).repeat(2, 1)

    def peak():
      return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

    def run(name):
      report = restore_files(
        lambda image, *_: bands(image), name, sys.argv[2], factor=2, channels=3, samples=2, deviation=bands
      )
      assert len(report.written) == 5, report
      return peak()

    before = run(f"{sys.argv[1]}/small.tif")
    print(run(f"{sys.argv[1]}/large.tif") - before)
  """
  words = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(tmp_path / "out")]
  done = subprocess.run(words, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
  assert float(done.stdout) < 250


def test_the_uncertainty_says_nothing_of_the_photograph(tmp_path):
  """A map is no photograph: it has neither profile nor EXIF."""
  save_photograph(tmp_path / "a.png", photograph(3, False, 8))
  sizes = {"factor": 1, "channels": 3, "samples": 2, "deviation": np.zeros_like}
  restore_files(lambda image, *_: image, tmp_path / "a.png", tmp_path / "out", **sizes)
  assert open_photograph(tmp_path / "out" / "a_mean.png").exif
  got = open_photograph(tmp_path / "out" / "a_uncertainty.png")
  assert isinstance(got, Photograph) and got.exif is got.icc is None
