"""A VAE of photographs trained with a perceptual loss against blur, after DFC-VAE (Hou et al. 2017).

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/photos_dfc.py
    python train.py --config configs/photos_dfc.py --workdir runs/photos_pixel --config.objective.perceptual.weight=0 \
      --config.training.steps=8000     # the same VAE without it, for more steps

cost: 15 minutes on one core of a busy 2-core CPU.
figure: LPIPS of the test tiles 0.375 (AlexNet, which it was trained on) and 0.542 (VGG-16); 0.441 and 0.470 without the
perceptual loss. By the network it was not trained on, it is worse: see docs/notes/perceptual_loss.md.

The features are from AlexNet (LPIPS), because VGG at 64x64 costs four times the VAE on a CPU. The score is LPIPS on
VGG-16, a network that training has not seen. The paper's own mix: `apply_preset(config, "dfc")`.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.objective.perceptual.weight = 5000.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 200
  config.data.name = "photos"
  config.data.size = (64, 64)
  config.data.flip = True
  config.model.channels = (32, 64, 64)
  config.model.blocks = 0
  config.model.dense = 0
  config.model.latent_dim = 8
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.steps = 2800
  config.training.steps_per_call = 10
  config.training.batch_size = 4
  config.training.log_every = 50
  config.training.eval_every = 700
  config.training.checkpoint_every = 700
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 6
  config.evaluation.pictures = 6
  config.evaluation.lpips = "vgg16"
  return config
