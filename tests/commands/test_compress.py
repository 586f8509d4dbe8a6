"""--mode compress and decompress: images come back bit for bit, or nothing is written."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import compression, evaluation, inference
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.evaluation import compressed

MLP = ("mlp_vae", "model.hidden=4", "model.latent_dim=2")
CONV = ("conv_vae", "model.channels=4", "model.latent_dim=2", "model.blocks=0")
MIXTURE = ("model.likelihood=logistic_mixture", "model.mixtures=2")
DYNAMIC = "data.binarize=dynamic"


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Data of grey levels and colours, and black and white files."""
  monkeypatch.chdir(tmp_path)
  random = np.random.default_rng(0)
  for name, shape in ("data", (7, 4, 4, 1)), ("colour", (5, 4, 4, 3)):
    (tmp_path / name).mkdir()
    np.savez(tmp_path / name / "test.npz", image=random.integers(0, 256, shape, np.uint8))
  (tmp_path / "files").mkdir()
  for i in range(3):
    bits = 255 * random.integers(0, 2, (4, 4), np.uint8)
    Image.fromarray(bits).convert("1" if i == 2 else "L").save(tmp_path / "files" / f"{i}.png")
  return tmp_path


def exported(family, *overrides, seed=0, shape=(4, 4, 1), data="data", scale=0.3, spec=None):
  config = apply_overrides(base_config(family), ["data.name=npz", f"data.dir={data}", *overrides])
  model = trained(config, spec or spec_of(shape), seed, scale)
  inference.export(model, "model")
  return inference.load("model")


def compress(*words):
  main(["--workdir", "model", "--mode", "compress", *words])


def decompress(*words):
  main(["--workdir", "model", "--mode", "decompress", *words])


def images_of(file):
  with np.load(file) as found:
    return found["image"]


def refused(match, function, *words):
  with pytest.raises(UserError, match=match) as error:
    function(*words)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("family", "data"),
  [
    ((*MLP, *MIXTURE), "data"),
    ((*CONV, "model.dense=0", *MIXTURE), "colour"),
  ],
)
def test_grey_levels_and_colours_come_back(place, capsys, family, data):
  exported(*family, data=data, shape=(4, 4, 3 if data == "colour" else 1))
  compress("--output", "a.bb")
  decompress("--input", "a.bb", "--output", "back.npz")
  original = images_of(f"{data}/test.npz")
  np.testing.assert_array_equal(images_of("back.npz"), original)
  report = json.loads((place / "a.json").read_text())
  size = (place / "a.bb").stat().st_size
  assert report["bytes"] == size and report["images"] == len(original)
  assert report["bits_per_dim"] == pytest.approx(8 * size / original.size)
  assert report["formats"]["raw"] == original.size
  out = capsys.readouterr().out
  assert "this file" in out and "-ELBO" in out and "wrote a.bb: decoded again, bit for bit; and a.json" in out


def test_binary_images_are_those_of_the_scores(place):
  """The draws of the split, by the seed: the bound is that of `score`, and the file holds what was scored."""
  model = exported(*MLP, DYNAMIC)
  compress("--seed", "3", "--output", "a.bb")
  scores = evaluation.score_split(model, "test", samples=0, batch_size=3, seed=3)
  report = json.loads((place / "a.json").read_text())
  assert report["neg_elbo_bits_per_dim"] == pytest.approx(scores["neg_elbo_bits_per_dim"], rel=1e-5)
  decompress("--input", "a.bb", "--output", "back/")
  found = [np.asarray(Image.open(f"back/00000{i}.png")) for i in range(7)]
  batch = evaluation.prepared(model, "test", 7, seed=3)
  np.testing.assert_array_equal(np.stack(found)[..., None], 255 * np.asarray(batch["image"]))
  refused("back is there already", decompress, "--input", "a.bb", "--output", "back")


