"""--mode probe: what it writes and prints, names of results, and requests that are refused."""

import json

import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax import evaluation, inference
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
  """An exported model, and data with labels."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "data").mkdir()
  for seed, split in enumerate(("train", "validation", "test")):
    image = np.random.default_rng(seed).integers(0, 256, (12, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "data" / f"{split}.npz", image=image, label=np.arange(12, dtype=np.int32) // 6)
  words = ["data.name=npz", "data.dir=data", "model.hidden=4", "model.latent_dim=2"]
  inference.export(trained(apply_overrides(base_config(), words), spec_of((4, 4, 1))), "model")
  return tmp_path


def test_the_command_writes_what_it_prints(place, capsys):
  main(["--workdir", "model", "--mode", "probe"])
  path = place / "model" / "evaluation" / "probe.json"
  scores = json.loads(path.read_text())
  said = "\n".join(evaluation.probe_lines(scores))
  assert capsys.readouterr().out == f"{said}\nwrote model/evaluation/probe.json\n"
  assert scores["examples"] == 12 and scores["seed"] == 0 and scores["family"] == "mlp_vae"
  main(["--workdir", "model", "--num", "8", "--seed", "1"], mode="probe")
  assert json.loads((path.parent / "probe_num-8_seed-1.json").read_text())["train"]["images"] == 8


def test_requests_that_make_no_sense(place):
  with pytest.raises(UserError, match="--label has no effect in --mode probe"):
    main(["--workdir", "model", "--mode", "probe", "--label", "1"])
  with pytest.raises(UserError, match=r"--output 'found\.txt' must be the name of a \.json file"):
    main(["--workdir", "model", "--mode", "probe", "--output", "found.txt"])
