"""Several runs in one program: each is what it is alone, and all go on together."""

import json
import logging
import shutil
import statistics
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from vae_jax import evaluation
from vae_jax.cli import evaluate as command
from vae_jax.configuration import apply_overrides, base_config, from_json, member_configs, validate
from vae_jax.data.pipeline import order
from vae_jax.errors import UserError
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import batches, together
from vae_jax.training.assemble import open_splits
from vae_jax.training.loop import train
from vae_jax.training.parallel import make_placement
from vae_jax.training.writers import TIMES

STEPS = 8
TINY = [
  "data.name=npz",
  "data.binarize=dynamic",
  f"training.steps={STEPS}",
  "training.batch_size=8",
  "training.log_every=2",
  "training.eval_every=4",
  "training.checkpoint_every=4",
  "training.warmup_steps=2",
  "evaluation.batch_size=8",
  "evaluation.pictures=4",
]
SEEDS = "training.vmap_seeds=2"


class Killed(Exception):
  """Ends a run as a signal that nothing handles would."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Random images as train.npz, validation.npz, test.npz."""
  folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  for split, n in (("train", 20), ("validation", 5), ("test", 4)):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, size=(n, 4, 4, 1), dtype=np.uint8))
  return folder


def tiny(data, *overrides):
  other = any(word.startswith("model.name=") for word in overrides)
  mlp = [] if other else ["model.hidden=8", "model.latent_dim=2"]
  return apply_overrides(base_config(), [*TINY, *mlp, f"data.dir={data}", *overrides])


def rows(workdir):
  found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{name: x for name, x in row.items() if name not in TIMES} for row in found]


def close(a, b):
  """Rows of metrics, or states, but for rounding."""
  if isinstance(a, list):
    assert [(row["step"], row["split"]) for row in a] == [(row["step"], row["split"]) for row in b]
    for one, other in zip(a, b, strict=True):
      assert one.keys() == other.keys()
      for name in one.keys() - {"split"}:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-4, atol=1e-5, err_msg=name)
    return
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5), a, b)


def same(a, b):
  return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def member(state, number):
  return jax.tree.map(lambda x: x[number], state)


@pytest.fixture(scope="module")
def seeds(data, tmp_path_factory):
  """Two seeds in one program, and each alone: (config, workdir, state, workdirs and states of those alone)."""
  workdir, config = tmp_path_factory.mktemp("runs") / "seeds", tiny(data, SEEDS)
  state, alone = train(config, workdir), []
  for number in range(2):
    folder = workdir.parent / f"alone{number}"
    alone.append((folder, train(tiny(data, f"training.seed={number}"), folder)))
  return SimpleNamespace(config=config, workdir=workdir, state=state, alone=alone)


# --- configs ---


def test_members_differ_in_seed_or_value_alone(data):
  one, two = member_configs(tiny(data, "training.seed=3", SEEDS))
  assert one == tiny(data, "training.seed=3") and two == tiny(data, "training.seed=4")
  found = member_configs(tiny(data, "training.vmap_values=objective.beta=0.5, 2"))
  assert found == [tiny(data, "objective.beta=0.5"), tiny(data, "objective.beta=2")]


@pytest.mark.parametrize(
  ("words", "fault"),
  [
    (["training.vmap_values=objective.beta"], "must be KEY=V,V"),
    (["training.vmap_values=objective.betas=1,2"], "did you mean 'objective.beta'"),
    (
      ["training.vmap_values=model.hidden=64,32"],
      "no number that one program can vary; give one run for each",
    ),
    (["training.vmap_values=data.degrade.sigma=1,2"], "no number that one program can vary"),
    (["training.vmap_values=training.seed=1,2"], "give training.vmap_seeds"),
    (["training.vmap_values=objective.beta=1"], "two values or more"),
    (["training.vmap_values=objective.beta=1,1.0"], "all different"),
    (["training.vmap_values=objective.beta=1,x"], "objective.beta='x' must be a number"),
    (["training.vmap_values=objective.beta=1,-1"], "member 1: objective.beta=-1.0 must be >= 0"),
    (["training.vmap_values=objective.beta=1,2", SEEDS], "exclude one another"),
    (["training.vmap_seeds=0"], "must be > 0"),
    ([SEEDS, "training.parallel=pmap"], "needs training.parallel=jit"),
    ([SEEDS, "training.fsdp=true"], "needs training.fsdp=false"),
    ([SEEDS, "training.wandb=mine"], "needs training.wandb=''"),
  ],
)
def test_what_cannot_be_trained_together_is_refused(data, words, fault):
  with pytest.raises(UserError) as error:
    validate(tiny(data, *words))
  assert fault in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("values", "fault"),
  [
    (
      "training.weight_decay=0.1,0.2",
      "no number that one program can vary",
    ),  # Python asks whether there is any
    ("training.steps=8,16", "no number that one program can vary"),
    ("objective.dip_diagonal=1,2", "has no effect on a training step"),
    ("training.log_every=1,2", "has no effect on a training step"),
  ],
)
def test_a_number_that_is_none_of_the_program_is_refused_and_leaves_no_workdir(data, tmp_path, values, fault):
  with pytest.raises(UserError) as error:
    train(tiny(data, f"training.vmap_values={values}"), tmp_path / "run")
  assert fault in str(error.value) and values in str(error.value) and not list(tmp_path.iterdir())


