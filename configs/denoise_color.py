"""Denoising of colour photographs, sigma 0 to 75 of 255, told or estimated: a conditional hierarchical VAE.

    python train.py --config configs/denoise_color.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/denoise_color --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/denoise_color --mode restore --input photo.jpg --output restored/

cost: 131 minutes on one core of a busy 2-core CPU (AMD EPYC).
figure: 39.9 dB at sigma 5, 33.3 at 15, 30.4 at 25 and 26.9 at 50 (RGB, level estimated, 8 test photographs); BM3D, told
the level, has 30.6 at 25.

Arrays and 8-bit files, photographs with black and white areas, and levels near black and white.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("restoration_vae")
  config.data.name = "folder"
  config.data.dir = "data/bsds"
  config.data.train = "train[:96%]"
  config.data.validation = "train[96%:]"
  config.data.size = (64, 64)
  config.data.channels = 3
  config.data.flip = True
  config.data.rotate = True
  config.data.exposure = 3.0
  config.data.degrade.name = "chain"
  config.data.degrade.chain = "noise 0..75 @0.6; noise 0..15 @0.4; noise 0..5 @0.5; round @0.5"
  config.model.channels = (64, 96, 128)
  config.model.blocks = 2
  config.model.unshuffle = 2
  config.model.noise = "uniform"
  config.model.latent_dim = 4
  config.model.likelihood = "laplace"
  config.model.sigma = "0.3"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 500
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.008
  config.training.adam_rate = 0.05
  config.training.weight_decay = 0.3
  config.training.steps = 9000
  config.training.batch_size = 8
  config.training.steps_per_call = 1
  config.training.log_every = 100
  config.training.eval_every = 1000
  config.training.checkpoint_every = 500
  config.evaluation.batch_size = 8
  config.evaluation.pictures = 8
  return config
