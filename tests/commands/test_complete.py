"""`evaluate.py --mode complete`: pictures of completions, of files and of a split."""

import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax.cli import evaluate
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.inference import export


@pytest.fixture
def folder(tmp_path):
  """A model, a split and a file."""
  random = np.random.default_rng(0)
  np.savez(tmp_path / "test.npz", image=random.integers(0, 256, size=(9, 6, 6), dtype=np.uint8))
  Image.fromarray(random.integers(0, 256, size=(9, 7), dtype=np.uint8)).save(tmp_path / "mine.png")
  words = ["model.hidden=4", "model.latent_dim=2", "data.name=npz", f"data.dir={tmp_path}"]
  export(
    trained(apply_overrides(base_config("structured_cvae"), words), spec_of((6, 6, 1))), tmp_path / "model"
  )
  return tmp_path


def height(folder, *words):
  output = folder / "out.png"
  evaluate.main(
    ["--workdir", str(folder / "model"), "--output", str(output), *map(str, words)], mode="complete"
  )
  return np.asarray(Image.open(output)).shape[0]


def test_a_picture_has_a_row_for_each_draw(folder, capsys):
  """Four draws by default, and four rows beside them."""
  one, four = height(folder, "--samples", 1), height(folder)
  assert capsys.readouterr().out.count("wrote ") == 2
  assert (four - 2) * 5 == (one - 2) * 8


def test_files_are_completed(folder):
  assert height(folder, "--input", folder / "mine.png", "--samples", 0) > 0


def test_other_flags_are_refused(folder):
  with pytest.raises(UserError, match="--label has no effect in complete"):
    height(folder, "--label", 3)
