"""mnist_vae_burda.py trained on the importance-weighted bound with k = 5 (Burda et al. 2016).

    python train.py --config configs/mnist_iwae5_burda.py     # the four MNIST files in data/mnist

cost: about 45 minutes of one core of a shared 2-core CPU.
figure: NLL 85.37 nats (iwae_nll of the test split, 5,000 samples); the paper has 85.54 after 15 times as many epochs.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("mnist_vae_burda.py"))
  config.objective.name = "iwae"
  config.objective.beta_schedule = "constant"
  config.objective.beta_steps = 0
  config.objective.samples = 5
  config.training.steps = 26_000
  return config
