"""What of a folder is scored: pairs, the noise of an image, and files that cannot be."""

import numpy as np
import pytest
from scored_folders import (
  BICUBIC,
  IDENTITY,
  NOISE,
  Recorder,
  decibels,
  eight_bits,
  enlarge,
  luma,
  photo,
  save,
)

from vae_jax.data.degrade import bicubic_up
from vae_jax.errors import UserError
from vae_jax.photos.score_folder import benchmark
from vae_jax.photos.score_table import table

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_pairs(tmp_path):
  low, high = photo(17, 16), photo(35, 33, seed=1)
  images = {"a_LR.png": low, "a_HR.png": high, "b/c_LR.bmp": low[:16], "b/c.png": high[:32, :32]}
  ours = Recorder(enlarge)
  scores, _ = benchmark(ours, save(tmp_path, images), IDENTITY, channels=3)
  np.testing.assert_array_equal(ours.seen[0], low / np.float32(255))
  np.testing.assert_array_equal(ours.seen[1], low[:16] / np.float32(255))
  assert [(e["name"], e["height"], e["width"]) for e in scores["images"]] == [
    ("a_HR.png", 34, 32),
    ("b/c.png", 32, 32),
  ]
  protocol = scores["protocol"]
  assert protocol["pairs"] and (protocol["factor"], protocol["crop"]) == (2, 2)
  assert (protocol["degradation"], protocol["degraded"]) == ("pairs, factor 2", "as stored")
  output = eight_bits(bicubic_up(low / np.float32(255), 2))
  expected = decibels(luma(output), luma(high[:34, :32] / 255.0), 2)
  assert scores["images"][0]["ours"]["psnr_y"] == pytest.approx(expected, abs=2e-3)
  assert scores["images"][0]["bicubic"] == scores["images"][0]["ours"]
  assert benchmark(enlarge, tmp_path, BICUBIC, channels=1, limit=1)[0]["count"] == 1


def test_hidden_colours_are_not_scored_and_what_is_not_read_is_named(tmp_path):
  """A picture with transparency is seen over white."""
  pixels, alpha = photo(32, 32), np.zeros((32, 32, 1), np.uint8)
  alpha[8:, 8:], alpha[20:] = 128, 255
  save(tmp_path, {"a.png": np.concatenate([pixels, alpha], -1)})
  (tmp_path / "b.heic").write_bytes(b"")
  ours = Recorder()
  scores, _ = benchmark(ours, tmp_path, {"name": "identity"}, channels=3)
  expected = np.rint(pixels * (alpha / 255.0) + 255 * (1 - alpha / 255.0))
  np.testing.assert_allclose(ours.seen[0] * 255, expected, atol=1e-3)
  assert scores["skipped"] == [
    {"name": "b.heic", "reason": "HEIC is not read; convert it to PNG, TIFF or JPEG"}
  ]


def test_pairs_of_one_size(tmp_path, no_packages):
  images = {"a_LR.png": photo(24, 24), "a.png": photo(24, 24, seed=1)}
  scores, picture = benchmark(Recorder(), save(tmp_path, images), IDENTITY, channels=3)
  assert list(scores["mean"]) == ["ours", "input"] and scores["mean"]["ours"] == scores["mean"]["input"]
  assert scores["protocol"]["missing"] == ["bm3d", "scikit-image"]
  assert scores["protocol"]["crop"] == 0 and picture.shape[1] == 12 + 3 * 268
  benchmark(Recorder(), tmp_path, NOISE, channels=3)  # of the same size: they may stand for noise


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["a_LR.png", "a.png", "b.png"], r"pairs \(X_LR\) and single images \(b.png\)"),
    (["a_LR.png", "a.png", "b_HR.png"], r"single images \(b_HR.png\)"),
    (["a_LR.png"], "a_LR.png: a pair is one X_LR and one X_HR or X"),
    (["a_LR.png", "a.png", "a_HR.png"], "a.png, a_HR.png, a_LR.png: a pair is"),
    (["a_LR.png", "a.png", "a.bmp"], "a.bmp, a.png, a_LR.png: a pair is"),
    (["a_LR.png", "a_LR.bmp", "a.png"], "a.png, a_LR.bmp, a_LR.png: a pair is"),
    (["a_LR.png", "x/a.png"], "a_LR.png: a pair is"),
  ],
)
def test_unclear_pairs(tmp_path, names, message):
  save(tmp_path, {name: photo(16, 16) for name in names})
  with pytest.raises(UserError, match=message) as error:
    benchmark(Recorder(), tmp_path, IDENTITY, channels=3)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("low", "high", "degrade"),
  [
    ((16, 16), (48, 48), BICUBIC),  # of factor 3
    ((16, 16), (32, 32), NOISE),
    ((16, 16), (32, 48), IDENTITY),
    ((16, 16), (34, 32), IDENTITY),  # larger by more than can be cut
    ((17, 16), (33, 32), IDENTITY),  # rounded up: half a pixel at the border has no counterpart
    ((32, 32), (16, 16), IDENTITY),
  ],
)
def test_pairs_of_another_factor(tmp_path, low, high, degrade):
  save(tmp_path, {"a_LR.png": photo(*low), "a_HR.png": photo(*high)})
  with pytest.raises(
    UserError, match=f"a_HR.png of {high[0]} x {high[1]} and a_LR.png of {low[0]} x {low[1]}"
  ):
    benchmark(Recorder(), tmp_path, degrade, channels=3)


