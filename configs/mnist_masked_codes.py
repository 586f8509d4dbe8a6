"""A masked transformer over the codes of a VQ-VAE of MNIST (MaskGIT): samples of a digit in 12 steps, not in 49.

First the first stage, as in configs/mnist_code_transformer.py; then this one:

    python train.py --config configs/mnist_masked_codes.py

Scores, and samples of one digit that follow their label further than trained:

    python evaluate.py --workdir runs/mnist_masked_codes
    python evaluate.py --workdir runs/mnist_masked_codes --mode sample --label 7 --guidance 2

cost: 24 minutes on one core of a busy 2-core CPU, after the 8 of the first stage.
figure: 5,000 samples have a Frechet distance of 35.3 (configs/digits.py, the best one-level model: 37.5).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("masked_codes")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[:50000]"
  config.data.validation = "train[50000:]"
  config.model.width = 128
  config.model.layers = 4
  config.model.heads = 4
  config.model.condition = "label"
  config.model.classes = 10
  config.training.first_stage = "runs/mnist_vq_vae_60k"
  config.training.steps = 4000
  config.training.batch_size = 64
  config.training.learning_rate = 1e-3
  config.training.ema_decay = 0.99
  config.training.steps_per_call = 20
  config.training.log_every = 100
  config.training.eval_every = 1000
  return config
