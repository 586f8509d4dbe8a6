"""Removes the noise of cameras from photographs as cameras store them.

    python train.py --config configs/denoise_color.py
    python train.py --config configs/denoise_real.py     # starts from runs/denoise_color
    python evaluate.py --workdir runs/denoise_real --mode restore --input photo.jpg --output restored/

cost: 26 minutes on one core of a busy 2-core CPU (Xeon), after `denoise_color`.
figure: 37.17 dB on 29 photographs of PolyU, 36.37 before. The pretrained `denoise_real` is an average of this model and
configs/denoise_polyu.py, with 38.59 dB.

Noise of a sensor in linear light, correlated by demosaicking and smoothing; perhaps sharpened, and stored as JPEG.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.exposure = 1.0
  config.data.degrade.chain = (
    "camera 2..24 0..6 0.6..2 @0.6; camera 2..40 0..6 0..1.2 @0.5; sharpen 0..0.5 @0.3; "
    "jpeg 50..98 420|444 aligned|anywhere @0.8; round"
  )
  config.model.noise = "local"
  config.training.init_from = "runs/denoise_color"
  config.training.learning_rate = 0.006
  config.training.steps = 2300
  return config
