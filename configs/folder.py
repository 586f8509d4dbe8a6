"""A convolutional VAE of your own colour images at 64 x 64: see docs/folder.md.

    python train.py --config configs/folder.py --config.data.dir=/path/to/photos
    python evaluate.py --workdir runs/folder
    python evaluate.py --workdir runs/folder --mode fit_prior --prior mixture
    python evaluate.py --workdir runs/folder --mode sample --prior mixture --num 64

With folders of classes, a conditional VAE of, for example, three of them (--label draws one):

    python train.py --config configs/folder.py --workdir runs/folder_classes --config.data.dir=/path/to/classes \
      --config.model.name=conv_cvae --config.model.classes=3

cost: 23 minutes on an idle 2-core CPU, at the pace of its first 100 steps; 52 minutes of one busy core.
figure: Frechet distance (VGG-16, 1,000 samples of a fitted Gaussian) 186.7 on 8,500 faces of CelebA: docs/results.md.

Thousands of images that are alike, such as centred faces, give new images. A few hundred give reconstructions and paths
between images; a run says so.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "folder"
  config.data.dir = "data/photos"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.channels = (32, 64, 96, 128)
  config.model.latent_dim = 64
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.steps = 2400
  config.training.batch_size = 64
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.02
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 150
  config.training.checkpoint_every = 300
  config.training.ema_decay = 0.99
  config.evaluation.pictures = 16
  return config
