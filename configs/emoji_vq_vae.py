"""A VQ-VAE of all Noto emoji, 64 x 64: 8 x 8 codes of FSQ, the first stage of configs/emoji_transformer.py.

    python train.py --config configs/emoji_vq_vae.py
    python evaluate.py --workdir runs/emoji_vq_vae

cost: 14 minutes on one core of a busy 2-core CPU.
figure: 21.9 dB on 388 test images, 98 % of the 1,000 codes in use; a longer training was not tried.

Data: Noto emoji (Google, Apache-2.0), as data/named_emoji/NUMBER.png and NUMBER.txt: the 3,786 images of 64 x 64 pixels
of the npm package emoji-datasource-google 16.0.0, laid on white, and their names in small letters with the skin tone,
such as "man astronaut, medium-dark skin tone". The hash of the file's name splits them: 80 % are for training.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae")
  config.data.name = "folder"
  config.data.dir = "data/named_emoji"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.model.channels = (24, 48, 96)
  config.model.blocks = 1
  config.model.quantiser = "fsq"
  config.model.fsq_levels = (8, 5, 5, 5)
  config.model.sigma = "optimal"
  config.training.steps = 1500
  config.training.batch_size = 32
  config.training.warmup_steps = 50
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
