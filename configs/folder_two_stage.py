"""The second stage of a two-stage VAE (Dai & Wipf 2019) of your own colour images, such as faces, at 64 x 64.

The first stage is configs/folder.py, whose Gaussian likelihood has a learned scale:

    python train.py --config configs/folder.py --workdir runs/folder_first_stage --config.data.dir=/path/to/photos
    python train.py --config configs/folder_two_stage.py --config.data.dir=/path/to/photos
    python evaluate.py --workdir runs/folder_two_stage
    python evaluate.py --workdir runs/folder_two_stage --mode sample

cost: to be measured.
figure: to be measured. (The paper has FID 44.4 with two stages and 60.5 with one, on CelebA.)
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("latent_vae")
  config.data.name = "folder"
  config.data.dir = "data/photos"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.training.first_stage = "runs/folder_first_stage"
  config.training.steps = 5000
  config.training.batch_size = 64
  config.training.learning_rate = 3e-4
  config.training.steps_per_call = 10
  config.evaluation.pictures = 16
  return config
