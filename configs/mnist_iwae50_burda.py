"""mnist_vae_burda.py trained on the importance-weighted bound with k = 50 (Burda et al. 2016).

    python train.py --config configs/mnist_iwae50_burda.py     # the four MNIST files in data/mnist

cost: to be measured.
figure: to be measured (iwae_nll of the test split with evaluation.samples = 5000; the paper has 84.78 nats).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("mnist_vae_burda.py"))
  config.objective.name = "iwae"
  config.objective.beta_schedule = "constant"
  config.objective.beta_steps = 0
  config.objective.samples = 50
  config.training.steps = 8_000
  return config
