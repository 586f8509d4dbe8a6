"""A regularised autoencoder (RAE-L2) of the 5,000 embedded MNIST digits; needs no download.

    python train.py --config configs/mnist_rae.py
    python evaluate.py --workdir runs/mnist_rae --mode encode --split train

With a gradient penalty (RAE-GP), or with spectral normalisation (RAE-SN):

    python train.py --config configs/mnist_rae.py --workdir runs/mnist_rae_gp --config.model.regulariser=gp
    python train.py --config configs/mnist_rae.py --workdir runs/mnist_rae_sn --config.model.regulariser=sn \
      --config.objective.latent_norm=1

On all of MNIST (four IDX files in data/mnist):

    python train.py --config configs/mnist_rae.py --workdir runs/mnist_rae_60k --config.data.name=idx \
      --config.data.dir=data/mnist --config.data.train='train[:50000]' --config.data.validation='train[50000:]' \
      --config.training.steps=6000

cost: 6 minutes of one core for all of MNIST; RAE-GP takes three times as long.
figure: Frechet distance (VGG-16, 5,000 samples of a fitted mixture of 10) on all of MNIST: RAE-L2 123.3, RAE-SN 114.6,
RAE-GP 162.2 (3,100 steps): docs/results.md.

16 latents as in the paper. Its weights are of means over 1,024 pixels and over latents: latent_norm is its 1e-4 and
regulariser its 1e-7 (RAE-L2), in sums; latent_norm=1 is its 0.009 (RAE-SN).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("rae")
  config.data.name = "digits"
  config.model.channels = (16, 32)
  config.model.blocks = 0
  config.model.dense = 512
  config.model.latent_dim = 16
  config.training.steps = 3000
  config.training.batch_size = 100
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  return config
