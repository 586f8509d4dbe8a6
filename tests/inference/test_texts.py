"""Texts as conditions: a model that needs them takes a text, or one for each image; others refuse them."""

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import evaluation, image_sets, inference, pictures
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import text
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.models import FAMILIES
from vae_jax.training import assemble

SHAPE, LENGTH = (4, 4, 1), 8


@pytest.fixture
def model(monkeypatch):
  monkeypatch.setitem(FAMILIES, "text_toy", "text_toy")
  spec = spec_of(SHAPE) | {"text": jax.ShapeDtypeStruct((LENGTH,), np.int32)}
  return trained(base_config("text_toy"), spec)


def sampled(model, given, num=3):
  return np.asarray(model.sample(0, num, text=given))


def test_a_text_is_of_all_images_and_a_list_of_one_each(model):
  some = ["ab", "", "é"]
  tokens = np.stack([text.encode(one, LENGTH) for one in some])
  each = sampled(model, some)
  np.testing.assert_array_equal(each, sampled(model, tuple(some)))
  np.testing.assert_array_equal(each, sampled(model, tokens))
  for i, one in enumerate(some):
    np.testing.assert_array_equal(sampled(model, one)[i], each[i])
  assert np.abs(each[0] - sampled(model, "ba")[0]).max() == 0  # the toy's images do not depend on the order
  assert np.abs(each[0] - sampled(model, "bb")[0]).max() > 0.01
  noise = jax.vmap(lambda key: model.module.noise(key, model.spec))(model._keys(jax.random.key(0), 3, 1.0))
  expected = np.asarray(model.run.variables["params"]["table"])[tokens[0][:2]].mean(axis=0) + noise[0]
  np.testing.assert_allclose(each[0], 1 / (1 + np.exp(-expected)), rtol=1e-5)


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ("nine bytes", r"^text='nine bytes' has 10 bytes, and this run \(text_toy\) takes 8; shorten it$"),
    (["ok", "nine bytes", "ok"], "'nine bytes' has 10 bytes"),
    (["a", "b"], "^text is a list of 2 for 3 images; give one text, or a list of 3$"),
    (["a", 1, "b"], "^text is a list of 3 for 3 images; give one text"),
    (np.full(LENGTH, 257), "^text has tokens from 257 to 257; they must be 0 to 256$"),
    (np.full(LENGTH, -1), "^text has tokens from -1 to -1"),
    (np.zeros(LENGTH), r"must be an integer"),
    (np.zeros(LENGTH + 1, int), r"^text of shape \(9,\): give one, or \[3, 8\]$"),
    ("\ud800", "no Unicode"),
    (None, r"^this run \(text_toy\) needs a text for each image; give text=\.\.\. \(--text\)$"),
  ],
)
def test_texts_that_are_none(model, given, words):
  with pytest.raises(UserError, match=words) as error:
    sampled(model, given)
  assert "\n" not in str(error.value)


def test_spaces_are_made_regular_as_those_of_captions_are(model):
  """Of a text that was copied, or read from a file; texts of .npz files are tokens, which may be spaces."""
  expected = sampled(model, "a b")
  for given in (" a b", "a b\n", "a\t  b"):
    np.testing.assert_array_equal(sampled(model, given), expected)
    np.testing.assert_array_equal(sampled(model, [given] * 3), expected)
  model.config.data.name = "npz"
  assert np.abs(sampled(model, "a  b") - expected).max() > 0.01


def test_several_texts_make_a_row_each(model, tmp_path):
  inference.export(model, tmp_path / "model")
  asked = [
    "--workdir",
    str(tmp_path / "model"),
    "--mode",
    "sample",
    "--num",
    "3",
    "--text",
    "ab",
    "--text",
    "bb",
  ]
  main([*asked, "--output", str(tmp_path / "rows.png")])
  rows = [sampled(model, one) for one in ("ab", "bb")]
  with Image.open(tmp_path / "rows.png") as image:
    found = np.squeeze(pictures.compare(*rows, columns=3, labels=("ab", "bb")))
    np.testing.assert_array_equal(found, np.asarray(image))
  for more in (["--output", f"{tmp_path}/files/"], ["--label", "1"]):
    with pytest.raises(UserError, match=r"^--text is given 2 times; give it once, or |knows no label"):
      main([*asked, *more])


