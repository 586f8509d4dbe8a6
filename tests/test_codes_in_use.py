"""benchmarks/codes_in_use.py: that each quantiser is a config, its rows, and going on."""

import json
from pathlib import Path

import numpy as np
import pytest
import scripts

import vae_jax
from vae_jax.errors import UserError

study = scripts.script("benchmarks/codes_in_use")
SMALL = "model.channels=4,6 model.blocks=0 training.batch_size=8 training.log_every=1 training.eval_every=2"
CONFIG = Path(scripts.__file__).parents[1] / "configs" / "mnist_vq_vae.py"


@pytest.mark.parametrize("name", study.QUANTISERS)
def test_each_quantiser_makes_a_config_of_512_codes(name):
  config = vae_jax.config(CONFIG, [*SMALL.split(), *study.QUANTISERS[name]])
  size = np.prod(config.model.fsq_levels) if name == "fsq" else config.model.codes
  assert size == 512


def test_rows_are_kept_and_those_of_other_words_are_refused(tmp_path, monkeypatch):
  data = tmp_path / "data"
  data.mkdir()
  for split in ("train", "validation", "test"):
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 1), dtype=np.uint8)
    np.savez(data / f"{split}.npz", image=images)
  words = [
    *SMALL.split(),
    "data.name=npz",
    f"data.dir={data}",
    "training.steps=2",
    "training.steps_per_call=1",
  ]
  given = ["--config", str(CONFIG), "--output", str(tmp_path / "out"), "--only", "fsq", "--", *words]
  (row,) = study.study(study.parser().parse_args(given))
  assert row["codes_an_image"] == 9 and row["codebook"] == 512
  assert 0 < row["used"] <= 72 / 512 and row["perplexity_share"] == row["perplexity"] / 512 <= row["used"]
  held = json.loads((tmp_path / "out" / "rows.json").read_text())
  assert held["rows"] == [row] and "| fsq | 9 | 512 |" in study.table_of([row])
  monkeypatch.setattr(vae_jax, "train", None)
  assert study.study(study.parser().parse_args(given)) == [row]  # nothing is trained again
  with pytest.raises(UserError, match=r"rows\.json is of .*; give these, or another --output"):
    study.study(study.parser().parse_args([*given, "training.seed=1"]))
