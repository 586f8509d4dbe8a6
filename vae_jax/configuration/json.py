"""A config as JSON: what a run keeps, and what may come from a stranger."""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from vae_jax.configuration.checks import validate
from vae_jax.configuration.values import as_config, brief, represented, to_values
from vae_jax.errors import UserError

# What stood for a key before there was one.
BEFORE = {"model.head_kernel": 1, "model.blur": False}
MAX_JSON, MAX_NESTED = 2**20, 20  # a config has some 6,000 characters and nests 3 deep


def to_json(config: ConfigDict) -> str:
  """The text of `config.json`: the keys as nested objects, tuples as lists."""
  return json.dumps(as_config(to_values(config)).to_dict(), indent=2, allow_nan=False) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
  """The validated config of `to_json`; a key that the text lacks gets its default, or what stood for it before there
  was the key. The text may be a stranger's.

  Raises UserError, beginning with `where`: not JSON, a key of a newer version, a wrong value.
  """
  try:
    tree = parse_json(text)
  except ValueError as error:
    raise UserError(
      f"{where} is not valid JSON ({brief(str(error), 200)}); restore it or use another workdir"
    ) from None
  values = to_values(tree, f"{where}: ", drop_foreign=True)
  for name, value in BEFORE.items():
    section, key = name.split(".")
    if name in values and key not in tree.get(section, {}):
      values[name] = value
  if values["training.weight_decay"] > 0 and "decayed" not in tree.get("training", {}):
    values["training.decayed"] = "all"
  config = as_config(values)
  validate(config, f"{where}: ")
  return config


def parse_json(text: str | bytes) -> Any:
  """What a short JSON text of unknown origin holds. Raises ValueError, with one line, for any other.

  Python's parser would take a key twice in one object (the last one wins), and brackets until the stack ends. It takes
  NaN and infinity too, and so does this: who asked for a number says where.
  """
  if len(text) > MAX_JSON:
    raise ValueError(f"of {len(text)} characters, at most {MAX_JSON} are read")
  try:
    tree = json.loads(text, object_pairs_hook=_object)
  except RecursionError:
    raise ValueError("nested without end") from None
  level = [tree]
  for _ in range(MAX_NESTED):
    level = [
      inner
      for node in level
      if isinstance(node, (dict, list))
      for inner in (node.values() if isinstance(node, dict) else node)
    ]
    if not level:
      return tree
  raise ValueError(f"nested more than {MAX_NESTED} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for name, value in pairs:
    if name in found:
      raise ValueError(f"{represented(name)} is there twice")
    found[name] = value
  return found
