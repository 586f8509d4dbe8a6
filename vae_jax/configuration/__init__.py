"""Configuration: every key with its default and meaning, config files, command-line overrides, validation.

A config is a locked, typed `ml_collections.ConfigDict`. Keys that every family has are born in `sections`, a family's
own in its file. A config file is Python with a `get_config()` that starts from `base_config("mlp_vae")` and changes
values; it is run, so open only files that you trust. A workdir keeps the result as `config.json`, which is data and is
never run.
"""

from vae_jax.configuration.checks import validate
from vae_jax.configuration.files import (
  DEFAULT_CONFIG,
  config_files,
  find_config_file,
  load_config_file,
  summary_of,
)
from vae_jax.configuration.help import describe
from vae_jax.configuration.json import MAX_JSON, from_json, parse_json, to_json
from vae_jax.configuration.members import (
  MEMBERS,
  member_configs,
  member_folder,
  member_folders,
  several,
  varied,
  written,
)
from vae_jax.configuration.values import (
  apply_overrides,
  at_home,
  base_config,
  by_last_word,
  differences,
  every_key,
  keys_of,
  owners,
  show,
  to_values,
)

__all__ = [
  "DEFAULT_CONFIG",
  "MAX_JSON",
  "MEMBERS",
  "apply_overrides",
  "at_home",
  "base_config",
  "by_last_word",
  "config_files",
  "describe",
  "differences",
  "every_key",
  "find_config_file",
  "from_json",
  "keys_of",
  "load_config_file",
  "member_configs",
  "member_folder",
  "member_folders",
  "owners",
  "parse_json",
  "several",
  "show",
  "summary_of",
  "to_json",
  "to_values",
  "validate",
  "varied",
  "written",
]
