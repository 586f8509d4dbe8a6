"""Labels that a model has no place for are refused where they enter, and never taken for others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.data.images import encode_png
from vae_jax.data.sources import open_source
from vae_jax.errors import UserError
from vae_jax.training import assemble, batches

SHAPE, CLASSES = (4, 4, 1), 4


def config_of(folder, *words):
  own = f"model.hidden=4 model.latent_dim=2 model.classes={CLASSES} data.name=npz data.dir={folder}"
  return apply_overrides(base_config("cvae"), [*own.split(), *words])


@pytest.fixture
def save(tmp_path):
  def write(**labels):
    for split, label in labels.items():
      given = {} if label is None else {"label": np.asarray(label)}
      images = np.full((8 if label is None else len(label), *SHAPE), 255, np.uint8)
      np.savez(tmp_path / f"{split}.npz", image=images, **given)
    return tmp_path

  return write


@pytest.fixture
def model(save):
  config = config_of(save(test=[0, 1, 2, 3]))
  return trained(config, spec_of(SHAPE) | {"label": jax.ShapeDtypeStruct((), jnp.int32)})


@pytest.mark.parametrize(("labels", "ends"), [([0, 3, 9, 1], "0 to 9"), ([0, -2, 1, 1], "-2 to 1")])
def test_a_split_that_is_scored_with_other_labels(model, save, labels, ends):
  save(test=labels)
  message = (
    rf"^data\.name=npz: labels go from {ends}, and model\.classes=4 knows 0 to 3; give data with the labels of "
    "the training$"
  )
  for act in (
    lambda: evaluation.score_split(model, "test", samples=0, batch_size=2),
    lambda: evaluation.prepared(model, "test", 4),
  ):
    with pytest.raises(UserError, match=message):
      act()


@pytest.mark.parametrize("label", [None, 1])
def test_a_split_without_labels(model, save, label):
  save(test=None)
  message = r"^this run \(cvae\) needs a label for each image, and data\.name=npz has none; give --data_dir"
  with pytest.raises(UserError, match=message):
    evaluation.prepared(model, "test", 4, label=label)
  with pytest.raises(UserError, match=message):
    evaluation.score_split(model, "test", samples=0, batch_size=2)


def test_a_training_split_without_labels(save, tmp_path):
  folder = save(train=None, validation=[0, 1])
  message = (
    r"^model\.name=cvae needs the field 'label', and the split 'train' of data\.name=npz has none; give"
  )
  for mb in (0, 1):
    with pytest.raises(UserError, match=message):
      assemble.assemble(config_of(folder, f"data.resident_mb={mb}"), tmp_path / "run")


def test_a_streamed_split_is_checked_batch_by_batch(save):
  config = config_of(save(validation=[0, 1, 2, 7]), "data.resident_mb=0")
  source = assemble.open_splits(config.data, "validation")[0].source
  stream = batches.with_known_labels(
    config, pipeline.batches(config.data, source, batch_size=2, training=False)
  )
  next(stream)
  with pytest.raises(UserError, match=r"^data\.name=npz: labels go from 2 to 7, .*set model\.classes=8$"):
    next(stream)


def test_labels_of_no_images_and_of_no_shape(model):
  key = jax.random.key(0)
  for act, message in (
    (lambda: model.sample(key, 0, label=1), "^num = 0, .* must be at least 1"),
    (lambda: model.latents(key, -1, label=1), "^num = -1, .* must be at least 1"),
    (lambda: model.sample(key, 2, label=[[1], [1, 2]]), r"^label=.* must be one integer, or \[2\]"),
    (lambda: model.sample(key, 2, label=[7, 7]), "^label=7 must be one of 0 to 3$"),
    (lambda: model.sample(key, 2, label=np.arange(3, 5)), "^label=3 to 4 must be one of 0 to 3$"),
    (lambda: model.decode(np.zeros((0, 2)), label=1), r"^latents of shape \(0, 2\)"),
  ):
    with pytest.raises(UserError, match=message) as error:
      act()
    assert "\n" not in str(error.value)


def test_what_takes_no_labels_says_so(model):
  for act in (lambda: model.restore(np.zeros((1, *SHAPE))), lambda: model.restore_image(np.zeros(SHAPE))):
    with pytest.raises(
      UserError, match=r"needs a label .* restore does not take; use reconstruct\(images, label="
    ):
      act()


# --- classes by folder ---


@pytest.fixture
def pets(tmp_path, monkeypatch):
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  for split, names in (
    ("train", ("cats", "dogs", "emus")),
    ("validation", ("cats", "emus")),
    ("test", ("emus",)),
  ):
    for name in names:
      (tmp_path / "pets" / split / name).mkdir(parents=True)
      for i in range(3):
        content = encode_png(random.integers(0, 256, SHAPE, np.uint8))
        (tmp_path / "pets" / split / name / f"{i}.png").write_bytes(content)
  return tmp_path / "pets"


def by_folder(folder, *words):
  return config_of(folder, "data.name=folder", "evaluation.pictures=4", "training.batch_size=8", *words)


def test_classes_by_folder_are_recorded_and_reach_the_model(pets, tmp_path, capsys):
  config = by_folder(pets, "model.classes=3")
  parts = assemble.assemble(config, tmp_path / "run")
  assert "note: labels: 0 cats, 1 dogs, 2 emus\n" in capsys.readouterr().err
  assert config.data.classes == parts.meta["config"]["data"]["classes"] == "cats,dogs,emus"
  assert parts.train.arrays["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert parts.held_out.arrays["label"].tolist() == [0, 0, 0, 2, 2, 2]
  (test,) = {record["label"] for record in pipeline.First(open_source(config.data, "test"), 1).read([0])}
  assert test == 2  # emus, though they are alone there


def test_another_number_of_classes_than_folders_is_refused(pets, tmp_path):
  with pytest.raises(
    UserError, match=r"model\.classes=4, and .*pets has 3 class folders \(cats, dogs, emus\); set"
  ):
    assemble.assemble(by_folder(pets), tmp_path / "run")


def test_images_beside_class_folders_are_named_where_labels_are_needed(pets, tmp_path):
  (pets / "train" / "dogs" / "0.png").rename(pets / "train" / "lost.png")
  with pytest.raises(
    UserError, match=r"needs the label of each image.*cats/1\.png \(1 lie outside, e\.g\. lost\.png\)"
  ):
    assemble.assemble(by_folder(pets, "model.classes=3"), tmp_path / "run")


def test_data_are_opened_after_the_workdir_was_checked(pets, tmp_path, monkeypatch):
  def refuse(*args):
    raise UserError("not this workdir")

  monkeypatch.setattr(assemble.workdirs, "check", refuse)
  monkeypatch.setattr(assemble, "open_splits", lambda *args: pytest.fail("the data were opened first"))
  with pytest.raises(UserError, match="not this workdir"):
    assemble.assemble(by_folder(pets), tmp_path / "run")
