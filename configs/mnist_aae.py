"""An adversarial autoencoder of the 5,000 embedded MNIST digits; needs no download.

    python train.py --config configs/mnist_aae.py
    python evaluate.py --workdir runs/mnist_aae --mode sample

On all of MNIST (four IDX files in data/mnist):

    python train.py --config configs/mnist_aae.py --workdir runs/mnist_aae_60k --config.data.name=idx \
      --config.data.dir=data/mnist --config.data.train='train[:50000]' --config.data.validation='train[50000:]' \
      --config.training.steps=6000

cost: 6 minutes of one core for all of MNIST.
figure: Frechet distance (VGG-16, 5,000 samples) on all of MNIST 273.9 with N(0, I): docs/results.md.

8 latents, as mnist_wae, with which it is to be compared. A discriminator that is sure (real_accuracy and fake_accuracy
near 1) and a weighted_latent_adversarial that grows mean that the weight does not fit. With 10 in place of 1 the
encoder followed the verdict alone, and all of MNIST became means of digits (14.2 dB).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("aae")
  config.data.name = "digits"
  config.model.channels = (16, 32)
  config.model.blocks = 0
  config.model.dense = 512
  config.model.latent_dim = 8
  config.objective.latent_adversarial.weight = 1.0
  config.training.steps = 3000
  config.training.batch_size = 100
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  return config
