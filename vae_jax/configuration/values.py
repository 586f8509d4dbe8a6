"""A config as values by dotted key: which keys a family has, types, defaults, overrides."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vae_jax.configuration.sections import DATA, EVALUATION, LATENT, OBJECTIVE, RATE, TRAINING
from vae_jax.errors import UserError
from vae_jax.keys import SIZE, Key, Keys, one_of
from vae_jax.models import FAMILIES, family

DEFAULT_FAMILY = "mlp_vae"
MODEL_NAME = "model.name"
MOST_NAMED = 8  # keys in one message


def keys_of(name: str) -> Keys:
  """Every key of a config whose family is `name`, in the order in which help lists them. Do not change it.

  Raises UserError for an unknown family.
  """
  return _keys_of(name, tuple(FAMILIES.items()))


@functools.cache
def _keys_of(name: str, known: tuple[tuple[str, str], ...]) -> Keys:
  """As `keys_of`, while `known` are the families: one may be added to `FAMILIES`, and taken away again."""
  found = family(name)
  own = {
    section: {k: v for k, v in found.KEYS.items() if k.startswith(section)}
    for section in ("model.", "objective.")
  }
  return {
    **DATA,
    MODEL_NAME: Key(DEFAULT_FAMILY, "family", one_of(*dict(known))),
    **own["model."],
    **(RATE if "rate" in found.FAMILY.TERMS else {}),
    **OBJECTIVE,
    **(LATENT if "encode" in found.FAMILY.CAN and "rate" in found.FAMILY.TERMS else {}),
    **own["objective."],
    **TRAINING,
    **EVALUATION,
  }


def every_key() -> list[str]:
  """The keys of all families."""
  return list(dict.fromkeys(key for name in FAMILIES for key in keys_of(name)))


def owners(key: str) -> list[str]:
  """The families that have a key."""
  return [name for name in FAMILIES if key in keys_of(name)]


def base_config(name: str = DEFAULT_FAMILY) -> ConfigDict:
  """All keys of the family `name` at their defaults, locked: an unknown key or a value of another type is an error.

  Raises UserError for an unknown family.
  """
  return as_config({MODEL_NAME: name})


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """A copy of `config` with `["training.steps=2000", ...]` applied; a later one wins.

  The type of a key's default says how its value is read: an integer, a number (1e-3), true or false, text, or
  integers ('32,64', '(32, 64)' or '64'). An override of model.name counts first: keys that both families have keep the
  values that were set. Raises UserError for an unknown key, a key of another family, or a value of another type.
  """
  values = to_values(config)
  parts = [override.partition("=") for override in overrides]
  for name in [text.strip() for key, equals, text in parts if key == MODEL_NAME and equals][-1:]:
    values = _of_family(values, name)
  keys = keys_of(values[MODEL_NAME])
  for key, equals, text in parts:
    if key not in keys:
      raise UserError(unknown(key, values[MODEL_NAME]))
    if not equals:
      raise UserError(f"{key} has no value; write {key}={show(keys[key].default)}")
    values[key] = _typed(keys, key, _parse(type(keys[key].default), text.strip()))
  return as_config(values)


def _of_family(values: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Values for another family: those that were set, as far as it has their keys."""
  old, new = keys_of(values[MODEL_NAME]), keys_of(name)
  kept = {
    k: v for k, v in values.items() if k in new and v != old[k].default and type(v) is type(new[k].default)
  }
  return {k: kept.get(k, key.default) for k, key in new.items()} | {MODEL_NAME: name}


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
  """The dotted keys whose values differ, in the order of help; one that only one of both has differs."""
  left, right = to_values(a), to_values(b)
  both = dict.fromkeys([*left, *right])
  return [key for key in both if key not in left or key not in right or left[key] != right[key]]


def show(value: Any) -> str:
  """A value as an override writes it."""
  if isinstance(value, tuple):
    return ",".join(map(str, value)) or "()"
  text = str(value)
  if isinstance(value, str):
    return text if text and text.isprintable() else repr(text)  # a newline would make two lines of one
  return text.lower() if isinstance(value, bool) else text


def as_config(values: Mapping[str, Any]) -> ConfigDict:
  """Dotted keys, the absent ones at their defaults -> a locked config."""
  tree: dict[str, Any] = {}
  for key, (default, _, _) in keys_of(values.get(MODEL_NAME, DEFAULT_FAMILY)).items():
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = values.get(key, default)
  return ConfigDict(tree).lock()


def to_values(
  tree: Mapping[str, Any] | ConfigDict, where: str = "", drop_foreign: bool = False
) -> dict[str, Any]:
  """The inverse of `as_config`, for any tree: refuses unknown keys and wrong types, completes by defaults.

  A key of another family is passed over where it has that family's default, and, with drop_foreign, whatever it has:
  before families had keys of their own, a config.json held those of all of them.
  """
  if not isinstance(tree, (dict, ConfigDict)):
    raise UserError(f"{where}a config holds sections of keys, not {type(tree).__name__}; restore it")
  tree = tree.to_dict() if isinstance(tree, ConfigDict) else tree
  section = tree.get("model", {})
  name = section.get("name", DEFAULT_FAMILY) if isinstance(section, dict) else DEFAULT_FAMILY
  if not isinstance(name, str):
    raise UserError(f"{where}{MODEL_NAME}={represented(name)} must be text; its default is {DEFAULT_FAMILY}")
  try:
    keys = keys_of(name)
  except UserError as error:
    raise UserError(f"{where}{error}") from None
  values = {key: default for key, (default, _, _) in keys.items()}

  def visit(node: Mapping[str, Any], prefix: str) -> None:
    for word, value in node.items():
      key = f"{prefix}{word}"
      if key in keys:
        values[key] = _typed(keys, key, value, where)
      elif isinstance(value, dict) and _is_section(key, keys):
        visit(value, f"{key}.")
      elif not _is_foreign(key, value, drop_foreign):
        raise UserError(f"{where}{unknown(key, name)}, or use the version of vae_jax that wrote it")

  visit(tree, "")
  return values | {MODEL_NAME: name}


