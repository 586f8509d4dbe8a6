"""A Wasserstein autoencoder (WAE-MMD) of the 5,000 embedded MNIST digits; needs no download.

    python train.py --config configs/mnist_wae.py
    python evaluate.py --workdir runs/mnist_wae --mode sample

On all of MNIST (four IDX files in data/mnist):

    python train.py --config configs/mnist_wae.py --workdir runs/mnist_wae_60k --config.data.name=idx \
      --config.data.dir=data/mnist --config.data.train='train[:50000]' --config.data.validation='train[50000:]' \
      --config.training.steps=6000

On faces (folders of images in data/celeba/train and data/celeba/test):

    python train.py --config configs/folder.py --workdir runs/faces_wae --config.data.dir=data/celeba \
      --config.data.train='train[500:]' --config.data.validation='train[:500]' --config.training.steps=300 \
      --config.model.name=wae --config.model.sigma=0.7071 --config.objective.mmd=1000

cost: 8 minutes of one core for all of MNIST.
figure: Frechet distance (VGG-16, 5,000 samples) on all of MNIST 284.3 with N(0, I): docs/results.md.

8 latents and batches of 100 as in the paper's program, whose lambda of 10 beside 0.05 |x - g(z)|^2 is 200 here.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("wae")
  config.data.name = "digits"
  config.model.channels = (16, 32)
  config.model.blocks = 0
  config.model.dense = 512
  config.model.latent_dim = 8
  config.objective.mmd = 200.0
  config.training.steps = 3000
  config.training.batch_size = 100
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  return config
