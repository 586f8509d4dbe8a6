"""Emoji from texts: a transformer over an emoji's name and its 8 x 8 codes.

    python train.py --config configs/emoji_vq_vae.py
    python train.py --config configs/emoji_transformer.py
    python evaluate.py --workdir runs/emoji_transformer --mode sample --temperature 0.7 \
      --text "woman astronaut, medium-light skin tone"

cost: 25 minutes on one core of a busy 2-core CPU, after the 14 of the first stage.
figure: it draws the names of its training images, and little else: docs/text_to_image.md.

Data: as in configs/emoji_vq_vae.py. The model learns names and their emoji by heart; a text that is none of them draws
what it has of its words.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("code_transformer")
  config.data.name = "folder"
  config.data.dir = "data/named_emoji"
  config.data.captions = "files"
  config.data.byte_pairs = 512
  config.data.text_length = 28
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.model.condition = "text"
  config.model.width = 128
  config.model.layers = 6
  config.model.heads = 4
  config.training.first_stage = "runs/emoji_vq_vae"
  config.training.steps = 3000
  config.training.batch_size = 32
  config.training.learning_rate = 2e-3
  config.training.warmup_steps = 200
  config.training.ema_decay = 0.99
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  return config
