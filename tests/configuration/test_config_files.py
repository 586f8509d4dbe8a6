"""Config files: they are run, and each mistake in one is one line."""

import importlib
import re
from pathlib import Path

import pytest

from vae_jax.configuration import (
  base_config,
  config_files,
  differences,
  load_config_file,
  summary_of,
  validate,
)
from vae_jax.errors import UserError
from vae_jax.models import FAMILIES

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def _file(tmp_path, text):
  path = tmp_path / "some.py"
  path.write_text(text)
  return path


BASE = "from vae_jax.configuration import base_config\ndef get_config():\n  config = base_config()\n"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 1\n", "has no function get_config()"),
    ("get_config = 3\n", "has no function get_config()"),
    ("def get_config():\n  return {}\n", "get_config() returned dict"),
    ("def get_config():\n  pass\n", "get_config() returned NoneType"),
    ("def get_config(:\n", "SyntaxError"),
    ("\nimport no_such_module\n", "some.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
    ("def get_config():\n  return 1 / 0\n", "some.py:2: ZeroDivisionError"),
    ("raise SystemExit(0)\n", "some.py:1: SystemExit"),
    (
      BASE + "  config.training.stepss = 3\n  return config\n",
      "some.py:4: there is no config key 'stepss' here; did you mean 'training.steps'",
    ),
    (
      BASE + "  config.trainning.steps = 3\n  return config\n",
      "some.py:4: there is no config key 'trainning' here; did you mean 'training' or 'data.train'?",
    ),
    (
      BASE + "  config['data'].update({'degrade': {'sgima': 3}})\n  return config\n",
      "there is no config key 'sgima' here; did you mean 'data.degrade.sigma' or 'model.sigma'",
    ),
    (
      BASE + "  config.zzz = 3\n  return config\n",
      "no config key 'zzz' here; --help of train lists all keys",
    ),
    (BASE + "  del config.training.steps\n  return config\n", "some.py:4: AttributeError"),
    (BASE + "  config.training.steps = 10**5000\n  return config\n", "training.steps=<int> must be a 31-bit"),
    (
      BASE + "  config.model.hidden = ((1, 2), 3)\n  return config\n",
      "model.hidden=((1, 2), 3) must be integers",
    ),
    (BASE + "  return config.data\n", "some.py: unknown config key"),
    (BASE + "  config.training.steps = 3.5\n  return config\n", "some.py:4: TypeError"),
    (BASE + "  config.training.steps = True\n  return config\n", "some.py: training.steps=True must be"),
    (
      BASE + "  config.data.size = ('a', 'b')\n  return config\n",
      "some.py: data.size=('a', 'b') must be integers",
    ),
    (BASE + "  config.unlock()\n  config.lr = 1\n  return config\n", "some.py: unknown config key 'lr'"),
    (
      BASE + "  config.model.channels = (3,)\n  return config\n",
      "some.py:4: model.channels is a key of conv_vae, restoration_vae, transformation_net",
    ),
    (
      BASE + "  config.model.name = 'conv_vae'\n  config.model.regulariser = 'gp'\n  return config\n",
      "some.py:5: model.regulariser is a key of rae alone; begin with base_config('rae')",
    ),
    (
      BASE + "  config.unlock()\n  config.model.regulariser = 'gp'\n  return config\n",
      "some.py: model.regulariser is a key of rae, not of mlp_vae, which has model.name, model.latent_dim",
    ),
    (
      BASE + "  config.model.hidden = (3,)\n  config.model.name = 'conv_vae'\n  return config\n",
      "some.py: model.hidden is a key of mlp_vae",
    ),
    (
      BASE + "  config.model.name = 'gan'\n  return config\n",
      "some.py: model.name='gan' is not a model; known models: ",
    ),
    (
      BASE.replace("base_config()", "base_config('cov_vae')") + "  return config\n",
      "model.name='cov_vae' is not a model; did you mean 'conv_vae'?",
    ),
  ],
)
def test_bad_config_files(tmp_path, text, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    load_config_file(_file(tmp_path, text))
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_file_of_every_family(tmp_path, family):
  path = _file(tmp_path, BASE.replace("base_config()", f"base_config({family!r})") + "  return config\n")
  config = load_config_file(path)
  assert config.is_locked and differences(config, base_config(family)) == []


def test_a_config_file_may_change_the_family_of_what_it_began_with(tmp_path):
  """Keys at the default of the family that was left are passed over; the new family's are at theirs."""
  path = _file(tmp_path, BASE + "  config.model.name = 'conv_vae'\n  return config\n")
  assert differences(load_config_file(path), base_config("conv_vae")) == []


def test_a_missing_config_file_is_answered_with_a_near_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"there is no config file 'no/x\.py'; 'vae-jax configs' lists"):
    load_config_file("no/x.py")
  for word in ("mnist_con", "configs/mnist_con.py", "other/mnist_conv.py"):
    with pytest.raises(UserError, match=re.escape("did you mean 'mnist_conv'?")):
      load_config_file(word)
  (tmp_path / "configs").mkdir()
  with pytest.raises(UserError, match="there is no config 'configs'"):
    load_config_file("configs")