def test_vae_jax_train_names_what_trains_several(data, tmp_path):
  with pytest.raises(UserError, match=r"train several models, .* vae_jax\.training\.loop\.train"):
    vae_jax.train(tiny(data, SEEDS), tmp_path / "run")


# --- what each leaves ---


def test_a_member_is_the_run_of_its_seed(seeds, data):
  for number, (folder, state) in enumerate(seeds.alone):
    there = seeds.workdir / "members" / str(number)
    close(rows(there), rows(folder))
    close(member(seeds.state, number), state)
    assert from_json((there / "config.json").read_text()) == tiny(data, f"training.seed={number}")
    assert {p.name for p in there.iterdir()} == {p.name for p in folder.iterdir()}
    assert {p.name for p in (there / "images").iterdir()} == {p.name for p in (folder / "images").iterdir()}
    assert Checkpoints(there / "checkpoints").best() == Checkpoints(folder / "checkpoints").best()
    close(vae_jax.load(there).params, vae_jax.load(folder).params)
  assert not same(member(seeds.state, 0).params, member(seeds.state, 1).params)


@pytest.mark.parametrize("resident_mb", [0, 1], ids=["stream", "resident"])
def test_each_member_has_the_order_of_its_own_seed(data, resident_mb):
  config = tiny(data, SEEDS, f"data.resident_mb={resident_mb}", "training.seed=5")
  (split,) = open_splits(config.data, "train")
  got = list(batches.batches_together(member_configs(config), split, 1, [1, 2], make_placement(8)))
  index = np.concatenate([np.asarray(batch["index"]) for batch in got])
  assert index.shape == (3, 8, 2)
  for number in range(2):
    np.testing.assert_array_equal(index[..., number].reshape(-1), order(5 + number, 20, np.arange(8, 32)))


def test_rows_of_all_are_means_and_sample_deviations(seeds):
  whole, own = rows(seeds.workdir), [rows(seeds.workdir / "members" / str(i)) for i in range(2)]
  assert {p.name for p in seeds.workdir.iterdir()} == {"config.json", "metrics.jsonl", "members"}
  assert len(whole) == len(own[0]) == 6
  for row, *each in zip(whole, *own, strict=True):
    assert row["split"] == each[0]["split"]
    for name in each[0].keys() - {"step", "split"}:
      values = [one[name] for one in each]
      np.testing.assert_allclose(row[name], statistics.mean(values), rtol=1e-12)
      np.testing.assert_allclose(row[f"{name}_std"], statistics.stdev(values), rtol=1e-9, atol=1e-12)
  assert whole[0]["loss_std"] > 0 and whole[0]["learning_rate_std"] == 0
  timed = json.loads((seeds.workdir / "metrics.jsonl").read_text().splitlines()[0])
  one = json.loads((seeds.workdir / "members" / "0" / "metrics.jsonl").read_text().splitlines()[0])
  np.testing.assert_allclose(timed["images_per_second"], 2 * one["images_per_second"], atol=0.02)


def test_vmap_gives_what_the_loop_of_cpus_gives(seeds, tmp_path, monkeypatch):
  monkeypatch.setattr(together, "over_members", lambda function, *own: jax.vmap(function)(*own))
  close(train(seeds.config, tmp_path / "run"), seeds.state)


@pytest.mark.parametrize("values", ["objective.beta=0.25,4", "training.learning_rate=0.001,0.02"])
def test_a_member_is_the_run_of_its_value(data, tmp_path, values):
  config = tiny(data, f"training.vmap_values={values}", "training.steps=4")
  state, alone = train(config, tmp_path / "run"), train(member_configs(config)[1], tmp_path / "alone")
  close(rows(tmp_path / "run" / "members" / "1"), rows(tmp_path / "alone"))
  close(member(state, 1), alone)
  assert not same(member(state, 0).params, member(state, 1).params)


