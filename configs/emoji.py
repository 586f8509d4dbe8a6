"""A small VAE of emoji portraits in colour, 64 x 64: the model `emoji` of pretrained/.

    python train.py --config configs/emoji.py
    python evaluate.py --workdir runs/emoji --mode fit_prior --prior mixture --components 10
    python evaluate.py --workdir runs/emoji --mode sample --prior mixture --num 64

cost: 20 minutes of one core of a busy 2-core CPU.
figure: 28.33 dB for reconstructions of the test images; samples are shown in pretrained/emoji.

Data: Noto emoji (Google, Apache-2.0), as data/emoji/NAME.png: of the npm package emoji-datasource-google 16.0.0, the
images of 64 x 64 pixels whose subcategory in emoji.json is person, person-role or person-gesture, in all skin tones
(840), laid on white. The hash of the name splits them: 80 % are for training.
"""

from ml_collections import ConfigDict

from vae_jax.configuration import base_config


def get_config() -> ConfigDict:
  config = base_config("conv_vae")
  config.data.name = "folder"
  config.data.dir = "data/emoji"
  config.data.size = (64, 64)
  config.data.fit = "resize"
  config.data.channels = 3
  config.model.channels = (16, 32, 64, 96)
  config.model.dense = 128
  config.model.latent_dim = 24
  config.model.activation = "silu"
  config.model.likelihood = "gaussian"
  config.model.sigma = "0.1"
  config.training.steps = 800
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
