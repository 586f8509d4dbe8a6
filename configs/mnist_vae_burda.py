"""MNIST as in Burda et al. 2016 (one stochastic layer, k = 1): 784-200-200-50, tanh, dynamic binarisation.

    python train.py --config configs/mnist_vae_burda.py     # the four MNIST files in data/mnist
    python evaluate.py --workdir runs/mnist_vae_burda --samples 1000

cost: 16 minutes on one core of a shared 2-core CPU.
figure: NLL 87.31 nats (iwae_nll of the test split, 1,000 samples; -ELBO 90.99); the paper has 86.76.

Only the training differs from the paper: Muon with a cosine schedule for 102 epochs in batches of 500, instead of Adam
with a staircase for 3,280 epochs in batches of 20. The weight of the KL rises linearly over the first 400 steps. The
first 1,000 training images are the validation split.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("mlp_vae")
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.data.binarize = "dynamic"
  config.model.hidden = (200, 200)
  config.model.activation = "tanh"
  config.model.latent_dim = 50
  config.model.likelihood = "bernoulli"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 400
  config.training.steps = 12_000
  config.training.batch_size = 500
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.02
  config.training.steps_per_call = 100
  config.training.log_every = 100
  config.training.eval_every = 2000
  config.training.checkpoint_every = 1000
  config.evaluation.samples = 5000
  return config
