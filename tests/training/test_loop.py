"""Whole runs of a few steps: what they leave behind, how they continue, what they refuse."""

import itertools
import json
import logging
import math
import re
import shutil
import signal
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax import evaluation
from vae_jax.configuration import apply_overrides, base_config, from_json, to_json
from vae_jax.data.pipeline import order
from vae_jax.errors import UserError
from vae_jax.inference import export, load
from vae_jax.models import build
from vae_jax.storage import exported
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import assemble, batches, loop, member, parallel, scoring, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.loop import calls, train
from vae_jax.training.parallel import make_placement
from vae_jax.training.stopping import Stopped
from vae_jax.training.writers import TIMES, Writers
from vae_jax.types import NO_FROZEN, image_spec

STEPS = 12
TINY = [
  "data.name=npz",
  "data.binarize=dynamic",
  "model.hidden=8",
  "model.latent_dim=3",
  f"training.steps={STEPS}",
  "training.batch_size=8",
  "training.log_every=2",
  "training.eval_every=6",
  "training.checkpoint_every=4",
  "training.warmup_steps=2",
  "evaluation.batch_size=8",
  "evaluation.pictures=6",
]


def write(folder, shape, sizes=(20, 5, 4)):
  """Random images as train.npz, validation.npz, test.npz."""
  random = np.random.default_rng(0)
  for split, n in zip(("train", "validation", "test"), sizes, strict=True):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, size=(n, *shape), dtype=np.uint8))
  return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write(tmp_path_factory.mktemp("data"), (5, 4, 1))


def tiny(data, *overrides):
  """`TINY` on these data; of another family without model.hidden, which only mlp_vae has."""
  other = any(word.startswith("model.name=") for word in overrides)
  words = [word for word in TINY if not (other and word.startswith("model.hidden="))]
  return apply_overrides(base_config(), [*words, f"data.dir={data}", *overrides])


