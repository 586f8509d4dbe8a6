"""Full disks: real ones, small, that run out of room. A run goes on or ends in one line, and nothing is half there.

Needs the right to mount. Without it, and where the system allows user namespaces, the tests run inside one.
"""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from said import PATIENCE, unexpected

from vae_jax import cli, evaluation, pictures
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.sources import list_splits
from vae_jax.errors import UserError
from vae_jax.progress import TrainingProgress
from vae_jax.storage import checkpoints
from vae_jax.storage import exported as pretrained
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.files import append_whole, write_whole
from vae_jax.training.loop import train
from vae_jax.training.writers import TIMES, MetricsLog, Writers

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "checkpoint_v1"
FULL = "No space left on device"
# A checkpoint has half a megabyte; all else together has a few kilobytes.
WORDS = (
  "data.name=npz data.binarize=dynamic model.hidden=64 model.latent_dim=2 training.batch_size=8 training.steps=8 "
  "training.log_every=1 training.eval_every=8 training.checkpoint_every=2 evaluation.batch_size=8 "
  "evaluation.pictures=4"
)


class Disk:
  """A file system of its own in memory, in `folder`."""

  def __init__(self, folder, options):
    self.folder = folder
    folder.mkdir()
    self._command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))

  def fill(self):
    """Not one more byte: the room is taken in pages."""
    with open(self.folder / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
      while file.write(bytes(512)):
        pass

  def empty(self):
    (self.folder / "filler").unlink()

  def grow(self):
    self._command("mount", "-o", "remount,size=64m,nr_inodes=10000", str(self.folder))

  def unmount(self):
    self._command("umount", "-l", str(self.folder))

  def _command(self, *words):
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
  """A function from mount options to a `Disk`."""
  disks = []

  def make(options):
    try:
      disks.append(Disk(tmp_path / f"disk{len(disks)}", options))
    except (OSError, subprocess.CalledProcessError) as error:
      pytest.skip(f"no small file system can be mounted here ({error})")
    return disks[-1]

  yield make
  for one in disks:
    one.unmount()


def test_all_of_these_in_a_user_namespace_where_we_are_not_root(tmp_path):
  if os.geteuid() == 0:
    pytest.skip("root mounts by itself")
  namespace = ["unshare", "--user", "--map-root-user", "--mount"]
  if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
    pytest.skip("no user namespaces here")
  inner = ["-m", "pytest", "-n", "0", "--basetemp", str(tmp_path / "inner"), __file__]
  command = [*namespace, sys.executable, *inner]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stdout[-3000:]


# --- train.py ---


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  noise = np.random.default_rng(0)
  for split, n in (("train", 30), ("validation", 5)):
    np.savez(folder / f"{split}.npz", image=noise.integers(0, 256, (n, 16, 16), dtype=np.uint8))
  return folder


def call(data, workdir, *extra, status=0):
  """The lines of standard error that do not tell of progress, once the exit status is checked."""
  words = [f"--config.{word}" for word in (*WORDS.split(), f"data.dir={data}", *extra)]
  command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir), *words]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
  assert done.returncode == status, done.stderr
  return unexpected(done.stderr)


