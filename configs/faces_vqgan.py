"""A VQGAN of colour faces at 64 x 64 (CelebA): 16 x 16 codes of 512, with LPIPS and a discriminator of patches.

It starts from the VQ-VAE of configs/faces_vq.py, which has the same network. So model and discriminator both begin
where the paper's discriminator does, after steps without it.

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/faces_vq.py
    python train.py --config configs/faces_vqgan.py
    python evaluate.py --workdir runs/faces_vqgan

cost: not measured yet; about 3.3 GFLOP an image, chosen for 40 minutes of one core after the first run.
figure: not measured yet.

Data: CelebA as in configs/faces_vae_gan.py.

The weights are those of Esser et al. 2021, section 3.1 and the authors' configs: absolute differences 1, LPIPS 1, the
discriminator 0.8 times the ratio of gradients at the last layer. The discriminator is smaller (widths 32, 64, 128, 256
for 64, 128, 256, 512), and LPIPS is on AlexNet, for VGG-16.
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
  config.objective.perceptual.weight = 1.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.objective.adversarial.weight = 0.8
  config.objective.adversarial.channels = (32, 64, 128)
  config.objective.adversarial.last = 256
  config.objective.adversarial.max_weight = 1e4
  config.training.steps = 800
  config.training.batch_size = 32
  config.training.learning_rate = 5e-4
  config.training.warmup_steps = 50
  config.training.init_from = "runs/faces_vq"
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 200
  config.training.checkpoint_every = 200
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
