"""A folder of clean photographs, scored: what is said of pictures that are not."""

from types import SimpleNamespace

import pytest

from vae_jax import evaluation
from vae_jax.commands import benchmark
from vae_jax.errors import UserError
from vae_jax.photos import score_table


def test_pictures_that_are_not_scored_are_an_error_after_the_scores(tmp_path, capsys, monkeypatch):
  skipped = [{"name": "a.heic", "reason": "HEIC is not read"}]
  monkeypatch.setattr(evaluation, "benchmark_folder", lambda *_, **__: {"skipped": skipped})
  monkeypatch.setattr(score_table, "table", lambda scores: f"skipped {scores['skipped'][0]['name']}")
  asked = {
    "temperature": 0.5,
    "degrade": None,
    "samples": 0,
    "seed": 0,
    "tile": 256,
    "ensemble": False,
    "sigma": None,
  }
  args = SimpleNamespace(output=str(tmp_path / "b.json"), input=[tmp_path], num=None, asked={}, **asked)
  with pytest.raises(UserError, match="1 pictures were not scored, as listed"):
    benchmark.run(None, args)
  assert capsys.readouterr().out.startswith("skipped a.heic\nwrote ")
