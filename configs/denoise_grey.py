"""Denoising of grey photographs, sigma 0 to 75 of 255, told or estimated: a conditional hierarchical VAE.

    python train.py --config configs/denoise_grey.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/denoise_grey --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_grey --mode restore --input photo.jpg --output restored/

cost: to be measured.
figure: to be measured. The model in pretrained/ is of an earlier config; its card has the figures.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.channels = 1
  config.training.steps = 10500
  return config