OTHERS = {
  "codebook of means, in parts": "model.name=vq_vae model.channels=4 model.blocks=1 model.codes=4 model.code_dim=2 "
  "training.accumulate=2 data.binarize=none",
  "opponent": "model.hidden=8 objective.factor_vae.weight=2 objective.factor_vae.hidden=4",
}


@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_other_states_have_members_too(data, tmp_path, words):
  words = [*words.split(), "training.steps=2", "training.eval_every=2"]
  state = train(tiny(data, SEEDS, *words), tmp_path / "run")
  alone = train(tiny(data, "training.seed=1", *words), tmp_path / "alone")
  close(member(state, 1), alone)


# --- trouble ---


def test_a_run_that_was_killed_between_two_saves_continues_bit_for_bit(seeds, data, tmp_path, monkeypatch):
  config, saved = tiny(data, SEEDS, "training.keep=1"), []
  original = Checkpoints.save

  def save(self, step, *args, **kinds):
    if (step, len(saved)) == (STEPS, 3):  # member 0 has this step, member 1 has not
      raise Killed
    saved.append(step)
    original(self, step, *args, **kinds)

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", save)
    with pytest.raises(Killed):
      train(config, tmp_path)
  folders = [tmp_path / "members" / str(i) for i in range(2)]
  assert [Checkpoints(folder / "checkpoints").steps() for folder in folders] == [[4, STEPS], [4]]
  assert same(train(config, tmp_path), seeds.state)
  assert rows(tmp_path) == rows(seeds.workdir)
  for number, folder in enumerate(folders):
    assert rows(folder) == rows(seeds.workdir / "members" / str(number))
    held = Checkpoints(folder / "checkpoints")
    assert held.steps() == sorted({held.best(), STEPS})


def test_a_member_that_diverges_skips_its_own_steps(data, tmp_path, capsys):
  values = "training.vmap_values=training.learning_rate=0.001,2e9"
  state = train(tiny(data, values), tmp_path / "run")
  assert state.skipped[0] == 0 < state.skipped[1] and list(state.step) == [STEPS, STEPS]
  close(member(state, 0), train(tiny(data, "training.learning_rate=0.001"), tmp_path / "alone"))
  assert "warning: members/1: loss or gradients were not finite" in capsys.readouterr().err
  with pytest.raises(UserError, match=r"members/1: loss or gradients .* for . steps in a row"):
    train(tiny(data, values, "training.max_skipped=2"), tmp_path / "given_up")
  assert (tmp_path / "given_up" / "members" / "1" / "nonfinite.json").exists()


def test_a_finished_run_is_finished_and_others_are_refused(seeds, data, capsys):
  assert same(train(seeds.config, seeds.workdir), seeds.state)
  assert "finished already at step 8 of 8" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"training\.vmap_seeds is 2 there and 3 here"):
    train(tiny(data, "training.vmap_seeds=3"), seeds.workdir)
  with pytest.raises(
    UserError, match=r"members/0 holds a run with another config: training\.seed is 0 there"
  ):
    train(tiny(data, SEEDS, "training.seed=7"), seeds.workdir)
  with pytest.raises(UserError, match=r"holds 2 runs that were trained together; go on with one of them"):
    train(tiny(data), seeds.workdir)
  with pytest.raises(UserError, match=r"holds one run, and this config is of several"):
    train(seeds.config, seeds.alone[0][0])


def test_a_member_goes_on_alone_and_leaves_the_others(seeds, data, tmp_path):
  train(tiny(data, SEEDS, "training.steps=4"), tmp_path)
  state = train(tiny(data, "training.seed=1", "training.steps=6"), tmp_path / "members" / "1")
  assert int(state.step) == 6 and Checkpoints(tmp_path / "members" / "0" / "checkpoints").latest() == 4


def test_members_that_have_no_step_in_common_are_refused(tmp_path):
  team = SimpleNamespace(
    workdir=tmp_path,
    folders=[tmp_path / "0", tmp_path / "1"],
    parts=[SimpleNamespace(checkpoints=Checkpoints(tmp_path / str(i))) for i in range(2)],
  )
  assert together.common_step(team) is None
  for number, step in (0, 4), (1, 6):
    with team.parts[number].checkpoints as checkpoints:
      checkpoints.save(step, {"x": jnp.zeros(2)}, meta={})
    if number == 0:
      assert together.common_step(team) is None  # killed while the first ones were saved
  with pytest.raises(UserError, match="no step has a whole checkpoint of each of its 2 members"):
    together.common_step(team)


