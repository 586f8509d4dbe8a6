"""Removes what JPEG has left: blocks, rings around edges, washed-out colours; quality 8 to 95.

    python train.py --config configs/denoise_color.py
    python train.py --config configs/dejpeg.py     # starts from runs/denoise_color
    python train.py --config configs/dejpeg.py --workdir runs/dejpeg_end --config.training.init_from=runs/dejpeg \
      --config.training.steps=450 --config.training.learning_rate=0.0008 --config.training.adam_rate=1 \
      --config.training.ema_decay=0.98 --config.objective.beta_schedule=constant --config.objective.beta_steps=0
    python evaluate.py --workdir runs/dejpeg_end --mode benchmark --input data/bsds/test --degrade "jpeg 30"

cost: 39 and 9 minutes on one core of a busy 2-core CPU (Xeon), after `denoise_color`.
figure: PSNR + 0.7 dB after JPEG of quality 90, + 0.9 at 75, + 1.1 at 50 and 30, + 0.9 at 10 (RGB, 4:2:0, 8 test
photographs).

Blocks lie as in a file, or anywhere, as in a part that was cut out of one; some images were stored twice.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_color.py"))
  config.data.exposure = 0.0
  config.data.degrade.chain = "jpeg 30..95 420|444 anywhere @0.15; jpeg 8..95 420|444 aligned|anywhere"
  config.model.noise = "local"
  config.training.init_from = "runs/denoise_color"
  config.training.learning_rate = 0.006
  config.training.steps = 3000
  return config