def rows(workdir, seconds=False):
  found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return found if seconds else [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def files(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
  """A run without interruption: (workdir, final state, how often each function was traced)."""
  workdir = tmp_path_factory.mktemp("runs") / "new" / "run"
  traced: Counter = Counter()

  def counting(make, name):
    def wrapper(*args, **kwargs):
      made = make(*args, **kwargs)

      def function(*inputs):
        traced[name] += 1
        return made(*inputs)

      return function

    return wrapper

  with pytest.MonkeyPatch.context() as patch:
    for module, name in (steps, "make_train_call"), (scoring, "make_eval_step"):
      patch.setattr(module, name, counting(getattr(module, name), name))
    state = train(tiny(data), workdir)
  return workdir, state, traced


# --- the lengths of dispatches ---


@pytest.mark.parametrize("intervals", [(100, 1000, 1000), (2, 6, 4), (7, 21, 14), (5, 3, 10), (1, 1, 1)])
@pytest.mark.parametrize("longest", [1, 3, 50])
@pytest.mark.parametrize("total", [1, 97, 2000])
def test_dispatches_end_at_every_interval(intervals, longest, total):
  for start in {0, 3, intervals[2], total - 1, total, total + 5}:
    sizes = list(calls(start, total, longest, *intervals))
    ends = {start + sum(sizes[: i + 1]) for i in range(len(sizes))}
    assert sum(sizes) == max(total - start, 0) and all(0 < size <= longest for size in sizes)
    assert {n for n in range(start + 1, total + 1) if any(n % i == 0 for i in intervals)} <= ends
    assert len(set(sizes[1:-1])) <= 1 and all(size <= max(sizes[1:-1] or sizes) for size in sizes)


def test_dispatches_are_as_long_as_allowed():
  assert list(calls(0, 400, 50, 100, 1000, 1000)) == [50] * 8
  assert list(calls(0, 100, 40, 100, 100, 100)) == [25] * 4
  assert list(calls(30, 125, 50, 50, 100, 100)) == [20, 50, 25]


def test_a_split_that_is_not_there_is_refused_before_another_is_decoded(data, monkeypatch):
  monkeypatch.setattr(assemble.pipeline, "resident", lambda *args: pytest.fail("decoded"))
  with pytest.raises(UserError, match="has no split 'valid'"):
    assemble.open_splits(tiny(data).data, "train", "valid")


@pytest.mark.parametrize("resident_mb", [0, 1], ids=["stream", "resident"])
def test_dispatches_follow_the_order_of_the_data(data, resident_mb):
  """Batches of 8 from 20 records, from step 1 on: with the records of step 0, each epoch has every record once."""
  config = tiny(data, f"data.resident_mb={resident_mb}")
  (split,) = assemble.open_splits(config.data, "train")
  assert (split.arrays is None) == (resident_mb == 0)
  placement = make_placement(8)
  got = list(batches.train_batches(config, split, 1, [1, 2, 1], placement))
  assert [batch["index"].shape for batch in got] == [(1, 8), (2, 8), (1, 8)]
  index = np.concatenate([np.asarray(batch["index"]).reshape(-1) for batch in got])
  expected = order(0, 20, np.arange(40))
  np.testing.assert_array_equal(index, expected[8:])
  assert sorted(expected[:20]) == sorted(expected[20:]) == list(range(20))
  if not resident_mb:
    images = np.load(data / "train.npz")["image"]
    np.testing.assert_array_equal(np.asarray(got[1]["image"]), images[expected[16:32].reshape(2, 8)])


# --- a run ---


def test_a_run_leaves_everything_behind(run, data):
  workdir, state, _ = run
  assert int(state.step) == STEPS and int(state.skipped) == 0
  assert from_json((workdir / "config.json").read_text()) == tiny(data)
  expected = {f"{n}_{s:07d}.png" for n in ("reconstructions", "samples") for s in (6, 12)}
  assert {p.name for p in (workdir / "images").iterdir()} == expected
  for path in (workdir / "images").iterdir():
    with Image.open(path) as picture:
      assert np.asarray(picture).std() > 0
  assert list((workdir / "tensorboard").glob("events.*"))
  assert {p.name for p in workdir.iterdir()} == {
    "config.json",
    "metrics.jsonl",
    "tensorboard",
    "images",
    "checkpoints",
  }


def test_rows_come_at_their_steps(run):
  found = rows(run[0], seconds=True)
  places = [(row["step"], row["split"]) for row in found]
  assert places == [
    (2, "train"),
    (4, "train"),
    (6, "train"),
    (6, "validation"),
    (8, "train"),
    (10, "train"),
    (12, "train"),
    (12, "validation"),
  ]
  for row in found:
    assert list(row)[:2] == ["step", "split"] and list(row)[-1] == "seconds"
    assert "nonfinite" not in row and all(math.isfinite(v) for k, v in row.items() if k != "split")
    np.testing.assert_allclose(row["neg_elbo"], row["rate"] + row["distortion"], rtol=1e-5)
  assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(found))
  training, validation = found[0], found[3]
  assert {"loss", "gradient_norm", "learning_rate", "skipped", "beta"} <= set(training)
  assert {"mse", "psnr", "active_units"} <= set(validation) and "iwae_nll" not in validation


def test_a_row_is_the_mean_over_the_steps_since_the_last(run):
  """The learning rate is a formula of the step: linear over 2 steps, then a cosine to 0 at step 12."""
  peak = 1e-3

  def rate(step):
    return peak * (1 + step) / 2 if step < 2 else peak * (1 + math.cos(math.pi * (step - 2) / 10)) / 2

  for row in rows(run[0]):
    if row["split"] == "train" and row["step"] > 2:
      expected = (rate(row["step"] - 2) + rate(row["step"] - 1)) / 2
      np.testing.assert_allclose(row["learning_rate"], expected, rtol=1e-5)


def test_checkpoints_are_kept_and_the_best_is_scored(run):
  workdir, state, _ = run
  store = Checkpoints(workdir / "checkpoints")
  assert store.steps() == [8, 12]
  restored, meta = store.restore(like=state)
  assert same(restored, state)
  assert meta["image_shape"] == meta["input_shape"] == [5, 4, 1]
  assert meta["score"] == rows(workdir)[-1]["neg_elbo"]


def test_each_function_is_compiled_once(run):
  assert run[2] == {"make_train_call": 1, "make_eval_step": 1}


def test_the_same_command_again_does_nothing_more(run, data):
  workdir, state, _ = run
  before = files(workdir / "checkpoints"), files(workdir / "images"), (workdir / "metrics.jsonl").read_bytes()
  again = train(tiny(data), workdir)
  assert same(again, state)
  after = files(workdir / "checkpoints"), files(workdir / "images"), (workdir / "metrics.jsonl").read_bytes()
  assert before == after


# --- continuing ---


class Stop(BaseException):
  """As KeyboardInterrupt, which pytest would take for one of its own."""


def stop_at(monkeypatch, step, split="train"):
  """Ends a run where it writes this row."""
  original = Writers.scalars

  def scalars(self, at, to, *args):
    if (at, to) == (step, split):
      raise Stop
    original(self, at, to, *args)

  monkeypatch.setattr(Writers, "scalars", scalars)


def assert_equal_runs(workdir, state, run):
  assert same(state, run[1])
  assert rows(workdir) == rows(run[0])
  assert files(workdir / "images") == files(run[0] / "images")
  assert Checkpoints(workdir / "checkpoints").steps() == Checkpoints(run[0] / "checkpoints").steps()


@pytest.mark.parametrize(
  ("step", "split", "left"),
  [(2, "train", []), (6, "validation", [4]), (10, "train", [4, 8]), (12, "validation", [4, 8])],
)
def test_a_stopped_run_continues_bit_for_bit(run, data, tmp_path, monkeypatch, step, split, left):
  with monkeypatch.context() as patch:
    stop_at(patch, step, split)
    with pytest.raises(Stop):
      train(tiny(data), tmp_path)
  assert Checkpoints(tmp_path / "checkpoints").steps() == left
  assert all(row["step"] <= step for row in rows(tmp_path))
  assert_equal_runs(tmp_path, train(tiny(data), tmp_path), run)


def test_a_checkpoint_between_two_rows_keeps_the_steps_since_the_first(data, tmp_path, monkeypatch):
  config = tiny(data, "training.steps_per_call=1", "training.log_every=5", "training.eval_every=12")
  with monkeypatch.context() as patch:
    stop_at(patch, 5)
    with pytest.raises(Stop):
      train(config, tmp_path / "stopped")
  assert Checkpoints(tmp_path / "stopped" / "checkpoints").steps() == [4]
  train(config, tmp_path / "stopped"), train(config, tmp_path / "whole")
  assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def signal_at(monkeypatch, step, number):
  """Sends a signal, once, when this many steps are known to be done."""
  original, sent = Writers.progress, []

  def progress(self, at, **shown):
    original(self, at, **shown)
    if at >= step and not sent:
      sent.append(at)
      signal.raise_signal(number)

  monkeypatch.setattr(Writers, "progress", progress)


@pytest.mark.parametrize(("step", "number"), [(2, signal.SIGINT), (4, signal.SIGTERM), (6, signal.SIGINT)])
def test_a_run_that_is_told_to_stop_saves_and_continues_bit_for_bit(
  run, data, tmp_path, monkeypatch, step, number, capsys
):
  handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
  with monkeypatch.context() as patch:
    signal_at(patch, step, number)
    with pytest.raises(
      Stopped, match=rf"^stopped at step \d+ of 12, .* {tmp_path}; the same command"
    ) as stop:
      train(tiny(data), tmp_path)
  assert stop.value.status == 128 + number and "Ctrl-C once more" in capsys.readouterr().err
  assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
  saved = Checkpoints(tmp_path / "checkpoints").latest()
  assert step <= saved <= step + 1 and f"step {saved} " in str(stop.value)
  assert_equal_runs(tmp_path, train(tiny(data), tmp_path), run)


def test_a_run_that_is_told_to_stop_between_two_rows_loses_none_of_their_steps(data, tmp_path, monkeypatch):
  config = tiny(data, "training.steps_per_call=1", "training.log_every=4", "training.eval_every=12")
  with monkeypatch.context() as patch:
    signal_at(patch, 6, signal.SIGINT)
    with pytest.raises(Stopped):
      train(config, tmp_path / "stopped")
  assert Checkpoints(tmp_path / "stopped" / "checkpoints").latest() in (6, 7)
  state, other = train(config, tmp_path / "stopped"), train(config, tmp_path / "whole")
  assert same(state, other) and rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_a_second_signal_stops_at_once_and_leaves_what_was_saved(run, data, tmp_path, monkeypatch):
  def twice(self, at, **shown):
    if at >= 9:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with monkeypatch.context() as patch:
    patch.setattr(Writers, "progress", twice)
    with pytest.raises(KeyboardInterrupt) as stop:
      train(tiny(data), tmp_path)
  assert not isinstance(stop.value, Stopped) and Checkpoints(tmp_path / "checkpoints").steps() == [4, 8]
  assert_equal_runs(tmp_path, train(tiny(data), tmp_path), run)


def test_a_run_passes_over_a_damaged_checkpoint(run, data, tmp_path, caplog):
  workdir = shutil.copytree(run[0], tmp_path / "copy")
  file = max(
    (workdir / "checkpoints" / "12").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
  )
  file.write_bytes(file.read_bytes()[:-7])
  with caplog.at_level(logging.WARNING, "vae_jax"):
    state = train(tiny(data), workdir)
  assert [m for m in caplog.messages if "falling back to step 8" in m]
  assert_equal_runs(workdir, state, run)


def test_where_and_how_it_runs_may_change(run, data, tmp_path, monkeypatch):
  """Shorter dispatches after a restart, no copy on the device, more workers: the same numbers, but for rounding."""
  with monkeypatch.context() as patch:
    stop_at(patch, 6)
    with pytest.raises(Stop):
      train(tiny(data), tmp_path)
  config = tiny(data, "training.steps_per_call=1", "data.resident_mb=0", "data.workers=3", "training.keep=3")
  state = train(config, tmp_path)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(run[1]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert from_json((tmp_path / "config.json").read_text()) == config


@pytest.mark.parametrize("override", ["training.seed=1", "model.hidden=9", "data.binarize=none"])
def test_a_workdir_of_another_config_is_refused_and_left_alone(run, data, override):
  workdir, key = run[0], override.partition("=")[0]
  before = files(workdir)
  with pytest.raises(UserError, match=rf"another config: {key} is .* there and .* here; .*another --workdir"):
    train(tiny(data, override), workdir)
  assert files(workdir) == before


def test_a_damaged_config_of_a_workdir_is_refused(run, data, tmp_path):
  workdir = shutil.copytree(run[0], tmp_path / "copy")
  (workdir / "config.json").write_text(to_json(tiny(data))[:-9])
  before = files(workdir)
  with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
    train(tiny(data), workdir)
  assert files(workdir) == before


@pytest.mark.parametrize("left", ["a run that was stopped", "a damaged config"])
def test_a_workdir_without_a_checkpoint_takes_another_config(run, data, tmp_path, monkeypatch, left):
  if left == "a damaged config":
    (tmp_path / "config.json").write_text("{")
  else:
    with monkeypatch.context() as patch:
      stop_at(patch, 4)  # its first checkpoint would come with this step
      with pytest.raises(Stop):
        train(tiny(data, "training.seed=1", "model.hidden=9"), tmp_path)
    assert (tmp_path / "config.json").exists() and not Checkpoints(tmp_path / "checkpoints").steps()
  assert_equal_runs(tmp_path, train(tiny(data), tmp_path), run)
  assert from_json((tmp_path / "config.json").read_text()) == tiny(data)


@pytest.mark.parametrize(
  "overrides",
  [
    ["objective.perceptual.weight=1", "objective.perceptual.weights=nowhere.npz"],
    ["evaluation.lpips=alexnet", "evaluation.lpips_heads=nowhere.pth"],
    ["model.name=conv_vae", "model.dense=0", "data.degrade.name=blur_down"],
    ["training.init_from=nowhere"],
  ],
  ids=["network", "scoring network", "model", "other run"],
)
def test_what_cannot_be_built_leaves_no_workdir(data, tmp_path, monkeypatch, overrides):
  monkeypatch.chdir(tmp_path)
  config = tiny(data, "data.binarize=none", "model.likelihood=gaussian", *overrides)
  with pytest.raises(UserError) as error:
    train(config, tmp_path / "run")
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_start_says_what_it_is_and_where(run, data, tmp_path, monkeypatch, capsys):
  """On standard error what the run is, with FLOPs by hand; on standard output where it continues."""
  with monkeypatch.context() as patch:
    stop_at(patch, 6)
    with pytest.raises(Stop):
      train(tiny(data), tmp_path)
  said = capsys.readouterr()
  assert said.out == ""
  # Dense layers 20 x 8, 8 x 6 (mean, logvar), 3 x 8, 8 x 20, with biases. A multiplication with each weight forward and
  # twice backward, but once for the first layer, whose input needs no gradient; an addition each; 8 images a step.
  count, products = 20 * 8 + 8 + 8 * 6 + 6 + 3 * 8 + 8 + 8 * 20 + 20, 2 * 8 * (2 * 160 + 3 * (48 + 24 + 160))
  lines = said.err.splitlines()
  assert lines[0] == f"data: npz from {data}, images of 5 x 4 x 1: 20 in train, 5 in validation"
  assert lines[1:3] == ["devices: 8 x cpu, float32", f"output: {tmp_path}"]
  model = re.fullmatch(r"model: mlp_vae, (\d+) parameters, 3 latents, ([\d.]+) kFLOP a step of 8", lines[3])
  assert (
    int(model[1]) == count and products < 1000 * float(model[2]) < 3 * products
  )  # the rest: optimiser, activations
  assert lines[4] == "compiling the training step ..." and re.fullmatch(r"compiled in [\d.]+ s", lines[5])
  train(tiny(data), tmp_path)
  said = capsys.readouterr()
  assert said.out == f"{tmp_path}: continuing at step 4 of {STEPS}\n" and said.err.startswith("data: npz")
  train(tiny(data), tmp_path)
  assert capsys.readouterr() == (f"{tmp_path}: finished already at step {STEPS} of {STEPS}\n", "")


# --- starting from another run ---


def test_a_run_starts_from_the_average_of_another(run, data, tmp_path):
  """Steps too small to move anything: the parameters are those of the other run's average."""
  config = tiny(data, f"training.init_from={run[0]}", "training.steps=2", "training.learning_rate=1e-30")
  state = train(config, tmp_path)
  assert same(state.params, run[1].ema) and not same(run[1].ema, run[1].params)
  for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(run[1].ema), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert int(state.step) == 2 and rows(tmp_path)[0]["step"] == 2


def test_a_run_starts_from_an_export_of_8_bits(run, data, tmp_path, monkeypatch):
  monkeypatch.setattr(exported, "_LEAST_VALUES", 1)
  export(load(run[0]), tmp_path / "small", bits=8)
  config = tiny(data, f"training.init_from={tmp_path / 'small'}")
  state, _ = assemble.start(assemble.assemble(config, tmp_path / "new"))
  assert same(state.params, load(tmp_path / "small").params) and not same(state.params, run[1].ema)
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(run[1].ema), strict=True):
    assert a.dtype == np.float32 and np.abs(a - b).max() <= np.abs(b).max() / 254 * 1.001


def test_a_run_from_another_continues_without_it(run, data, tmp_path, monkeypatch):
  other = shutil.copytree(run[0], tmp_path / "other")
  config = tiny(data, f"training.init_from={other}")
  whole = train(config, tmp_path / "whole")
  assert not same(whole.params, run[1].params)
  with monkeypatch.context() as patch:
    stop_at(patch, 6)
    with pytest.raises(Stop):
      train(config, tmp_path / "stopped")
  shutil.rmtree(other)
  assert_equal_runs(tmp_path / "stopped", train(config, tmp_path / "stopped"), (tmp_path / "whole", whole))


def test_a_run_of_another_model_is_no_start(run, data, tmp_path):
  config = tiny(data, f"training.init_from={run[0]}", "model.hidden=9")
  with pytest.raises(UserError) as error:
    train(config, tmp_path / "new")
  assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_parts_that_only_one_run_has_start_anew_or_are_left_out(tmp_path, capsys):
  """A network without latents gives its trunk to one with latents and another head."""
  path = tmp_path / "data"
  path.mkdir()
  photos = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
  np.savez(path / "train.npz", image=photos)
  words = "data.name=npz data.validation=train[:2] data.test=train[:2] data.degrade.name=bicubic_down model.channels=8 "
  words += (
    "model.blocks=1 training.batch_size=8 training.steps=1 evaluation.pictures=1 training.learning_rate=1e-30"
  )
  common = [f"data.dir={path}", *words.split()]
  one = apply_overrides(base_config("restoration_vae"), [*common, "model.latent_dim=0"])
  first = train(one, tmp_path / "one")
  extra = [f"training.init_from={tmp_path / 'one'}", "model.latent_dim=2", "model.head_channels=4"]
  two = apply_overrides(base_config("restoration_vae"), [*common, *extra])
  capsys.readouterr()
  second = train(two, tmp_path / "two")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), second.params["trunk"], first.params["trunk"]
  )
  # The scale of pixels is the trunk's, and has another name beside that of the ladder.
  np.testing.assert_allclose(second.params["point_log_scale"], first.params["log_scale"], rtol=1e-6)
  assert abs(second.params["log_scale"]) < 1e-20
  said = capsys.readouterr().out
  assert (
    "ladder" in said and "fine_head" in said and said.endswith("; head left out\n") and "trunk" not in said
  )
  with pytest.raises(UserError, match=r"trunk.* is \[.*this model has \["):
    train(apply_overrides(two, ["model.channels=9"]), tmp_path / "three")


