"""The front door: its names, what an import brings in, and one word for one thing in every signature."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vae_jax
from vae_jax import inference
from vae_jax.models.contract import Family

ROOT = Path(__file__).parents[1]
NAMES = sorted(["vae_jax", *(m.name for m in pkgutil.walk_packages(vae_jax.__path__, "vae_jax."))])
LAZY = ["grain", "orbax", "PIL", "tensorboardX", "tensorflow_datasets", "tensorstore", "tqdm"]
NEVER = ["tensorflow", "torch"]


def imported(code):
  """The top names in sys.modules after `code`, in a fresh process."""
  code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, "")
  return set(done.stdout.split())


def functions():
  """Every function and method that is defined in the package, private ones included: (name, function)."""
  found = {}
  for module in map(importlib.import_module, NAMES):
    for holder in (module, *(c for c in vars(module).values() if inspect.isclass(c))):
      for value in vars(holder).values():
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function) and function.__module__.startswith("vae_jax"):
          found[f"{function.__module__}.{function.__qualname__}"] = function
  return found


FUNCTIONS = functions()


def test_the_walk_finds_functions_and_methods():
  assert {
    "vae_jax.inference.generate.Generates.sample",
    "vae_jax.inference.load",
    "vae_jax.data.degrade.gaussian_noise",
  } < {*FUNCTIONS}


@pytest.mark.parametrize("name", sorted(set(vae_jax.__all__) - {"__version__"}))
def test_every_public_name_is_there(name):
  assert getattr(vae_jax, name) is not None
  assert name in dir(vae_jax)


def test_load_is_the_one_of_inference():
  assert vae_jax.load is inference.load


@pytest.mark.parametrize("part", ["losses", "metrics", "models", "perceptual"])
def test_the_names_of_a_part_are_there_and_sorted(part):
  module = getattr(vae_jax, part)
  names = getattr(module, "__all__", [])
  assert sorted(names) == sorted(set(names))  # in ruff's order: constants first
  for name in names:
    assert callable(getattr(module, name)) or name.isupper(), name


def test_importing_the_package_brings_in_neither_jax_nor_numpy():
  assert not imported("import vae_jax") & {"jax", "numpy", "flax", *LAZY, *NEVER}


@pytest.mark.parametrize("part", ["losses", "metrics", "distributions"])
def test_pure_functions_need_jax_alone(part):
  names = imported(f"from vae_jax import {part}")
  assert "jax" in names and not names & {"flax", "optax", "ml_collections", *LAZY, *NEVER}


def test_importing_every_module_brings_in_no_data_set_checkpoint_or_picture_library():
  code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in NAMES)
  assert not imported(code) & {*LAZY, *NEVER}


def test_flags_and_configs_bring_in_no_data_set_checkpoint_or_picture_library():
  """The keys of a family lie in its file, beside its layers: so JAX comes with them."""
  names = imported("from vae_jax import cli, configuration; cli.parse_train([])")
  assert "jax" in names and not names & {"optax", *LAZY, *NEVER}


def test_help_of_evaluate_needs_no_jax():
  names = imported(
    "from vae_jax import cli\ntry: cli.parse_evaluate(['--mode', 'nothing'])\nexcept Exception: pass"
  )
  assert not names & {"jax", "numpy", "flax", *LAZY, *NEVER}


def test_randomness_is_called_key():
  words = {"rng", "rngs", "prng", "prng_key", "rng_key", "random_key", "seed_key", "random_state"}
  for name, function in FUNCTIONS.items():
    assert not words & set(inspect.signature(function).parameters), name


def test_what_is_called_key_is_a_key():
  """`key` alone or at the end of a name; in config.py and sources.py a key is one of a config or of a record."""
  seen = 0
  for name, function in FUNCTIONS.items():
    for word, parameter in inspect.signature(function).parameters.items():
      annotated = str(parameter.annotation)
      if annotated in ("Key", "Key | None"):
        assert word in ("key", "keys", "root") or word.endswith("_key"), f"{name}({word})"
        seen += 1
      elif word == "key" and parameter.annotation is not inspect.Parameter.empty:
        assert annotated == "str" and name.startswith("vae_jax.configuration"), f"{name}({word}: {annotated})"
  assert seen > 10


def test_other_words_of_the_plan():
  """One thing has one name: batch_size, num, steps, latents z; see docs/architecture.md."""
  others = {
    "bs",
    "batchsize",
    "n_samples",
    "num_samples",
    "log_var",
    "latent",
    "lr",
    "labels_",
    "weights_rec",
  }
  for name, function in FUNCTIONS.items():
    assert not others & set(inspect.signature(function).parameters), name


def test_every_function_of_the_front_door_says_what_it_does():
  rooms = ("distributions", "inference", "losses", "metrics", "models", "objectives")
  public = {
    name: function
    for name, function in FUNCTIONS.items()
    if name.split(".")[1] in rooms and "._" not in name and "<locals>" not in name
  }
  assert len(public) > 40
  methods = {"merge", "setup", "__call__", "update"}  # a line each beside their class, or Linen's
  methods |= {n for n, f in vars(Family).items() if inspect.getdoc(f)}  # a family's: said once, in its base
  assert not [n for n, f in public.items() if not inspect.getdoc(f) and n.rpartition(".")[2] not in methods]
