"""What latents tell of labels: the scores by hand, notes, and what has none."""

import json

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from trained import spec_of, trained

from vae_jax import evaluation, metrics
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.evaluation import label_probes
from vae_jax.metrics import probes

SHAPE, CLASSES = (5, 4, 1), 3
SIZES = {"train": 60, "validation": 20, "test": 40}


def images(labels, seed=0):
  """Noise, and a bright row that says the label."""
  random = np.random.default_rng(seed)
  found = random.integers(0, 120, (len(labels), *SHAPE))
  found[np.arange(len(labels)), labels % SHAPE[0]] += 60
  return found.astype(np.uint8)


def stored(folder, **changed):
  """The three splits in a folder; changed: labels of some."""
  for seed, (split, size) in enumerate(SIZES.items()):
    labels = changed.get(split, np.arange(size, dtype=np.int32) % CLASSES)
    np.savez(folder / f"{split}.npz", image=images(labels, seed), label=labels)
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return stored(tmp_path_factory.mktemp("data"))


def model_of(folder, *overrides, family="mlp_vae", spec=None, scale=0.5):
  small = {
    "mlp_vae": ["model.hidden=6", "model.latent_dim=4"],
    "cvae": ["model.hidden=6", "model.latent_dim=4"],
  }
  words = ["data.name=npz", f"data.dir={folder}", *small.get(family, ()), *overrides]
  return trained(apply_overrides(base_config(family), words), spec or spec_of(SHAPE), scale=scale)


def arrays(folder, split):
  with np.load(folder / f"{split}.npz") as found:
    return found["image"], found["label"]


@pytest.fixture(scope="module")
def found(folder):
  return evaluation.probe_labels(model_of(folder), "test", batch_size=16)


def test_scores_are_those_of_the_latents_and_pixels_of_the_splits(folder, found):
  model, labels = model_of(folder), {split: arrays(folder, split)[1] for split in SIZES}
  seen = {
    "latents": {split: np.asarray(model.encode(arrays(folder, split)[0]).mean) for split in SIZES},
    "pixels": {split: arrays(folder, split)[0].reshape(size, -1) / 255 for split, size in SIZES.items()},
  }
  assert list(found["scores"]) == ["latents", "pixels"] and found["notes"] == [] and found["given"] == []
  for kind, x in seen.items():
    scores = found["scores"][kind]
    assert scores["features"] == x["train"].shape[1] and scores["constant"] == 0
    mean, deviation = x["train"].mean(axis=0), x["train"].std(axis=0)
    strength = scores["probe"]["strength"]
    theirs = LogisticRegression(C=1 / (60 * strength), tol=1e-8, max_iter=10_000)
    theirs.fit((x["train"] - mean) / deviation, labels["train"])
    accuracy = theirs.score((x["test"] - mean) / deviation, labels["test"])
    assert scores["probe"]["accuracy"] == pytest.approx(accuracy, abs=1.5 / 40)
    held = theirs.score((x["validation"] - mean) / deviation, labels["validation"])
    assert scores["probe"]["validation"][f"{strength:g}"] == pytest.approx(held, abs=1.5 / 20)
    assert scores["probe"]["converged"] and set(map(float, scores["probe"]["validation"])) == {
      *probes.STRENGTHS
    }
    low, high = scores["probe"]["interval"]
    assert 0 < low < scores["probe"]["accuracy"] < high or scores["probe"]["accuracy"] == high == 1.0
    clusters = metrics.kmeans(x["train"], CLASSES).nearest(x["test"])
    assert scores["clusters"]["nmi"] == pytest.approx(
      normalized_mutual_info_score(labels["test"], clusters), abs=1e-6
    )
    assert scores["clusters"]["accuracy"] == metrics.clustering_accuracy(clusters, labels["test"])
  assert found["scores"]["pixels"]["probe"]["accuracy"] > 0.9  # they say the label
  assert found["majority"] == pytest.approx(14 / 40) and found["classes"] == 3


def test_what_was_scored_is_told(folder, found):
  assert (found["split"], found["examples"], found["train"]["images"], found["validation"]["images"]) == (
    "test",
    40,
    60,
    20,
  )
  assert found["latents"] == "posterior means" and json.dumps(found)
  digests = {found["digest"], found["train"]["digest"], found["validation"]["digest"]}
  assert len(digests) == 3
  lines = evaluation.probe_lines(found)
  assert lines[0].startswith("test of npz: 40 images, 3 labels, checkpoint of step 1; 0.3500 right by naming")
  assert [line.split()[0] for line in lines[3:]] == ["latents", "pixels"]
  few = evaluation.probe_labels(model_of(folder), "test", num=13, batch_size=64)
  assert (few["examples"], few["train"]["images"], few["validation"]["images"]) == (13, 13, 13)


def test_codes_are_probed_by_their_vectors(folder):
  small = ["model.channels=4", "model.codes=6", "model.code_dim=2"]
  model = model_of(folder, *small, family="vq_vae")
  found = evaluation.probe_labels(model, "test", batch_size=16)
  assert found["latents"] == "vectors of codes"
  assert found["scores"]["latents"]["features"] == model.module.positions * 2
  # this one uses few codes
  assert found["notes"] == [
    "no k-means of latents: the latents of 60 examples have 2 different values, fewer than 3 clusters",
    "10 of the 12 latents are the same for all training images",
  ]
  assert "clusters" in found["scores"]["pixels"] and "clusters" not in found["scores"]["latents"]
  assert evaluation.probe_lines(found)[3].endswith("    none     none")
  assert evaluation.probe_lines(found)[1].startswith("  vectors of codes, probed on 60 images of train")


