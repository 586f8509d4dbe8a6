"""`--mode disentangle`: which latents and factors are scored, the file, and what is refused."""

import json

import jax
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax import evaluation, inference, metrics
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError

SPLIT = "train[-200:]"


@pytest.fixture(scope="module")
def model():
  """A model of sprites with weights by chance."""
  words = ["data.name=sprites", f"data.test={SPLIT}", "model.hidden=4", "model.latent_dim=3"]
  return trained(apply_overrides(base_config(), words), spec_of((64, 64, 1)), scale=0.1)


@pytest.fixture(scope="module")
def found(model):
  return evaluation.factor_scores(model, SPLIT, batch_size=64, seed=1)


def test_scores_are_those_of_the_posteriors_of_the_split(model, found):
  from vae_jax.data.sources import open_source

  records = open_source(model.config.data, SPLIT).load_all()
  factors, q = records["factors"], model.encode(records["image"])
  assert found["factors"] == ["shape", "scale", "orientation", "x", "y"] and found["unordered"] == ["shape"]
  assert found["values"] == [len(np.unique(column)) for column in factors.T] and found["examples"] == 200
  means = np.asarray(q.mean)
  assert found["mig_means"] == pytest.approx(metrics.mig(means, factors), rel=1e-4)
  assert found["sap"] == pytest.approx(metrics.sap(means, factors, [0]), rel=1e-4)
  dci = metrics.dci(means, factors, [0])
  for name in ("disentanglement", "completeness", "informativeness"):
    assert found[name] == pytest.approx(getattr(dci, name), rel=1e-3, abs=1e-5)
  shares = np.array(found["mutual_information"])
  assert shares.shape == (3, 5)
  ordered = np.sort(shares, axis=0)
  assert found["mig"] == pytest.approx((ordered[-1] - ordered[-2]).mean())
  assert found["mig"] != found["mig_means"]  # of draws
  assert "no value that 64 of 200 examples share" in found["absent"]["factor_vae_score"]
  lines = evaluation.factor_lines(found)
  assert (
    f"  MIG            {found['mig']:10.4f} of draws" in lines and "  no factor_vae_score: factor" in lines
  )
  best = int(np.argmax(shares[:, 3]))
  assert f"  x                  32   z{best} {shares[best, 3]:.2f}, " in lines


def test_draws_depend_on_the_seed_alone(model, found):
  again = evaluation.factor_scores(model, SPLIT, batch_size=200, seed=1)
  other = evaluation.factor_scores(model, SPLIT, batch_size=200, seed=2)
  assert again["mig"] == pytest.approx(found["mig"], rel=1e-3) and again["digest"] == found["digest"]
  assert other["mig"] != again["mig"] and other["mig_means"] == again["mig_means"]


def test_the_command_writes_what_it_prints(model, tmp_path, capsys):
  inference.export(model, tmp_path / "model")
  run = ["--workdir", str(tmp_path / "model"), "--mode", "disentangle"]
  main([*run, "--num", "150"])
  path = tmp_path / "model" / "evaluation" / "disentangle_num-150.json"
  scores = json.loads(path.read_text())
  assert capsys.readouterr().out == f"{evaluation.factor_lines(scores)}\nwrote {path}\n"
  assert scores["examples"] == 150 and scores["protocol"]["bins"] == 20 and scores["data"] == "sprites"


def npz(tmp_path, **arrays):
  images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
  np.savez(tmp_path / "test.npz", image=images, **arrays)
  words = ["data.name=npz", f"data.dir={tmp_path}", "model.hidden=4", "model.latent_dim=1"]
  return trained(apply_overrides(base_config(), words), spec_of((6, 6, 1)))


def test_other_data_name_their_factors_by_number(tmp_path):
  model = npz(tmp_path, factors=np.arange(80).reshape(40, 2) % 5)
  scores = evaluation.factor_scores(model, "test", batch_size=16)
  assert scores["factors"] == ["0", "1"] and scores["unordered"] == []
  assert scores["absent"]["disentanglement"] == "1 latents and 2 factors; it needs 2 of each"
  assert "disentanglement" not in scores and "DCI" not in evaluation.factor_lines(scores)


def test_some_of_all_combinations_in_turn_have_all_values(tmp_path):
  """Every other image of 10 values of 4 would have two of the four alone."""
  model = npz(tmp_path, factors=np.stack([np.arange(40) // 4, np.arange(40) % 4], axis=1))
  scores = evaluation.factor_scores(model, "test", batch_size=16, num=20)
  assert scores["examples"] == 20 and scores["values"][1] == 4


def test_what_has_no_factors_is_refused(tmp_path):
  with pytest.raises(
    UserError, match=r"the images of data\.name=npz have no factors; use data\.name=sprites or"
  ):
    evaluation.factor_scores(npz(tmp_path), "test", batch_size=16)
  model = npz(tmp_path, factors=np.arange(80).reshape(40, 2) % 5)
  model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
  with pytest.raises(UserError, match="the latents of 40 of the 40 images of test are not finite"):
    evaluation.factor_scores(model, "test", batch_size=16)
