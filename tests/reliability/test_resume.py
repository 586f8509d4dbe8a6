"""Runs that are killed, told to stop, or moved to other devices: what they leave is what an undisturbed run leaves.

Through train.py, in processes of their own. The images lie in a folder, so that the first start prepares them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import PATIENCE

from vae_jax.errors import UserError
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import workdir
from vae_jax.training.writers import TIMES

ROOT = Path(__file__).parents[2]
STEPS = 30
# A checkpoint falls between two rows of training (3 and 2), a row between two dispatches.
WORDS = (
  "data.name=folder data.train=train[:40] data.validation=train[40:] data.test=train[40:] data.binarize=dynamic "
  "data.flip=true model.hidden=8 model.latent_dim=2 training.batch_size=16 training.log_every=2 "
  "training.eval_every=5 training.checkpoint_every=3 training.steps_per_call=3 evaluation.batch_size=8 "
  f"evaluation.pictures=4 training.steps={STEPS}"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data") / "train"
  folder.mkdir()
  noise = np.random.default_rng(0)
  for i in range(51):
    Image.fromarray(noise.integers(0, 256, (5, 4), dtype=np.uint8)).save(folder / f"{i}.png")
  return folder.parent


class Run:
  """A run in its own folder, with its own cache of prepared data."""

  def __init__(self, data, folder):
    self.data, self.workdir, self.cache = data, folder / "run", folder / "cache"

  def start(self, *extra, devices=1):
    words = [f"--config.{word}" for word in (*WORDS, f"data.dir={self.data}", *extra)]
    command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(self.workdir), *words]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "VAE_JAX_DATA": str(self.cache)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

  def finish(self, *extra, devices=1):
    process = self.start(*extra, devices=devices)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    return self

  def rows(self):
    lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]

  def last_row(self):
    """The step of the newest complete row, 0 where there is none."""
    path = self.workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return next((json.loads(line)["step"] for line in reversed(lines) if line.endswith("\n")), 0)

  def arrays(self):
    """Parameters, average, optimiser state, counters, by name."""
    tree, meta = Checkpoints(self.workdir / "checkpoints").restore()
    assert meta["step"] == STEPS
    return flat(tree)

  def pictures(self):
    """All but a file that was being written when the run was killed."""
    paths = (self.workdir / "images").iterdir()
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith(".writing")}

  def wait_for(self, path, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (self.workdir / path).exists():
      assert time.monotonic() < end, f"no {path}"
      time.sleep(0.02)


def flat(tree, prefix=""):
  if not isinstance(tree, dict):
    return {prefix: np.asarray(tree)}
  return {k: v for name, part in tree.items() for k, v in flat(part, f"{prefix}/{name}").items()}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
  folder = tmp_path_factory.mktemp("undisturbed")
  start = time.time()
  run = Run(data, folder).finish()
  return run, (run.workdir / "config.json").stat().st_mtime - start  # until training begins


def assert_same(run, other):
  ours, theirs = run.arrays(), other.arrays()
  assert ours.keys() == theirs.keys()
  assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
  assert run.rows() == other.rows()  # none missing, none twice
  assert run.pictures() == other.pictures()


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_is_the_undisturbed_run(data, undisturbed, tmp_path, kills):
  run, draw, moments = Run(data, tmp_path), random.Random(kills), []
  for kill in range(kills):
    process = run.start()
    if kill == 0:  # while it starts and prepares the data
      time.sleep(draw.uniform(0.1, 1) * undisturbed[1])
    else:  # some rows further; then in the midst of a step, of an evaluation, of a save
      goal = run.last_row() + draw.randint(1, 1 + STEPS // kills)
      while process.poll() is None and run.last_row() < goal:
        time.sleep(0.003)
      time.sleep(draw.uniform(0, 0.05))
    process.kill()
    _, error = process.communicate()
    assert "Traceback" not in error, error
    moments.append((run.last_row(), Checkpoints(run.workdir / "checkpoints").latest()))
  print("last row and newest checkpoint at each kill:", moments)
  assert_same(run.finish(), undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_sigterm_saves_and_says_how_to_continue(data, undisturbed, tmp_path, number):
  run = Run(data, tmp_path)
  process = run.start("training.steps_per_call=1")
  run.wait_for("metrics.jsonl")
  process.send_signal(number)
  _, error = process.communicate(timeout=PATIENCE)
  if process.returncode == 0:
    pytest.skip("the run had ended before the signal came")
  assert process.returncode == 128 + number
  assert error.splitlines()[-1].startswith("stopped at step ") and "the same command continues" in error
  assert_same(run.finish(), undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
def test_ctrl_c_while_a_run_starts_is_one_line(data, undisturbed, tmp_path, share):
  """Python reads modules first, which would swallow a KeyboardInterrupt, or show where it struck."""
  process = Run(data, tmp_path).start("training.steps=1000000")
  time.sleep(share * undisturbed[1])
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=PATIENCE)
  assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in error, error
  if process.returncode == 130:  # else Python itself had hardly begun
    assert error.splitlines()[-1].startswith(("interrupted", "stopped at step"))


def test_a_second_process_is_refused_until_the_first_is_gone(data, tmp_path):
  run = Run(data, tmp_path)
  first = run.start("training.steps=1000000")
  run.wait_for("config.json")
  second = run.start("training.steps=1000000")
  _, error = second.communicate(timeout=PATIENCE)
  assert second.returncode == 2
  assert error == (
    f"error: {run.workdir} is in use: process {first.pid} on {os.uname().nodename} trains in it; wait for it, or give "
    "another --workdir\n"
  )
  first.kill()
  first.communicate()
  third = run.start("training.steps=1000000")
  end = time.monotonic() + PATIENCE
  while f"process {third.pid} " not in (run.workdir / ".lock").read_text() and time.monotonic() < end:
    time.sleep(0.05)
  assert third.poll() is None
  third.kill()
  third.communicate()


@pytest.mark.parametrize("name", workdir.WRITTEN)
def test_a_link_in_a_workdir_is_refused(tmp_path, name):
  elsewhere = tmp_path / "precious"
  elsewhere.write_text("mine")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / name).symlink_to(elsewhere)
  with pytest.raises(UserError, match=f"{name} is a link; put what"), workdir.alone(tmp_path / "run"):
    pass
  assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize(
  ("devices", "extra"),
  [
    (1, ()),
    pytest.param(2, ("training.parallel=pmap",), marks=pytest.mark.slow),
    pytest.param(2, ("training.fsdp=true",), marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_a_run_of_eight_devices_continues_on_fewer(data, undisturbed, tmp_path, devices, extra):
  run = Run(data, tmp_path)
  process = run.start("training.steps_per_call=1", devices=8)
  run.wait_for("checkpoints/6")
  process.kill()
  process.communicate()
  run.finish(*extra, devices=devices)
  ours, theirs = run.arrays(), undisturbed[0].arrays()
  for name in theirs:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)
  assert [(r["step"], r["split"]) for r in run.rows()] == [
    (r["step"], r["split"]) for r in undisturbed[0].rows()
  ]
