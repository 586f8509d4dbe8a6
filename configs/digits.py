"""A convolutional VAE of MNIST in grey levels with a scale that is learned: the first stage of mnist_two_stage.

    python train.py --config configs/digits.py     # the four MNIST files in data/mnist
    python evaluate.py --workdir runs/digits
    python evaluate.py --workdir runs/digits --mode fit_prior --prior mixture --components 50
    python evaluate.py --workdir runs/digits --mode sample --prior mixture

cost: 18 minutes of one core of a busy 2-core CPU.
figure: 26.96 dB; Frechet distance (VGG-16, 5,000 samples) 42.1 with the mixture, 261.1 with N(0, I): docs/results.md.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.model.channels = (16, 32)
  config.model.latent_dim = 32
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.steps = 2400
  config.training.batch_size = 200
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.02
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 200
  config.training.checkpoint_every = 400
  config.training.ema_decay = 0.99
  return config