def test_the_command_draws_images_of_a_text(model, tmp_path, capsys):
  inference.export(model, tmp_path / "model")
  asked = ["--workdir", str(tmp_path / "model"), "--mode", "sample", "--num", "4", "--text", "ab"]
  main([*asked, "--output", str(tmp_path / "one.png")])
  with Image.open(tmp_path / "one.png") as image:
    np.testing.assert_array_equal(
      np.squeeze(evaluation.samples(model, 4, text="ab")), np.squeeze(np.asarray(image))
    )
  main([*asked, "--batch_size", "3", "--output", f"{tmp_path}/files/"])
  expected = np.floor(sampled(model, "ab", 4)[..., 0] * 255 + 0.5)
  files = sorted((tmp_path / "files").iterdir())
  assert [file.name for file in files] == [f"00000{i}.png" for i in range(4)]
  np.testing.assert_array_equal([np.asarray(Image.open(file)) for file in files], expected)
  main(asked)
  (written,) = (tmp_path / "model" / "evaluation").iterdir()
  assert written.name == "sample_text-ab_num-4.png"
  with pytest.raises(UserError, match="needs a text for each image"):
    main(asked[:-2])
  assert "says nothing" not in capsys.readouterr().out
  main([*asked[:-1], " "])
  assert "note: an empty --text says nothing: images are drawn as without a text" in capsys.readouterr().out
  with pytest.raises(UserError, match="--text has no effect in --mode encode, only in"):
    main(["--workdir", str(tmp_path / "model"), "--mode", "encode", "--text", "ab"])


def test_pictures_of_a_split_show_its_texts(model):
  texts = np.stack([text.encode(one, LENGTH) for one in ("ab", "c")])
  batch = {"image": np.zeros((2, *SHAPE), np.float32), "text": texts}
  found = evaluation.split_samples(model, batch, 3)
  np.testing.assert_array_equal(found, evaluation.samples(model, 3, text=["ab", "c", "ab"]))


def test_sets_of_samples_have_the_texts_of_the_split_in_turn(model, tmp_path):
  some = ["ab", "", "cc"]
  tokens = np.stack([text.encode(one, LENGTH) for one in some])
  np.savez(tmp_path / "train.npz", image=np.zeros((3, *SHAPE), np.uint8), text=tokens)
  data = apply_overrides(base_config("text_toy"), ["data.name=npz", f"data.dir={tmp_path}"]).data
  parts, num = image_sets._made(model, open_source(data, "train"), "samples", 5, 2, 0, 1.0, None, None, {})
  images = np.concatenate([images[:n] for images, n in parts])
  assert num == 5
  np.testing.assert_array_equal(images, sampled(model, [*some, *some[:2]], 5))
  np.savez(tmp_path / "train.npz", image=np.zeros((3, *SHAPE), np.uint8))
  with pytest.raises(UserError, match=r"needs a text for each image, and data\.name=npz has none"):
    image_sets._made(model, open_source(data, "train"), "samples", 5, 2, 0, 1.0, None, None, {})


def test_images_of_ones_own_have_no_texts(model, tmp_path):
  Image.fromarray(np.zeros(SHAPE[:2], np.uint8)).save(tmp_path / "a.png")
  with pytest.raises(
    UserError, match="needs the text of your images, which --input does not give; leave --input out"
  ):
    evaluation.inputs(model, [tmp_path / "a.png"], "test", 1)


def test_a_model_without_texts_refuses_them():
  small = apply_overrides(base_config("mlp_vae"), ["model.hidden=4", "model.latent_dim=2"])
  model = trained(small, spec_of(SHAPE))
  with pytest.raises(UserError, match=r"^text='ab': this run \(mlp_vae\) knows no text; leave it out$"):
    model.sample(0, 2, text="ab")


def test_data_without_texts_are_refused_before_training(model):
  config = apply_overrides(base_config("text_toy"), ["data.name=digits"])
  with pytest.raises(
    UserError, match=r"needs the text of each image, .* set data\.captions to files or words"
  ):
    assemble._check_given(config, spec_of(SHAPE), None)
