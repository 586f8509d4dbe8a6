"""The VQGAN of ImageNet at 256 x 256 of Esser et al. 2021: 16 x 16 codes of 1,024 (f16), at its published size.

    python train.py --config configs/vqgan_f16.py
    python train.py --config configs/vqgan_f16.py --workdir runs/vqgan_f16_16384 --config.model.codes=16384

cost: not measured; a model for several accelerators, not for a CPU.
figure: not measured. The authors report Frechet distances (Inception) of reconstructions of 8.0 for 1,024 codes and 4.9
for 16,384, against the validation images of ImageNet.

Networks, weights, batch and learning rate (4.5e-6 times the batch) are those of the authors' config on 8 accelerators:
LPIPS is on VGG-16, and the discriminator counts from step 250,001. What differs: the discriminator is trained from step
0 on and has group normalisation, and codes are moving averages that restart. The weights turn sums over an image into
the authors' means: see `vae_jax.models.vq_model`.

Data: `data/imagenet/train` and `data/imagenet/validation`, folders of images. Each is scaled to a shorter side of 256
and cut at random.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vq_model")
  config.data.name = "folder"
  config.data.dir = "data/imagenet"
  config.data.size = (256, 256)
  config.data.fit = "resize"
  config.data.channels = 3
  config.model.ch = 128
  config.model.ch_mult = (1, 1, 2, 2, 4)
  config.model.num_res_blocks = 2
  config.model.attn_resolutions = (16,)
  config.model.z_channels = 256
  config.model.code_dim = 256
  config.model.codes = 1024
  config.model.remat = True
  config.model.sigma = "0.05"
  config.objective.alpha = 2 * 0.05 / (256 * 256 * 3)
  config.objective.commitment = 0.25 / (16 * 16 * 256)
  config.objective.perceptual.weight = 1.0
  config.objective.perceptual.network = "vgg16"
  config.objective.perceptual.distance = "lpips"
  config.objective.perceptual.remat = True
  config.objective.adversarial.weight = 0.8
  config.objective.adversarial.channels = (64, 128, 256)
  config.objective.adversarial.last = 512
  config.objective.adversarial.max_weight = 1e4
  config.objective.adversarial.start = 250_001
  config.objective.adversarial.learning_rate = 1.08e-4
  config.training.steps = 1_000_000
  config.training.batch_size = 24
  config.training.learning_rate = 1.08e-4
  config.training.steps_per_call = 10
  config.training.log_every = 100
  config.training.eval_every = 5000
  config.training.checkpoint_every = 5000
  config.evaluation.batch_size = 64
  config.evaluation.pictures = 16
  return config
