"""A VQ-VAE of colour faces at 64 x 64 (CelebA) with the networks of VQGAN: 16 x 16 codes of 512.

It is the first stage of configs/faces_vqgan.py, trained by absolute differences of pixels alone.

    python train.py --config configs/faces_vq.py
    python evaluate.py --workdir runs/faces_vq

cost: not measured yet; 2.1 GFLOP an image, twice those of configs/folder.py, so about 40 minutes of one core.
figure: not measured yet.

Data: CelebA as in configs/faces_vae_gan.py.

The weights are those of Esser et al. 2021, whose loss is the mean absolute difference of values in [-1, 1] and 0.25
times the mean square of vectors less codes: see `vae_jax.models.vq_model`. They hold for 64 x 64 colour images and
16 x 16 codes of 32 channels.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_model")
  config.data.name = "folder"
  config.data.dir = "data/celeba"
  config.data.train = "train[500:]"
  config.data.validation = "train[:500]"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.ch = 16
  config.model.ch_mult = (1, 2, 4)
  config.model.num_res_blocks = 1
  config.model.z_channels = 64
  config.model.norm_groups = 8
  config.model.codes = 512
  config.model.code_dim = 32
  config.model.sigma = "0.05"
  config.objective.alpha = 2 * 0.05 / (64 * 64 * 3)
  config.objective.commitment = 0.25 / (16 * 16 * 32)
  config.training.steps = 1200
  config.training.batch_size = 32
  config.training.learning_rate = 1e-3
  config.training.warmup_steps = 50
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 200
  config.training.checkpoint_every = 200
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
