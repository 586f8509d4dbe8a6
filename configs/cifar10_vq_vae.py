"""A VQ-VAE of CIFAR-10 with a discretised logistic mixture: 8 x 8 codes of 512, and bits per dimension of 256 levels.

    python train.py --config configs/cifar10_vq_vae.py     # train.npz and test.npz in data/cifar10
    python evaluate.py --workdir runs/cifar10_vq_vae --samples 0

Then a prior over its codes; the sum of both is a bound on -log p(image):

    python train.py --config configs/cifar10_code_transformer.py
    python evaluate.py --workdir runs/cifar10_code_transformer

cost: 10 minutes on one core of a busy 2-core CPU.
figure: 5.308 bits/dim by a uniform prior, 21.92 dB, all 512 codes in use (10,000 test images).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae")
  config.data.name = "npz"
  config.data.dir = "data/cifar10"
  config.data.train = "train[2000:]"
  config.data.validation = "train[:2000]"
  config.data.flip = True
  config.model.channels = (32, 64)
  config.model.blocks = 1
  config.model.codes = 512
  config.model.code_dim = 32
  config.model.likelihood = "logistic_mixture"
  config.model.mixtures = 3
  config.training.steps = 4000
  config.training.batch_size = 32
  config.training.clip_norm = 200.0
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 2000
  config.training.checkpoint_every = 1000
  config.training.ema_decay = 0.99
  return config
