"""config.json: round trips, old ones, damaged ones."""

import json
import re
from pathlib import Path

import pytest

from vae_jax.configuration import (
  apply_overrides,
  base_config,
  differences,
  every_key,
  from_json,
  keys_of,
  owners,
  to_json,
)
from vae_jax.errors import UserError
from vae_jax.models import FAMILIES

ROOT = Path(__file__).parents[2]


def _set(*overrides, family="mlp_vae"):
  return apply_overrides(base_config(family), overrides)


def test_json_round_trip():
  config = _set(
    "model.hidden=3,4", "data.size=8,9", "training.learning_rate=0.1", "data.dir=ü", "data.flip=true"
  )
  text = to_json(config)
  tree = json.loads(text)
  assert tree["model"]["hidden"] == [3, 4] and tree["data"]["degrade"]["name"] == "identity"
  again = from_json(text)
  assert differences(config, again) == [] and again.is_locked and again.model.hidden == (3, 4)
  assert to_json(again) == text


def test_json_lacking_keys_gets_defaults():
  assert differences(from_json('{"training": {"steps": 5}}'), base_config()) == ["training.steps"]
  assert differences(from_json('{"objective": {"beta": 2}}'), _set("objective.beta=2")) == []


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "run/config.json is not valid JSON"),
    ("{", "run/config.json is not valid JSON"),
    ("[" * 100_000, "run/config.json is not valid JSON"),
    ("[]", "run/config.json: a config holds sections of keys, not list"),
    ("null", "not NoneType"),
    ('{"training": 3}', "run/config.json: unknown config key 'training'"),
    ('{"training": {"warp": 3}}', "unknown config key 'training.warp'"),
    ('{"perceptual": {"weight": 3}}', "or use the version of vae_jax that wrote it"),
    ('{"training": {"steps": "3"}}', "run/config.json: training.steps='3' must be"),
    ('{"training": {"steps": 3.0}}', "training.steps=3.0 must be"),
    ('{"training": {"steps": {"a": 1}}}', "training.steps={'a': 1} must be"),
    ('{"training": {"steps": 0}}', "run/config.json: training.steps=0 must be > 0"),
    ('{"training": {"learning_rate": NaN}}', "training.learning_rate=nan must be a number"),
    ('{"training": {"learning_rate": 1' + "0" * 400 + "}}", "must be a number"),
    ('{"data": {"size": [1.5, 2]}}', "data.size=[1.5, 2] must be integers"),
    ('{"data": {"size": [true, true]}}', "must be integers"),
    ('{"model": 3}', "run/config.json: unknown config key 'model'"),
    ('{"model": {"name": "gan"}}', "run/config.json: model.name='gan' is not a model"),
    ('{"model": {"name": 3}}', "run/config.json: model.name=3 must be text; its default is mlp_vae"),
    ('{"model": {"name": ["mlp_vae"]}}', "run/config.json: model.name=['mlp_vae'] must be text"),
    ('{"model": {"name": "conv_vae", "wings": 2}}', "unknown config key 'model.wings'"),
  ],
)
def test_bad_json(text, message):
  with pytest.raises(UserError, match=re.escape(message)):
    from_json(text, "run/config.json")


# Before families had keys of their own, a config.json held one flat table of all: here with its defaults.
FLAT = {
  "model": {
    "activation": "relu",
    "blocks": 1,
    "channels": [32, 64],
    "dense": 256,
    "hidden": [512],
    "latent_dim": 16,
    "likelihood": "bernoulli",
    "mixtures": 10,
    "name": "mlp_vae",
    "remat": False,
    "sigma": "learned",
    "unshuffle": 1,
  }
}


def test_the_flat_table_is_that_of_an_old_run():
  old = json.loads((ROOT / "tests/golden/checkpoint_v1/config.json").read_text())
  assert set(old["model"]) == set(FLAT["model"])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_old_config_with_the_keys_of_all_families(family):
  """Its own keys count, those of others are dropped, whatever they say."""
  tree = json.loads((ROOT / "tests/golden/checkpoint_v1/config.json").read_text())
  tree["model"] = FLAT["model"] | {
    "name": family,
    "latent_dim": 0 if family == "transformation_net" else 5,
    "channels": [7, 8],
    "hidden": [9],
    "likelihood": "laplace",
    "mixtures": 3,
    "unshuffle": 2,
  }
  tree["objective"]["restoration"] = 0.5
  config = from_json(json.dumps(tree))
  flat = _flat(tree)
  values = _flat(json.loads(to_json(config)))
  assert set(values) == set(keys_of(family)) and set(flat) - set(values) == set(flat) - set(keys_of(family))
  assert {key: flat[key] for key in set(flat) & set(values)} == {
    key: values[key] for key in set(flat) & set(values)
  }
  assert to_json(from_json(to_json(config))) == to_json(config)


def _flat(tree, prefix=""):
  flat = {}
  for name, value in tree.items():
    flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
  return flat


OLD = sorted([*ROOT.glob("tests/golden/*/config.json"), *ROOT.glob("pretrained/*/config.json")])


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.parent.name)
def test_old_files_of_runs_and_models(path):
  """Every value that the family still has is read as it is there; all others belong to another family."""
  tree = json.loads(path.read_text())
  tree = tree.get("config", tree)
  config = from_json(json.dumps(tree), str(path))
  old, new, family = _flat(tree), _flat(json.loads(to_json(config))), tree["model"]["name"]
  assert set(old) <= set(every_key()) and set(new) == set(keys_of(family))
  assert {key: new[key] for key in old if key in new} == {key: old[key] for key in old if key in new}
  assert all(family not in owners(key) for key in set(old) - set(new))


def test_a_key_that_no_family_has_is_refused_beside_those_of_others():
  tree = json.loads((ROOT / "tests/golden/checkpoint_v1/config.json").read_text())
  tree["model"]["chanels"] = [3]
  with pytest.raises(UserError, match=r"unknown config key 'model\.chanels'.* or use the version of vae_jax"):
    from_json(json.dumps(tree))
