"""MNIST as in Burda et al. 2016 (one stochastic layer, k = 1): 784-200-200-50, tanh, dynamic binarisation.

    python train.py --config configs/mnist_vae_burda.py     # the four MNIST files in data/mnist

cost: to be measured.
figure: to be measured (iwae_nll of the test split with evaluation.samples = 5000; the paper has 86.76 nats).

Differs from the paper: 254 epochs in batches of 100 with a cosine schedule instead of 3,280 in batches of 20 with a
staircase; the weight of the KL rises linearly over the first 10,000 steps, which keeps more latent units alive
(Sonderby et al. 2016); the first 1,000 training images are kept for validation.
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config


def get_config() -> ConfigDict:
  config = base_config()
  config.data.name = "idx"
  config.data.dir = "data/mnist"
  config.data.train = "train[1000:]"
  config.data.validation = "train[:1000]"
  config.data.binarize = "dynamic"
  config.model.name = "mlp_vae"
  config.model.hidden = (200, 200)
  config.model.activation = "tanh"
  config.model.latent_dim = 50
  config.model.likelihood = "bernoulli"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 10_000
  config.training.steps = 150_000
  config.training.batch_size = 100
  config.training.learning_rate = 1e-3
  config.training.final_learning_rate = 0.0
  config.training.adam_eps = 1e-6
  config.training.steps_per_call = 500
  config.training.log_every = 1000
  config.training.eval_every = 10_000
  config.training.checkpoint_every = 5000
  config.evaluation.samples = 5000
  return config
