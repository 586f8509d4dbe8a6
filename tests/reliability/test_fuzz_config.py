"""Any values of the config: a valid config, from which a training step can be built, or one line that names the key.

1,085 cases, of the 3,106 of the three files test_fuzz_*.py; ten times as many with -m slow.
"""

import copy
import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from vae_jax.configuration import (
  apply_overrides,
  base_config,
  differences,
  every_key,
  from_json,
  keys_of,
  load_config_file,
  owners,
  show,
  to_json,
  validate,
)
from vae_jax.data.degrade import degraded_shape
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import FAMILIES, build
from vae_jax.objectives import make_objective
from vae_jax.training.opponents import pixel_opponent
from vae_jax.training.state import init_state, make_learning_rate, make_optimizer
from vae_jax.training.steps import make_train_step
from vae_jax.types import image_spec

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
TIMES = [1, pytest.param(10, marks=pytest.mark.slow)]


def profile(cases):
  quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
  return settings(
    max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=quiet
  )


@functools.cache
def starts():
  """The defaults of each family, and the configs of this repository, by name."""
  return {name: base_config(name) for name in FAMILIES} | {
    path.stem: load_config_file(path) for path in CONFIGS
  }


STARTS = st.sampled_from([*FAMILIES]) | st.sampled_from([*FAMILIES, *(path.stem for path in CONFIGS)])


def keys_from(start):
  """The keys of a start's family, and what they are."""
  return keys_of(starts()[start].model.name)


INTEGERS = st.sampled_from([0, -1, 1, 2, 3, 64, 2**20, 2**31 - 1, 2**31, 2**63, -(2**31), 10**400, 10**5000])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-320, 1e-7, 1e6, 1e308, math.nan, math.inf, -math.inf])
TEXTS = st.text(max_size=12) | st.sampled_from(
  [
    "",
    " ",
    ",",
    "a\nb",
    "\0",
    "\udc80",
    "\x1b[31m",
    "x" * 10_000,
    "1,2",
    "1e-400",
    "nan",
    "true",
    "learned",
    "(",
    "\u2028",
  ]
)
TUPLES = st.lists(st.integers(-2, 300), max_size=4).map(tuple) | st.sampled_from(
  [
    (),
    (0, 0),
    (1, 0),
    (2**31, 1),
    (1,) * 17,
    (1,) * 1000,
    ((1, 2), 3),
    (1.5, 2),
    ("a", "b"),
    (None,),
    (True,),
    [3, 4],
    [[]],
  ]
)
ODDITIES = st.sampled_from([None, True, False, {}, {"a": 1}, b"x", 3j, object, Path("x"), range(3)])
ANYTHING = INTEGERS | FLOATS | TEXTS | TUPLES | ODDITIES


def likely(key):
  """Values of the key's type, many of which are valid."""
  default, _, rule = keys_of(owners(key)[0])[key]
  if rule is not None and "|" in rule.words:
    return st.sampled_from([type(default)(word) for word in rule.words.split(" | ") if " " not in word])
  return {
    int: st.integers(-2, 400) | INTEGERS,
    float: st.floats(-1, 200) | FLOATS,
    bool: st.booleans(),
    str: TEXTS,
    tuple: TUPLES,
  }[type(default)]


def written(key):
  """Values as they are written on a command line."""
  return likely(key).map(lambda value: _repr(value) if isinstance(value, int) else show(value))


def changes(values, keys):
  """One to three keys with a value each, from `values(key)`."""
  one = st.sampled_from([*keys]).flatmap(lambda key: st.tuples(st.just(key), values(key)))
  return st.lists(one, min_size=1, max_size=3, unique_by=lambda pair: pair[0])


def started(values):
  """A start, and changes of keys that it has."""
  return STARTS.flatmap(lambda start: st.tuples(st.just(start), changes(values, keys_from(start))))


def with_values(config, pairs):
  """A ConfigDict with these values, whatever their type."""
  tree = copy.deepcopy(config.to_dict())
  for key, value in pairs:
    *sections, leaf = key.split(".")
    functools.reduce(dict.__getitem__, sections, tree)[leaf] = value
  return ConfigDict(tree)