# --- restoration ---


@pytest.mark.parametrize(("size", "latents"), [pytest.param("11,13", 2, marks=pytest.mark.slow), ("8,8", 0)])
def test_a_restoration_run(tmp_path, size, latents):
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (13, 13, 3), sizes=(9, 3, 3))
  overrides = (
    f"data.binarize=none data.degrade.name=bicubic_down data.size={size} model.name=restoration_vae "
    f"model.channels=4,4 model.latent_dim={latents} model.likelihood=laplace training.steps=2 "
    "training.log_every=2 training.checkpoint_every=2 training.eval_every=2 evaluation.pictures=3"
  )
  state = train(tiny(tmp_path / "data", *overrides.split()), tmp_path / "run")
  assert int(state.step) == 2 and int(state.skipped) == 0
  model = load(tmp_path / "run")
  h, w = map(int, size.split(","))
  assert (model.image_shape, model.input_shape) == ((h, w, 3), (-(-h // 2), -(-w // 2), 3))
  assert model.restore(np.zeros((1, 5, 7, 3), np.uint8)).shape == (1, 10, 14, 3)
  training, validation = rows(tmp_path / "run")
  assert {"restoration", "weighted_restoration"} <= set(training) if latents else training["rate"] == 0
  assert validation["psnr"] > 0 and validation["active_units"] <= 2 * latents
  shown = (
    ("reconstructions", "samples") if latents else ("reconstructions",)
  )  # without latents nothing is drawn
  assert {p.name for p in (tmp_path / "run" / "images").iterdir()} == {f"{n}_0000002.png" for n in shown}
  for name in shown:
    with Image.open(tmp_path / "run" / "images" / f"{name}_0000002.png") as picture:
      assert picture.mode == "RGB" and np.asarray(picture).std() > 0


# --- numbers that are not finite ---


def test_a_run_of_bad_steps_is_given_up(data, tmp_path):
  """Steps as large as this overflow from the second one on."""
  config = tiny(
    data,
    "training.learning_rate=1e9",
    "training.warmup_steps=0",
    "training.max_skipped=6",
    "evaluation.pictures=2",
  )
  with pytest.raises(UserError) as error:
    train(config, tmp_path)
  (message,) = error.value.args
  assert "not finite for" in message and "up to step 8" in message and "the last checkpoint: 4" in message
  assert "lower training.learning_rate" in message and "\n" not in message
  last = rows(tmp_path)[-1]
  assert last["step"] == 8 and last["loss"] is None and "loss" in last["nonfinite"]
  assert 6 <= last["skipped"] <= 8 and f"for {last['skipped']:.0f} steps in a row" in message
  state, _ = Checkpoints(tmp_path / "checkpoints").restore()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_batch_that_is_not_a_number_is_given_up_before_any_checkpoint(data, tmp_path, monkeypatch, capsys):
  def make_prepare(config, training):
    prepare = original(config, training)

    def spoiled(keys, batch, frozen=NO_FROZEN):
      batch = prepare(keys, batch, frozen)
      return {**batch, "image": batch["image"] * np.nan} if training else batch

    return spoiled

  original = assemble.make_prepare
  monkeypatch.setattr(assemble, "make_prepare", make_prepare)
  config = tiny(data, "training.max_skipped=2")
  for _ in range(2):  # a second start finds a workdir without a checkpoint
    with pytest.raises(
      UserError, match=r"for 2 steps in a row, up to step 2; the last checkpoint: none; their .*; lower"
    ):
      train(config, tmp_path)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(2, None)]
  bad = json.loads((tmp_path / "nonfinite.json").read_text())
  assert bad == {
    "split": "train",
    "steps": [0, 1],
    "index": order(0, 20, np.arange(16)).reshape(2, 8).tolist(),
  }
  assert "warning: loss or gradients were not finite: 2 steps skipped so far" in capsys.readouterr().err


def test_a_checkpoint_keeps_a_bad_step_since_the_last_row(data, tmp_path, monkeypatch):
  values = [{"loss": np.array([1.5, np.nan, 0.1], np.float32)}, {"loss": np.array([-np.inf], np.float32)}]
  stored = json.loads(json.dumps(member.packed(member.window_values(values)), allow_nan=False))
  np.testing.assert_array_equal(
    assemble._unpacked(stored)[0]["loss"], np.concatenate([v["loss"] for v in values])
  )
  assert assemble._unpacked(member.packed({})) == []
  for bad in ({"loss": ["x"]}, ["loss"], {"loss": {}}):
    with pytest.raises(UserError, match="holds no numbers; move"):
      assemble._unpacked(bad)


def test_a_workdir_that_lost_its_config_is_compared_by_its_checkpoint(run, data, tmp_path):
  workdir = shutil.copytree(run[0], tmp_path / "copy")
  (workdir / "config.json").unlink()
  with pytest.raises(UserError, match=r"another config: model.latent_dim is 3 there and"):
    train(tiny(data, "model.latent_dim=4"), workdir)
  assert same(train(tiny(data), workdir), run[1]) and (workdir / "config.json").exists()


def test_a_single_bad_step_is_skipped_and_the_run_goes_on(data, tmp_path, monkeypatch, capsys):
  def make_prepare(config, training):
    prepare = original(config, training)

    def spoiled(keys, batch, frozen=NO_FROZEN):  # where image 7 is in the batch
      bad = jnp.where((batch["index"] == 7).any(), jnp.nan, 1.0) if training else 1.0
      batch = prepare(keys, batch, frozen)
      return {**batch, "image": batch["image"] * bad}

    return spoiled

  original = assemble.make_prepare
  monkeypatch.setattr(assemble, "make_prepare", make_prepare)
  state = train(tiny(data), tmp_path)
  times = int((order(0, 20, np.arange(8 * STEPS)).reshape(STEPS, 8) == 7).any(axis=1).sum())
  assert 0 < times < STEPS and int(state.skipped) == times and int(state.step) == STEPS
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert f"{times} steps skipped so far" in capsys.readouterr().err
  assert not (tmp_path / "nonfinite.json").exists()


def test_parameters_that_are_not_finite_never_replace_a_good_checkpoint(data, tmp_path, monkeypatch, capsys):
  def compiled(call, placement, like):
    good = original(call, placement, like)

    def spoiling(state, *rest):
      state, got = good(state, *rest)
      spoiled = jax.tree.map(lambda x: x * jnp.where(state.step > 4, jnp.inf, 1.0), state.params)
      return state._replace(params=spoiled) if hasattr(state, "_replace") else state.replace(
        params=spoiled
      ), got

    return spoiling

  original = parallel.compile_train_call
  monkeypatch.setattr(parallel, "compile_train_call", compiled)
  train(tiny(data), tmp_path)
  assert Checkpoints(tmp_path / "checkpoints").steps() == [4]
  assert "step 8 is not saved: its parameters are not finite" in capsys.readouterr().err


def test_posterior_collapse_is_reported_with_its_remedy(data, tmp_path, capsys):
  ramp = ("objective.beta_schedule=linear", "objective.beta_steps=6")
  train(tiny(data, "objective.beta=1000", "training.learning_rate=0.1", *ramp), tmp_path)
  said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: posterior")]
  assert len(said) == 1 and "at step 6: 0 of 3 latent units" in said[0] and "free_bits" in said[0]
  model = build(base_config().model, image_spec((5, 4, 1)))
  quiet = base_config().objective
  assert member.collapse(model.units, model, 10, quiet) is None and member.collapse(0, model, 10, quiet)
  quiet.beta_steps = 11
  assert member.collapse(0, model, 10, quiet) is None  # the KL does not count yet


# --- data ---


def test_a_batch_may_be_larger_than_the_data_set(tmp_path):
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (5, 4, 1), sizes=(5, 1, 1))
  state = train(tiny(tmp_path / "data", "training.steps=2", "training.batch_size=16"), tmp_path / "run")
  assert int(state.step) == 2 and int(state.skipped) == 0
  assert [row["step"] for row in rows(tmp_path / "run")] == [2, 2]


@pytest.mark.parametrize(
  "overrides",
  [
    pytest.param(("model.likelihood=logistic_mixture", "model.mixtures=2"), marks=pytest.mark.slow),
    (
      "model.likelihood=gaussian",
      "model.sigma=optimal",
      "data.degrade.name=blur_down",
      "objective.name=iwae",
      "objective.samples=2",
    ),
  ],
  ids=["mixture", "super-resolution"],
)
def test_colour_images_of_odd_size(tmp_path, overrides):
  shape = (11, 13, 3)
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", shape, sizes=(9, 3, 3))
  short = ("training.steps=4", "training.eval_every=4", "data.binarize=none", "data.flip=true")
  conv = ("model.name=conv_vae", "model.channels=4", "model.blocks=0", "model.dense=8")
  state = train(tiny(tmp_path / "data", *short, *conv, *overrides), tmp_path / "run")
  assert int(state.step) == 4 and int(state.skipped) == 0
  model = load(tmp_path / "run")
  low = (6, 7, 3) if "data.degrade.name=blur_down" in overrides else shape
  assert (model.image_shape, model.input_shape, model.step) == (shape, low, 4)
  assert same(model.params, state.ema)
  seen = np.random.default_rng(0).integers(0, 256, size=(2, *low), dtype=np.uint8)
  reconstruction = np.asarray(model.reconstruct(seen))
  assert reconstruction.shape == (2, *shape) and 0 <= reconstruction.min() <= reconstruction.max() <= 1
  assert evaluation.reconstructions(model, evaluation.prepared(model, "test", 2)).shape[-1] == 3
  validation = rows(tmp_path / "run")[-1]
  assert ("iwae_nll" in validation) == ("objective.name=iwae" in overrides)
  with Image.open(tmp_path / "run" / "images" / "reconstructions_0000004.png") as picture:
    assert picture.mode == "RGB"


def test_without_a_moving_average_the_parameters_are_scored_and_loaded(data, tmp_path):
  config = tiny(data, "training.steps=4", "training.ema_decay=0")
  trained = train(config, tmp_path / "run")
  assert trained.ema is None and same(trained.averaged, trained.variables)
  assert same(load(tmp_path / "run").params, trained.params)
  assert same(train(config, tmp_path / "run"), trained)  # restored


@pytest.mark.slow
def test_a_denoiser_of_colour_images(tmp_path):
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (5, 4, 3), sizes=(9, 3, 3))
  overrides = (
    "data.binarize=none data.degrade.name=gaussian_noise model.likelihood=gaussian model.sigma=optimal"
  )
  train(tiny(tmp_path / "data", "training.steps=2", *overrides.split()), tmp_path / "run")
  model = load(tmp_path / "run")
  assert model.input_shape == (5, 4, 3) and "optimal" in model.likelihood
  batch = evaluation.prepared(model, "test", 3)
  assert batch["degraded"].min() < 0
  assert evaluation.reconstructions(model, batch).std() > 0


