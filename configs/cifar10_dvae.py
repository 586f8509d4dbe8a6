"""A dVAE of CIFAR-10: 8 x 8 codes of 512 by Gumbel-softmax, with the logit-Laplace likelihood of DALL-E.

    python train.py --config configs/cifar10_dvae.py     # train.npz and test.npz in data/cifar10
    python evaluate.py --workdir runs/cifar10_dvae --samples 0

cost: 10 minutes on one core of a busy 2-core CPU.
figure: 22.04 dB for the 10,000 test images, 97.1 % of the codes in use, perplexity 283.

The weight of the rate rises to 6.6 within 2,000 steps, and the temperature falls to 1/16 within 3,000. Ramesh et al.
2021 (appendix A.2) have 6.6, 5,000 and 150,000 steps for images of 256 x 256. The likelihood is a density of pixels
that are squeezed into [0.1, 0.9], so bits/dim do not compare with those of 256 levels.
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
  config.model.quantiser = "gumbel"
  config.model.temperature_steps = 3000
  config.model.likelihood = "logit_laplace"
  config.objective.beta = 6.6
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 2000
  config.training.steps = 4000
  config.training.batch_size = 32
  config.training.clip_norm = 200.0
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  return config
