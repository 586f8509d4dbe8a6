"""Denoising of grey photographs, sigma 25 of 255: a conditional hierarchical VAE.

    python train.py --config configs/denoise_grey.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/denoise_grey --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_grey --mode restore --input photo.jpg --output restored/

cost: 56 minutes on one core of a busy 2-core CPU (44 minutes of CPU time), and 13 for a second run that continues it:

    python train.py --config configs/denoise_grey.py --workdir runs/denoise_grey_more --config.training.steps=2500 \
      --config.training.init_from=runs/denoise_grey --config.training.learning_rate=5e-4 \
      --config.objective.beta_steps=300

figure: BM3D + 0.27 dB after the second run, mean over the first 8 test photographs (BM3D takes 17 s each). Correlation
of the uncertainty map (8 draws) with the error: 0.33 (40 photographs).
Sigma unknown: --config.data.degrade.sigma=0.02 --config.data.degrade.sigma_max=0.22.
For an accelerator, larger, not measured: --config.model.channels=96,128,128 --config.model.blocks=6
--config.training.batch_size=32 --config.training.steps=60000.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.channels = 1
  config.training.steps = 10500
  return config
