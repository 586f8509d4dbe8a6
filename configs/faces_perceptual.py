"""A perceptual VAE of colour faces at 64 x 64 (CelebA), after DFC-VAE (Hou et al. 2017): against blur.

It starts from a VAE that was trained by pixels, with the blur that keeps a perceptual loss from making a lattice:

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/folder.py --workdir runs/faces_blur --config.data.dir=data/celeba \
      --config.data.train='train[500:]' --config.data.validation='train[:500]' --config.model.blur=true \
      --config.training.steps=1600
    python train.py --config configs/faces_perceptual.py
    python evaluate.py --workdir runs/faces_perceptual --samples 0
    python evaluate.py --workdir runs/faces_perceptual --mode fit_prior --prior gaussian
    python evaluate.py --workdir runs/faces_perceptual --mode sample --prior gaussian --num 64

cost: 26 minutes of one core of a busy 2-core CPU, after the first run.
figure: LPIPS of the test images 0.101 (AlexNet, the loss) and 0.270 (VGG-16), 21.90 dB; at the start 0.197, 0.289 and
21.98 dB.

The loss is LPIPS on AlexNet, which a CPU can afford; VGG-16, which training has not seen, scores it. Data: as for
configs/faces_vae_gan.py.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.objective.perceptual.weight = 10000.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.data.name = "folder"
  config.data.dir = "data/celeba"
  config.data.train = "train[500:]"
  config.data.validation = "train[:500]"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.data.flip = True
  config.model.channels = (32, 64, 96, 128)
  config.model.latent_dim = 64
  config.model.activation = "silu"
  config.model.blur = True
  config.model.likelihood = "gaussian"
  config.model.sigma = "optimal"
  config.training.init_from = "runs/faces_blur"
  config.training.steps = 400
  config.training.batch_size = 64
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.01
  config.training.warmup_steps = 50
  config.training.steps_per_call = 10
  config.training.log_every = 50
  config.training.eval_every = 150
  config.training.checkpoint_every = 150
  config.training.ema_decay = 0.99
  config.evaluation.batch_size = 50
  config.evaluation.lpips = "vgg16"
  config.evaluation.pictures = 16
  return config
