"""Denoising of colour photographs, sigma 25 of 255: a conditional hierarchical VAE.

    python train.py --config configs/denoise_color.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/denoise_color --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_color --mode restore --input photo.jpg --output restored/

cost: to be measured.
figure: to be measured (benchmark, mean over the 200 test photographs).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.config import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_grey.py"))
  config.data.channels = 3
  return config
