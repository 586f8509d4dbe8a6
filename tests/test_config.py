"""Keys, config files, overrides, validation, config.json."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.config import (
  KEYS,
  LPIPS_NETWORKS,
  apply_overrides,
  base_config,
  describe,
  differences,
  from_json,
  load_config_file,
  to_json,
  validate,
)
from vae_jax.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def _value(config, key):
  for name in key.split("."):
    config = config[name]
  return config


def _set(*overrides):
  return apply_overrides(base_config(), overrides)


def test_base_config_is_valid_and_locked():
  config = base_config()
  validate(config)
  for key, (default, _, _) in KEYS.items():
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


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("training.stepss=3", "unknown config key 'training.stepss'; did you mean 'training.steps'?"),
    ("batch_size=3", "did you mean 'training.batch_size'?"),
    ("training=3", "unknown config key 'training'"),
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
  assert "\n" not in str(error.value) and len(str(error.value)) < 200


_TEXT = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.booleans().map(str)
_NUMBERS = st.lists(st.integers(-9, 999)).map(lambda n: ",".join(map(str, n)))


@settings(database=None, deadline=None, max_examples=300)
@given(st.sampled_from(sorted(KEYS)) | st.text(max_size=8), _TEXT | _NUMBERS | _NUMBERS.map("({})".format))
def test_any_override_is_valid_or_a_user_error(key, text):
  try:
    config = apply_overrides(base_config(), [f"{key}={text}"])
    validate(config)
  except UserError as error:
    assert key in str(error) or key not in KEYS
    return
  key = key.split("=")[0]
  assert type(_value(config, key)) is type(KEYS[key].default)
  assert differences(from_json(to_json(config)), config) == []
  assert set(differences(config, base_config())) <= {key}


@settings(database=None, deadline=None, max_examples=100)
@given(st.data())
def test_what_describe_shows_can_be_given_as_overrides(data):
  key = data.draw(st.sampled_from([k for k, v in KEYS.items() if type(v.default) in (int, float, tuple)]))
  low = data.draw(st.integers(1, 9999))
  text = f"{low},{low + 1}" if type(KEYS[key].default) is tuple else str(low)
  config = _set(f"{key}={text}")
  shown = re.findall(r"--config\.(\S+)", describe(config, base_config(), 80))
  assert (
    differences(apply_overrides(base_config(), [s for s in shown if not s.endswith("=''")]), config) == []
  )


# Validation.


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["data.name="], "data.name='' must be not empty"),
    (["data.name=idx"], "data.name=idx needs data.dir"),
    (["data.name=npz"], "data.name=npz needs data.dir"),
    (["data.name=paired_folder", "data.dir=x", "data.low=high"], "data.low=high and data.high=high"),
    (["data.train="], "data.train='' must be"),
    (["data.validation="], "data.validation='' must be"),
    (["data.test= "], "data.test='' must be"),
    (["data.size=32"], "data.size=32 must be 0,0 or"),
    (["data.size=32,0"], "data.size=32,0 must be"),
    (["data.size=1,2,3"], "data.size=1,2,3 must be"),
    (["data.fit=stretch"], "data.fit=stretch must be crop | resize"),
    (["data.channels=2"], "data.channels=2 must be 0 | 1 | 3"),
    (["data.binarize=static"], "data.binarize=static must be none | dynamic | threshold"),
    (["data.resident_mb=-1"], "data.resident_mb=-1 must be >= 0"),
    (["data.workers=0"], "data.workers=0 must be > 0"),
    (["data.max_bad=-1"], "data.max_bad=-1 must be >= 0"),
    (["data.degrade.name=snow"], "data.degrade.name=snow must be identity"),
    (["data.degrade.sigma=-0.1"], "data.degrade.sigma=-0.1 must be >= 0"),
    (["data.degrade.sigma_max=0.05"], "data.degrade.sigma_max=0.05 must be 0 or >= sigma=0.1"),
    (["data.degrade.peak=0"], "data.degrade.peak=0.0 must be >= 1e-06 and <= 1000000"),
    (["data.degrade.factor=1"], "data.degrade.factor=1 must be >= 2"),
    (["data.degrade.blur=-1"], "data.degrade.blur=-1.0 must be >= 0"),
    (["model.name=gan"], "model.name=gan must be mlp_vae | conv_vae"),
    (["model.latent_dim=0"], "model.latent_dim=0 must be > 0"),
    (["model.hidden=3,0"], "model.hidden=3,0 must be one or more widths > 0"),
    (["model.channels=-4"], "model.channels=-4 must be"),
    (["model.blocks=-1"], "model.blocks=-1 must be >= 0"),
    (["model.dense=-1"], "model.dense=-1 must be >= 0"),
    (["model.latent_dim=0"], "model.latent_dim=0 must be > 0 for model.name=mlp_vae"),
    (
      ["model.likelihood=laplace", "model.sigma=optimal"],
      "model.sigma=optimal must be learned or a number > 0",
    ),
    (["model.name=restoration_vae"], "model.likelihood=bernoulli must be gaussian or laplace"),
    (["data.rotate=true"], "data.rotate=true needs a square data.size, such as 64,64, not 0,0"),
    (["data.rotate=true", "data.size=32,48"], "data.rotate=true needs a square data.size"),
    (["model.activation=Relu"], "model.activation=Relu must be relu | tanh"),
    (["model.likelihood=poisson"], "model.likelihood=poisson must be bernoulli"),
    (["model.sigma=-1"], "model.sigma=-1 must be learned | optimal | a number > 0"),
    (["model.sigma=0"], "model.sigma=0 must be"),
    (["model.sigma=nan"], "model.sigma=nan must be"),
    (["model.sigma=inf"], "model.sigma=inf must be"),
    (["model.sigma=big"], "model.sigma=big must be"),
    (["model.mixtures=0"], "model.mixtures=0 must be > 0"),
    (["objective.name=vae"], "objective.name=vae must be elbo | iwae"),
    (["objective.name=iwae", "objective.samples=0"], "objective.samples=0 must be > 0"),
    (["objective.name=iwae", "objective.beta=2"], "objective.beta=2.0 must be 1.0 for objective.name=iwae"),
    (["objective.name=iwae", "objective.free_bits=2"], "objective.free_bits=2.0 must be 0.0"),
    (["objective.beta=-1"], "objective.beta=-1.0 must be >= 0"),
    (["objective.beta_schedule=cosine"], "objective.beta_schedule=cosine must be constant | linear"),
    (["objective.beta_schedule=linear"], "objective.beta_schedule=linear needs objective.beta_steps > 0"),
    (["objective.beta_schedule=cyclical"], "objective.beta_schedule=cyclical needs objective.beta_steps > 0"),
    (["objective.beta_steps=-5"], "objective.beta_steps=-5 must be >= 0"),
    (["objective.free_bits=-1"], "objective.free_bits=-1.0 must be >= 0"),
    (["objective.alpha=-1"], "objective.alpha=-1.0 must be >= 0"),
    (["objective.vae_weight=-1"], "objective.vae_weight=-1.0 must be >= 0"),
    (["objective.perceptual.layer_weights=1,x"], "layer_weights=1,x must be comma-separated numbers"),
    (["objective.perceptual.layer_weights=inf"], "layer_weights=inf must be comma-separated numbers"),
    (
      ["objective.perceptual.layer_weights=1,2", "objective.perceptual.weight=1"],
      "layer_weights=1,2 has 2 numbers for 1 layers (relu3_3)",
    ),
    (
      [
        "objective.perceptual.weight=1",
        "objective.perceptual.network=vgg19",
        "objective.perceptual.distance=lpips",
      ],
      "objective.perceptual.network=vgg19 has no LPIPS heads; give one of alexnet, vgg16, squeezenet",
    ),
    (["evaluation.lpips=vgg19"], "evaluation.lpips=vgg19 must be none | alexnet | vgg16 | squeezenet"),
    *(
      ([f"training.{k}=0"], f"training.{k}=0 must be > 0") for k in ("steps", "batch_size", "steps_per_call")
    ),
    *(
      ([f"training.{k}_every=0"], f"training.{k}_every=0 must be > 0") for k in ("log", "eval", "checkpoint")
    ),
    (["training.seed=-1"], "training.seed=-1 must be >= 0"),
    (["training.parallel=shmap"], "training.parallel=shmap must be jit | pmap"),
    (
      ["training.parallel=pmap", "training.fsdp=true"],
      "training.fsdp=true must be false for training.parallel=pmap",
    ),
    (
      ["training.accumulate=3"],
      "training.accumulate=3 must divide training.batch_size=128, e.g. training.batch_size=129",
    ),
    (
      ["training.accumulate=2", "objective.adversarial.weight=1"],
      "training.accumulate=2 must be 1 with an adversarial term",
    ),
    (["training.dtype=float16"], "training.dtype=float16 must be float32 | bfloat16"),
    (["training.learning_rate=0"], "training.learning_rate=0.0 must be > 0"),
    (["training.warmup_steps=-1"], "training.warmup_steps=-1 must be >= 0"),
    (["training.final_learning_rate=1.1"], "training.final_learning_rate=1.1 must be >= 0 and <= 1"),
    (["training.adam_eps=0"], "training.adam_eps=0.0 must be > 0"),
    (["training.weight_decay=-1"], "training.weight_decay=-1.0 must be >= 0"),
    (["training.clip_norm=-1"], "training.clip_norm=-1.0 must be >= 0"),
    (["training.ema_decay=1"], "training.ema_decay=1.0 must be >= 0 and < 1"),
    (["training.max_skipped=0"], "training.max_skipped=0 must be > 0"),
    (["training.keep=0"], "training.keep=0 must be > 0"),
    *(
      ([f"evaluation.{k}=0"], f"evaluation.{k}=0 must be > 0") for k in ("batch_size", "samples", "pictures")
    ),
    (["data.dequantize=true"], "data.dequantize=true must be false for model.likelihood=bernoulli"),
    (
      ["data.dequantize=true", "data.binarize=dynamic", "model.likelihood=gaussian"],
      "data.dequantize=true contradicts data.binarize=dynamic",
    ),
    (
      ["model.likelihood=logistic_mixture", "data.dequantize=true"],
      "data.dequantize=true must be false for model.likelihood=logistic_mixture",
    ),
    (
      ["model.likelihood=logistic_mixture", "data.binarize=threshold"],
      "data.binarize=threshold must be none for model.likelihood=logistic_mixture",
    ),
  ],
)
def test_validate_refuses(overrides, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    validate(_set(*overrides))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "overrides",
  [
    ["model.likelihood=gaussian", "data.dequantize=true", "model.sigma=0.05"],
    ["model.likelihood=gaussian", "data.binarize=dynamic"],
    ["model.likelihood=laplace", "data.dequantize=true"],
    ["objective.name=iwae", "objective.samples=50"],
    ["objective.beta_schedule=cyclical", "objective.beta_steps=10"],
    ["data.name=cifar10"],
    ["data.degrade.sigma_max=0.1"],
    ["training.steps=3"],  # shorter than the warm-up and than a dispatch: the loop shortens both
    ["training.log_every=1", "training.eval_every=7"],
  ],
)
def test_validate_accepts(overrides):
  validate(_set(*overrides))


@pytest.mark.parametrize(
  ("key", "value"), [("steps", True), ("steps", None), ("dtype", None), ("ema_decay", None)]
)
def test_validate_finds_types_that_config_dict_lets_through(key, value):
  config = base_config()
  config.training[key] = value
  with pytest.raises(UserError, match=f"training.{key}={value} must be"):
    validate(config)


# Config files.


def _file(tmp_path, text):
  path = tmp_path / "some.py"
  path.write_text(text)
  return path


BASE = "from vae_jax.config import base_config\ndef get_config():\n  config = base_config()\n"


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
      "no config key 'zzz' here; train.py --help lists all keys",
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
  ],
)
def test_bad_config_files(tmp_path, text, message):
  with pytest.raises(UserError, match=re.escape(message)) as error:
    load_config_file(_file(tmp_path, text))
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_missing_config_file_is_answered_with_near_ones(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"there is no config file 'no/x\.py'; give one"):
    load_config_file("no/x.py")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mnist_conv.py").write_text("")
  for word in ("mnist_conv", "configs/mnist_con.py", "mnist_conv.py"):
    with pytest.raises(UserError, match=re.escape("did you mean 'configs/mnist_conv.py'?")):
      load_config_file(word)
  with pytest.raises(UserError, match="there is no config file 'configs'"):
    load_config_file("configs")


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


# config.json.


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
  ],
)
def test_bad_json(text, message):
  with pytest.raises(UserError, match=re.escape(message)):
    from_json(text, "run/config.json")


def test_differences():
  assert differences(base_config(), base_config()) == []
  assert differences(_set("training.seed=1", "data.flip=true"), base_config()) == [
    "data.flip",
    "training.seed",
  ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_describe_lists_every_key_within_the_width(width):
  text = describe(_set("training.steps=7"), base_config(), width)
  lines = text.splitlines()
  for key, (_, meaning, _) in KEYS.items():
    assert sum(line.startswith(f"  --config.{key}=") for line in lines) == 1
    assert meaning in " ".join(text.split())
  assert "  --config.training.steps=7  (default 2000)" in lines and text.count("(default ") == 1
  assert [line for line in lines if not line.startswith(" ") and line] == [
    "data:",
    "model:",
    "objective:",
    "training:",
    "evaluation:",
  ]
  assert all(len(line) <= min(width, 110) for line in lines if line.startswith("      "))


def test_choices_are_those_of_the_code():
  """The names that the config allows are those that the library knows."""
  from vae_jax.data.degrade import DEGRADATIONS
  from vae_jax.data.prepare import BINARIZE
  from vae_jax.models import MODELS
  from vae_jax.models.blocks import ACTIVATIONS
  from vae_jax.objectives import OBJECTIVES
  from vae_jax.perceptual import LPIPS_LAYERS, NETWORKS

  assert list(LPIPS_NETWORKS) == list(LPIPS_LAYERS)
  for key, names in {
    "data.degrade.name": DEGRADATIONS,
    "data.binarize": BINARIZE,
    "model.name": MODELS,
    "model.activation": ACTIVATIONS,
    "objective.name": OBJECTIVES,
    "objective.perceptual.network": [name for name in NETWORKS if name != "inception_fid"],  # for FID alone
    "evaluation.lpips": ["none", *LPIPS_LAYERS],
  }.items():
    rule = KEYS[key].rule
    assert rule is not None and rule.words.split(" | ") == list(names)
