"""Denoising of colour photographs, sigma 25 of 255: a conditional hierarchical VAE.

    python train.py --config configs/denoise_color.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/denoise_color --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_color --mode restore --input photo.jpg --output restored/

cost: 70 minutes on one core of a busy 2-core CPU.
figure: BM3D + 0.05 dB (RGB), and + 0.18 with --ensemble, mean over the first 8 test photographs (BM3D takes 78 s each).
Correlation of the uncertainty map (8 draws) with the error: 0.26 (40 photographs).

The network is wider than `denoise_grey`, on smaller crops.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_grey.py"))
  config.data.channels = 3
  config.data.size = (72, 72)
  config.model.channels = (64, 64, 64)
  config.training.steps = 9000
  return config
