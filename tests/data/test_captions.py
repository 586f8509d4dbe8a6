"""Captions: text files beside images, or words for labels. What is missing, empty or too long is named."""

import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data import captions, images, text
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))


def config(name, folder="", *overrides):
  made = apply_overrides(base_config("vq_vae"), [f"data.name={name}", f"data.dir={folder}", *overrides])
  validate(made)
  return made.data


def save(folder, **texts):
  """Images with captions beside them; None: without. The value of all pixels is 200 and the length of the name."""
  for name, words in texts.items():
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_png(np.full((4, 5, 3), 200 + len(name), np.uint8)))
    if words is not None:
      path.with_suffix(".txt").write_text(words, encoding="utf-8")


def of_files(folder, *overrides):
  return config("folder", folder, "data.captions=files", *overrides)


def test_each_image_has_the_text_beside_it(tmp_path):
  folder = tmp_path / "photos"
  save(folder / "train", a="a cat\n", bb="  an  émoji 🐈\t", ccc="\ufeffx")
  save(folder / "test", dddd="left of it")
  data = of_files(folder, "data.text_length=20")
  source = open_source(data, "train")
  found = {int(record["image"][0, 0, 0]) - 200: record["text"] for record in source.read([0, 1, 2])}
  assert {n: text.decode(tokens) for n, tokens in found.items()} == {1: "a cat", 2: "an émoji 🐈", 3: "x"}
  assert {tokens.shape for tokens in found.values()} == {(20,)}
  arrays = source.load_all()
  assert arrays["text"].shape == (3, 20) and arrays["text"].dtype == np.int32
  assert text.decode(open_source(data, "test")[0]["text"]) == "left of it"
  data.text_length = 30  # the same prepared files
  assert open_source(data, "train")[0]["text"].shape == (30,)
  data.captions = "none"
  assert "text" not in open_source(data, "train")[0]


def test_without_folders_of_splits_each_text_stays_with_its_image(tmp_path):
  save(tmp_path / "photos", **{f"{'x' * n}": f"name of {n}" for n in range(1, 12)})
  data, seen = of_files(tmp_path / "photos"), 0
  for split in ("train", "validation", "test"):
    source = open_source(data, split)
    for record in source.read(range(len(source))):
      assert text.decode(record["text"]) == f"name of {int(record['image'][0, 0, 0]) - 200}"
    seen += len(source)
  assert seen == 11


def test_a_changed_text_is_read_anew(tmp_path):
  save(tmp_path / "photos" / "train", a="before")
  data = of_files(tmp_path / "photos")
  assert text.decode(open_source(data, "train")[0]["text"]) == "before"
  save(tmp_path / "photos" / "train", a="afterwards")
  assert text.decode(open_source(data, "train")[0]["text"]) == "afterwards"


def test_texts_that_are_missing_empty_or_too_long_are_named(tmp_path):
  folder = tmp_path / "photos"
  save(folder / "train", a=None, b="fine", c=None)
  with pytest.raises(
    UserError,
    match=r"no caption beside .*a\.png, .*c\.png; add a\.txt with the text, remove the image, or set data",
  ):
    open_source(of_files(folder), "train")
  save(folder / "train", a=" \n", c="fine")
  with pytest.raises(UserError, match=r"train/a\.txt: is empty; write the caption"):
    open_source(of_files(folder), "train")
  save(folder / "train", a="é" * 40, c="x" * 79)
  with pytest.raises(
    UserError,
    match=r"train/a\.txt has a text of 80 bytes, and data\.text_length=72; set data\.text_length=80",
  ):
    open_source(of_files(folder), "train")
  assert len(open_source(of_files(folder, "data.text_length=80"), "train")) == 3
  (folder / "train" / "a.txt").write_bytes(b"caf\xe9")
  with pytest.raises(UserError, match=r"train/a\.txt: is no text in UTF-8 \(byte 3\); save it as UTF-8"):
    open_source(of_files(folder), "train")
  (folder / "train" / "a.txt").write_bytes(b"x" * (captions.MOST_BYTES + 1))
  with pytest.raises(UserError, match=r"train/a\.txt: has more than 65536 bytes"):
    open_source(of_files(folder), "train")


