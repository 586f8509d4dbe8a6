"""Scores of anomalies: those of the whole split, of a known difference of models, of files; and what has none."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_curve
from trained import spec_of, trained

from vae_jax import evaluation, metrics, pictures
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.evaluation import anomalies, anomaly_sets

SHAPE = (4, 5, 1)
RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.integers(0, 256, (40, *SHAPE), np.uint8), np.arange(40, dtype=np.int32) % 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  for split, some in (("validation", slice(0, 9)), ("test", slice(9, 40))):
    np.savez(folder / f"{split}.npz", image=IMAGES[some], label=LABELS[some])
  for name in ("other", "black"):
    (folder / name).mkdir()
  np.savez(folder / "black" / "validation.npz", image=np.where(IMAGES[:9] > 127, 255, 0).astype(np.uint8))
  np.savez(folder / "other" / "test.npz", image=np.zeros((6, 8, 10, 3), np.uint8))
  return folder


def model_of(data, *overrides, seed=0, family="mlp_vae", scale=0.5, shape=SHAPE):
  words = ["data.name=npz", f"data.dir={data}", "evaluation.batch_size=16", *overrides]
  small = ["data.binarize=dynamic", "model.hidden=6", "model.latent_dim=2"] if family == "mlp_vae" else []
  return trained(apply_overrides(base_config(family), small + words), spec_of(shape), seed, scale)


HOW = {"samples": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def pair(data):
  """A model and a background of it."""
  return model_of(data), model_of(data, "data.mutate=0.3", seed=1)


def test_means_are_those_of_score_and_the_ratio_is_the_difference_of_two_models(data, pair):
  model, background = pair
  found, picture = anomalies.find_anomalies(
    model, "test", against=[str(data / "other")], background=background, **HOW
  )
  whole = [evaluation.score_split(each, "test", samples=3, batch_size=8) for each in pair]
  scores = found["scores"]
  for name in ("neg_elbo", "iwae_nll", "rate", "distortion"):
    np.testing.assert_allclose(scores[name]["normal_mean"], whole[0][name], rtol=1e-5)
  ratio = whole[0]["iwae_nll"] - whole[1]["iwae_nll"]
  np.testing.assert_allclose(scores["likelihood_ratio"]["normal_mean"], ratio, rtol=1e-3, atol=1e-4)
  held = evaluation.score_split(model, "validation", samples=3, batch_size=8)
  np.testing.assert_allclose(found["typical_nats"], held["iwae_nll"], rtol=1e-5)
  assert {name: x["unit"] for name, x in scores.items() if x["unit"] != "nats"} == {
    "complexity_corrected": "bits/dim"
  }
  assert (found["normal"]["images"], found["anomalous"]["images"], found["reference"]["images"]) == (31, 6, 9)
  assert found["absent"] == {} and found["best"] == max(scores, key=lambda name: scores[name]["auroc"])
  assert found["notes"] == [
    f"the images of test of npz in {data}/other, 8 x 10 x 3, are resized to 4 x 5 x 1"
  ]
  assert picture.dtype == np.uint8 and picture.ndim == 3
  lines = list(anomalies.anomaly_lines(found))
  assert lines[0].startswith("6 anomalous images (test of npz in ") and "by chance" in lines[-2]
  assert [line.split()[0] for line in lines[2:-2]] == list(scores)


def test_scores_of_each_image_are_the_functions_of_metrics(data, pair):
  """A label as the anomaly: the judge's own figures, put together by hand."""
  model, background = pair
  judge = anomalies.Judge(model, background, 3, 16, 0)
  sets = anomaly_sets.of_label(model, "test", 2)
  assert [each.facts["images"] for each in sets] == [23, 8]
  shown = sets[1].shown(list(range(8)))
  np.testing.assert_array_equal(shown, IMAGES[9:][LABELS[9:] == 2])
  normal, anomalous = (judge.measure(each) for each in sets)
  mean = judge.measure(anomaly_sets.of_split(model, "validation")).bound.mean()
  by_hand = {
    "iwae_nll": [x.nats["iwae_nll"] for x in (normal, anomalous)],
    "typicality": [abs(x.nats["iwae_nll"] - mean) for x in (normal, anomalous)],
    "likelihood_ratio": [x.nats["iwae_nll"] - x.nats["background"] for x in (normal, anomalous)],
    "complexity_corrected": [(x.nats["iwae_nll"] / np.log(2) - x.size) / 20 for x in (normal, anomalous)],
  }
  found, _ = anomalies.find_anomalies(model, "test", label=2, background=background, **HOW)
  for name, sides in by_hand.items():
    np.testing.assert_allclose(found["scores"][name]["auroc"], metrics.auroc(*sides), rtol=1e-9)
  assert found["notes"] == [
    "this run was trained on images of label 2 too; train one with --config.data.without=2"
  ]
  assert found["anomalous"]["label"] == 2 and found["anomalous"]["what"] == "test of npz of label 2"


