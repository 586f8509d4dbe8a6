"""A convolutional VAE of MNIST with dynamic binarisation.

    python train.py --config configs/mnist_conv.py     # the four MNIST files in data/mnist
    python evaluate.py --workdir runs/mnist_conv --samples 100

cost: about 65 minutes of one core of a shared 2-core CPU.
figure: NLL 85.53 nats (iwae_nll of the test split, 100 samples), after 38 epochs; docs/results.md says how it was run.

The network has few channels and a wide dense layer, because on a CPU matrix products run at twice the speed of
convolutions. On an accelerator, use more: --config.model.channels=64,128 --config.model.blocks=2.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.data.binarize = "dynamic"
  config.model.channels = (16, 32)
  config.model.blocks = 0
  config.model.dense = 512
  config.model.latent_dim = 32
  config.model.likelihood = "bernoulli"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 400
  config.training.steps = 4500
  config.training.batch_size = 500
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.02
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.evaluation.samples = 200
  return config
