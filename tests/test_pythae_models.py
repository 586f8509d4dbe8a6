"""benchmarks/pythae_models.py: its configs, what is kept and gone on with, its tables; with pythae, the agreement."""

import json
import sys

import numpy as np
import pytest
import scripts

from vae_jax.errors import UserError

study = scripts.script("benchmarks/pythae_models")
SIZES = study.Sizes("", 200, 2, 1, 3, 1, 0.01)
SPEED = {
  "runners": {
    "vae_jax vae": {"dtype": "float32", "items_per_second": 9000, "by_round": [9000, 8000]},
    "pythae pipeline, 1 threads": {"dtype": "float32", "items_per_second": 3000, "by_round": [3000, 4000]},
    "torch loop, 1 threads": {"dtype": "float32", "failed": "RuntimeError: no"},
  },
  "ratios": {
    "to pipeline": {"of": "pythae pipeline, 1 threads", "median": 2.5, "by_round": [3.0, 2.0]},
    "to loop": None,
  },
}


class Pythae:
  """A stand-in for `pythae_torch`."""

  TORCH, PYTHAE = "2", "0"

  @staticmethod
  def agreement(name, config):
    return {"parameters": 1}


@pytest.mark.parametrize("name", study.MODELS)
def test_each_model_has_a_config_of_the_same_training(name):
  config = study.config_of(name, SIZES, seed=3)
  t = config.training
  assert (t.steps, t.batch_size, t.seed, t.learning_rate) == (4, 100, 3, 1e-3)
  assert (t.warmup_steps, t.final_learning_rate, t.ema_decay, t.dtype) == (0, 1.0, 0.0, "float32")
  images = study.images_of(config)
  assert images.shape == (200, 1, 28, 28) and images.dtype == np.float32 and images.max() == 1
  assert (set(np.unique(images)) == {0, 1}) == (config.model.name == "mlp_vae")


def test_the_loop_trains_on_the_images_of_the_split(tmp_path):
  """What is timed learns: the state goes on by the steps of each call."""
  config = study.config_of("vae", SIZES)
  config.model.hidden, config.training.batch_size, config.training.steps_per_call = (4,), 8, 2
  ours = study.Ours(config, tmp_path / "run")
  before = np.asarray(ours.state.params["decoder"]["Dense_0"]["kernel"])
  ours(1)
  ours(2)
  assert int(ours.state.step) == 6 and len(ours.stored["image"]) == 200
  assert np.any(np.asarray(ours.state.params["decoder"]["Dense_0"]["kernel"]) != before)


def test_sizes_that_do_not_fit_are_refused():
  with pytest.raises(UserError, match="--images=150 must be a multiple of 100"):
    study.sizes_of(study.parser().parse_args(["--images", "150"]))
  assert study.sizes_of(study.parser().parse_args(["--quick"])).images == 400
  with pytest.raises(UserError, match=r"9900 is out of range; there are 4000 records"):
    study.config_of("vae", SIZES._replace(images=9900))


def test_without_pythae_one_line_says_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r'pip install -e "\.\[demo\]" "torch==.*" "pythae==0\.1\.2"'):
    study.side_of_pythae()


def test_figures_are_kept_and_those_of_other_sizes_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(study, "speed", lambda *given: json.loads(json.dumps(SPEED)))
  monkeypatch.setattr(study, "our_scores", lambda config: {"psnr": 20.0 + config.training.seed, "mse": 0.01})
  monkeypatch.setattr(study, "their_scores", lambda name, config, *given: {"psnr": 19.0, "mse": 0.02})
  output = tmp_path / "results" / "out.json"
  result = study.study(SIZES._replace(seeds=2), ["vae"], output, Pythae)
  assert json.loads(output.read_text()) == result and list(result["models"]["vae"]["scores"]) == ["0", "1"]
  for left_out in ("speed", "our_scores", "their_scores"):
    monkeypatch.setattr(study, left_out, lambda *given: pytest.fail("this is done again"))
  assert study.study(SIZES._replace(seeds=2), ["vae"], output, Pythae) == result
  with pytest.raises(UserError, match=r"out.json has settings .*; give another --output"):
    study.study(SIZES, ["vae"], output, Pythae)


def test_tables_have_the_better_side_of_each_score():
  scores = {
    "0": {"vae_jax": {"psnr": 20.0, "mse": 0.01}, "pythae": {"psnr": 19.0, "mse": 0.02}},
    "1": {"vae_jax": {"psnr": 20.0, "mse": 0.01}, "pythae": {"failed": "NaN detected in train loss"}},
  }
  result = {"models": {"vae": {**SPEED, "scores": scores}}}
  speeds, found = study.speeds_of(result).splitlines()[2], study.scores_of(result).splitlines()[2:]
  assert speeds == "| vae | 9,000 | 3,000 (1 threads) | failed | 2.50 (2.00 to 3.00) |  |"
  assert found == [
    "| vae | pythae failed: NaN detected in train loss |  |  |  |",
    "| vae | PSNR, dB | 20 | 19 | +1 |",
    "| vae | MSE | 0.01 | 0.02 | +0.01 |",
  ]
  assert study.goals_of(result) == "at least 2 times the pipeline: vae (1 of 1)"


@pytest.mark.parametrize("name", study.MODELS)
def test_both_sides_are_the_same_model(name):
  pytest.importorskip("torch")
  pytest.importorskip("pythae")
  sys.path.append(study.__file__.rpartition("/")[0])
  try:
    theirs = study.side_of_pythae()
  finally:
    sys.path.pop()
  config = study.config_of(name, SIZES)
  assert theirs.agreement(name, config)["gradient_difference"] < 1e-3
  made = theirs.parts(config, (28, 28, 1))
  variables, model = theirs.fresh(made), theirs.model_of(name, config)
  theirs.fill(model, variables["params"], variables.get("codebook", {}).get("codes"))
  for a, b in zip(
    theirs.jax.tree.leaves(theirs.taken(model, variables)), theirs.jax.tree.leaves(variables), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)
