"""A VQ-VAE-2 of colour photographs at 64 x 64: 8 x 8 and 16 x 16 codes of 512 each. Your own folder, or any data set.

    python train.py --config configs/photos_vq_vae_2.py --config.data.dir=/path/to/photos
    python evaluate.py --workdir runs/photos_vq_vae_2

Faces of CelebA, as `data/celeba`:

    python train.py --config configs/photos_vq_vae_2.py --workdir runs/faces_vq_vae_2 --config.data.dir=data/celeba \
      --config.data.train='train[500:]' --config.data.validation='train[:500]' --config.training.steps=4000

cost: 40 minutes of one core of a busy 2-core CPU for 4,000 of its 12,000 steps.
figure: after 4,000 steps on 8,500 faces of CelebA, 1,000 test images are reconstructed with 27.37 dB, all codes in use;
the VQ-VAE of configs/photos_vq_vae.py, which has the finer map alone, has 26.87 dB (docs/results.md).
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae_2")
  config.data.name = "folder"
  config.data.dir = "data/photos"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.channels = (32, 64)
  config.model.blocks = 1
  config.model.codes = 512
  config.model.code_dim = 32
  config.model.sigma = "optimal"
  config.training.steps = 12000
  config.training.batch_size = 16
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
