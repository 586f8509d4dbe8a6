"""Super-resolution x2 of photographs (bicubic down-sampling): a conditional hierarchical VAE.

    python train.py --config configs/superres_x2.py     # BSDS500's folders train and test in data/bsds
    python evaluate.py --workdir runs/superres_x2 --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/superres_x2 --mode restore --input photo.jpg --output restored/

cost: to be measured.
figure: to be measured. The model in pretrained/ is of an earlier config; its card has the figures.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("restoration_vae")
  config.data.name = "folder"
  config.data.dir = "data/bsds"
  config.data.train = "train[:96%]"
  config.data.validation = "train[96%:]"
  config.data.size = (80, 80)
  config.data.channels = 3
  config.data.flip = True
  config.data.rotate = True
  config.data.degrade.name = "bicubic_down"
  config.data.degrade.factor = 2
  config.model.channels = (64, 96)
  config.model.blocks = 2
  config.model.latent_dim = 4
  config.model.likelihood = "laplace"
  config.model.sigma = "0.3"
  config.objective.beta_schedule = "linear"
  config.objective.beta_steps = 500
  config.training.optimizer = "muon"
  config.training.learning_rate = 0.008
  config.training.adam_rate = 0.05
  config.training.weight_decay = 0.3
  config.training.steps = 11000
  config.training.batch_size = 6
  config.training.steps_per_call = 1
  config.training.log_every = 100
  config.training.eval_every = 1000
  config.training.checkpoint_every = 500
  config.evaluation.batch_size = 8
  config.evaluation.pictures = 8
  return config
