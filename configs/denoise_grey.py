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

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("restoration_vae")
  config.data.name = "folder"
  config.data.dir = "data/bsds"
  config.data.train = "train[:96%]"
  config.data.validation = "train[96%:]"
  config.data.size = (96, 96)
  config.data.channels = 1
  config.data.flip = True
  config.data.rotate = True
  config.data.degrade.name = "gaussian_noise"
  config.data.degrade.sigma = 25 / 255
  config.model.channels = (32, 48, 64)
  config.model.blocks = 2
  config.model.unshuffle = 2
  config.model.latent_dim = 4
  config.model.likelihood = "laplace"
  config.model.sigma = "0.3"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 1000
  config.training.steps = 10000
  config.training.batch_size = 4
  config.training.steps_per_call = 1
  config.training.log_every = 100
  config.training.eval_every = 1000
  config.training.checkpoint_every = 1000
  config.evaluation.batch_size = 8
  config.evaluation.pictures = 8
  return config
