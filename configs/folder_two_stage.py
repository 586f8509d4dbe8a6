"""The second stage of a two-stage VAE (Dai & Wipf 2019) of your own colour images, such as faces, at 64 x 64.

The first stage is configs/folder.py, whose Gaussian likelihood has a learned scale:

    python train.py --config configs/folder.py --config.data.dir=/path/to/photos
    python train.py --config configs/folder_two_stage.py --config.data.dir=/path/to/photos
    python evaluate.py --workdir runs/folder_two_stage
    python evaluate.py --workdir runs/folder_two_stage --mode sample

cost: 18 minutes of one core of a busy 2-core CPU, on 8,500 faces of CelebA, after the first stage.
figure: Frechet distance (VGG-16, 1,000 samples) 204.5 on these faces, after a first stage that has 203.9 with a fitted
Gaussian: docs/results.md.
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
  config.training.first_stage = "runs/folder"
  config.model.hidden = (512, 512, 512)
  config.training.steps = 6000
  config.training.batch_size = 64
  config.training.learning_rate = 1e-3
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 500
  config.evaluation.pictures = 16
  return config
