"""A convolutional VAE of CIFAR-10 with a discretised logistic mixture: a likelihood of 256 levels.

    python train.py --config configs/cifar10_vae.py     # train.npz and test.npz in data/cifar10

cost: to be measured.
figure: to be measured (bits_per_dim of the test split).
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config


def get_config() -> ConfigDict:
  config = base_config()
  config.data.name = "npz"
  config.data.dir = "data/cifar10"
  config.data.train = "train[2000:]"
  config.data.validation = "train[:2000]"
  config.data.flip = True
  config.model.name = "conv_vae"
  config.model.channels = (64, 128, 256)
  config.model.latent_dim = 128
  config.model.activation = "silu"
  config.model.likelihood = "logistic_mixture"
  config.training.steps = 50_000
  config.training.batch_size = 256
  config.training.clip_norm = 200.0
  config.training.steps_per_call = 100
  config.training.eval_every = 2500
  config.training.checkpoint_every = 2500
  return config
