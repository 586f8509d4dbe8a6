"""The front door: its names, what an import brings in, and one word for one thing in every signature."""

import importlib
import inspect
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from trained import spec_of, trained

import vae_jax
from vae_jax import inference
from vae_jax.configuration import apply_overrides, differences
from vae_jax.errors import UserError
from vae_jax.models.code_priors import CodePrior
from vae_jax.models.contract import Family
from vae_jax.models.latent_priors import LatentPrior, MixturePrior
from vae_jax.models.quantiser import Quantiser
from vae_jax.models.vae import VAE
from vae_jax.models.vq_vae import VQVAE

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
    "vae_jax.data.degrade.noise.gaussian_noise",
  } < {*FUNCTIONS}


@pytest.mark.parametrize("name", sorted(set(vae_jax.__all__) - {"__version__"}))
def test_every_public_name_is_there(name):
  assert getattr(vae_jax, name) is not None
  assert name in dir(vae_jax)


def test_load_is_the_one_of_inference():
  assert vae_jax.load is inference.load


@pytest.mark.parametrize(
  ("name", "place"),
  [
    ("vae_jax.load_model", "vae_jax.load"),
    ("vae_jax.from_pretrained", "vae_jax.load"),
    ("vae_jax.VAE", "vae_jax.load"),
    ("vae_jax.metrics.lpips", "vae_jax.perceptual.load_lpips"),
    ("vae_jax.metrics.kl", "vae_jax.losses.kl_gaussian"),
    ("vae_jax.losses.mse", "vae_jax.metrics.mse"),
    ("vae_jax.losses.elbo", "vae_jax.losses.negative_elbo"),
  ],
)
def test_a_name_of_other_libraries_is_answered_with_ours(name, place):
  module, _, word = name.rpartition(".")
  with pytest.raises(
    AttributeError, match=re.escape(f"module {module!r} has no attribute {word!r}; use ")
  ) as error:
    getattr(importlib.import_module(module), word)
  assert place in str(error.value)


@pytest.mark.parametrize("module", ["vae_jax", "vae_jax.metrics", "vae_jax.losses"])
def test_names_elsewhere_lead_to_what_is_there(module):
  """Each answer names things that exist, and no name that the module has."""
  found = importlib.import_module(module)
  for name, words in found._ELSEWHERE.items():
    assert not hasattr(found, name)
    for place in re.findall(r"vae_jax[\w.]*\w", words):
      holder, _, last = place.rpartition(".")
      assert hasattr(importlib.import_module(holder), last), place
  with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'zzz'$"):
    found.zzz  # noqa: B018


def test_psnr_is_that_of_all_channels():
  assert vae_jax.metrics.psnr is vae_jax.metrics.psnr_rgb


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
      if annotated in ("Key", "Key | None", "Key | int", "Key | int | None"):
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
  for base in (
    Family,
    Quantiser,
    VQVAE,
    VAE,
    CodePrior,
    MixturePrior,
    LatentPrior,
  ):  # of their kind: said once, in the base
    methods |= {n for n, f in vars(base).items() if inspect.getdoc(f)}
  assert not [n for n, f in public.items() if not inspect.getdoc(f) and n.rpartition(".")[2] not in methods]


# A config, a training, its scores.


def test_a_config_by_name_with_overrides():
  assert vae_jax.config().training.steps == 6000
  given = {
    "training.steps": 7,
    "model.hidden": [8, 4],
    "data.flip": True,
    "data.dir": "a b",
    "objective.beta": 1e-7,
  }
  config = vae_jax.config("mnist_vae", given)
  assert config.is_locked and (config.training.steps, config.model.hidden) == (7, (8, 4))
  assert (config.data.flip, config.data.dir, config.objective.beta) == (True, "a b", 1e-7)
  words = ["training.steps=7", "model.hidden=8,4", "data.flip=true", "data.dir=a b", "objective.beta=1e-7"]
  assert differences(config, vae_jax.config("mnist_vae", words)) == []
  assert vae_jax.base_config("conv_vae").model.name == "conv_vae"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """A config of 8 training steps on 40 small images."""
  folder = tmp_path_factory.mktemp("small")
  images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
  for split in ("train", "validation", "test"):
    np.savez(folder / f"{split}.npz", image=images)
  values = {"data.name": "npz", "data.dir": str(folder), "training.steps": 8, "training.batch_size": 8}
  values |= {"training.steps_per_call": 2, "training.warmup_steps": 2, "training.log_every": 4}
  values |= {"model.hidden": (4,), "model.latent_dim": 2, "data.binarize": "none", "evaluation.samples": 2}
  return vae_jax.config("mnist_vae", values)


