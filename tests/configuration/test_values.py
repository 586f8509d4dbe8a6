"""Values by dotted key: defaults, overrides, the keys of each family."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.configuration import (
  apply_overrides,
  base_config,
  differences,
  every_key,
  from_json,
  keys_of,
  owners,
  to_json,
  validate,
)
from vae_jax.errors import UserError
from vae_jax.keys import Key
from vae_jax.models import FAMILIES


def _value(config, key):
  for name in key.split("."):
    config = config[name]
  return config


def _set(*overrides, family="mlp_vae"):
  return apply_overrides(base_config(family), overrides)


@pytest.mark.parametrize("family", FAMILIES)
def test_base_config_is_valid_and_locked(family):
  config = base_config(family)
  validate(config)
  for key, (default, _, _) in (keys_of(family) | {"model.name": Key(family, "")}).items():
    assert _value(config, key) == default and type(_value(config, key)) is type(default)
  with pytest.raises(AttributeError):
    config.training.stepss = 3
  with pytest.raises(TypeError):
    config.training.steps = 3.5


def test_import_is_light():
  code = (
    "import sys, vae_jax.cli; print(sorted({'jax', 'flax', 'numpy', 'orbax', 'optax'} & set(sys.modules)))"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


# Overrides.


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    ("training.steps=2000", 2000),
    ("training.learning_rate=1e-3", 1e-3),
    ("training.learning_rate=.5", 0.5),
    ("objective.beta=4", 4.0),
    ("data.flip=true", True),
    ("data.flip=False", False),
    ("data.dir=/tmp/a=b", "/tmp/a=b"),
    ("data.train=train[:90%]", "train[:90%]"),
    ("model.sigma=0.1", "0.1"),
    ("model.hidden=32,64", (32, 64)),
    ("model.hidden=(32, 64)", (32, 64)),
    ("model.hidden=[32, 64,]", (32, 64)),
    ("model.hidden=64", (64,)),
  ],
)
def test_overrides(override, expected):
  config = base_config()
  got = _value(apply_overrides(config, [override]), override.split("=")[0])
  assert got == expected and type(got) is type(expected)
  assert differences(config, base_config()) == []  # the argument is left as it was


def test_the_last_override_wins_and_the_result_is_locked():
  config = _set("training.steps=1", "training.steps=2")
  assert config.training.steps == 2 and config.is_locked


def test_no_integers_at_all_are_written_as_they_are_shown():
  """Where the key's rule takes them."""
  key = "model.attn_resolutions"
  assert _set(f"{key}=16,8", f"{key}=()", family="vq_model").model.attn_resolutions == ()
  with pytest.raises(UserError, match=r"model\.hidden=\(\) must be one or more widths"):
    validate(_set("model.hidden=()"))


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("training.stepss=3", "unknown config key 'training.stepss'; did you mean 'training.steps'?"),
    ("batch_size=3", "did you mean 'training.batch_size'?"),
    ("training=3", "unknown config key 'training'"),
    ("model.name", "model.name has no value; write model.name=mlp_vae"),
    ("model.name=", "model.name='' is not a model; known models: "),
    ("model.name=conv_va", "model.name='conv_va' is not a model; did you mean 'conv_vae'?"),
    ("zz=3", "--help"),
    ("=3", "unknown config key ''"),
    ("training.steps", "training.steps=2000"),
    ("training.steps=", "training.steps='' must be a 31-bit integer"),
    ("training.steps=3.5", "training.steps='3.5' must be a 31-bit integer"),
    ("training.steps=2147483648", "training.steps=2147483648 must be a 31-bit integer"),
    ("training.steps=" + "9" * 5000, "must be a 31-bit integer"),
    ("training.learning_rate=fast", "training.learning_rate='fast' must be a number"),
    ("training.learning_rate=nan", "training.learning_rate=nan must be a number"),
    ("training.learning_rate=inf", "training.learning_rate=inf must be a number"),
    ("data.flip=1", "data.flip='1' must be true or false"),
    ("data.flip=", "data.flip='' must be true or false"),
    ("model.hidden=", "model.hidden='' must be integers"),
    ("model.hidden=a,b", "model.hidden='a,b' must be integers"),
    ("model.hidden=1.5", "model.hidden='1.5' must be integers"),
    ("model.hidden=(1,2", "must be integers"),
  ],
)
def test_bad_overrides(override, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    apply_overrides(base_config(), [override])
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


_TEXT = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.booleans().map(str)
_NUMBERS = st.lists(st.integers(-9, 999)).map(lambda n: ",".join(map(str, n)))


@settings(database=None, deadline=None, max_examples=300)
@given(
  st.sampled_from(sorted(FAMILIES)),
  st.sampled_from(sorted(every_key())) | st.text(max_size=8),
  _TEXT | _NUMBERS | _NUMBERS.map("({})".format),
)
def test_any_override_is_valid_or_a_user_error(family, key, text):
  try:
    config = apply_overrides(base_config(family), [f"{key}={text}"])
    validate(config)
  except UserError as error:
    assert key in str(error) or key not in every_key()
    return
  key = key.split("=")[0]
  assert type(_value(config, key)) is type(keys_of(family)[key].default)
  assert differences(from_json(to_json(config)), config) == []
  assert set(differences(config, base_config(family))) <= {key}


def test_differences():
  assert differences(base_config(), base_config()) == []
  assert differences(_set("training.seed=1", "data.flip=true"), base_config()) == [
    "data.flip",
    "training.seed",
  ]


# Keys belong to families.


def test_every_key_has_owners_and_every_family_its_keys():
  for key in every_key():
    assert owners(key) == [name for name in FAMILIES if key in keys_of(name)] != []
  assert owners("training.steps") == list(FAMILIES) and owners("no.such") == []
  assert owners("model.unshuffle") == ["restoration_vae"] and "mlp_vae" in owners("model.hidden")


FOREIGN = [(family, key) for family in FAMILIES for key in every_key() if key not in keys_of(family)]


@pytest.mark.parametrize(("family", "key"), FOREIGN)
def test_a_key_of_another_family_is_refused_with_those_that_have_it(family, key):
  value = keys_of(owners(key)[0])[key].default
  text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
  with pytest.raises(UserError) as error:
    _set(f"{key}={text}", family=family)
  line = str(error.value)
  assert line.startswith(f"{key} is a key of {', '.join(owners(key))}, not of {family}, which has ")
  section = key.split(".")[0]
  has = line.split("which has ")[1].split(", ")
  assert set(has) - {"..."} and set(has) - {"..."} <= {
    k for k in keys_of(family) if k.startswith(f"{section}.")
  }
  assert "\n" not in line
  with pytest.raises(KeyError):
    base_config(family)[section][key.split(".")[1]] = value


def test_another_family_keeps_what_was_set_and_takes_its_own_defaults():
  config = _set("model.latent_dim=5", "model.hidden=7", "training.steps=9", "model.likelihood=laplace")
  other = apply_overrides(config, ["model.channels=3", "model.name=conv_vae"])  # the order does not count
  assert other.is_locked and "hidden" not in other.model
  assert differences(other, base_config("conv_vae")) == [
    "model.latent_dim",
    "model.channels",
    "model.likelihood",
    "training.steps",
  ]
  assert (other.model.latent_dim, other.model.channels, other.training.steps) == (5, (3,), 9)
  assert config.model.name == "mlp_vae" and config.model.hidden == (7,)  # the argument is left as it was


def test_a_default_that_another_family_has_otherwise_is_not_kept():
  assert base_config().model.likelihood == "bernoulli"
  assert _set("model.name=restoration_vae").model.likelihood == "gaussian"
  assert differences(_set("model.name=restoration_vae"), base_config("restoration_vae")) == []
  back = apply_overrides(_set("model.name=restoration_vae", "data.flip=true"), ["model.name=mlp_vae"])
  assert differences(back, base_config()) == ["data.flip"]


def test_a_key_of_the_family_that_was_left_is_refused():
  with pytest.raises(
    UserError, match=r"model\.hidden is a key of mlp_vae.*, not of conv_vae, which has model"
  ):
    _set("model.hidden=7", "model.name=conv_vae")


def test_the_family_of_the_last_override_counts():
  config = _set("model.name=conv_vae", "model.name=mlp_vae", "model.hidden=3")
  assert (config.model.name, config.model.hidden) == ("mlp_vae", (3,))


def test_an_unknown_family_is_one_line():
  with pytest.raises(UserError, match=r"model\.name='gan' is not a model; known models: "):
    base_config("gan")
  with pytest.raises(UserError) as error:
    keys_of("x" * 10_000)
  assert "x" * 80 in str(error.value) and "x" * 81 not in str(error.value)


@pytest.mark.parametrize(
  ("key", "close"),
  [
    ("training.stepz", "training.steps"),
    ("training.learnin_rate", "training.learning_rate"),
    ("steps", "training.steps"),
    ("traning.steps", "training.steps"),
    ("model.steps", "training.steps"),
    ("training.resume", None),
    ("training.patience", None),
    ("zzz", None),
  ],
)
def test_only_what_is_near_is_suggested(key, close):
  with pytest.raises(UserError) as error:
    _set(f"{key}=1")
  hint = f"did you mean {close!r}?" if close else "--help of train lists all keys"
  assert str(error.value) == f"unknown config key {key!r}; {hint}"


def test_one_number_is_a_square_size():
  assert _set("data.size=64").data.size == _set("data.size=(64)").data.size == (64, 64)
  assert from_json('{"data": {"size": [64]}}').data.size == (64, 64)


def test_a_home_folder_is_written_out(monkeypatch):
  """In overrides, files and config.json alike; `~` elsewhere in a value, or of no user, stays."""
  monkeypatch.setenv("HOME", "/home/me")
  config = _set(
    "data.dir=~/x", "training.init_from=~", "objective.style.image=a~b", "training.first_stage=~\0"
  )
  assert (config.data.dir, config.training.init_from) == ("/home/me/x", "/home/me")
  assert (config.objective.style.image, config.training.first_stage) == ("a~b", "~\0")
  assert from_json('{"data": {"dir": "~/x"}}').data.dir == "/home/me/x"
