"""The second stage of a two-stage VAE (Dai & Wipf 2019) on MNIST: a VAE of the latents of a trained first stage.

First the first stage, a convolutional VAE of grey digits with a learned scale; then this one:

    python train.py --config configs/digits.py
    python train.py --config configs/mnist_two_stage.py

Which latents of the first stage are active or null, how well each stage samples, and samples of both together:

    python evaluate.py --workdir runs/digits --samples 0
    python evaluate.py --workdir runs/mnist_two_stage
    python evaluate.py --workdir runs/mnist_two_stage --mode sample
    python evaluate.py --workdir runs/mnist_two_stage --mode frechet

cost: 4 minutes of one core of a busy 2-core CPU, after the first stage.
figure: Frechet distance (VGG-16, 5,000 samples) 61.2, and 261.1 of the first stage alone: docs/results.md.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("latent_vae")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.model.hidden = (512, 512, 512)
  config.training.first_stage = "runs/digits"
  config.training.steps = 4000
  config.training.batch_size = 128
  config.training.learning_rate = 1e-3
  config.training.steps_per_call = 50
  config.training.log_every = 100
  config.training.eval_every = 1000
  return config
