"""The recipe of folder.py on emoji, with a smaller network.

    python train.py --config configs/emoji.py
    python evaluate.py --workdir runs/emoji
    python evaluate.py --workdir runs/emoji --mode fit_prior --prior mixture --components 20
    python evaluate.py --workdir runs/emoji --mode sample --prior mixture

cost: to be measured.
figure: to be measured.

Data: the 3,786 pictures of Noto Emoji (Google, Apache-2.0) in the folder img/google/64 of the npm package
emoji-datasource-google 16.0.0, laid over white, as PNG files in data/emoji:

    python -c "import pathlib, PIL.Image as i; [i.alpha_composite(i.new('RGBA', (64, 64), 'white'), \
      i.open(p).convert('RGBA')).convert('RGB').save('data/emoji/' + p.name) for p in pathlib.Path('64').glob('*.png')]"

Pictures that differ in the tone of skin alone lie in all splits.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vae_jax.configuration import load_config_file


def get_config() -> ConfigDict:
  config = load_config_file(Path(__file__).with_name("folder.py"))
  config.data.dir = "data/emoji"
  config.data.flip = False
  config.model.channels = (16, 32, 64, 96)
  config.training.steps = 1000
  return config