def _is_section(key: str, keys: Iterable[str]) -> bool:
  return any(known.startswith(f"{key}.") for known in keys)


def _is_foreign(key: str, value: Any, drop: bool) -> bool:
  """Whether to pass over a key: other families have it and, unless `drop`, the value is a default of theirs."""
  value = tuple(value) if isinstance(value, list) else value
  defaults = [keys_of(name)[key].default for name in owners(key)]
  return bool(defaults) and (drop or any(type(value) is type(x) and value == x for x in defaults))


_TYPES = {int: "a 31-bit integer", float: "a number", bool: "true or false", str: "text", tuple: "integers"}


def _typed(keys: Keys, key: str, value: Any, where: str = "") -> Any:
  """`value` in the type of the key's default; UserError if it is of another type, or 2**31 or more."""
  default = keys[key].default
  kind = type(default)
  typed: Any = tuple(value) if isinstance(value, list) else at_home(value) if kind is str else value
  if keys[key].rule is SIZE and isinstance(typed, tuple) and len(typed) == 1:
    typed *= 2  # 64 for 64,64
  numbers = typed if isinstance(typed, tuple) else (typed,) if kind in (int, float) else ()
  fits = all(type(n) in ((int, float) if kind is float else (int,)) and abs(n) < 2**31 for n in numbers)
  if fits and kind is float and not isinstance(typed, tuple):
    typed = float(typed)  # from an int
  if not fits or type(typed) is not kind:
    raise UserError(f"{where}{key}={represented(value)} must be {_TYPES[kind]}, such as {show(default)}")
  return typed


def at_home(value: Any) -> Any:
  """Text that begins with `~`, as paths of a home folder do, with that folder's path; any other value as it is."""
  if not isinstance(value, str) or not value.startswith("~"):
    return value
  try:
    return os.path.expanduser(value)
  except ValueError:  # NUL, or what no user's name can be encoded to
    return value


def _parse(kind: type, text: str) -> Any:
  """`text` as an override's value of type `kind`; text that does not fit is returned as it is."""
  inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
  try:
    if kind is tuple and text in ("()", "[]"):
      return []
    if kind is tuple:
      return [int(part) for part in inner.strip().removesuffix(",").split(",")]
    return {"true": True, "false": False}.get(text.lower(), text) if kind is bool else kind(text)
  except ValueError:
    return text


def unknown(key: str, name: str) -> str:
  """The error of a key that the family `name` does not have: who has it, or what it may have meant."""
  if others := owners(key) or _owners_of_section(key, name):
    has = [k for k in keys_of(name) if k.startswith(key.split(".")[0] + ".") and k not in OBJECTIVE]
    shown = ", ".join([*has[:MOST_NAMED], *(["..."] if len(has) > MOST_NAMED else [])])
    return f"{key} is a key of {', '.join(others)}, not of {name}, which has {shown}"
  close = _close(key[:80], list(keys_of(name)))
  hint = f"did you mean {close!r}?" if close else "--help of train lists all keys"
  return f"unknown config key {represented(key)}; {hint}"


def _owners_of_section(key: str, name: str) -> list[str]:
  """The families that have a section of that name, where the family `name` has none."""
  having = [other for other in FAMILIES if any(k.startswith(f"{key}.") for k in keys_of(other))]
  return [] if name in having else having


def _close(key: str, known: Sequence[str]) -> str | None:
  """The known key that an unknown one may have meant: by its last word in its section, by all of it where there is
  no such section, by its last word in others."""
  section, _, word = key.rpartition(".")
  own = [k for k in known if k.rpartition(".")[0] == section]
  rest = {} if own else {k: k for k in known}
  for given, names, cutoff in (
    (word, by_last_word(own), 0.7),
    (key, rest, 0.75),
    (word, by_last_word(known), 0.85),
  ):
    if close := difflib.get_close_matches(given, names, n=1, cutoff=cutoff):
      return names[close[0]]
  return None


def by_last_word(keys: Sequence[str]) -> dict[str, str]:
  """The keys by their last words; of several, the one with the shortest path, or the first."""
  return {key.rpartition(".")[2]: key for key in sorted(keys, key=lambda k: k.count("."))[::-1]}


def represented(value: Any) -> str:
  """`repr`, cut short; of a value whose repr fails, its type."""
  try:
    return brief(repr(value))
  except Exception:  # an integer of too many digits, lists in lists without end
    return f"<{type(value).__name__}>"


def brief(text: str, most: int = 80) -> str:
  """`text`, cut to `most` characters."""
  return text if len(text) <= most else f"{text[: most - 3]}..."
