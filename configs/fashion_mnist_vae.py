"""mnist_conv.py on Fashion-MNIST: the same model and dynamic binarisation, so that nats compare with MNIST's.

    python train.py --config configs/fashion_mnist_vae.py     # the four files in data/fashion-mnist

cost: to be measured.
figure: to be measured (neg_elbo of the test split, nats of binary images, not of grey levels).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.config import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("mnist_conv.py"))
  config.data.dir = "data/fashion-mnist"
  return config