def test_images_that_are_mirrored_away_from_their_texts_are_reported(tmp_path):
  folder = tmp_path / "photos"
  save(folder / "train", a="a cat LEFT of a dog", b="leftover", c="right")
  assert open_source(of_files(folder), "train").remarks == ()
  (line,) = open_source(of_files(folder, "data.flip=true"), "train").remarks
  assert (
    line.startswith(f"{folder}: 2 captions say left or right, e.g. ")
    and "train/a.txt, and data.flip=true" in line
  )


@pytest.mark.parametrize(("key", "does"), [("data.flip", "mirrors"), ("data.rotate", "turns")])
def test_images_that_are_moved_away_from_the_words_of_their_labels_are_reported(key, does):
  words = ("data.captions=words", "data.classes=cat,left_arrow", "data.size=8,8")
  assert captions.of_labels(config("npz", "some", *words), ())[1] == ()
  _, (line,) = captions.of_labels(config("npz", "some", *words, f"{key}=true"), ())
  assert line == (
    f"1 captions say left or right, e.g. left arrow, and {key}=true {does} their images; set {key}=false"
  )


def test_class_folders_and_captions_go_together(tmp_path):
  for name in ("big_cats", "dogs"):
    save(tmp_path / "photos" / "train" / name, a=f"one of {name}")
  found = list(open_source(of_files(tmp_path / "photos"), "train").read([0, 1]))
  assert {record["label"]: text.decode(record["text"]) for record in found} == {
    0: "one of big_cats",
    1: "one of dogs",
  }
  words = config("folder", tmp_path / "photos", "data.captions=words")
  found = list(open_source(words, "train").read([0, 1]))
  assert {record["label"]: text.decode(record["text"]) for record in found} == {0: "big cats", 1: "dogs"}


def records(tmp_path, *labels):
  np.savez(
    tmp_path / "train.npz", image=np.zeros((len(labels), 4, 4, 1), np.uint8), label=np.array(labels, np.int32)
  )
  return tmp_path


def test_words_of_labels(tmp_path):
  folder = records(tmp_path, 1, 0)
  data = config("npz", folder, "data.captions=words", "data.classes=shirt,ankle boot")
  arrays = open_source(data, "train").load_all()
  assert [text.decode(tokens) for tokens in arrays["text"]] == ["ankle boot", "shirt"]
  data = config("npz", folder, "data.captions=words")
  with pytest.raises(
    UserError, match=r"needs the names of the labels of data\.name=npz; set data\.classes to them"
  ):
    open_source(data, "train")
  data = config("npz", folder, "data.captions=words", "data.classes=shirt")
  with pytest.raises(
    UserError, match=r"has the label 1, and there are names for 0 to 0; set data\.classes to all"
  ):
    open_source(data, "train").load_all()
  data = config("npz", folder, "data.captions=words", "data.classes=shirt,ankle boot", "data.text_length=6")
  with pytest.raises(
    UserError, match=r"the class 'ankle boot' has a text of 10 bytes, and data\.text_length=6"
  ):
    open_source(data, "train")


def test_digits_are_numbers():
  data = config("digits", "", "data.captions=words")
  tokens, remarks = captions.of_labels(data, ())
  assert [text.decode(one) for one in tokens] == list(captions.NUMBERS) and not remarks
  _, (line,) = captions.of_labels(config("idx", "some", "data.captions=words"), ())
  assert "the labels are digits, zero to nine; if they are not, set data.classes" in line


@pytest.mark.parametrize(
  ("name", "kind", "words"),
  [
    ("digits", "files", r"data\.captions=files needs data\.name=folder, and data\.name=digits"),
    ("photos", "words", r"data\.captions=words needs labels, and data\.name=photos has none"),
    ("folder", "sounds", r"data\.captions='?sounds'? must be none \| files \| words"),
  ],
)
def test_captions_that_cannot_be(name, kind, words):
  with pytest.raises(UserError, match=words):
    config(name, "some", f"data.captions={kind}")
