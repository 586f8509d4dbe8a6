"""Super-resolution x4 of photographs (bicubic down-sampling): a conditional hierarchical VAE.

    python train.py --config configs/superres_x4.py --workdir runs/superres_x4_trunk \
      --config.training.init_from=superres_x2_real --config.model.latent_dim=0 --config.model.sigma=learned \
      --config.training.steps=4500
    python train.py --config configs/superres_x4.py     # starts from runs/superres_x4_trunk
    python evaluate.py --workdir runs/superres_x4 --mode benchmark --input data/bsds/test
    python evaluate.py --workdir runs/superres_x4 --mode restore --input photo.jpg --output restored/

cost: 25 and 42 minutes on one core of a busy 2-core CPU (Xeon), with BSDS500's folders train and test in data/bsds.
figure: PSNR Y 27.28 dB (bicubic interpolation 25.97), mean over the 200 test photographs.

The first run has no latents and starts from the features of `superres_x2_real`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("superres_x2.py"))
  config.data.size = (128, 128)
  config.data.degrade.factor = 4
  config.model.head_channels = 16
  config.training.init_from = "runs/superres_x4_trunk"
  config.training.learning_rate = 0.006
  config.training.steps = 3000
  return config
