"""The names of results say what was asked for, and nothing is replaced without a word."""

import json

import pytest

from vae_jax import cli, configuration, evaluation
from vae_jax.errors import UserError


@pytest.mark.parametrize(
  ("asked", "expected"),
  [
    ({}, ""),
    ({"split": "train[:100]"}, "_train-first-100"),
    ({"split": "train[-5%:]"}, "_train-last-5-percent"),
    ({"split": "validation"}, "_validation"),
    ({"split": "train[10%:20%]"}, "_train-from-10-percent-to-20-percent"),
    ({"split": "train[5:]", "seed": 3}, "_train-from-5_seed-3"),
    ({"split": "train[:-5]"}, "_train-to--5"),
    ({"checkpoint": 2000}, "_step-2000"),
    ({"checkpoint": "best", "lpips": "vgg16"}, "_best_lpips-vgg16"),
    ({"samples": 10, "batch_size": 7, "output": "x"}, "_samples-10"),
    ({"degrade": "noise 25; round"}, "_degrade-noise-25-round-a509b2"),
    ({"ensemble": True, "temperature": 0.5}, "_ensemble_temperature-0.5"),
  ],
)
def test_suffixes(asked, expected):
  assert evaluation.suffix(dict(sorted(asked.items(), key=lambda item: item[0] != "split"))) == expected


def test_folders_of_one_name_have_two_suffixes(tmp_path):
  here, there = (evaluation.suffix({"data_dir": str(tmp_path / name / "my photos")}) for name in "ab")
  assert here != there and here.startswith("_my-photos-") and len(here) == len("_my-photos-") + 6
  assert evaluation.suffix({"data_dir": str(tmp_path / "a" / ".." / "a" / "my photos")}) == here
  several = evaluation.suffix({"input": [tmp_path / "1.png", tmp_path / "2.png"]})
  assert several.startswith("_1.png-and-1-more-")


def test_names_are_short_and_plain(tmp_path):
  words = evaluation.suffix({"data_dir": "/" + "x" * 200, "split": "t" * 200, "weights": "../a b/c\n.pth"})
  assert len(words) < 140 and "/" not in words and words.isprintable() and " " not in words


@pytest.fixture
def workdir(tmp_path):
  config = configuration.apply_overrides(
    configuration.base_config(), ["data.name=npz", "data.dir=here", "evaluation.samples=9"]
  )
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
  return tmp_path / "run"


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ("--split test --samples 9 --seed 0 --checkpoint newest --data_dir here", ""),  # the defaults, spelt out
    ("--batch_size 3", ""),
    ("--split test[:5] --samples 4", "_test-first-5_samples-4"),
    ("--mode reconstruct --num 64", ""),
    ("--mode sample --num 3 --temperature 0.7", "_num-3_temperature-0.7"),
    ("--mode interpolate --method linear", "_method-linear"),
  ],
)
def test_what_is_asked_beyond_the_defaults(workdir, words, expected):
  args = cli.parse_evaluate(["--workdir", str(workdir), *words.split()])
  assert evaluation.suffix(args.asked) == expected


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("--mode sample --data_dir x", "--data_dir has no effect in --mode sample"),
    ("--mode export --data_dir x", "--data_dir has no effect in --mode export"),
    ("--mode reconstruct --input . --data_dir x", "--data_dir has no effect with --input"),
    ("--mode reconstruct --input . --split train", "--split has no effect with --input"),
  ],
)
def test_flags_that_would_be_passed_over(workdir, words, message):
  with pytest.raises(UserError, match=message):
    cli.parse_evaluate(["--workdir", str(workdir), *words.split()])


def test_scores_that_take_the_place_of_others_are_reported(tmp_path, capsys):
  path = tmp_path / "metrics.json"
  scores = {"step": 5, "data": "folder", "digest": "aa", "psnr": 1.0}
  evaluation.write_json(path, scores)
  evaluation.write_json(path, scores | {"psnr": 2.0})
  assert capsys.readouterr().err == ""
  evaluation.write_json(path, scores | {"step": 9, "digest": "bb"})
  assert capsys.readouterr().err == f"replaced {path}: step was 5, is 9, digest was aa, is bb\n"
  for before in ("[]", "{", "1", '{"step": 9}'):  # no scores, or those of an older version
    path.write_text(before)
    evaluation.write_json(path, scores | {"step": 9})
    assert capsys.readouterr().err == ""
