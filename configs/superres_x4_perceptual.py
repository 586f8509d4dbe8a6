"""Super-resolution x4 of photographs: `superres_x4`, fine-tuned with a perceptual loss.

    pip install -e ".[demo,perceptual]"
    python train.py --config configs/superres_x4_perceptual.py     # starts from the pretrained superres_x4
    python evaluate.py --workdir runs/superres_x4_perceptual --mode benchmark --input data/bsds/test --lpips alexnet

cost: 70 minutes on one core of a busy 2-core CPU, after `superres_x4` and its second run, from which the model in
pretrained/ starts: an earlier superres_x4. (Convolutions have become faster since.)
figure: LPIPS on AlexNet 0.203 (bicubic interpolation 0.479), PSNR bicubic + 1.00 dB (Y), mean over the 200 test
photographs.

The loss is LPIPS on AlexNet beside the pixel loss, weighted so that PSNR stays above bicubic interpolation.
LPIPS on VGG-16, which took no part, is 0.315 against bicubic's 0.365 (20 photographs; `superres_x4` 0.333).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("superres_x4.py"))
  config.objective.beta_schedule = "constant"
  config.objective.beta_steps = 0
  config.objective.perceptual.weight = 60000.0
  config.objective.perceptual.network = "alexnet"
  config.objective.perceptual.distance = "lpips"
  config.training.init_from = "superres_x4"
  config.training.optimizer = "adam"
  config.training.weight_decay = 0.0
  config.training.learning_rate = 3e-4
  config.training.steps = 1500
  config.training.batch_size = 8
  config.training.log_every = 50
  config.training.eval_every = 500
  config.training.checkpoint_every = 500
  config.evaluation.lpips = "alexnet"
  return config