def test_a_perceptual_loss_keeps_its_network_out_of_the_state_and_the_checkpoint(tmp_path):
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (16, 16, 3), sizes=(9, 3, 3))
  overrides = [
    "data.binarize=none",
    "model.likelihood=gaussian",
    "training.steps=4",
    "objective.perceptual.weight=2",
    "objective.perceptual.shift=3",
    "objective.perceptual.network=squeezenet",
    "objective.perceptual.layers=relu1",
    "objective.perceptual.weights=random",
  ]
  config = tiny(tmp_path / "data", *overrides)
  trained = train(config, tmp_path / "run")
  plain = state.init_state(
    build(config.model, image_spec((16, 16, 3))),
    state.make_optimizer(config.training),
    image_spec((16, 16, 3)),
    jax.random.key(0),
  )
  assert jax.tree.structure(trained) == jax.tree.structure(plain)
  assert load(tmp_path / "run").sample(jax.random.key(0), 2).shape == (2, 16, 16, 3)  # needs no network
  first, last = rows(tmp_path / "run")[0], rows(tmp_path / "run")[-1]
  for row in (first, last):
    np.testing.assert_allclose(
      row["loss"], row["weighted_distortion"] + row["weighted_rate"] + 2 * row["perceptual"], rtol=1e-5
    )
  assert last["split"] == "validation" and last["ssim"] <= 1


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """A folder of images of different sizes, one of which is none."""
  monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  for split, n in ("train", 6), ("validation", 3), ("test", 3):
    (tmp_path / "photos" / split).mkdir(parents=True)
    for i in range(n):
      h, w = random.integers(12, 30, size=2)
      pixels = random.integers(0, 256, size=(h, w, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(tmp_path / "photos" / split / f"{i}.png")
  (tmp_path / "photos" / "train" / "broken.png").write_bytes(b"no picture")
  return tmp_path / "photos"


def folder_config(photos, *overrides):
  fitted = ("data.name=folder", "data.size=16,16", "data.channels=3", "data.binarize=none")
  return tiny(
    photos, *fitted, "training.steps=6", "training.eval_every=6", "training.log_every=2", *overrides
  )


def test_images_of_many_sizes_stream_and_continue(photos, tmp_path, capsys, monkeypatch):
  state = train(folder_config(photos), tmp_path / "run")
  told = capsys.readouterr().err
  assert "1 images skipped" in told and "broken.png" in told
  assert int(state.step) == 6 and load(tmp_path / "run").image_shape == (16, 16, 3)
  with monkeypatch.context() as patch:
    stop_at(patch, 6)
    with pytest.raises(Stop):
      train(folder_config(photos), tmp_path / "stopped")
  assert Checkpoints(tmp_path / "stopped" / "checkpoints").steps() == [4]
  assert same(train(folder_config(photos), tmp_path / "stopped"), state)
  assert rows(tmp_path / "stopped") == rows(tmp_path / "run")


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["data.max_bad=0"], r"more than data\.max_bad=0 images cannot be decoded: .*broken\.png"),
    (["data.size=0,0"], "differ in size.*set the size"),
    (["data.dir=nowhere"], "'nowhere' is no folder"),
    (["data.dir=."], "no image files"),
    (["data.train=trian"], "no split 'trian'"),
    (["training.batch_size=12"], "multiple of the 8 devices.*training.batch_size=16"),
  ],
)
def test_bad_folders_are_refused_before_a_workdir_is_made(photos, tmp_path, monkeypatch, overrides, message):
  (tmp_path / "empty").mkdir()
  monkeypatch.chdir(tmp_path / "empty")
  with pytest.raises(UserError, match=message) as error:
    train(folder_config(photos, *overrides), tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists() and not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (np.zeros((4, 5, 4, 1), np.float32), "'image' is float32"),
    (np.zeros((4, 5, 4, 2), np.uint8), r"\[4, 5, 4, 2\]"),
    (np.zeros((0, 5, 4, 1), np.uint8), r"\[0, 5, 4, 1\]"),
    (np.eye(5, 4, dtype=np.uint8)[None], "values 0 and 1 only"),
    (np.full((4, 9, 4, 1), 99, np.uint8), "9 x 4 pixels, expected 5 x 4"),
    (np.full((4, 5, 4, 3), 99, np.uint8), "3 channels, expected 1"),
  ],
)
def test_bad_arrays_are_refused_before_a_workdir_is_made(tmp_path, image, message):
  write(tmp_path, (5, 4, 1))
  np.savez(tmp_path / "validation.npz", image=image)
  with pytest.raises(UserError, match=message):
    train(tiny(tmp_path), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_grid_shows_no_padding(tmp_path):
  """Three validation images in a batch of eight, six pictures asked for: three columns."""
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (5, 4, 1), sizes=(20, 3, 4))
  train(tiny(tmp_path / "data"), tmp_path / "run")
  with Image.open(tmp_path / "run" / "images" / "reconstructions_0000006.png") as picture:
    shown = np.asarray(picture)
  cells = (
    4 * math.ceil(400 / (3 * 4)) + 2
  )  # pixels of a column: an image of width 4, enlarged, and its margin
  assert 3 * cells < shown.shape[1] < 3 * cells + 150


