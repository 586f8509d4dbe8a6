"""Fine-tunes `denoise_real` on PolyU: single shots, and the mean of many shots of the same scene.

    python train.py --config configs/denoise_color.py
    python train.py --config configs/denoise_real.py
    python train.py --config configs/denoise_polyu.py     # starts from runs/denoise_real
    python benchmarks/average.py --first runs/denoise_real --second runs/denoise_polyu --share 0.3 \
      --output denoise_polyu

cost: 10 minutes on one core of a busy 2-core CPU (Xeon).
figure: 38.97 dB on the 29 pairs of 6 scenes that were held out, and 38.59 dB after averaging (one shot: 36.37).

Averaging does less harm to other photographs. The pretrained `denoise_real` is such an average.

Data: `CroppedImages` of PolyU (Xu et al. 2018; csjunxu/PolyU-Real-World-Noisy-Images-Dataset on GitHub). Single shots
are in data/polyu/train/noisy, and the means, under the same names, in data/polyu/train/mean. The scenes book,
classroom, flower, planandsofa, reciever and waterhouse are left out.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("denoise_real.py"))
  config.data.name = "paired_folder"
  config.data.dir = "data/polyu"
  config.data.low = "noisy"
  config.data.high = "mean"
  config.data.train = "train[:90%]"
  config.data.validation = "train[90%:]"
  config.data.exposure = 0.0
  config.data.degrade.name = "identity"
  config.data.degrade.chain = ""
  config.objective.beta_schedule = "constant"
  config.objective.beta_steps = 0
  config.training.init_from = "runs/denoise_real"
  config.training.adam_rate = 0.2
  config.training.ema_decay = 0.99
  config.training.learning_rate = 0.003
  config.training.steps = 800
  return config
