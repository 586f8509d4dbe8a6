"""A convolutional VAE of CIFAR-10 with a discretised logistic mixture: a likelihood of 256 levels.

    python train.py --config configs/cifar10_vae.py     # train.npz and test.npz in data/cifar10
    python evaluate.py --workdir runs/cifar10_vae --samples 0

cost: 33 minutes on one core of a 2-core CPU; see docs/results.md.
figure: 5.19 bits_per_dim of the test split (-ELBO), after 4.3 epochs.

The latents are a map of 8 x 8 x 16 (model.dense=0): far better bits per dimension in a short training than one vector,
and meaningless samples, because the prior knows no structure over positions. On an accelerator, use more:
--config.model.channels=128,256 --config.model.blocks=3 --config.model.mixtures=10 --config.training.batch_size=256
--config.training.steps=50000.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "npz"
  config.data.dir = "data/cifar10"
  config.data.train = "train[2000:]"
  config.data.validation = "train[:2000]"
  config.data.flip = True
  config.model.channels = (32, 64)
  config.model.blocks = 1
  config.model.dense = 0
  config.model.latent_dim = 16
  config.model.activation = "silu"
  config.model.likelihood = "logistic_mixture"
  config.model.mixtures = 3
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 500
  config.training.steps = 6500
  config.training.batch_size = 32
  config.training.clip_norm = 200.0
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 2000
  config.training.checkpoint_every = 1000
  return config
