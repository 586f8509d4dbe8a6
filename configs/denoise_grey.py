"""Denoising of grey photographs, sigma 0 to 75 of 255, told or estimated: a conditional hierarchical VAE.

    python train.py --config configs/denoise_color.py     # BSDS500's folders train and test in data/bsds
    python train.py --config configs/denoise_grey.py     # starts from runs/denoise_color
    python evaluate.py --workdir runs/denoise_grey --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_grey --mode restore --input photo.jpg --output restored/

cost: 40 minutes on one core of a busy 2-core CPU (Xeon), after `denoise_color`.
figure: 37.5 dB at sigma 5, 31.0 at 15, 28.3 at 25 and 25.2 at 50 (level estimated, 8 test photographs); BM3D, told the
level, has 37.5, 30.9, 28.2 and 25.1.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.channels = 1
  config.training.init_from = "runs/denoise_color"
  config.training.learning_rate = 0.006
  config.training.steps = 4000
  return config