def is_one_line(error):
  line = str(error)
  assert line and len(line.splitlines()) == 1 and line.isprintable() and len(line) < 500, line
  return line


def names(line, pairs):
  """The line names one of the keys that were changed, and a value beside a key; of another family, a key of either."""
  if any(key == "model.name" and value in tuple(FAMILIES) for key, value in pairs):
    assert any(key in line for key in every_key()), line
    return
  assert any(key in line for key, _ in pairs), (line, pairs)
  assert any(f"{key}=" in line for key in every_key()), line
  (key, value), *others = pairs
  if not others and f"{key}=" in line:
    shown = [
      text
      for text in (show(value) if not isinstance(value, int) or abs(value) < 10**999 else "<int>",)
      if text
    ]
    assert any(f"{key}={text[:50]}" in line for text in shown) or f"{key}={_repr(value)[:50]}" in line, line


def _repr(value):
  try:
    return repr(value)
  except ValueError:
    return f"<{type(value).__name__}>"


def comes_back(config):
  again = from_json(to_json(config))
  assert differences(again, config) == [] and to_json(again) == to_json(config)


@pytest.mark.parametrize("times", TIMES)
def test_any_value_of_any_key(times):
  @profile(550 * times)
  @given(started(lambda key: likely(key) | ANYTHING))
  def check(case):
    start, pairs = case
    config = with_values(starts()[start], pairs)
    try:
      validate(config)
    except UserError as error:
      names(is_one_line(error), pairs)
      return
    comes_back(config)

  check()


@pytest.mark.parametrize("times", TIMES)
def test_any_override_of_any_config(times):
  @profile(450 * times)
  @given(STARTS, changes(lambda key: written(key) | TEXTS, every_key()))
  def check(start, pairs):
    try:
      config = apply_overrides(starts()[start], [f"{key}={text}" for key, text in pairs])
      validate(config)
    except UserError as error:
      line = is_one_line(error)
      assert any(key in line for key, _ in pairs), (line, pairs)
      assert any(f"{key}=" in line or line.startswith(f"{key} is a key of ") for key in every_key()), line
      return
    comes_back(config)
    if config.model.name == starts()[start].model.name:
      assert set(differences(config, starts()[start])) <= {key for key, _ in pairs}

  check()


def misspelt(word):
  """Words that differ from this one by one letter."""
  letters = st.sampled_from("aegmnrst_")
  places = st.integers(0, len(word) - 1)
  gone = places.map(lambda i: word[:i] + word[i + 1 :])
  more = st.tuples(places, letters).map(lambda p: word[: p[0]] + p[1] + word[p[0] :])
  swapped = places.map(lambda i: word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :])
  return (gone | more | swapped).filter(lambda new: new != word and new.isidentifier())


@pytest.mark.parametrize("times", TIMES)
def test_a_misspelt_key_in_a_config_file(times, tmp_path):
  """The line names file, line, the word, and keys or sections like it."""
  every = {".".join(key.split(".")[: n + 1]) for key in every_key() for n in range(key.count(".") + 1)}
  path = tmp_path / "mine.py"

  @profile(60 * times)
  @given(st.data())
  def check(data):
    parts = data.draw(st.sampled_from(sorted(keys_of("mlp_vae")))).split(".")
    i = data.draw(st.integers(0, len(parts) - 1))
    right, parts[i] = parts[i], data.draw(misspelt(parts[i]))
    if ".".join(parts[: i + 1]) in every:
      return
    item = data.draw(st.booleans())
    place = "".join(f"[{part!r}]" if item else f".{part}" for part in parts)
    head = "from vae_jax.configuration import base_config\ndef get_config():\n  c = base_config()\n"
    path.write_text(f"{head}  c{place} = 3\n  return c\n")
    with pytest.raises(UserError) as caught:
      load_config_file(path)
    line = is_one_line(caught.value)
    assert line.startswith(f"{path}:4: there is no config key {parts[i]!r} here; "), line
    if len(right) > 3:
      hints = re.findall(r"'([\w.]+)'", line.split("did you mean")[-1])
      assert hints and set(hints) <= every and right in {hint.split(".")[-1] for hint in hints}, line

  check()


# What a valid config says can be built: shapes only, nothing is compiled or held.