def test_pairs_share_one_factor(tmp_path):
  save(tmp_path, {"a_LR.png": photo(16, 16), "a_HR.png": photo(32, 32)})
  save(tmp_path, {"b_LR.png": photo(16, 16), "b_HR.png": photo(48, 48)})
  with pytest.raises(UserError, match=r"b_HR.png .* a factor of 2"):
    benchmark(Recorder(), tmp_path, IDENTITY, channels=3)


def test_a_damaged_half_of_a_pair(tmp_path):
  images = {f"{n}_{side}.png": photo(16 * s, 16 * s) for n in "ab" for side, s in (("LR", 1), ("HR", 2))}
  save(tmp_path, images)
  (tmp_path / "a_LR.png").write_bytes(b"no image")
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert [e["name"] for e in scores["images"]] == ["b_HR.png"]
  assert scores["skipped"][0]["name"] == "a_HR.png" and "a_LR.png" in scores["skipped"][0]["reason"]
  (tmp_path / "a_HR.png").write_bytes(b"no image")
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert scores["skipped"][0]["reason"].startswith("cannot be decoded")
  (tmp_path / "b_HR.png").write_bytes(b"")
  with pytest.raises(UserError, match="none of 2 images can be scored"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)


def test_noise_depends_on_seed_and_name_alone(tmp_path, no_packages):
  images = {name: photo(24, 24, 1) for name in ("b.png", "c/d.png", "e.png")}

  def noise(folder, **options):
    ours = Recorder()
    scores, _ = benchmark(ours, folder, NOISE, channels=1, **options)
    return dict(zip([e["name"] for e in scores["images"]], ours.seen, strict=True)), scores

  first, scores = noise(save(tmp_path / "x", images))
  again, same = noise(tmp_path / "x", seed=0)
  for name in images:
    np.testing.assert_array_equal(first[name], again[name])
  assert scores["images"] == same["images"] and scores["mean"] == same["mean"]
  assert len({image.tobytes() for image in first.values()}) == 3
  more, _ = noise(save(tmp_path / "y", {"a.png": photo(24, 24, 1), **images}))
  for name in images:
    np.testing.assert_array_equal(first[name], more[name])
  few, limited = noise(tmp_path / "y", limit=2)
  assert list(few) == ["a.png", "b.png"] and limited["count"] == 2
  np.testing.assert_array_equal(first["b.png"], few["b.png"])
  other, scores = noise(tmp_path / "x", seed=1)
  assert scores["protocol"]["seed"] == 1
  assert not any((first[name] == other[name]).all() for name in images)


def test_what_cannot_be_scored_is_named(tmp_path):
  images = {"a.png": photo(24, 24), "b.png": photo(15, 40), "c.png": photo(17, 40), "d.png": photo(16, 16)}
  save(tmp_path, images)
  (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
  scores, _ = benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  assert [e["name"] for e in scores["images"]] == ["a.png", "c.png", "d.png"]  # c is cut to 16 x 40
  assert scores["skipped"][0] == {"name": "b.png", "reason": "14 x 40 pixels; the least side is 16"}
  assert scores["skipped"][1]["name"] == "e.png"
  assert scores["skipped"][1]["reason"].startswith("cannot be decoded as an image (")
  assert "2 skipped" in table(scores)
  lines = table(scores).splitlines()[-2:]
  assert lines[0] == "  skipped b.png: 14 x 40 pixels; the least side is 16"
  assert lines[1].startswith("  skipped e.png: cannot be decoded as an image (")
  many = scores | {"skipped": [{"name": f"{i}.png", "reason": "why"} for i in range(23)]}
  assert table(many).splitlines()[-2:] == ["  skipped 19.png: why", "  skipped 3 more"]
  # A border of 4 leaves too little of 16 pixels for the window of SSIM.
  scores, _ = benchmark(
    lambda low: np.asarray(bicubic_up(low, 4)), tmp_path, {**BICUBIC, "factor": 4}, channels=3
  )
  assert [e["name"] for e in scores["images"]] == ["a.png"]
  assert {"name": "d.png", "reason": "16 x 16 pixels; the least side is 19"} in scores["skipped"]


def test_no_images(tmp_path):
  with pytest.raises(UserError, match="no images in this folder"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)
  with pytest.raises(UserError, match="is not a folder"):
    benchmark(enlarge, tmp_path / "x", BICUBIC, channels=3)
  save(tmp_path, {"a.png": photo(8, 8)})
  with pytest.raises(UserError, match=r"none of 1 images can be scored \(a.png: 8 x 8 pixels"):
    benchmark(enlarge, tmp_path, BICUBIC, channels=3)
