"""Two processes of four devices each, through train.py: the run of one process, on a loopback address."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
WORDS = (
  "data.name=npz data.binarize=dynamic data.flip=true model.hidden=8 model.latent_dim=2 training.steps=6 "
  "training.batch_size=16 training.log_every=1 training.eval_every=3 training.checkpoint_every=3 "
  "training.steps_per_call=3 evaluation.batch_size=8 evaluation.pictures=4"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  random = np.random.default_rng(0)
  for split, n in (("train", 40), ("validation", 11)):
    images = random.integers(0, 256, size=(n, 5, 4, 1), dtype=np.uint8)
    np.savez(folder / f"{split}.npz", image=images)
  return folder


def start(data, workdir, devices, *extra):
  words = [f"--config.{word}" for word in (*WORDS.split(), f"data.dir={data}")]
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": str(devices),
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
  }
  command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir), *words, *extra]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def ended(*processes):
  try:
    for process in processes:
      out, error = process.communicate(timeout=240)
      assert process.returncode == 0, error[-2000:] + out[-500:]
  finally:
    for process in processes:
      process.kill()


def together(data, workdir, *extra):
  """A run of two processes."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  place = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  ended(*(start(data, workdir, 4, *place, f"--process={i}", *extra) for i in (0, 1)))


def rows(workdir):
  read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if k != "seconds"} for row in read]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("alone") / "run"
  ended(start(data, workdir, 1))
  return workdir


@pytest.mark.parametrize("way", ["jit", "pmap", "fsdp"])
def test_two_processes_make_the_run_of_one(data, alone, tmp_path, way):
  words = {"pmap": ["--config.training.parallel=pmap"], "fsdp": ["--config.training.fsdp=true"]}.get(way, [])
  together(
    data,
    tmp_path / "run",
    *words,
    "--config.data.resident_mb=0" if way == "jit" else "--config.data.workers=1",
  )
  ours, theirs = rows(tmp_path / "run"), rows(alone)
  assert [row.keys() for row in ours] == [row.keys() for row in theirs]
  for row, other in zip(ours, theirs, strict=True):
    for name in row.keys() - {"split"}:
      np.testing.assert_allclose(
        row[name], other[name], rtol=1e-5, atol=1e-6, err_msg=f"{row['step']} {name}"
      )
  pictures = sorted(path.name for path in (tmp_path / "run" / "images").iterdir())
  assert pictures == sorted(path.name for path in (alone / "images").iterdir())


def test_a_checkpoint_of_two_processes_is_continued_by_one(data, alone, tmp_path):
  together(data, tmp_path / "run", "--config.training.fsdp=true")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
  ended(start(data, tmp_path / "run", 1))
  for row, other in zip(rows(tmp_path / "run"), rows(alone), strict=True):
    np.testing.assert_allclose(row["loss"], other["loss"], rtol=1e-5)
