"""A VAE-GAN of colour faces at 64 x 64 (CelebA): reconstructions are compared by a discriminator's features.

It starts from the VAE of configs/folder.py, which has learned colours and layout, with the blur that this decoder has.
Beside the features of the discriminator, reconstructions are compared by LPIPS on AlexNet:

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/folder.py --workdir runs/faces_blur --config.data.dir=data/celeba \
      --config.data.train='train[500:]' --config.data.validation='train[:500]' --config.model.blur=true \
      --config.training.steps=1600
    python train.py --config configs/faces_vae_gan.py
    python evaluate.py --workdir runs/faces_vae_gan
    python evaluate.py --workdir runs/faces_vae_gan --mode fit_prior --prior gaussian
    python evaluate.py --workdir runs/faces_vae_gan --mode sample --prior gaussian --num 64

cost: 45 minutes of one core of a busy 2-core CPU, after the first run.
figure: Frechet distance (VGG-16, 1,000 images) of reconstructions 96.6, and 184.9 of the VAE that it starts from; of
samples of a fitted Gaussian 113.5, and 205.1: docs/results.md.

Data: CelebA, aligned and cropped (Liu et al. 2015), as `data/celeba/train` and `data/celeba/test`: the archive
img_align_celeba.zip by its official parts (list_eval_partition.txt), or --config.data.name=celeb_a --config.data.dir=''
through TFDS. The first 500 images of `train` are the validation split. Files that are not square are scaled to a width
of 64 and cut at a random height, in validation at the middle; the usual crop of faces is the central 148 x 148 pixels.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("vae_gan")
  config.data.name = "folder"
  config.data.dir = "data/celeba"
  config.data.train = "train[500:]"
  config.data.validation = "train[:500]"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.channels = (32, 64, 96, 128)
  config.model.blocks = 1
  config.model.latent_dim = 64
  config.model.activation = "silu"
  config.objective.beta = 0.2
  config.objective.gamma = 1e-2
  config.objective.perceptual.weight = 30.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.objective.discriminator.channels = (32, 64, 96, 128)
  config.objective.discriminator.layer = 3
  config.training.steps = 1000
  config.training.batch_size = 32
  config.training.learning_rate = 5e-4
  config.training.warmup_steps = 50
  config.training.init_from = "runs/faces_blur"
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 200
  config.training.checkpoint_every = 200
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.pictures = 16
  return config