@pytest.mark.parametrize(
  ("waited", "seconds", "told"), [(50.0, 59.0, ""), (2.0, 60.0, ""), (6.0, 60.0, "10% of the time went by")]
)
def test_slow_data_are_told_of_runs_that_are_long_enough(capsys, waited, seconds, told):
  loop._tell_waiting(waited, seconds)
  out = capsys.readouterr().out
  assert out.startswith(told) and bool(out) == bool(told)


# --- more steps ---


def test_a_finished_run_is_extended(run, data, tmp_path, capsys):
  """Parameters, optimiser and rows so far stay; the learning rate is that of a run of 18 steps, from step 12 on."""
  workdir = shutil.copytree(run[0], tmp_path / "copy")
  longer = tiny(data, "training.steps=18")
  state = train(longer, workdir)
  out = capsys.readouterr().out
  assert out.startswith(
    f"{workdir}: a run of 12 steps is extended to 18 from step 12 on; parameters and optimiser"
  )
  assert "rises from 0 to 0.000309, and falls to 0 at the end" in out
  assert int(state.step) == 18 and rows(workdir)[: len(rows(run[0]))] == rows(run[0])
  rate = [1e-3 * (1 + math.cos(math.pi * (step - 2) / 16)) / 2 for step in range(18)]
  added = [row for row in rows(workdir) if row["split"] == "train" and row["step"] > STEPS]
  expected = [(rate[step - 2] + rate[step - 1]) / 2 for step in (14, 16, 18)]
  np.testing.assert_allclose([row["learning_rate"] for row in added], expected, rtol=1e-4)
  count = Checkpoints(workdir / "checkpoints").restore()[0]["opt_state"]["0"]["count"]
  assert count == 18  # Adam's own, which a fresh optimiser would begin anew
  assert from_json((workdir / "config.json").read_text()).training.extended_at == "12"
  shutil.rmtree(workdir / "checkpoints" / "18")
  assert same(train(longer, workdir), state) and "extended" not in capsys.readouterr().out
  with pytest.raises(UserError, match=r"training\.steps is 18 there and 12 here"):
    train(tiny(data), workdir)


