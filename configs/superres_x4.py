"""Super-resolution x4 of photographs (bicubic down-sampling): a conditional hierarchical VAE.

    python train.py --config configs/superres_x4.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/superres_x4 --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/superres_x4 --mode restore --input photo.jpg --output restored/

cost: to be measured.
figure: to be measured. The model in pretrained/ is of an earlier config; its card has the figures.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("superres_x2.py"))
  config.data.size = (128, 128)
  config.data.degrade.factor = 4
  config.model.head_channels = 16
  config.training.learning_rate = 0.006
  config.training.steps = 9000
  return config
