"""Super-resolution x4 of photographs, for the eye: `superres_x4` trained on with a perceptual loss.

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/superres_x4.py
    python train.py --config configs/superres_x4_perceptual.py     # starts from runs/superres_x4
    python evaluate.py --workdir runs/superres_x4_perceptual --mode benchmark --input data/bsds/test --lpips alexnet

cost: to be measured.
figure: to be measured.

The loss is LPIPS on AlexNet beside the pixel loss, in a proportion that keeps PSNR above that of bicubic interpolation.
"""

from ml_collections import ConfigDict

from vae_jax.config import base_config


def get_config() -> ConfigDict:
  config = base_config()
  config.data.name = "folder"
  config.data.dir = "data/bsds"
  config.data.train = "train[:190]"
  config.data.validation = "train[190:]"
  config.data.size = (160, 160)
  config.data.channels = 3
  config.data.flip = True
  config.data.rotate = True
  config.data.degrade.name = "bicubic_down"
  config.data.degrade.factor = 4
  config.model.name = "restoration_vae"
  config.model.channels = (32, 48)
  config.model.blocks = 3
  config.model.latent_dim = 4
  config.model.likelihood = "laplace"
  config.model.sigma = "0.3"
  config.objective.perceptual.weight = 60000.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.training.init_from = "runs/superres_x4"
  config.training.learning_rate = 3e-4
  config.training.steps = 1500
  config.training.batch_size = 8
  config.training.steps_per_call = 1
  config.training.log_every = 50
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.evaluation.lpips = "alexnet"
  config.evaluation.batch_size = 8
  config.evaluation.pictures = 8
  return config
