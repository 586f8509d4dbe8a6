"""--mode anomaly: what it writes, what it takes for the anomaly, and requests that contradict themselves."""

import json

import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import inference
from vae_jax.cli.evaluate import main, parse_evaluate
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
FIGURES = ("auroc", "interval", "average_precision", "fpr_at_tpr", "normal_mean", "anomalous_mean", "unit")


@pytest.fixture
def place(tmp_path, monkeypatch):
  """An exported model, another that was trained without a label, data with labels, and images as files."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "data").mkdir()
  for split in ("train", "validation", "test"):
    np.savez(tmp_path / "data" / f"{split}.npz", image=IMAGES, label=np.arange(12, dtype=np.int32) % 3)
  (tmp_path / "photos").mkdir()
  for i, image in enumerate(IMAGES[:4]):
    Image.fromarray(image[..., 0]).resize((8, 8)).save(tmp_path / "photos" / f"{i}.png")
  words = ["data.name=npz", "data.dir=data", "data.binarize=dynamic", "model.hidden=4", "model.latent_dim=2"]
  words += ["evaluation.samples=2"]
  for name, more in (("model", []), ("left_out", ["data.without=1"]), ("background", ["data.mutate=0.2"])):
    inference.export(trained(apply_overrides(base_config(), words + more), spec_of((4, 4, 1))), name)
  return tmp_path


def run(*words):
  main(["--workdir", "model", "--mode", "anomaly", *words])


def test_a_comparison_writes_scores_and_a_picture(place, capsys):
  run("--against", "photos", "--background", "background", "--num", "3", "--output", "found.json")
  found = json.loads((place / "found.json").read_text())
  assert set(found["scores"]["neg_elbo"]) == set(FIGURES)
  assert [found[name]["images"] for name in ("normal", "anomalous", "reference")] == [3, 3, 3]
  assert found["anomalous"]["what"] == "4 files of photos" and found["background_mutate"] == 0.2
  # the same weights: a ratio of 1 of every image, which tells none from another
  ratio = found["scores"]["likelihood_ratio"]
  assert (ratio["auroc"], ratio["normal_mean"], ratio["fpr_at_tpr"]) == (0.5, 0.0, 1.0)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(
    "3 anomalous images (4 files of photos) against 3 normal ones (test of npz in data)"
  )
  assert lines[-1] == "wrote found.json, found.png"
  with Image.open(place / "found.png") as picture:
    assert picture.size[0] > picture.size[1] / 4


def test_what_was_left_out_in_training_is_the_anomaly(place, capsys):
  main(["--workdir", "left_out", "--mode", "anomaly", "--samples", "0"])
  found = json.loads((place / "left_out/evaluation/anomaly_samples-0.json").read_text())
  assert found["anomalous"] | {"digest": 0} == {
    "what": "test of npz of label 1", "data": "npz", "folder": "data", "split": "test", "images": 4, "label": 1,
    "digest": 0,
  }  # fmt: skip
  assert found["normal"]["images"] == 8 and found["reference"]["images"] == 8 and found["notes"] == []
  assert "iwae_nll" not in found["scores"]
  assert "data.without=1: 4 of the 12 images of validation are left out" in capsys.readouterr().err


def test_files_of_a_person(place, capsys):
  (place / "photos" / "9.png").write_bytes(b"no picture")
  with pytest.raises(UserError, match=r"mine.json lacks 1 files that could not be read, first photos/9\.png"):
    run("--input", "photos", "photos/0.png", "--output", "mine.json")
  found = json.loads((place / "mine.json").read_text())
  assert [one["file"] for one in found["files"]] == [*(f"photos/{i}.png" for i in range(4)), "photos/0.png"]
  assert found["reference"]["split"] == "validation" and found["files"][0]["percentiles"]["typicality"] >= 0
  assert "photos/3.png" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--mode anomaly needs the anomalous images: --against files, a folder or a data set, or --label N"),
    (["--against", "photos", "--label", "1"], "--against and --label exclude one another"),
    (["--against", "photos", "--input", "photos"], "--against and --input exclude one another"),
    (["--label", "1", "--input", "photos"], "--label and --input exclude one another"),
    (["--label", "1", "--temperature", "1"], "--temperature has no effect in --mode anomaly"),
    (["--label", "1", "--output", "found.txt"], r"--output 'found\.txt' must be the name of a \.json file"),
  ],
)
def test_requests_that_contradict_themselves(place, words, message):
  with pytest.raises(UserError, match=message):
    run(*words)


def test_names_of_results_say_what_was_asked(place):
  one, other = (
    parse_evaluate(["--workdir", "model", "--mode", "anomaly", *words])
    for words in (["--against", "photos"], ["--label", "2", "--background", "background"])
  )
  from vae_jax.evaluation import suffix

  assert suffix(one.asked).startswith("_against-photos-")
  assert suffix(other.asked).startswith("_label-2_background-background-")