def test_a_label_that_the_encoder_is_given_is_told(folder):
  spec = spec_of(SHAPE) | {"label": jax.ShapeDtypeStruct((), np.int32)}
  found = evaluation.probe_labels(model_of(folder, "model.classes=3", family="cvae", spec=spec), "test")
  assert found["given"] == ["label"]
  assert any(
    line.startswith("note: the encoder is given the label of each image")
    for line in evaluation.probe_lines(found)
  )


def test_images_that_were_fitted_to_labels_that_were_not_and_latents_that_do_not_vary_are_told(tmp_path):
  train = np.arange(60, dtype=np.int32) % 3
  test = np.where(np.arange(40) < 4, 7, np.arange(40) % 3).astype(np.int32)
  model = model_of(stored(tmp_path, train=train, test=test))
  kernel = model.variables["params"]["encoder"]
  last = sorted(kernel)[-1]
  assert kernel[last]["kernel"].shape[-1] == 8  # four means, four log variances
  kernel[last]["kernel"] = kernel[last]["kernel"].at[:, 1].set(0.0)
  found = evaluation.probe_labels(model, "test")
  assert found["notes"] == [
    "4 images have labels that no training image has (7); a probe gets them wrong",
    "1 of the 4 latents are the same for all training images",
  ]
  assert found["classes"] == 3 and found["scores"]["latents"]["constant"] == 1
  for split, what in (("train[:20]", "fitted"), ("validation", "chosen")):
    (note, _) = evaluation.probe_labels(model, split)["notes"]
    assert note == (
      f"{split} has images of {split.split('[')[0]}, on which the probe was {what}: its scores are too high"
    )


def test_labels_that_no_taken_image_has_are_told(tmp_path):
  """Every other image, where four labels come in turn, has two of them."""
  cyclic = {split: np.arange(size, dtype=np.int32) % 4 for split, size in SIZES.items()}
  found = evaluation.probe_labels(model_of(stored(tmp_path, **cyclic)), "test", num=20)
  assert found["classes"] == 4 and found["notes"][0] == (
    "none of the 20 images taken of test has the labels 1, 3; give a larger --num"
  )
  assert not any("of train has the labels" in note for note in found["notes"])  # each third of 60


def test_what_did_not_converge_is_told(folder, monkeypatch):
  monkeypatch.setattr(probes, "TOLERANCE", 0.0)
  probes._descended.clear_cache()
  found = evaluation.probe_labels(model_of(folder), "test")
  probes._descended.clear_cache()
  assert [note.split(" stopped")[0] for note in found["notes"]] == [
    "the probe of latents",
    "the probe of pixels",
  ]
  assert all("above 0: it has not converged" in note for note in found["notes"])


def test_what_cannot_be_probed_is_refused_in_a_line(folder, tmp_path, monkeypatch):
  model = model_of(folder)
  with pytest.raises(
    UserError, match=r"^2 images of train are fewer than the 3 labels; give more \(--num, --split\)$"
  ):
    evaluation.probe_labels(model, "test", num=2)
  with pytest.raises(UserError, match=r"^2 images of test\[:2\] are fewer than the 3 labels"):
    evaluation.probe_labels(model, "test[:2]")
  with pytest.raises(UserError, match=r"have the label 0 alone; give a larger --num"):
    evaluation.probe_labels(model, "test", num=20)  # each third image
  restorer = ["model.channels=4", "model.latent_dim=2", "data.degrade.name=gaussian_noise"]
  with pytest.raises(UserError, match="cannot encode images into latents"):
    evaluation.probe_labels(model_of(folder, *restorer, family="restoration_vae"), "test")
  collapsed = model_of(folder)
  collapsed.variables = jax.tree.map(lambda x: x * 0 + 0.1 if x.ndim < 2 else x * 0, collapsed.variables)
  with pytest.raises(
    UserError, match=r"^the latents of all 60 images of train are alike \(posterior collapse\)"
  ):
    evaluation.probe_labels(collapsed, "test")
  broken = model_of(folder)
  broken.variables = jax.tree.map(lambda x: x * np.nan, broken.variables)
  with pytest.raises(UserError, match="the latents of 60 of the 60 images of train are not finite"):
    evaluation.probe_labels(broken, "test")
  monkeypatch.setattr(label_probes, "COPIES", 10**12)
  with pytest.raises(
    UserError, match=r"a probe of 120 images needs at least .* of memory, .*; give fewer images"
  ):
    evaluation.probe_labels(model, "test")
  one = model_of(stored(tmp_path, train=np.full(60, 2, np.int32)))
  with pytest.raises(
    UserError, match=r"all images of train of data\.name=npz have the label 2; a probe needs data of"
  ):
    evaluation.probe_labels(one, "test")
  np.savez(tmp_path / "train.npz", image=arrays(folder, "train")[0])
  with pytest.raises(UserError, match=r"the records of data\.name=npz have no labels; use data with labels"):
    evaluation.probe_labels(one, "test")
