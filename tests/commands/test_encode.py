"""--mode encode: the latents or codes of a split, or of files, with what says which row is whose."""

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import inference
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
LABELS = np.arange(7, dtype=np.int32) % 3


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Data with labels, the first 5 images as files, and one that cannot be read."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "data").mkdir()
  np.savez(tmp_path / "data" / "test.npz", image=IMAGES, label=LABELS)
  (tmp_path / "photos").mkdir()
  for i, image in enumerate(IMAGES[:5]):
    Image.fromarray(image[..., 0]).save(tmp_path / "photos" / f"{i}.png")
  (tmp_path / "photos" / "2.png").write_bytes(b"no picture")
  return tmp_path


def exported(family, *overrides, labelled=False):
  given = ["data.name=npz", "data.dir=data", *overrides]
  spec = spec_of((4, 4, 1)) | ({"label": jax.ShapeDtypeStruct((), np.int32)} if labelled else {})
  model = trained(apply_overrides(base_config(family), given), spec)
  inference.export(model, "model")
  return model


def encode(*words):
  main(["--workdir", "model", "--mode", "encode", *words])


MLP = ("mlp_vae", "model.hidden=4", "model.latent_dim=2")


def test_a_split_in_its_order_whatever_the_batch_size(place, capsys):
  model = exported(*MLP)
  encode("--batch_size", "3")
  assert capsys.readouterr().out == (
    "wrote model/evaluation/encode.npz: mean [7, 2], logvar [7, 2], label [7], index [7]\n"
  )
  expected = model.encode(IMAGES)
  with np.load("model/evaluation/encode.npz") as found:
    np.testing.assert_allclose(found["mean"], expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logvar"], expected.logvar, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["label"], LABELS)
    np.testing.assert_array_equal(found["index"], np.arange(7))
  encode("--split", "test[2:]", "--label", "1", "--num", "1", "--output", "some.npz")
  with np.load("some.npz") as found:  # record 2 of the slice is record 4 of the split
    np.testing.assert_array_equal((found["index"], found["label"]), ([2], [1]))
    np.testing.assert_allclose(found["mean"], expected.mean[4:5], rtol=1e-5, atol=1e-6)


def test_files_by_name_and_what_cannot_be_read_is_an_error_after_the_rest_is_written(place, capsys):
  model = exported(*MLP)
  with pytest.raises(UserError, match=r"all.npz lacks 1 files that could not be read, first photos/2\.png"):
    encode("--input", "photos", "photos/0.png", "--batch_size", "2", "--output", "all.npz")
  assert "skipped: photos/2.png" in capsys.readouterr().err
  with np.load("all.npz") as found:
    assert list(found["name"]) == [f"photos/{i}.png" for i in (0, 1, 3, 4, 0)]
    expected = model.encode(IMAGES[[0, 1, 3, 4, 0]]).mean
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-6)
  with pytest.raises(UserError, match=r"photos/2\.png"):
    encode("--input", "photos/2.png", "--output", "none.npz")
  assert not (place / "none.npz").exists()


def test_labels_are_given_where_the_model_needs_them(place):
  model = exported("cvae", "model.hidden=4", "model.latent_dim=2", "model.classes=3", labelled=True)
  encode("--output", "split.npz")
  encode("--input", "photos/1.png", "--label", "1", "--output", "file.npz")
  expected = model.encode(IMAGES, label=LABELS).mean
  with np.load("split.npz") as split, np.load("file.npz") as file:
    np.testing.assert_allclose(split["mean"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(file["mean"], expected[1:2], rtol=1e-5, atol=1e-6)
  with pytest.raises(UserError, match="needs a label for each image"):
    encode("--input", "photos/1.png")


def test_codes_of_a_model_with_a_codebook(place):
  model = exported("vq_vae", "model.channels=4", "model.code_dim=2", "model.codes=8")
  encode("--output", "codes.npz")
  with np.load("codes.npz") as found:
    np.testing.assert_array_equal(found["codes"], model.tokens(IMAGES))
    assert found["codes"].dtype == np.int32
  with pytest.raises(UserError, match=r"cannot sample new images; .* can; or train a prior over its codes"):
    main(["--workdir", "model", "--mode", "sample"])


def test_a_split_of_files_has_their_names(place):
  (place / "photos" / "2.png").unlink()
  (place / "photos").rename(place / "test")
  (place / "photos" / "train").mkdir(parents=True)
  Image.fromarray(IMAGES[6, ..., 0]).save(place / "photos" / "train" / "6.png")
  (place / "test").rename(place / "photos" / "test")
  model = exported(*MLP, "data.name=folder", "data.dir=photos", "data.channels=1", "data.size=4,4")
  encode("--split", "test[1:]", "--num", "2", "--output", "some.npz")
  with np.load("some.npz") as found:
    assert found["name"].tolist() == ["1.png", "3.png"] and found["index"].tolist() == [0, 1]
    np.testing.assert_allclose(found["mean"], model.encode(IMAGES[[1, 3]]).mean, rtol=1e-5, atol=1e-6)
