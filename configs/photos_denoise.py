"""A small colour demo: a VAE that sees noisy crops of the embedded photographs and returns clean ones.

    python train.py --config configs/photos_denoise.py

cost: to be measured.
figure: to be measured (psnr of the test split, dB; the noise alone has about 20 dB).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "photos"
  config.data.size = (64, 64)
  config.data.flip = True
  config.data.degrade.name = "gaussian_noise"
  config.data.degrade.sigma = 0.1
  config.model.channels = (16, 32, 64)
  config.model.latent_dim = 128
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.steps = 3000
  config.training.steps_per_call = 10
  config.training.batch_size = 16
  config.evaluation.batch_size = 16
  config.evaluation.pictures = 16
  return config
