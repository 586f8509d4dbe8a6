"""Help: every key of a config, and its choices, which are those of the code."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.configuration import apply_overrides, base_config, describe, differences, every_key, keys_of
from vae_jax.configuration.sections import LPIPS_NETWORKS
from vae_jax.models import FAMILIES


def _set(*overrides, family="mlp_vae"):
  return apply_overrides(base_config(family), overrides)


@settings(database=None, deadline=None, max_examples=100)
@given(st.data())
def test_what_describe_shows_can_be_given_as_overrides(data):
  family = data.draw(st.sampled_from(sorted(FAMILIES)))
  keys = keys_of(family)
  key = data.draw(st.sampled_from([k for k, v in keys.items() if type(v.default) in (int, float, tuple)]))
  low = data.draw(st.integers(1, 9999))
  text = f"{low},{low + 1}" if type(keys[key].default) is tuple else str(low)
  config = _set(f"{key}={text}", family=family)
  shown = re.findall(r"--config\.(\S+)", describe(config, base_config(family), 80))
  assert (
    differences(apply_overrides(base_config(), [s for s in shown if not s.endswith("=''")]), config) == []
  )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_describe_lists_every_key_of_the_family_within_the_width(width, family):
  text = describe(_set("training.steps=7", family=family), base_config(family), width)
  lines = text.splitlines()
  for key, (_, meaning, _) in keys_of(family).items():
    assert sum(line.startswith(f"  --config.{key}=") for line in lines) == 1
    assert meaning in " ".join(text.split())
  for key in set(every_key()) - set(keys_of(family)):
    assert f"--config.{key}=" not in text
  assert "  --config.training.steps=7  (default 2000)" in lines and text.count("(default ") == 1
  assert lines[0] == "most used:" and lines[1].startswith("  --config.data.name=")
  assert [line for line in lines if not line.startswith(" ") and line] == [
    "most used:",
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
  from vae_jax.distributions.likelihoods import NAMES
  from vae_jax.models.blocks import ACTIVATIONS
  from vae_jax.perceptual import LPIPS_LAYERS, NETWORKS

  assert list(LPIPS_NETWORKS) == list(LPIPS_LAYERS)
  for key, names in {
    "data.degrade.name": DEGRADATIONS,
    "data.binarize": BINARIZE,
    "model.name": FAMILIES,
    "model.activation": ACTIVATIONS,
    "model.likelihood": NAMES,
    "objective.perceptual.network": [name for name in NETWORKS if name != "inception_fid"],  # for FID alone
    "evaluation.lpips": ["none", *LPIPS_LAYERS],
  }.items():
    rule = keys_of("mlp_vae")[key].rule
    assert rule is not None and rule.words.split(" | ") == list(names)
