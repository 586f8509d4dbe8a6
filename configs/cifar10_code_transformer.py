"""A causal transformer over the 8 x 8 codes of a VQ-VAE of CIFAR-10: a bound in bits per dimension, and samples.

    python train.py --config configs/cifar10_vq_vae.py     # train.npz and test.npz in data/cifar10
    python train.py --config configs/cifar10_code_transformer.py
    python evaluate.py --workdir runs/cifar10_code_transformer

cost: 18 minutes on one core of a busy 2-core CPU, after the 10 of the first stage.
figure: 6.34 bits a code, 5.253 bits/dim of codes and pixels (10,000 test images).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("code_transformer")
  config.data.name = "npz"
  config.data.dir = "data/cifar10"
  config.data.train = "train[2000:]"
  config.data.validation = "train[:2000]"
  config.data.flip = True
  config.model.width = 128
  config.model.layers = 4
  config.model.heads = 4
  config.training.first_stage = "runs/cifar10_vq_vae"
  config.training.steps = 2000
  config.training.batch_size = 64
  config.training.learning_rate = 1e-3
  config.training.warmup_steps = 200
  config.training.ema_decay = 0.99
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 1000
  return config