def test_config_files_from_before_the_package_was_renamed_run(tmp_path):
  """They import from vae_jax.config, now a function: it stays one, and other programs cannot import from it."""
  import vae_jax

  text = BASE.replace("vae_jax.configuration", "vae_jax.config")
  inner = _file(tmp_path, text + "  return config\n").rename(tmp_path / "inner.py")
  path = _file(
    tmp_path,
    f"from vae_jax.configuration import load_config_file\nload_config_file({str(inner)!r})\n"
    "def get_config():\n  from vae_jax.config import base_config\n  return base_config('conv_vae')\n",
  )
  assert load_config_file(path).model.name == "conv_vae"
  assert callable(vae_jax.config)
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module("vae_jax.config")


def test_config_files_have_names_and_summaries(tmp_path, monkeypatch):
  """Those of the package first; one of the current folder's configs/ hides its namesake."""
  monkeypatch.chdir(tmp_path)
  assert {path.stem for path in CONFIGS} == set(config_files())
  assert all(len(summary_of(path)) > 30 for path in config_files().values())
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mnist_vae.py").write_text('"""Mine.\n\nMore."""\nraise SystemExit\n')
  assert summary_of(config_files()["mnist_vae"]) == "Mine."
  assert summary_of(_file(tmp_path, "def f(:")) == ""


def test_a_changed_config_file_is_read_anew(tmp_path):
  for steps in (1, 2, 3):  # the same size within one second: an import would take the cached bytecode
    path = _file(tmp_path, f"{BASE}  config.training.steps = {steps}\n  return config\n")
    assert load_config_file(path).training.steps == steps
  assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_of_this_repository(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = load_config_file(path)
  validate(config)
  assert config.is_locked
  text = path.read_text()
  command = (
    "python train.py\n" if path.stem == "mnist_vae" else f"python train.py --config configs/{path.name}"
  )
  assert command in text and "\ncost: " in text and "\nfigure: " in text


def test_neighbouring_configs_differ_only_in_what_they_say():
  assert CONFIGS
  load = {path.stem: load_config_file(path) for path in CONFIGS}
  burda = load["mnist_vae_burda"]
  assert all(
    key.startswith(("objective.", "training.")) for key in differences(burda, load["mnist_iwae5_burda"])
  )
  assert all(
    key.startswith(("objective.", "training.")) for key in differences(burda, load["mnist_iwae50_burda"])
  )
  assert (load["mnist_iwae5_burda"].objective.samples, load["mnist_iwae50_burda"].objective.samples) == (
    5,
    50,
  )
  assert differences(burda, load["fashion_mnist_vae"]) == ["data.dir", "training.steps", "evaluation.samples"]