def rows(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  assert text == "" or text.endswith("\n")
  read = [json.loads(line) for line in text.splitlines()]
  return [{k: v for k, v in row.items() if k not in TIMES} for row in read]


def state(workdir, step=None):
  restored, meta = Checkpoints(workdir / "checkpoints").restore(step)
  leaves = {jax.tree_util.keystr(k): x.tobytes() for k, x in jax.tree_util.tree_leaves_with_path(restored)}
  return leaves, meta["step"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """The workdir of a run that had room for all."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  assert call(data, workdir, "training.keep=9") == []
  return workdir


def test_full_at_a_later_save(data, whole, disk):
  """Two checkpoints have room, the third has not; with more room the same command continues as if nothing had been."""
  small = disk("size=1400k")
  run = small.folder / "run"
  (line,) = call(data, run, status=2)
  assert line.startswith(
    f"error: checkpoint {run}/checkpoints/6 was not written ({FULL}: it takes 0.6 MB, 0."
  )
  assert " MB are free); free some space, or choose another workdir; " in line
  assert line.endswith("the last whole checkpoint is of step 4")
  assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4"]
  for step in (2, 4):
    assert state(run, step) == state(whole, step)
  assert rows(run) == rows(whole)[: len(rows(run))] and len(rows(run)) >= 6
  small.grow()
  assert call(data, run) == []
  assert rows(run) == rows(whole) and state(run) == state(whole)


@pytest.mark.slow
def test_full_at_the_first_save(data, whole, disk):
  small = disk("size=400k")
  run = small.folder / "run"
  for _ in range(2):  # without more space it ends the same way, before its first step
    (line,) = call(data, run, status=2)
    assert f"checkpoints cannot be written to {run}/checkpoints ({FULL}: it takes" in line
    assert line.endswith("there is none yet") and not run.exists()
  small.grow()
  assert call(data, run) == []
  assert rows(run) == rows(whole) and state(run) == state(whole)


@pytest.mark.slow
@pytest.mark.parametrize("inodes", [12, 40, 52])
def test_no_inode_for_one_more_file(data, whole, disk, inodes):
  """Wherever it strikes: one line about a checkpoint or a row, maybe a warning before it, or the whole run."""
  small = disk(f"size=64m,nr_inodes={inodes}")
  run = small.folder / "run"
  try:
    lines = call(data, run)
  except AssertionError:
    lines = call(data, run, status=2)
    assert lines[-1].startswith("error: ") and FULL in lines[-1]
    lines = lines[:-1]
  assert all(line.startswith("warning: ") and FULL in line for line in lines) and len(lines) <= 2
  for step in Checkpoints(run / "checkpoints").steps():
    assert state(run, step) == state(whole, step)
  small.grow()
  assert call(data, run) == []
  assert rows(run) == rows(whole) and state(run) == state(whole)


@pytest.mark.slow
def test_a_log_of_progress_that_cannot_be_written_is_not_worth_a_run(data, whole, tmp_path):
  words = [f"--config.{word}" for word in (*WORDS.split(), f"data.dir={data}")]
  command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(tmp_path / "run"), *words]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  with open("/dev/full", "w") as full:
    subprocess.run(command, env=environment, stderr=full, stdout=subprocess.PIPE, cwd=ROOT, timeout=PATIENCE)
  assert rows(tmp_path / "run") == rows(whole) and state(tmp_path / "run") == state(whole)


def test_a_disk_too_full_to_begin(data, disk):
  small = disk("size=1m")
  small.fill()
  before = sorted(p.name for p in small.folder.iterdir())
  config = apply_overrides(base_config(), [*WORDS.split(), f"data.dir={data}"])
  with pytest.raises(UserError, match=FULL) as error:
    train(config, small.folder / "run")
  assert "\n" not in str(error.value) and str(small.folder / "run") in str(error.value)
  left = [p for p in small.folder.rglob("*") if p.is_file() and p.name != "filler"]
  assert sum(p.stat().st_size for p in left) == 0 and before == ["filler"]


# --- checkpoints ---


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize(
  "options", ["size=3m", "size=1m", *(f"size=9m,nr_inodes={n}" for n in (2, 3, 26, 30))]
)
def test_a_save_that_does_not_fit(disk, capfd, caplog, monkeypatch, looks, options):
  """Whatever cannot be written, a folder or the end of a file: one line, the earlier steps, no thread left waiting.

  looks: whether it is noticed before, or in the middle, as where others fill the disk or a quota ends.
  """
  if not looks:
    monkeypatch.setattr(checkpoints, "_check_space", lambda folder, arrays: None)
  threads = set(threading.enumerate())
  noise = np.random.default_rng(0)
  trees = {step: {f"a{i}": noise.standard_normal(1500) for i in range(100)} for step in range(1, 7)}
  small = disk(options)
  store = Checkpoints(small.folder / "c", keep=9)
  written = []
  for step, tree in trees.items():
    try:
      store.save(step, tree, meta={})
      store.wait()
      written.append(step)
    except UserError as error:
      last = f"the last whole checkpoint is of step {written[-1]}" if written else "there is none yet"
      assert str(error).startswith(f"checkpoint {small.folder}/c/{step} was not written ({FULL}")
      assert str(error).endswith(f"; free some space, or choose another workdir; {last}") and "\n" not in str(
        error
      )
    assert sorted(p.name for p in (small.folder / "c").iterdir()) == [str(s) for s in written]
  assert len(written) <= 2
  small.grow()
  store.save(9, trees[3], meta={})
  store.close()
  assert store.steps() == [*written, 9]
  for step in store.steps():
    restored, _ = store.restore(step)
    jax.tree.map(np.testing.assert_array_equal, restored, trees[3 if step == 9 else step])
  assert capfd.readouterr() == ("", "") and not caplog.records
  idle = ("asyncio", "metadata_store")  # of pools, which end with the process
  deadline = time.monotonic() + PATIENCE
  while waiting := [t for t in set(threading.enumerate()) - threads if not t.name.startswith(idle)]:
    assert time.monotonic() < deadline, waiting  # the process could not end
    time.sleep(0.05)


# --- rows, events, pictures ---


def test_rows_are_whole(disk):
  small = disk("size=64k")
  path = small.folder / "metrics.jsonl"
  log = MetricsLog(path)
  with pytest.raises(UserError, match=FULL) as error:
    for step in range(10**4):
      log.write(step, "train", {"loss": 1 / 3, "rate": 2 / 7}, 1.5)
  assert str(error.value).startswith(f"{path}: the row of step {step} was not written") and step > 100
  assert "\n" not in str(error.value)
  assert [row["step"] for row in rows(small.folder)] == list(range(step))
  small.grow()
  log.write(step, "train", {"loss": 1 / 3, "rate": 2 / 7}, 1.5)  # the same log, once there is room
  log.close()
  log = MetricsLog(path, resume_step=50)  # a run that continues from an earlier checkpoint
  log.write(51, "train", {"loss": 1 / 3}, 1.5)
  log.close()
  assert [row["step"] for row in rows(small.folder)] == list(range(52))


def test_a_log_that_cannot_be_shortened_stays(disk):
  small = disk("size=64k")
  path = small.folder / "metrics.jsonl"
  log = MetricsLog(path)
  for step in range(100):
    log.write(step, "train", {"loss": 1 / 3}, 1.5)
  log.close()
  small.fill()
  before = path.read_bytes()
  with pytest.raises(UserError, match=FULL):
    MetricsLog(path, resume_step=50)
  assert path.read_bytes() == before
  assert sorted(p.name for p in small.folder.iterdir()) == ["filler", path.name]


def records(folder):
  """The number of events in a folder of TensorBoard; their framing is whole."""
  count = 0
  for path in folder.iterdir():
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack("<Q", content[:8])
      assert len(content) >= length + 16
      content, count = content[length + 16 :], count + 1
  return count


def test_pictures_and_tensorboard_are_not_worth_a_run(disk, tmp_path, capsys):
  """One warning for each, and the rows go on; with room again, so do pictures and events."""
  small = disk("size=400k")
  noise = np.random.default_rng(0)
  picture = noise.integers(0, 256, (200, 200, 3), dtype=np.uint8)  # 120 KB: it does not compress
  for name in ("images", "tensorboard"):
    (small.folder / name).mkdir()
  run = tmp_path / "run"
  run.mkdir()
  for name in ("images", "tensorboard"):
    (run / name).symlink_to(small.folder / name)
  with Writers(run, 0, 9, 8) as writers:
    for step in range(1, 7):
      writers.scalars(step, "train", {"loss": 1.0}, 1.0)
      writers.image(step, "samples", picture)
      if step == 4:
        small.grow()
      if step == 5:
        small._command("mount", "-o", "remount,size=600k", str(small.folder))
  assert sorted(capsys.readouterr().err.splitlines()) == sorted(
    f"warning: {run}/{name} cannot be written ({FULL}); training goes on"
    for name in ("images", "tensorboard")
  )
  assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
  kept = sorted(p.name for p in (run / "images").iterdir())
  assert "samples_0000001.png" in kept and "samples_0000005.png" in kept and len(kept) < 6
  assert all(name.startswith("samples_") for name in kept)
  for name in kept:
    with Image.open(run / "images" / name) as image:
      np.testing.assert_array_equal(np.asarray(image), picture)
  assert 1 + 6 + 1 <= records(run / "tensorboard") < 1 + 6 + 6


def test_a_folder_that_cannot_be_made_is_not_worth_a_run(tmp_path, capsys):
  for name in ("images", "tensorboard"):
    (tmp_path / name).write_text("a file")
  with Writers(tmp_path, 0, 9, 8) as writers:
    for step in (1, 2, 3):
      writers.scalars(step, "train", {"loss": 1.0}, 1.0)
      writers.image(step, "samples", np.zeros((4, 4, 1), np.uint8))
  assert len(capsys.readouterr().err.splitlines()) == 2 and len(rows(tmp_path)) == 3


def test_progress_to_a_full_disk_is_lost(monkeypatch):
  with open("/dev/full", "w", buffering=1) as full:
    monkeypatch.setattr(sys, "stderr", full)
    progress = TrainingProgress(0, 10, 8, every=0.0)
    for step in range(1, 11):
      progress.update(step, loss=1.0)
    progress.close()
    monkeypatch.undo()
    with pytest.raises(OSError, match="space"):  # so the lines did reach a full disk
      print("x", file=full)
    with contextlib.suppress(OSError):
      full.close()


# --- prepared data ---


@pytest.mark.parametrize("options", ["size=100k", "size=9m,nr_inodes=8"])
def test_data_are_prepared_whole_or_not_at_all(disk, tmp_path, monkeypatch, options):
  noise = np.random.default_rng(0)
  (tmp_path / "photos").mkdir()
  for i in range(12):
    Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
      tmp_path / "photos" / f"{i}.png"
    )
  small = disk(options)
  monkeypatch.setenv("VAE_JAX_DATA", str(small.folder / "cache"))
  config = apply_overrides(base_config(), ["data.name=folder", f"data.dir={tmp_path / 'photos'}"]).data
  with pytest.raises(UserError, match=FULL) as error:
    list_splits(config)
  assert str(error.value).startswith(str(small.folder / "cache")) and "\n" not in str(error.value)
  assert not [p for p in small.folder.rglob("*") if p.is_file()]
  small.grow()
  assert sum(list_splits(config).values()) == 12


# --- what evaluate.py writes ---


def big_text(path):
  evaluation.write_json(path, {"a": list(range(50_000))})


def big_picture(path):
  pictures.save_png(path, np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))


def big_arrays(path):
  write_whole(path, lambda file: np.savez(file, a=np.zeros(50_000)))


def big_weights(path):
  pretrained.save(path.parent, {"params": {"a": np.zeros(90_000, np.float32)}}, {})


@pytest.mark.parametrize("write", [big_text, big_picture, big_arrays, big_weights])
def test_a_file_that_does_not_fit_leaves_the_one_before(disk, write):
  small = disk("size=200k")
  path = small.folder / "out" / pretrained.WEIGHTS
  write_whole(path, lambda file: file.write(b"before"))
  with pytest.raises(
    UserError, match=rf"^{path}: cannot be written \({FULL}\); free some space or choose another place$"
  ):
    write(path)
  assert path.read_bytes() == b"before" and [p.name for p in path.parent.iterdir()] == [path.name]
  small.grow()
  write(path)
  assert path.stat().st_size > 200_000


def test_what_is_added_is_added_whole(disk):
  small = disk("size=16k")
  file = io.FileIO(small.folder / "log", "a")
  append_whole(file, b"x" * 10_000)
  with pytest.raises(OSError, match=FULL):
    append_whole(file, b"y" * 10_000)
  assert (small.folder / "log").read_bytes() == b"x" * 10_000
  append_whole(file, b"z" * 1_000)
  file.close()
  assert (small.folder / "log").read_bytes() == b"x" * 10_000 + b"z" * 1_000


def test_evaluate_in_one_line(disk, capsys, monkeypatch):
  spec = importlib.util.spec_from_file_location("evaluate", ROOT / "evaluate.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  small = disk("size=400k")
  shutil.copytree(GOLDEN, small.folder / "run")
  monkeypatch.chdir(small.folder)

  def run(*words):
    cli.run(lambda: module.main(["--workdir", "run", *words]))

  run("--mode", "sample", "--num", "4")
  written = capsys.readouterr().out
  before = (small.folder / "run/evaluation/sample.png").read_bytes()
  small.fill()
  for words in (("sample", "--num", "9"), ("export",)):
    with pytest.raises(SystemExit) as end:
      run("--mode", *words)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert err.startswith("error: run/evaluation/") and FULL in err and err.count("\n") == 1
  assert (small.folder / "run/evaluation/sample.png").read_bytes() == before
  assert [p.name for p in (small.folder / "run/evaluation").rglob("*") if p.is_file()] == ["sample.png"]
  small.empty()
  run("--mode", "sample", "--num", "4")
  assert capsys.readouterr().out == written
  assert (small.folder / "run/evaluation/sample.png").read_bytes() == before
