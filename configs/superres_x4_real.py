"""Super-resolution x4 of photographs as they are: JPEG, noise, other down-scaling, sharpened or blurred before.

    python train.py --config configs/superres_x4_real.py     # starts from the pretrained superres_x4
    python evaluate.py --workdir runs/superres_x4_real --mode restore --input photo.jpg --output restored/

cost: 37 minutes on one core of a busy 2-core CPU (Xeon), after `superres_x4`.
figure: gain over bicubic interpolation in PSNR Y, 8 test photographs: 0.61 dB clean, 0.48, 0.44, 0.36, 0.29 and 0.24 dB
after JPEG of quality 95, 90, 75, 50 and 30.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("superres_x4.py"))
  config.data.degrade.name = "chain"
  config.data.degrade.chain = (
    "blur 0.2..0.8 @0.1; down 4 bicubic|bicubic|bicubic|bicubic|lanczos|box|nearest; sharpen 0.2..1.0 @0.1; "
    "noise 0..10 @0.3; jpeg 30..95 420|444 aligned|anywhere @0.5; round @0.8"
  )
  config.training.init_from = "superres_x4"
  config.training.learning_rate = 0.006
  config.training.steps = 2200
  return config
