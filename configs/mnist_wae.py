"""A Wasserstein autoencoder (WAE-MMD) of the 5,000 embedded MNIST digits; needs no download.

    python train.py --config configs/mnist_wae.py
    python evaluate.py --workdir runs/mnist_wae --mode sample

On all of MNIST (four IDX files in data/mnist):

    python train.py --config configs/mnist_wae.py --workdir runs/mnist_wae_60k --config.data.name=idx \
      --config.data.dir=data/mnist --config.data.train='train[:50000]' --config.data.validation='train[50000:]' \
      --config.training.steps=12000

On faces (folders of images in data/celeba/train and data/celeba/test):

    python train.py --config configs/mnist_wae.py --workdir runs/celeba_wae --config.data.name=folder \
      --config.data.dir=data/celeba --config.data.size=64,64 --config.data.fit=resize --config.data.flip=true \
      --config.data.train='train[1000:]' --config.data.validation='train[:1000]' --config.model.channels=64,128,256 \
      --config.model.latent_dim=64 --config.training.steps=30000

cost: to be measured.
figure: to be measured.

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
