"""MNIST digits completed from one quadrant, the lower left: the conditional VAE of Sohn, Lee & Yan 2015.

    python train.py --config configs/mnist_completion.py     # the four MNIST files in data/mnist
    python evaluate.py --workdir runs/mnist_completion --checkpoint best
    python evaluate.py --workdir runs/mnist_completion --checkpoint best --mode complete --num 12

With two and three quadrants, the left half and all but the upper right:

    python train.py --config configs/mnist_completion.py --workdir runs/mnist_completion_2 \
      --config.model.observed=upper_left,lower_left
    python train.py --config configs/mnist_completion.py --workdir runs/mnist_completion_3 \
      --config.model.observed=upper_left,lower_left,lower_right

The deterministic network by itself, the GSNN, and the hybrid of GSNN and conditional VAE:

    python train.py --config configs/mnist_completion.py --workdir runs/mnist_completion_nn --config.model.kind=nn
    python train.py --config configs/mnist_completion.py --workdir runs/mnist_completion_gsnn --config.model.kind=gsnn
    python train.py --config configs/mnist_completion.py --workdir runs/mnist_completion_hybrid \
      --config.model.kind=hybrid

cost: 6 minutes on one core of a busy 2-core CPU; 2 for the deterministic network alone.
figure: 62.27 nats of the hidden pixels (100 samples), 104.09 of the deterministic network; given two quadrants 43.13
and 64.79, given three 21.33 and 29.23.

The score to compare is `iwae_nll`, the negative conditional log-likelihood of the hidden pixels; of the deterministic
network it is `neg_elbo`. Pixels are drawn as black or white at each use. The networks have half of the paper's width,
two layers of 500 units, and 50 latents.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("structured_cvae")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[:50000]"
  config.data.validation = "train[50000:]"
  config.data.binarize = "dynamic"
  config.model.hidden = (500, 500)
  config.model.latent_dim = 50
  config.training.steps = 10_000
  config.training.batch_size = 128
  config.training.learning_rate = 1e-3
  config.training.steps_per_call = 100
  config.training.log_every = 100
  config.training.eval_every = 1000
  return config
