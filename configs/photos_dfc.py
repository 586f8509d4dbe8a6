"""A VAE of photographs trained with a perceptual loss against blur, after DFC-VAE (Hou et al. 2017).

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/photos_dfc.py
    python train.py --config configs/photos_dfc.py --workdir runs/photos_pixel --config.objective.perceptual.weight=0 \
      --config.training.steps=10000     # the same VAE without it, for more steps and about the same time

cost: 881 s on one core of a busy 2-core CPU; the pixel run's 10,000 steps 768 s.
figure: LPIPS of the test tiles 0.657 (VGG-16) and 0.421 (AlexNet, which it was trained on); 0.642 and 0.619 without the
perceptual loss. The VGG score is no better and the pictures show a pattern that AlexNet likes: see docs/results.md.

The features are those of LPIPS (AlexNet), because VGG at 64x64 costs four times the VAE itself on a CPU; the score is
LPIPS on VGG-16, a network that training has not seen. The paper's own mix: `apply_preset(config, "dfc")`.
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config


def get_config() -> ConfigDict:
  config = base_config()
  config.objective.perceptual.weight = 20000.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 200
  config.data.name = "photos"
  config.data.size = (64, 64)
  config.data.flip = True
  config.model.name = "conv_vae"
  config.model.channels = (32, 64, 64)
  config.model.blocks = 0
  config.model.dense = 256
  config.model.latent_dim = 128
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.steps = 6000
  config.training.steps_per_call = 10
  config.training.batch_size = 4
  config.training.log_every = 50
  config.training.eval_every = 1000
  config.training.checkpoint_every = 1000
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 6
  config.evaluation.pictures = 6
  config.evaluation.lpips = "vgg16"
  return config
