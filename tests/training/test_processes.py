"""Two processes of four devices each, through train.py: the run of one process, on a loopback address."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from said import PATIENCE

from vae_jax.storage.checkpoint_arrays import read_stored
from vae_jax.storage.verification import read_header
from vae_jax.training.writers import TIMES

ROOT = Path(__file__).parents[2]
WORDS = (
  "data.name=npz data.binarize=dynamic data.flip=true model.hidden=64 model.latent_dim=2 training.steps=6 "
  "training.batch_size=16 training.log_every=1 training.eval_every=3 training.checkpoint_every=3 "
  "training.steps_per_call=3 evaluation.batch_size=8 evaluation.pictures=4"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  noise = np.random.default_rng(0)
  for split, n in (("train", 40), ("validation", 11)):
    images = noise.integers(0, 256, size=(n, 5, 4, 1), dtype=np.uint8)
    np.savez(folder / f"{split}.npz", image=images)
  return folder


def start(data, workdir, devices, *extra, **variables):
  words = [f"--config.{word}" for word in (*WORDS.split(), f"data.dir={data}")]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)} | variables
  command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir), *words, *extra]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


# What Gloo, which sums over processes, writes of each device to the output: some pieces by several threads at once, so
# that one line may stand inside another.
GLOO = re.compile(
  r"\[Gloo\] Rank |is connected to | ?peer ranks\. |Expected number of connected peer ranks is : ?"
)


def without_gloo(output):
  """The lines that have anything but pieces of Gloo's lines and their numbers."""
  return "".join(
    line for line in output.splitlines(keepends=True) if re.search(r"[^\d\s]", GLOO.sub("", line))
  )


def ended(*processes, seconds=PATIENCE):
  """(status, output, errors) of each, once all have ended."""
  try:
    texts = [process.communicate(timeout=seconds) for process in processes]
    quiet = [(without_gloo(out), error) for out, error in texts]
    return [(process.returncode, *text) for process, text in zip(processes, quiet, strict=True)]
  finally:
    for process in processes:
      process.kill()


def good(*processes):
  results = ended(*processes)
  assert [status for status, *_ in results] == [0] * len(processes), [text[-2000:] for *_, text in results]
  return results


def free_port():
  """Below those that systems give to connections (from 32768 on), so that none takes it until it is used."""
  while True:
    port = random.randint(20000, 32000)
    with socket.socket() as free, contextlib.suppress(OSError):
      free.bind(("127.0.0.1", port))
      return port


def pair(data, workdir, *extra, slurm=False):
  """A run of two processes of four devices, by flags or by what SLURM sets."""
  port = str(free_port())
  for i in "01":
    if slurm:
      tasks = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": i, "SLURM_LOCALID": "0"}
      place = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": port}
      yield start(data, workdir, 4, *extra, **tasks, **place)
    else:
      place = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"]
      yield start(data, workdir, 4, *place, *extra)


def wait_for(log, seconds=PATIENCE):
  """For its first row."""
  deadline = time.monotonic() + seconds
  while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
    time.sleep(0.1)


def rows(workdir):
  read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if k not in TIMES} for row in read]


def same(workdir, other):
  ours, theirs = rows(workdir), rows(other)
  assert [row.keys() for row in ours] == [row.keys() for row in theirs]
  for mine, row in zip(ours, theirs, strict=True):
    for name in row.keys() - {"split"}:
      message = f"{row['step']} {name}"
      np.testing.assert_allclose(mine[name], row[name], rtol=1e-5, atol=1e-6, err_msg=message)
  pictures = [sorted(path.name for path in (run / "images").iterdir()) for run in (workdir, other)]
  assert pictures[0] == pictures[1] and pictures[0]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("alone") / "run"
  good(start(data, workdir, 1))
  return workdir


def test_gloos_lines_are_left_out_however_they_are_mixed():
  line = "[Gloo] Rank {} is connected to 7 peer ranks. Expected number of connected peer ranks is : 7\n"
  torn = (
    "[Gloo] Rank [Gloo] Rank 4" + line.format(5).removeprefix("[Gloo] Rank 5") + line.format(5)[12:] + "\n7\n"
  )
  assert without_gloo(line.format(0) + torn + "trained: runs/7\n") == "trained: runs/7\n"
  assert without_gloo("[Gloo] Rank trained: runs/7\n") == "[Gloo] Rank trained: runs/7\n"  # never ours


@pytest.mark.parametrize("slurm", [False, True], ids=["jit, streamed, by flags", "pmap, resident, by SLURM"])
def test_two_processes_make_the_run_of_one(data, alone, tmp_path, slurm):
  word = "--config.training.parallel=pmap" if slurm else "--config.data.resident_mb=0"
  results = good(*pair(data, tmp_path / "run", word, slurm=slurm))
  assert "trained:" in results[0][1] and results[1][1:] == ("", "")  # the first speaks for all
  same(tmp_path / "run", alone)


def assert_readable_unmerged(step):
  """The parts of both processes hold all that was merged of them."""
  record = read_header(step)["arrays"]
  merged = read_stored(step, record)
  (step / "manifest.ocdbt").unlink()
  assert {path.name for path in step.glob("ocdbt.*")} == {"ocdbt.process_0", "ocdbt.process_1"}
  for name, x in read_stored(step, record).items():
    np.testing.assert_array_equal(x, merged[name], err_msg=name)


def test_a_divided_state_is_saved_by_two_processes_and_continued_by_one(data, alone, tmp_path):
  run = tmp_path / "été [1]"  # a name that Orbax and tensorstore misread
  good(*pair(data, run, "--config.training.fsdp=true"))
  same(run, alone)
  assert_readable_unmerged(run / "checkpoints" / "6")
  shutil.rmtree(run / "checkpoints" / "6")
  good(start(data, run, 1))
  same(run, alone)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_has_all_save_and_stop(data, tmp_path, number):
  run = tmp_path / "run"
  slowly = ["--config.training.steps_per_call=1", "--config.training.checkpoint_every=1000"]
  first, second = pair(data, run, *slowly, "--config.training.steps=1000000")
  wait_for(run / "metrics.jsonl")
  second.send_signal(number)
  results = ended(first, second)
  assert [status for status, *_ in results] == [143, 128 + number], results
  stopped = re.search(r"^stopped at step (\d+) of 1000000, which is saved", results[0][2], flags=re.MULTILINE)
  assert stopped and "stopped" not in results[1][2]
  step = int(stopped[1])
  assert (run / "checkpoints" / str(step)).is_dir() and rows(run)[-1]["step"] == step


@pytest.mark.slow
def test_when_one_process_dies_the_other_ends(data, tmp_path):
  first, second = pair(data, tmp_path / "run", "--config.training.steps=1000000")
  wait_for(tmp_path / "run" / "metrics.jsonl")
  second.kill()
  (status, _, error), _ = ended(first, second)
  # In our words, or those of JAX, or of gloo, whichever notices first.
  words = ("another process is gone", "another task died", "gloo::")
  assert status != 0 and any(word in error for word in words), error


def test_when_one_process_is_refused_the_other_ends(data, tmp_path):
  port = free_port()
  place = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  first = start(data, tmp_path / "run", 4, *place, "--process=0")
  second = start(tmp_path / "nothing", tmp_path / "run", 4, *place, "--process=1")
  (status, *_), (refused, _, error) = ended(first, second)
  # The first by our line, or by JAX's or gloo's end of the process, whichever is first.
  assert status != 0 and refused == 2
  assert error.splitlines()[-1].startswith("error: process 1 of 2: ") and "nothing" in error