def test_own_files_come_back_as_they_are_or_are_refused(place):
  exported(*MLP, DYNAMIC)
  compress("--input", "files", "--output", "a.bb")
  decompress("--input", "a.bb", "--output", "back.npz")
  original = [np.asarray(Image.open(f"files/{i}.png").convert("L")) for i in range(3)]
  np.testing.assert_array_equal(images_of("back.npz")[..., 0], original)
  cases = {
    "image 1 has grey levels, and model.likelihood=bernoulli knows black": np.full((4, 4), 99, np.uint8),
    "is 4 x 5 x 1, and this model takes 4 x 4 x 1": np.zeros((4, 5), np.uint8),
    "is 4 x 4 x 3, and this model takes 4 x 4 x 1": np.zeros((4, 4, 3), np.uint8),
    "has transparency, which would be lost": np.zeros((4, 4, 2), np.uint8),
    "has more than 8 bits a channel": np.zeros((4, 4), np.uint16),
  }
  for match, image in cases.items():
    Image.fromarray(image).save("bad.png")
    refused(match, compress, "--input", "files/0.png", "bad.png", "--output", "none.bb")
  assert not list(place.glob("none*"))


def test_files_of_other_colours_or_several_pictures_are_refused(place):
  exported(*CONV, *MIXTURE, data="colour", shape=(4, 4, 3))
  one = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
  one.convert("CMYK").save("inks.tif")
  one.save("two.tif", save_all=True, append_images=[one.rotate(90)])
  refused("inks.tif: has colours of CMYK, which would be lost", compress, "--input", "inks.tif")
  refused("two.tif: has several pictures, which would be lost", compress, "--input", "two.tif")
  one.save("one.tif")
  compress("--input", "one.tif", "--output", "a.bb")


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, -1.0])
def test_values_out_of_range_are_no_levels(value):
  model = trained(apply_overrides(base_config("mlp_vae"), MLP[1:]), spec_of((4, 4, 1)))
  images = np.zeros((3, 4, 4, 1), np.float32)
  images[1, 2] = value
  refused(r"^image 6 has values outside \[0, 1\], or not finite", compressed.levels_of, model, images, 5)


@pytest.mark.parametrize(
  "levels",
  [
    np.full((2, 4, 4, 1), 255, np.uint8),
    np.zeros((2, 4, 4), np.uint8),
    np.zeros((0, 4, 4, 1), np.uint8),
    np.zeros((2, 4, 4, 1), np.float32),
    np.full((2, 4, 4, 1), -1),
  ],
)
def test_what_are_no_levels_of_the_model(levels):
  model = trained(apply_overrides(base_config("mlp_vae"), MLP[1:]), spec_of((4, 4, 1)))
  match = r"^levels of .*: give uint8 \[n, 4, 4, 1\] of 0 to 1, n > 0; evaluation\.levels_of makes them"
  refused(match, evaluation.compress_images, model, levels)


def test_values_between_grey_levels_are_refused():
  model = trained(apply_overrides(base_config("mlp_vae"), [*MLP[1:], *MIXTURE]), spec_of((4, 4, 1)))
  images = np.full((3, 4, 4, 1), np.float32(7) / 255)
  assert (evaluation.levels_of(model, images) == 7).all()
  images[2, 0, 0] += 0.001
  refused("image 12 has values between the 256 grey levels", evaluation.levels_of, model, images, 10)


@pytest.mark.parametrize(
  ("family", "match"),
  [
    ((*MLP, "model.likelihood=gaussian", "model.sigma=optimal"), "is a density, which gives no bits"),
    ((*MLP, "model.likelihood=logit_laplace"), "is a density, which gives no bits"),
    ((*MLP, DYNAMIC, "model.prior=mixture", "model.components=2"), r"its prior is not N\(0, I\)"),
    ((*MLP, DYNAMIC, "model.posterior=iaf"), "or its posterior is a flow"),
    ((*MLP, DYNAMIC, "data.degrade.name=gaussian_noise"), "its encoder sees degraded images"),
    (("rae", "model.channels=4", "model.latent_dim=2", "model.dense=4"), "rae does not bound"),
    (("vq_vae", "model.channels=4", "model.code_dim=2", "model.codes=8"), "vq_vae does not bound"),
    (("cvae", "model.hidden=4", "model.latent_dim=2", "model.classes=3"), "cvae needs a label of each image"),
  ],
)
def test_models_that_give_no_bits_are_refused_in_both_directions(place, family, match):
  degraded = "data.degrade.name=gaussian_noise" in family
  spec = spec_of((4, 4, 1)) | ({"label": jax.ShapeDtypeStruct((), np.int32)} if family[0] == "cvae" else {})
  spec = spec | ({"degraded": spec["image"]} if degraded else {})
  exported(*family, spec=spec)
  (place / "a.bb").write_bytes(b"")
  for function in (compress,), (decompress, "--input", "a.bb"):
    refused(f"this run cannot compress images: .*{match}.*; mlp_vae and conv_vae with", *function)


