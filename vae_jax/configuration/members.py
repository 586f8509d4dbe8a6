"""Several runs that are trained in one program, its members: the config of each, and where it lies."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration.values import (
  MODEL_NAME,
  apply_overrides,
  brief,
  differences,
  keys_of,
  show,
  to_values,
  unknown,
)
from vae_jax.errors import UserError
from vae_jax.keys import words

MEMBERS = "members"
KEYS = ("training.vmap_seeds", "training.vmap_values")
# Sections of numbers that members may differ in; data are shared.
VARIABLE = ("model", "objective", "training")


def several(config: ConfigDict) -> bool:
  """Whether a config is of several runs in one program."""
  return config.training.vmap_seeds > 1 or bool(config.training.vmap_values)


def written(config: ConfigDict) -> str:
  """The key that asks for members, and its value, as errors name them."""
  t = config.training
  if t.vmap_values:
    return f"training.vmap_values={brief(show(t.vmap_values))}"
  return f"training.vmap_seeds={t.vmap_seeds}"


def varied(config: ConfigDict) -> tuple[str, tuple[str, ...]]:
  """The key in which the members differ, and its values as text: of objective.beta=1,2 ("objective.beta", ("1", "2")).

  Raises UserError: no list of values, an unknown key, or one that is no number of the model or its training.
  """
  t = config.training
  if not t.vmap_values:
    return "training.seed", tuple(str(t.seed + number) for number in range(t.vmap_seeds))
  named = written(config)
  if t.vmap_seeds > 1:
    raise UserError(f"{named} and training.vmap_seeds={t.vmap_seeds} exclude one another; set one of the two")
  key, equals, text = (part.strip() for part in t.vmap_values.partition("="))
  if not equals:
    raise UserError(f"{named} must be KEY=V,V,... such as objective.beta=0.5,1,2")
  name = to_values(config)[MODEL_NAME]
  if key not in keys_of(name):
    raise UserError(f"{named}: {unknown(key, name)}")
  if key == "training.seed":
    raise UserError(f"{named}: give training.vmap_seeds=N, for the seeds from training.seed on")
  if key.split(".")[0] not in VARIABLE or type(keys_of(name)[key].default) not in (int, float):
    raise not_variable(config)
  return key, words(text)


def not_variable(config: ConfigDict) -> UserError:
  """The error of a key that shapes the program, or the data, rather than enters it as a number."""
  return UserError(f"{written(config)}: is no number that one program can vary; give one run for each value")


def member_configs(config: ConfigDict) -> list[ConfigDict]:
  """The config of each member, in turn: that of an ordinary run, with its own seed or value.

  Raises UserError as `varied` does, and for values that are of another type, too few, or equal.
  """
  key, texts = varied(config)
  alone = [f"{name}={keys_of(config.model.name)[name].default}" for name in KEYS]
  configs = [apply_overrides(config, [*alone, f"{key}={text}"]) for text in texts]
  if len(configs) < 2 or any(not differences(a, b) for i, a in enumerate(configs) for b in configs[:i]):
    raise UserError(f"{written(config)} must have two values or more, all different")
  return configs


def member_folder(workdir: Path, number: int) -> Path:
  """The folder of a member: that of an ordinary run."""
  return workdir / MEMBERS / str(number)


def member_folders(workdir: Path) -> list[Path]:
  """The folders of the members that were trained in a workdir, in turn; none where one run is, or nothing."""
  found: list[Path] = []
  while (folder := member_folder(workdir, len(found))).joinpath("config.json").is_file():
    found.append(folder)
  return found
