"""Removes what JPEG has left: blocks, rings around edges, washed-out colours; quality 10 to 95.

TODO
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.exposure = 0.0
  config.data.degrade.chain = "jpeg 30..95 420|444 anywhere @0.15; jpeg 8..95 420|444 aligned|anywhere"
  config.model.noise = "local"
  config.training.init_from = "runs/denoise_color"
  config.training.learning_rate = 0.006
  config.training.steps = 3500
  return config
