"""A VQGAN of colour faces at 64 x 64 (CelebA): 8 x 8 codes of 1,024, with LPIPS and a discriminator of patches.

It starts from the VQ-VAE of configs/faces_vq.py, which has the same network. The discriminator learns alone for 150
steps: against a model that moves from step 0 on, its verdicts stayed those of chance.

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/faces_vq.py
    python train.py --config configs/faces_vqgan.py
    python evaluate.py --workdir runs/faces_vqgan

cost: 42 minutes on one core of a busy 2-core CPU, after the 29 of faces_vq.
figure: 23.04 dB on the 1,000 test images, LPIPS 0.066 (AlexNet, its loss) and 0.243 (VGG-16, which took no part).

Data: CelebA as in configs/faces_vae_gan.py.

The weights differ from those of Esser et al. 2021 (section 3.1, and the authors' configs: absolute differences 1, LPIPS
1, the discriminator 0.8 times the ratio of gradients at the last layer): absolute differences have 1.5, against
blotches of colour, and the discriminator 0.6. It is smaller (widths 32, 64, 128, 256 for 64, 128, 256, 512), and LPIPS
is on AlexNet, for VGG-16.
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
  config.model.likelihood = "laplace"
  config.model.sigma = "0.05"
  config.objective.alpha = 1.5 * 2 * 0.05 / (64 * 64 * 3)
  config.objective.commitment = 0.25 / (8 * 8 * 32)
  config.objective.perceptual.weight = 1.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.objective.adversarial.weight = 0.6
  config.objective.adversarial.channels = (32, 64, 128)
  config.objective.adversarial.last = 256
  config.objective.adversarial.start = 150
  config.objective.adversarial.max_weight = 1e4
  config.training.steps = 3600
  config.training.batch_size = 16
  config.training.learning_rate = 3e-4
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
