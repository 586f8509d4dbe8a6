"""A VQ-VAE of the 5,000 embedded MNIST digits: 7 x 7 codes of 512; needs no download.

    python train.py --config configs/mnist_vq_vae.py

On all of MNIST (four IDX files in data/mnist):

    python train.py --config configs/mnist_vq_vae.py --workdir runs/mnist_vq_vae_60k --config.data.name=idx \
      --config.data.dir=data/mnist --config.data.train='train[:50000]' --config.data.validation='train[50000:]'

cost: 8 minutes on one core of a busy 2-core CPU (all of MNIST; the embedded digits were not run to the end).
figure: on all of MNIST all 512 codes in use, perplexity 444, reconstructions of the test images with 27.32 dB.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae")
  config.data.name = "digits"
  config.model.channels = (32, 64)
  config.model.blocks = 1
  config.model.codes = 512
  config.model.code_dim = 16
  config.model.sigma = "optimal"
  config.training.steps = 3000
  config.training.batch_size = 64
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  return config
