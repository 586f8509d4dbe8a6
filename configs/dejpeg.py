"""Removes what JPEG has left: blocks, rings around edges, washed-out colours; quality 8 to 95.

    python train.py --config configs/denoise_color.py
    python train.py --config configs/dejpeg.py     # starts from runs/denoise_color
    python evaluate.py --workdir runs/dejpeg --mode benchmark --input data/bsds/test --degrade "jpeg 30"

cost: to be measured.
figure: to be measured.

Blocks lie as in a file, or anywhere, as in a part that was cut out of one; some images were stored twice.
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