def test_a_run_that_continues_on_another_folder_says_so(run, data, tmp_path, capsys):
  workdir = shutil.copytree(run[0], tmp_path / "copy")
  other = shutil.copytree(data, tmp_path / "other")
  config = tiny(other, "training.steps=18")
  workdirs.check(config, workdir, Checkpoints(workdir / "checkpoints"))
  assert f"was trained on data.dir={data} and continues on {other}; if these" in capsys.readouterr().out


def test_a_config_of_an_extended_run_begins_another_that_is_not(data, tmp_path):
  config = tiny(data, "training.extended_at=12")
  workdirs.check(config, tmp_path, Checkpoints(tmp_path / "checkpoints"))
  assert config.training.extended_at == ""


def test_a_run_of_before_keeps_its_rule_of_weight_decay(data, tmp_path):
  """Its config.json lacks training.decayed; the same command continues it bit for bit, as one that says "all"."""
  words = ["training.steps=8", "training.weight_decay=0.1", "training.learning_rate=0.1"]
  expected = train(tiny(data, *words, "training.decayed=all"), tmp_path / "all")
  old = shutil.copytree(tmp_path / "all", tmp_path / "old")
  shutil.rmtree(old / "checkpoints" / "8")
  config = json.loads((old / "config.json").read_text())
  del config["training"]["decayed"]
  (old / "config.json").write_text(json.dumps(config))
  assert same(train(tiny(data, *words), old), expected)
  new = train(tiny(data, *words), tmp_path / "new")
  assert not same(new.params, expected.params)
  assert from_json((tmp_path / "new" / "config.json").read_text()).training.decayed == "kernels"