def test_the_figures_of_a_score_are_those_of_scikit_learn():
  """By chance the average precision is the share of anomalous images."""
  random = np.random.default_rng(3)
  normal, anomalous = random.normal(size=200), random.normal(1.0, 2.0, size=50)
  found = anomalies._compared(normal, anomalous)
  labels, scores = np.arange(250) >= 200, np.concatenate([normal, anomalous])
  false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
  assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores))
  assert found["fpr_at_tpr"] == pytest.approx(false[np.argmax(true >= 0.95)])
  assert (found["normal_mean"], found["anomalous_mean"]) == (normal.mean(), anomalous.mean())
  sides = {
    name: {"images": n, "what": name} for name, n in (("normal", 200), ("anomalous", 50), ("reference", 9))
  }
  whole = {**sides, "step": 1, "scores": {"rate": found | {"unit": "nats"}}, "absent": {}, "notes": []}
  assert list(anomalies.anomaly_lines(whole))[-1].split()[2:] == ["0.5000", "0.200", "0.950"]


def test_the_picture_has_the_least_and_the_most_anomalous_of_either_set():
  sets = [SimpleNamespace(shown=lambda places, first=first: IMAGES[first:][places]) for first in (0, 20)]
  scores = np.array([3.0, 1.0, 2.0]), np.array([5.0, 6.0, 4.0])
  rows = [IMAGES[[1, 2, 0]], IMAGES[[0, 2, 1]], IMAGES[[22, 20, 21]], IMAGES[[21, 20, 22]]]
  names = [f"{kind}: {side}" for kind in ("normal", "anomalous") for side in ("least", "most")]
  expected = pictures.compare(*rows, columns=3, labels=tuple(names))
  np.testing.assert_array_equal(anomalies._picture(sets, scores), expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_ratio_is_of_bounds_of_one_kind(data, pair, swapped):
  """One of both has no importance weights, so its bound is not as tight as that of many samples."""
  words = ["data.binarize=dynamic", "model.likelihood=bernoulli", "model.channels=4", "model.codes=6"]
  both = pair[0], model_of(data, *words, "model.code_dim=2", family="vq_vae")
  model, background = both[::-1] if swapped else both
  judge = anomalies.Judge(model, background, 5, 16, 0)
  found = judge.scores(judge.measure(anomaly_sets.of_split(model, "test[:6]")), 0.0)
  whole = [evaluation.score_split(each, "test[:6]", samples=0, batch_size=16) for each in (model, background)]
  expected = whole[0]["neg_elbo"] - whole[1]["neg_elbo"]
  np.testing.assert_allclose(found["likelihood_ratio"].mean(), expected, rtol=1e-4)
  assert ("iwae_nll" in found) != swapped


def test_sizes_are_those_of_what_the_model_is_scored_on(data):
  judge = anomalies.Judge(model_of(data, "data.binarize=threshold"), None, 0, 16, 0)
  expected = metrics.compressed_bits(IMAGES[:9] > 127.5)
  found = judge.measure(anomaly_sets.of_split(judge.model, "validation"))
  np.testing.assert_array_equal(found.size, expected)
  black = model_of(data / "black", "data.binarize=none")  # stored as black and white
  found = anomalies.Judge(black, None, 0, 16, 0).measure(anomaly_sets.of_split(black, "validation"))
  np.testing.assert_array_equal(found.size, expected)
  likelihood = ("data.binarize=none", "model.likelihood=logistic_mixture", "model.mixtures=2")
  noisy = ("data.binarize=none", "data.dequantize=true", "model.likelihood=gaussian")
  for overrides in (likelihood, noisy):
    judge = anomalies.Judge(model_of(data, *overrides), None, 0, 16, 0)
    found = judge.measure(anomaly_sets.of_split(judge.model, "validation"))
    np.testing.assert_array_equal(found.size, metrics.compressed_bits(IMAGES[:9]))
  # 8 bits are the density's of grey levels
  scores = judge.scores(found, 0.0)
  expected = found.bound / np.log(2) / 20 + 8 - found.size / 20
  np.testing.assert_allclose(scores["complexity_corrected"], expected, rtol=1e-9)


@pytest.mark.parametrize(
  ("overrides", "reason"),
  [
    (
      ("data.binarize=none", "model.likelihood=gaussian"),
      r"Gaussian \(sigma learned\) is a density, whose bits",
    ),
    (("data.binarize=none",), "^31 images have grey levels, of which Bernoulli is no likelihood"),
  ],
)
def test_a_bound_that_compares_with_no_size_leaves_out_that_score_alone(data, overrides, reason):
  model = model_of(data, *overrides)
  found, _ = anomalies.find_anomalies(model, "test", label=0, samples=0, batch_size=16)
  assert set(found["scores"]) == {"neg_elbo", "rate", "distortion", "typicality"}
  assert set(found["absent"]) == {"iwae_nll", "likelihood_ratio", "complexity_corrected"}
  assert re.search(reason, found["absent"]["complexity_corrected"])
  assert found["absent"]["iwae_nll"] == "--samples 0" and found["compressor"] is None


def test_scores_that_are_not_finite_are_reported_and_not_dropped(data):
  model = model_of(data)
  model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
  found, picture = anomalies.find_anomalies(model, "test", label=0, **HOW)
  assert found["scores"] == {} and found["best"] is None and picture is None
  assert found["absent"]["iwae_nll"] == "the scores of 24 of the 24 normal images are not finite (nan or inf)"
  assert any("no typicality: the scores of 24" in line for line in anomalies.anomaly_lines(found))


def test_files_are_scored_alone_with_their_place_among_the_images_of_a_split(data, pair, tmp_path, capsys):
  for i, image in enumerate(IMAGES[:9]):
    Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
  (tmp_path / "9.png").write_bytes(b"no picture")
  found, failed = anomalies.judge_files(pair[0], [tmp_path], "validation", background=pair[1], **HOW)
  assert len(failed) == 1 and "skipped:" in capsys.readouterr().err
  assert [one["file"] for one in found["files"]] == [str(tmp_path / f"{i}.png") for i in range(9)]
  # they are the images of the split, so their places among it are those of ranks: 0.5, 1.5, ... of 9
  for name in ("iwae_nll", "likelihood_ratio", "complexity_corrected"):
    places = sorted(one["percentiles"][name] for one in found["files"])
    np.testing.assert_allclose(places, (np.arange(9) + 0.5) / 9 * 100)
  held = evaluation.score_split(pair[0], "validation", samples=3, batch_size=8)
  means = {name: np.mean([one["scores"][name] for one in found["files"]]) for name in found["units"]}
  np.testing.assert_allclose(means["iwae_nll"], held["iwae_nll"], rtol=1e-5)
  lines = list(anomalies.file_lines(found))
  assert lines[1] == f"  {tmp_path}/0.png" and lines[2].split()[0] == "neg_elbo" and lines[2].endswith(" %)")
  more = list(anomalies.file_lines(found | {"files": 3 * found["files"]}))
  assert sum(line.endswith(".png") for line in more) == 20 and "  ... and 7 more in the JSON file" in more


def test_files_that_are_enlarged_are_noted(pair, tmp_path):
  for name, size in (("a.png", (2, 2)), ("b.png", SHAPE[:2])):
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / name)
  found, _ = anomaly_sets.of_files(pair[0], [tmp_path])
  assert len(found.notes) == 1
  assert found.notes[0].startswith(f"{tmp_path}/a.png (2 x 2) is smaller than the model's")


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (("data.binarize=none",), r"--background has data\.binarize none, and this run dynamic"),
    (("data.binarize=none", "model.likelihood=gaussian"), r"--background has data\.binarize none"),
  ],
)
def test_a_background_of_other_images_is_refused(data, overrides, message):
  with pytest.raises(UserError, match=message):
    anomalies.Judge(model_of(data), model_of(data, *overrides), 0, 16, 0)
  with pytest.raises(UserError, match=r"--background has images 6 x 5 x 1, and this run 4 x 5 x 1"):
    anomalies.Judge(model_of(data), model_of(data, shape=(6, 5, 1)), 0, 16, 0)