def test_another_model_or_a_damaged_file_is_refused(place):
  exported(*MLP, DYNAMIC)
  compress("--output", "a.bb")
  content = (place / "a.bb").read_bytes()
  damaged = bytearray(content)
  damaged[-30] ^= 4
  for bad, match in (
    (bytes(damaged), "is damaged or cut off"),
    (content[:-4], "is damaged or cut off"),
    (b"no such file", "is no file of compressed images"),
  ):
    (place / "bad.bb").write_bytes(bad)
    refused(match, decompress, "--input", "bad.bb", "--output", "back/")
  exported(*MLP, DYNAMIC, seed=1)
  refused(
    r"a\.bb was compressed with weights of digest \w{12}, and this is step 1 with \w{12}; give the model",
    *(decompress, "--input", "a.bb", "--output", "back/"),
  )
  refused("needs --input: one file", decompress)
  refused("needs --input: one file", decompress, "--input", "a.bb", "a.bb")
  assert not (place / "back").exists()


def test_other_floats_are_refused_and_the_platform_is_named(place, monkeypatch, capsys):
  exported(*MLP, *MIXTURE)
  compress("--output", "a.bb")
  monkeypatch.setattr(compressed, "this_platform", lambda: "cpu of another kind")
  decompress("--input", "a.bb", "--output", "back.npz")  # its floats are the same, as it turns out
  assert "note: a.bb was compressed by cpu " in capsys.readouterr().err
  mixture = compression.LogisticMixture
  monkeypatch.setattr(
    compression, "LogisticMixture", lambda logits, means, *rest: mixture(logits, means * (1 + 2e-7), *rest)
  )
  decode = (decompress, "--input", "a.bb", "--output", "other.npz")
  refused("cannot be decoded by cpu of another kind; decode it where it was compressed, by cpu ", *decode)
  monkeypatch.undo()
  monkeypatch.chdir(place)
  monkeypatch.setattr(
    compression, "LogisticMixture", lambda logits, means, *rest: mixture(logits, means * (1 + 2e-7), *rest)
  )
  refused("cannot be decoded here: the networks gave other floats", *decode)
  assert not (place / "other.npz").exists()


def test_what_does_not_come_back_is_not_written(place, monkeypatch):
  exported(*MLP, DYNAMIC)
  monkeypatch.setattr(
    compressed, "decompress_images", lambda model, content, name: np.zeros((7, 4, 4, 1), np.uint8)
  )
  refused("are not those that were compressed; nothing was written", compress, "--output", "a.bb")
  assert not list(place.glob("a.*"))


def test_weights_that_are_not_finite_are_refused(place):
  config = apply_overrides(base_config("mlp_vae"), ["data.name=npz", "data.dir=data", *MLP[1:], DYNAMIC])
  inference.export(trained(config, spec_of((4, 4, 1)), scale=np.nan), "model")
  refused("the bound of these images is not finite", compress)


def test_many_images_cost_the_bound(place, monkeypatch):
  """What a tiny model adds to the bits that the lanes begin with is within 1 % of the bound.

  Small weights, so that q(z) is about p(z). A head holds log2(head) bits, not 64."""
  monkeypatch.setattr(compressed, "SHARE", 0.3)  # many lanes, for speed
  model = exported(*MLP, DYNAMIC, scale=0.2)
  images = np.asarray(model.sample(0, 1500, pixels=True))
  found = evaluation.compress_images(model, evaluation.levels_of(model, images))
  report = found.report
  lanes, (_, stack) = report["lanes"], compression.unpack(found.content, "a.bb")
  head, lengths, _ = stack.parts()
  end = 32 * lengths.sum() + np.log2(head.astype(float)).sum()
  begin = (
    8 * (report["initial_bytes"] - 8 * lanes)
    + np.log2(compression.Stack.initial(lanes).head.astype(float)).sum()
  )
  assert (end - begin) / images.size == pytest.approx(report["neg_elbo_bits_per_dim"], rel=0.01)
  assert 10 < lanes < 100