# --- a first checkpoint, validation of one image ---


@pytest.mark.parametrize(
  ("steps_", "every", "early"),
  [(2000, 1000, 100), (200_000, 5000, None), (4000, 101, None), (4000, 300, 200), (100, 1000, None)],
)
def test_when_the_first_checkpoint_is_early(data, steps_, every, early):
  t = tiny(data, f"training.steps={steps_}", f"training.checkpoint_every={every}").training
  assert loop._early(t) == early


def test_a_run_can_be_loaded_at_a_twentieth_of_its_steps(data, tmp_path, monkeypatch):
  words = [
    "training.steps=120",
    "training.log_every=4",
    "training.eval_every=120",
    "training.checkpoint_every=120",
  ]
  with monkeypatch.context() as patch:
    stop_at(patch, 20)
    with pytest.raises(Stop):
      train(tiny(data, *words), tmp_path / "run")
  assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [8]
  assert load(tmp_path / "run").step == 8
  train(tiny(data, *words, "training.keep=1"), tmp_path / "run")
  assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [120]


def test_one_validation_image_has_no_active_units(tmp_path, capsys):
  """The variance over one image is 0, whatever the model; nothing is said of collapse."""
  (tmp_path / "data").mkdir()
  write(tmp_path / "data", (5, 4, 1), sizes=(20, 1, 4))
  train(tiny(tmp_path / "data", "training.steps=6"), tmp_path / "run")
  assert "collapse" not in capsys.readouterr().err
  assert "active_units" not in rows(tmp_path / "run")[-1]