def test_a_background_of_another_kind_of_pixels_is_refused(data):
  """The cross-entropy of grey levels is no likelihood of 256 of them."""
  grey = ["data.binarize=none"]
  levels = model_of(data, *grey, "model.likelihood=logistic_mixture", "model.mixtures=2")
  with pytest.raises(UserError, match="--background has a likelihood of black and white True, and this run"):
    anomalies.Judge(levels, model_of(data, *grey), 0, 16, 0)


def test_notes_of_what_makes_scores_mean_little(data, pair, tmp_path):
  """The same images on both sides; images of the training; a background of other data."""
  np.savez(tmp_path / "train.npz", image=IMAGES[:8], label=LABELS[:8])
  model = model_of(tmp_path, "data.validation=train[6:]", "data.train=train[:6]")
  how = {"samples": 0, "batch_size": 16}
  found, _ = anomalies.find_anomalies(model, "train[4:]", against=[str(tmp_path)], background=pair[1], **how)
  assert found["notes"] == [
    f"the background was trained with data.dir={data}, data.train=train, unlike this run: if these are other images, "
    "the ratio compares data sets",
    "train[4:] has images of train[:6], on which this run was trained: they score lower than new ones",
    "the anomalous images are the normal ones: all scores are by chance",
  ]
  found, _ = anomalies.find_anomalies(model, "train[:4]", label=2, **how)
  assert sum("on which this run was trained" in note for note in found["notes"]) == 1
  Image.fromarray(IMAGES[0][..., 0]).save(tmp_path / "a.png")
  found, _ = anomalies.find_anomalies(model, "train[6:]", against=[str(tmp_path / "a.png")], **how)
  assert found["notes"] == []
  found, _ = anomalies.judge_files(model, [tmp_path / "a.png"], "train[:5]", **how)
  assert "train[:5] has images of train[:6]" in found["notes"][0]