BUILDING = tuple(
  key
  for key in every_key()
  if key.startswith(
    ("model.", "objective.", "data.degrade.", "training.", "data.binarize", "data.deq", "data.flip")
  )
  and not key.startswith(
    ("objective.perceptual", "objective.style.weight", "model.blocks", "model.name", "training.accumulate")
  )
)
SHAPES = [(1, 1, 1), (5, 100, 3), (9, 9, 1), (28, 28, 1), (17, 16, 3)]
SMALL = {
  "mlp_vae": [],
  "conv_vae": ["model.channels=8,8", "model.dense=16"],
  "restoration_vae": ["model.channels=8,8", "model.latent_dim=2", "model.likelihood=laplace"],
  "transformation_net": ["model.channels=8"],
}


def shapes_of_a_step(config, shape):
  """Metrics of one training step, as shapes, with all that `train` builds from a config."""
  t, objective, key = config.training, config.objective, jax.random.key(0)
  seen = degraded_shape(config.data.degrade, shape)
  spec = image_spec(shape, None if config.data.degrade.name == "identity" else seen)
  model = build(config.model, spec, t.dtype)
  tx = make_optimizer(t)
  opponents = pixel_opponent(objective.adversarial, t.dtype)
  state = jax.eval_shape(lambda: init_state(model, tx, spec, key, ema=t.ema_decay > 0, opponents=opponents))
  step = make_train_step(
    model,
    make_objective(objective, model.terms, t.batch_size),
    make_prepare(config.data, training=True),
    tx,
    make_learning_rate(t),
    samples=objective.get("samples", 1),
    ema_decay=t.ema_decay,
    root=key,
    opponents=opponents,
    accumulate=t.accumulate,
  )
  batch = {
    "image": jax.ShapeDtypeStruct((t.batch_size, *shape), jnp.uint8),
    "index": jax.ShapeDtypeStruct((t.batch_size,), jnp.int32),
  }
  after, logged = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  return logged


@pytest.mark.parametrize("times", TIMES)
def test_a_step_can_be_built_from_what_is_valid(times):
  built = set()
  families = st.sampled_from(sorted(SMALL)).flatmap(
    lambda name: st.tuples(st.just(name), changes(likely, [k for k in BUILDING if k in keys_of(name)]))
  )

  @profile(25 * times)
  @given(families, st.sampled_from(SHAPES))
  def check(case, shape):
    family, pairs = case
    config = with_values(apply_overrides(base_config(family), SMALL[family]), pairs)
    try:
      validate(config)
      logged = shapes_of_a_step(from_json(to_json(config)), shape)
    except UserError as error:
      is_one_line(error)
      return
    assert "loss" in logged and all(value.shape == () for value in logged.values())
    built.add(config.model.name)

  check()
  assert built == set(SMALL)


@pytest.mark.parametrize(
  ("overrides", "shape", "message"),
  [
    (["objective.ms_ssim=1"], (28, 28, 1), "objective.ms_ssim=1.0 needs sides of at least 176 pixels"),
    (["objective.ssim=1"], (28, 10, 1), "objective.ssim=1.0 needs sides of at least 11 pixels"),
    (
      ["model.name=restoration_vae", "model.likelihood=laplace", "model.channels=" + ",".join(["8"] * 16)],
      (28, 28, 1),
      "would pad images of 28 x 28 to multiples of 32768",
    ),
  ],
)
def test_what_only_the_images_size_forbids(overrides, shape, message):
  config = apply_overrides(base_config(), overrides)
  validate(config)
  with pytest.raises(UserError, match=message):
    shapes_of_a_step(config, shape)


def test_a_factor_that_only_one_side_tells():
  """5 x 100 pixels at a quarter are 2 x 25: the ratio of the heights alone would say 3."""
  config = apply_overrides(
    base_config(),
    [
      *("data.degrade.name=bicubic_down", "data.degrade.factor=4", "model.name=restoration_vae"),
      *("model.channels=8", "model.likelihood=laplace", "training.batch_size=2"),
    ],
  )
  assert "loss" in shapes_of_a_step(config, (5, 100, 3))
  with pytest.raises(UserError, match="degraded images of 2 x 26 for clean ones of 5 x 100"):
    build(config.model, image_spec((5, 100, 3), (2, 26, 3)))