def test_the_newest_step_that_is_whole_in_all_members_is_taken(tmp_path, caplog):
  held = [Checkpoints(tmp_path / str(i)) for i in range(2)]
  parts = [SimpleNamespace(checkpoints=checkpoints) for checkpoints in held]
  team = SimpleNamespace(workdir=tmp_path, folders=[tmp_path / "0", tmp_path / "1"], parts=parts)
  for checkpoints in held:
    with checkpoints:
      for step in (4, 6):
        checkpoints.save(step, {"x": jnp.zeros(2)}, meta={}, score=-step)
  assert together.common_step(team) == 6
  file = max((f for f in (tmp_path / "1" / "6").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1])
  with caplog.at_level(logging.WARNING, "vae_jax"):
    assert together.common_step(team) == 4
  assert caplog.messages == [f"checkpoint {tmp_path}/1/6 is damaged; falling back"]


def test_steps_since_the_last_row_go_on_with_the_members_on_their_last_axis(monkeypatch, tmp_path):
  like = jax.device_put(jnp.zeros((2, 3)))
  team = SimpleNamespace(several=True, parts=[0, 1], like=like, workdir=tmp_path)
  lengths = [4, 4]
  monkeypatch.setattr(together, "common_step", lambda team: 8)

  def resume(part, step):
    return jnp.full(3, part), [{"loss": np.arange(lengths[part]) + 10.0 * part}]

  monkeypatch.setattr(together.assemble, "resume", resume)
  state, windows = together.start(team)
  np.testing.assert_array_equal(state, [[0, 0, 0], [1, 1, 1]])
  np.testing.assert_array_equal(windows[0]["loss"], np.stack([np.arange(4), np.arange(4) + 10], axis=1))
  lengths[1] = 3
  with pytest.raises(UserError, match=r"checkpoints of step 8 are of runs with other training\.log_every"):
    together.start(team)


# --- afterwards ---


def test_load_and_modes_take_one_member(seeds):
  with pytest.raises(UserError, match=r"holds 2 runs .* give the folder of one, such as .*members/0"):
    vae_jax.load(seeds.workdir)
  with pytest.raises(UserError, match=r"sample takes one, such as --workdir .*members/0; score takes all"):
    command.main(["--workdir", str(seeds.workdir), "--mode", "sample"])


def test_members_of_other_lengths_are_named_and_missing_ones_refused(seeds, tmp_path, capsys):
  workdir = tmp_path / "runs"
  shutil.copytree(seeds.workdir, workdir)
  step, latest = 4, workdir / "members" / "1" / "checkpoints" / str(STEPS)
  assert (latest.parent / str(step)).is_dir()
  shutil.rmtree(latest)
  command.main(["--workdir", str(workdir), "--samples", "1"])
  assert f"note: checkpoints of steps {STEPS}, {step}: mean and deviation" in capsys.readouterr().out
  shutil.rmtree(workdir / "members" / "1")
  with pytest.raises(
    UserError, match=r"members/1 is not there, one of the 2 runs .* such as --workdir .*members/0$"
  ):
    command.main(["--workdir", str(workdir)])


def test_score_scores_all(seeds, capsys):
  command.main(["--workdir", str(seeds.workdir)])
  whole = json.loads((seeds.workdir / "evaluation" / "metrics.json").read_text())
  own = []
  for number in range(2):
    folder = seeds.workdir / "members" / str(number)
    own.append(json.loads((folder / "evaluation" / "metrics.json").read_text()))
    scores = evaluation.score_split(vae_jax.load(folder), "test", samples=100, batch_size=4)
    np.testing.assert_allclose(own[-1]["iwae_nll"], scores["iwae_nll"], rtol=1e-5)
  assert whole["members"] == 2 and whole["step"] == STEPS and whole["split"] == "test"
  np.testing.assert_allclose(whole["iwae_nll"], statistics.mean(x["iwae_nll"] for x in own))
  np.testing.assert_allclose(whole["iwae_nll_std"], statistics.stdev(x["iwae_nll"] for x in own))
  table = capsys.readouterr().out.splitlines()
  assert table[2].split()[:2] == ["training.seed", "neg_elbo"] and table[-2].startswith("deviation")
