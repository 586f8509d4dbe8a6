"""benchmarks/disentanglement.py: its configs, its table, and that a study goes on where it was stopped."""

import json

import pytest
import scripts

import vae_jax
from vae_jax.errors import UserError

study = scripts.script("benchmarks/disentanglement")


def row(name, seed, mig):
  return {"objective": name, "training_seed": seed, **dict.fromkeys(study.SCORES, 1.0), "mig": mig}


def test_every_objective_is_a_config_that_differs():
  configs = [vae_jax.config("sprites", words) for words in study.OBJECTIVES.values()]
  assert len({config.to_json() for config in configs}) == len(study.OBJECTIVES) == 7


def test_the_table_has_means_and_deviations_over_seeds():
  rows = [row("tcvae", 0, 0.2), row("tcvae", 1, 0.4), row("vae", 0, 0.1)]
  head, _, first, second = study.table_of(rows).splitlines()
  assert head.startswith("| objective | seeds | MIG | SAP | D | C | I | FactorVAE |")
  assert first.startswith("| vae | 1 | 0.100 | 1.000 |")
  assert second.startswith("| tcvae | 2 | 0.300 +- 0.141 | 1.000 +- 0.000 |")
  assert "| - |" in study.table_of([row("vae", 0, None)])


def test_a_study_goes_on_with_the_runs_that_are_left(tmp_path, monkeypatch, capsys):
  made = []

  def stopped(objective, training_seed, config, words, folder):
    made.append((objective, training_seed))
    if len(made) == 3:
      raise KeyboardInterrupt
    return row(objective, training_seed, 0.5)

  monkeypatch.setattr(study, "row_of", stopped)
  words = ["--output", str(tmp_path), "--seeds", "2", "--only", "vae", "tcvae", "--", "training.steps=7"]
  with pytest.raises(KeyboardInterrupt):
    study.study(study.parser().parse_args(words))
  rows = study.study(study.parser().parse_args(words))
  assert made == [("vae", 0), ("tcvae", 0), ("vae", 1), ("vae", 1), ("tcvae", 1)] and len(rows) == 4
  assert json.loads((tmp_path / "rows.json").read_text())["words"] == ["training.steps=7"]
  with pytest.raises(UserError, match="give these, or another --output"):
    study.study(study.parser().parse_args([*words[:-1], "training.steps=8"]))
