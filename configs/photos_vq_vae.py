"""A VQ-VAE of colour photographs at 64 x 64: 16 x 16 codes of 512. Your own folder, or any TFDS data set of images.

    python train.py --config configs/photos_vq_vae.py --config.data.dir=/path/to/photos
    python evaluate.py --workdir runs/photos_vq_vae

cost: 50 minutes on one core of a busy 2-core CPU.
figure: on a part of Tiny ImageNet (38,998 training images) all 512 codes in use, perplexity 416; 5,000
validation images are reconstructed with 22.26 dB. A folder of 598 photographs: docs/folder.md.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae")
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