def test_train_in_python_stops_at_ctrl_c_with_what_there_is_and_continues(
  small, tmp_path, monkeypatch, capsys
):
  from vae_jax.training.stopping import Request, Stopped

  before = small.to_json()
  with monkeypatch.context() as patch:
    patch.setattr(Request, "stops", lambda self: signal.SIGINT)
    model = vae_jax.train(small, tmp_path / "run")
  assert isinstance(model, inference.TrainedVAE) and model.step == 2
  assert "stopped at step 2 of 8" in capsys.readouterr().err
  model = vae_jax.train(small, str(tmp_path / "run"))
  assert model.step == 8 and small.to_json() == before
  assert (
    repr(model)
    == f"TrainedVAE(mlp_vae, images 4 x 4 x 1, 2 latents, 180 parameters, step 8 of {tmp_path}/run)"
  )

  scores = vae_jax.evaluate(tmp_path / "run", "test[:16]", limit=10, data_dir=small.data.dir)
  assert (scores["examples"], scores["iwae_samples"], scores["step"]) == (10, 2, 8)
  with pytest.raises(UserError, match="no-such-folder"):
    vae_jax.evaluate(model, data_dir=tmp_path / "no-such-folder")
  assert model.config.data.dir == small.data.dir
  for wrong in ({"samples": -3}, {"samples": 1.5}, {"limit": -1}, {"batch_size": 0}, {"batch_size": -1}):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}='.*' must be an integer"):
      vae_jax.evaluate(model, **wrong)
  with pytest.raises(UserError, match=r"seed='.*' must be an integer"):
    vae_jax.evaluate(model, seed=jax.random.key(0))

  def ends(config, workdir):
    raise Stopped("stopped", 128 + signal.SIGTERM)

  monkeypatch.setattr("vae_jax.training.loop.train", ends)  # SIGTERM ends the process, as without vae_jax
  with pytest.raises(Stopped):
    vae_jax.train(small, tmp_path / "run")


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: vae_jax.train({"steps": 3}, "x"), "config is a dict; give a name, or what vae_jax.config"),
    (lambda: vae_jax.train(None, "x"), "config is a NoneType; give"),
    (lambda: vae_jax.train(ConfigDict({"steps": 3}), "x"), "unknown config key 'steps'"),
    (lambda: vae_jax.train("mnist_va", "x"), "did you mean 'mnist_vae'?"),
    (lambda: vae_jax.train(vae_jax.config(), None), "None is not the name of a folder; give a path"),
    (lambda: vae_jax.train(vae_jax.config(), ""), "'' is not the name of a folder; give a path"),
    (lambda: vae_jax.config({"steps": 3}), "config is given a dict; give a name"),
    (lambda: vae_jax.config("mnist_vae", "training.steps=3"), "is one text; give a list of them"),
    (lambda: vae_jax.config("mnist_vae", {"training.steps": -1}), "training.steps=-1 must be > 0"),
    (lambda: vae_jax.config("mnist_vae", {"training.stepz": 1}), "did you mean 'training.steps'?"),
    (lambda: vae_jax.load("no/run"), "no/run: no such run"),
    (lambda: vae_jax.load(3), "load is given a int; give the folder of a run"),
    (lambda: vae_jax.evaluate("no/run"), "no/run: no such run"),
    (lambda: vae_jax.evaluate("."), "no"),
  ],
)
def test_misuse_is_one_line(call, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=re.escape(message)) as error:
    call()
  assert "\n" not in str(error.value)


def test_seeds_stand_for_keys():
  config = apply_overrides(vae_jax.base_config(), ["model.hidden=4", "model.latent_dim=2"])
  model = trained(config, spec_of((4, 4, 1)))
  expected = model.sample(jax.random.key(3), 2)
  for key in (3, np.int64(3), jax.random.PRNGKey(3)):
    np.testing.assert_array_equal(model.sample(key, 2), expected)
  np.testing.assert_array_equal(model.latents(3, 2), model.latents(jax.random.key(3), 2))
  assert not np.array_equal(model.sample(4, 2), expected)
  for key in (None, "0", 0.5, True, -1, 2**31, jax.random.split(jax.random.key(0))):
    with pytest.raises(UserError, match=r"give a seed \(an integer >= 0, < 2\*\*31\) or a key"):
      model.sample(key, 2)
  with pytest.raises(UserError, match=r"key: uint32\[4\] .* give a typed key"):
    model.sample(jax.random.PRNGKey(3, impl="rbg"), 2)
