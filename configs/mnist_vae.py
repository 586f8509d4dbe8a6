"""The default: a small MLP VAE (784-512-16) of the 5,000 embedded MNIST digits; needs no download.

    python train.py

cost: 1 to 3 minutes on a 2-core CPU (35 to 64 s when idle).
figure: -ELBO 106.0 nats, NLL 101.7 (100 samples) on the 500 test digits.

Pixels are drawn from Bernoulli(grey level) at each use, so the score is a likelihood of binary images in nats. On grey
levels, the Bernoulli term would be a cross-entropy that bounds no likelihood.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("mlp_vae")
  config.data.name = "digits"
  config.data.binarize = "dynamic"
  config.model.hidden = (512,)
  config.model.latent_dim = 16
  config.model.likelihood = "bernoulli"
  config.training.steps = 6000
  config.training.batch_size = 128
  config.training.steps_per_call = 100
  config.training.log_every = 100
  config.training.eval_every = 1000
  return config
