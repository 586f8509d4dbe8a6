"""A VAE of sprites, with 10 latents that are to stand for the factors of the pictures. Needs no download.

    python train.py --config configs/sprites.py
    python evaluate.py --workdir runs/sprites --mode disentangle
    python evaluate.py --workdir runs/sprites --mode traverse --units most --num 10 --output runs/sprites/latents.gif

Other objectives, each with --workdir runs/NAME:

    beta-VAE    --config.objective.beta=4
    capacity    --config.objective.beta=100 --config.objective.capacity=20 --config.objective.capacity_steps=10000
    beta-TCVAE  --config.objective.total_correlation=5
    FactorVAE   --config.objective.factor_vae.weight=10
    DIP-VAE-I   --config.objective.dip=10
    DIP-VAE-II  --config.objective.dip=10 --config.objective.dip_kind=ii --config.objective.dip_diagonal=1

benchmarks/disentanglement.py trains all of them with several seeds. On dSprites itself: --config.data.name=dsprites, a
data set of TFDS with the same splits.

cost: not measured yet. A step took 24 ms of one core, 28 ms with total correlation: 6 to 7 minutes.
figure: not measured yet.

The networks are fully connected, as those of Higgins et al. 2017, and smaller. On a CPU a small convolutional network
(widths 16, 32, 32) took 10 times as long a step. 50,000 of 737,280 pictures are trained on.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("mlp_vae")
  config.data.name = "sprites"
  config.data.train = "train[:50000]"
  config.data.validation = "train[50000:52000]"
  config.data.test = "train[-10000:]"
  config.model.hidden = (256, 256)
  config.model.latent_dim = 10
  config.model.likelihood = "bernoulli"
  config.objective.factor_vae.hidden = (256, 256, 256)
  config.training.steps = 15_000
  config.training.batch_size = 128
  config.training.steps_per_call = 50
  config.training.log_every = 100
  config.training.eval_every = 2500
  config.training.checkpoint_every = 2500
  config.evaluation.pictures = 16
  return config
