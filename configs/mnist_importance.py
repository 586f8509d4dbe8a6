"""mnist_vae_burda.py trained on bounds of 16 importance weights: IWAE, and with flags MIWAE, CIWAE, PIWAE, STL, DReG.

    python train.py --config configs/mnist_importance.py     # the four MNIST files in data/mnist
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_miwae --config.objective.name=miwae \
      --config.objective.groups=4
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_ciwae --config.objective.name=ciwae
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_piwae --config.objective.name=piwae \
      --config.objective.groups=4
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_dreg --config.objective.gradient=dreg
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_stl --config.objective.gradient=stl
    python evaluate.py --workdir runs/mnist_piwae --samples 5000

All of them continue one run of mnist_vae_burda.py, so that a short training tells them apart:

    python train.py --config configs/mnist_vae_burda.py
    python train.py --config configs/mnist_importance.py --workdir runs/mnist_more_miwae --config.objective.name=miwae \
      --config.objective.groups=4 --config.training.init_from=runs/mnist_vae_burda

cost: not measured yet; 10 to 15 minutes of one core are expected, the most for PIWAE and DReG.
figure: not measured yet.

Published, after a longer training (pythae, in its table of reproductions): MIWAE 85.09, CIWAE 84.74, PIWAE 84.58.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("mnist_vae_burda.py"))
  config.objective.name = "iwae"
  config.objective.beta_schedule = "constant"
  config.objective.beta_steps = 0
  config.objective.samples = 16
  config.training.steps = 10_000
  config.training.batch_size = 125
  return config
