"""The front door: what an import brings in."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vae_jax

ROOT = Path(__file__).parents[2]
HEAVY = [
  "flax",
  "optax",
  "orbax",
  "tensorflow",
  "tensorflow_datasets",
  "torch",
  "grain",
  "ml_collections",
  "PIL",
]


def python(code):
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


def test_losses_need_only_jax():
  code = (
    "import sys, jax, jax.numpy\n"
    "before = set(sys.modules)\n"
    "from vae_jax import losses\n"
    "print(*(set(sys.modules) - before))"
  )
  added = python(code)
  own = {name for name in added if name.split(".")[0] == "vae_jax"}
  light = (
    "checks",
    "distributions",
    "errors",
    "generator",  # keys and types of JAX alone
    "keys",
    "losses",
    "metrics",
    "progress",  # of the standard library alone
    "storage",
    "storage.files",
    "types",
  )
  assert own - {"vae_jax"} == {name for name in own if name.removeprefix("vae_jax.").startswith(light)}
  assert not {"vae_jax.models", "vae_jax.configuration", "vae_jax.storage.checkpoints"} & own
  assert not {name.split(".")[0] for name in added} & set(HEAVY)


def test_the_package_alone_imports_nothing():
  code = (
    "import sys, vae_jax; print('jax' in sys.modules, *(m for m in sys.modules if m.startswith('vae_jax')))"
  )
  assert python(code) == ["False", "vae_jax"]


def test_parts_are_reached_by_attribute():
  code = (
    "import vae_jax; print(vae_jax.losses.__name__, vae_jax.metrics.__name__, vae_jax.distributions.__name__)"
  )
  assert python(code) == ["vae_jax.losses", "vae_jax.metrics", "vae_jax.distributions"]
  assert "load" in dir(vae_jax)
  with pytest.raises(AttributeError, match="'vae_jax' has no attribute 'loses'"):
    _ = vae_jax.loses


def test_load_is_that_of_inference(monkeypatch):
  module = type(sys)("vae_jax.inference")
  module.load = lambda path: path
  monkeypatch.setitem(sys.modules, "vae_jax.inference", module)
  assert vae_jax.load("runs/digits") == "runs/digits"


def test_version_is_that_of_the_project():
  declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
  assert declared and declared[1] == vae_jax.__version__
