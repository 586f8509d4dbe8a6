"""A VQ-VAE of colour faces at 64 x 64 (CelebA): 8 x 8 codes of 1,024, the first stage of configs/faces_vqgan.py.

    python train.py --config configs/faces_vq.py
    python evaluate.py --workdir runs/faces_vq

cost: 29 minutes on one core of a busy 2-core CPU.
figure: 23.62 dB on the 1,000 test images, LPIPS 0.166 (AlexNet) and 0.248 (VGG-16), all 1,024 codes in use.

Data: CelebA as in configs/faces_vae_gan.py.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_vae")
  config.data.name = "folder"
  config.data.dir = "data/celeba"
  config.data.train = "train[500:]"
  config.data.validation = "train[:500]"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.channels = (32, 64, 128)
  config.model.blocks = 2
  config.model.codes = 1024
  config.model.code_dim = 32
  config.model.sigma = "optimal"
  config.training.steps = 4000
  config.training.batch_size = 16
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
