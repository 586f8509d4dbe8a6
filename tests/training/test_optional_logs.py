"""CSV and wandb: what they hold, how they continue, and that a run outlives them."""

import csv
import json
import sys

import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.training.optional_logs import check_wandb
from vae_jax.training.writers import Writers

# Records every call in wandb.jsonl, beside itself.
FAKE = """
import json, os
LOG = os.path.join(os.path.dirname(__file__), "wandb.jsonl")

def note(*what):
  with open(LOG, "a") as file:
    print(json.dumps(what), file=file)

def Image(array):
  return list(array.shape)

class Run:
  def log(self, values, step):
    if step == 13:
      raise ConnectionError("no network")
    note("log", step, values)
  def finish(self):
    note("finish")

def init(**kinds):
  if kinds["project"] == "refused":
    raise RuntimeError("no API key")
  note("init", {k: v for k, v in kinds.items() if k != "config"}, kinds["config"]["parameters"])
  return Run()
"""


def config(*words):
  return apply_overrides(base_config(), list(words))


def table(path):
  with path.open(newline="") as file:
    return [tuple(row) for row in csv.reader(file)]


def test_csv_holds_the_numbers_of_metrics_jsonl_and_resumes_with_it(tmp_path):
  for resume, steps in ((0, (10, 20, 30)), (20, (30, 40))):
    with Writers(tmp_path, resume, 100, 8, config=config("training.csv=true")) as out:
      for step in steps:
        out.scalars(step, "train", {"loss": np.float32(1 / 3), "bad": float("nan")}, 1.0, 0.5)
        out.scalars(step, "validation", {"psnr": step + 0.5}, 2.0)
  header, *found = table(tmp_path / "metrics.csv")
  assert header == ("step", "split", "metric", "value")
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  wanted = [
    (str(row["step"]), row["split"], name, "" if value is None else repr(value))
    for row in rows
    for name, value in row.items()
    if name not in ("step", "split", "nonfinite")
  ]
  assert found == wanted and ("40", "train", "loss", "0.3333333432674408") in found
  assert ("30", "train", "bad", "") in found and sum(row[:3] == ("30", "train", "loss") for row in found) == 1


def test_csv_begun_later_holds_the_rows_before(tmp_path):
  for words in ((), ("training.csv=true",)):
    with Writers(tmp_path, 10 * len(words), 100, 8, config=config(*words)) as out:
      out.scalars(10 + 10 * len(words), "train", {"loss": 1.0}, 1.0)
  assert [row[0] for row in table(tmp_path / "metrics.csv")[1:]] == ["10", "10", "20", "20"]


def test_a_csv_that_cannot_be_written_is_not_worth_a_run(tmp_path, capsys):
  (tmp_path / "metrics.csv").mkdir()
  with Writers(tmp_path, 0, 100, 8, config=config("training.csv=true")) as out:
    out.scalars(1, "train", {"loss": 1.0}, 1.0)
    (tmp_path / "metrics.csv").rmdir()
    out.scalars(2, "train", {"loss": 1.0}, 1.0)
  assert capsys.readouterr().err.count("warning: ") == 1
  assert [row[0] for row in table(tmp_path / "metrics.csv")[1:]] == ["1", "1", "2", "2"]


def test_wandb_gets_what_is_logged_and_a_resumed_run_continues(tmp_path, monkeypatch, capsys):
  (tmp_path / "wandb.py").write_text(FAKE)
  monkeypatch.syspath_prepend(tmp_path)
  run = tmp_path / "run"
  for resume in (0, 10):
    with Writers(run, resume, 100, 8, config=config("training.wandb=digits"), parameters=12) as out:
      out.scalars(resume + 10, "train", {"loss": 0.5, "bad": float("nan")}, 1.0)
      out.image(resume + 10, "samples", np.zeros((4, 5, 3), np.uint8))
      out.scalars(13, "train", {"loss": 1.0}, 1.0)  # the network fails
  said = [json.loads(line) for line in (tmp_path / "wandb.jsonl").read_text().splitlines()]
  name = (run / "wandb" / "run_id").read_text()
  facts = {"project": "digits", "name": "run", "dir": str(run), "id": name, "resume": "allow"}
  assert said == [
    entry
    for step in (10, 20)
    for entry in (
      ["init", facts, 12],
      ["log", step, {"train/loss": 0.5}],
      ["log", step, {"samples": [4, 5, 3]}],
      ["finish"],
    )
  ]
  assert capsys.readouterr().err.count(f"warning: {run / 'wandb'} cannot be written (no network)") == 2


def test_wandb_that_is_missing_or_refuses_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"training.wandb=p needs .*pip install 'vae_jax\[wandb\]'"):
    check_wandb("p")
  check_wandb("")
  monkeypatch.undo()
  (tmp_path / "wandb.py").write_text(FAKE)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  with pytest.raises(UserError, match=r"cannot start \(no API key\); run 'wandb login'"):
    Writers(tmp_path / "run", 0, 100, 8, config=config("training.wandb=refused"))


def test_a_folder_named_wandb_is_no_installation(tmp_path, monkeypatch):
  (tmp_path / "wandb").mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  with pytest.raises(UserError, match="needs the package wandb"):
    check_wandb("p")
