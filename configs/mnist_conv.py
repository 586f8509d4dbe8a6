"""A convolutional VAE of MNIST with dynamic binarisation.

    python train.py --config configs/mnist_conv.py     # the four MNIST files in data/mnist

cost: to be measured.
figure: to be measured (neg_elbo of the test split, nats).
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config


def get_config() -> ConfigDict:
  config = base_config()
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.data.binarize = "dynamic"
  config.model.name = "conv_vae"
  config.model.channels = (32, 64)
  config.model.latent_dim = 32
  config.model.activation = "silu"
  config.model.likelihood = "bernoulli"
  config.training.steps = 30_000
  config.training.batch_size = 256
  config.training.steps_per_call = 100
  return config