def test_models_without_a_bound_of_images_alone_are_refused(data):
  spec = {"label": jax.ShapeDtypeStruct((), np.int32)}
  rae = trained(
    apply_overrides(base_config("rae"), ["model.channels=2", "model.latent_dim=2"]), spec_of((8, 8, 1))
  )
  cvae = trained(apply_overrides(base_config("cvae"), ["model.hidden=4"]), spec_of(SHAPE) | spec)
  part = ["model.hidden=4", "model.latent_dim=2"]
  completing = trained(apply_overrides(base_config("structured_cvae"), part), spec_of((4, 4, 1)))
  for model, message in (
    (completing, r"\(structured_cvae\) bounds hidden pixels given the others"),
    (rae, "has .*; anomalies need a bound"),
    (cvae, r"\(cvae\) bounds images given their label"),
  ):
    with pytest.raises(UserError, match=message):
      anomalies.Judge(model, None, 0, 16, 0)
  restorer = model_of(
    data,
    "model.channels=4",
    "model.likelihood=gaussian",
    "data.degrade.name=gaussian_noise",
    family="restoration_vae",
  )
  with pytest.raises(UserError, match=r"bounds p\(clean \| degraded\), which finds no anomalies"):
    anomalies.Judge(restorer, None, 0, 16, 0)


def test_sets_that_are_not_there(data, tmp_path):
  model = model_of(data)
  with pytest.raises(UserError, match=r"--label 7: test of npz has the labels 0, 1, 2, 3"):
    anomaly_sets.of_label(model, "test", 7)
  with pytest.raises(UserError, match=r"records of data\.name=npz have no labels"):
    anomaly_sets.of_label(model_of(data / "other"), "test", 0)
  with pytest.raises(UserError, match=r"--against .*: no images there; give files or a folder"):
    anomaly_sets.of_place(model, [str(tmp_path)], "test")
  with pytest.raises(UserError, match=r"no/such\.png does not exist; give image files"):
    anomaly_sets.of_place(model, ["no/such.png"], "test")
  with pytest.raises(UserError, match=r"--against mnits: .*'mnits' is not a data set"):
    anomaly_sets.of_place(model, ["mnits"], "test")


def test_places_are_data_sets_or_files(data, tmp_path):
  model = model_of(data)
  assert anomaly_sets.of_place(model, ["digits"], "test[:3]").facts["images"] == 3
  header = np.array([0x803, 5, 4, 5], ">u4").tobytes()
  for part in ("train", "t10k"):
    (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + IMAGES[:5].tobytes())
    labels = np.array([0x801, 5], ">u4").tobytes() + bytes(5)
    (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
  found = anomaly_sets.of_place(model, [str(tmp_path)], "test", num=2)
  np.testing.assert_array_equal(found.shown([0, 1]), IMAGES[[0, 2]])
  assert (found.facts["data"], found.facts["images"], found.notes) == ("idx", 2, ())
  Image.fromarray(IMAGES[3][..., 0]).save(tmp_path / "a.png")
  files = anomaly_sets.of_place(model, [str(tmp_path / "a.png"), str(tmp_path / "a.png")], "test")
  np.testing.assert_array_equal(files.shown([0, 1]), IMAGES[[3, 3]])
