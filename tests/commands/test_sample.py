"""--mode sample: one picture, or a file for each image."""

import jax
import numpy as np
import pytest
from PIL import Image
from trained import spec_of, trained

from vae_jax import inference
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError

SHAPE = (4, 4, 1)
SMALL = ("model.hidden=4", "model.latent_dim=2")


def exported(folder, family, *overrides):
  """A model with normal values, as a folder that --workdir takes."""
  config = apply_overrides(base_config(family), [*SMALL, *overrides])
  spec = spec_of(SHAPE) | ({"label": jax.ShapeDtypeStruct((), np.int32)} if family == "cvae" else {})
  model = trained(config, spec)
  inference.export(model, folder)
  return model


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image)


def test_a_folder_gets_a_file_for_each_sample_whatever_the_batch_size(tmp_path, capsys):
  model = exported(tmp_path / "model", "mlp_vae")
  for size in (3, 7):
    words = ["--mode", "sample", "--num", "5", "--seed", "2", "--batch_size", str(size)]
    main(["--workdir", str(tmp_path / "model"), *words, "--output", str(tmp_path / f"by{size}")])
  out, err = capsys.readouterr()
  assert out.splitlines()[0] == f"wrote 5 images into {tmp_path}/by3" and "5 samples: " in err
  expected = np.floor(np.asarray(model.sample(2, 5))[..., 0] * 255 + 0.5).astype(np.uint8)
  for size in (3, 7):
    files = sorted((tmp_path / f"by{size}").iterdir())
    assert [file.name for file in files] == [f"00000{i}.png" for i in range(5)]
    np.testing.assert_array_equal([pixels(file) for file in files], expected)
  with pytest.raises(UserError, match="by3 is not empty; name a new or an empty folder"):
    main(["--workdir", str(tmp_path / "model"), *words, "--output", str(tmp_path / "by3")])


def test_the_names_of_samples_by_label_have_the_label(tmp_path):
  model = exported(tmp_path / "model", "cvae", "model.classes=3")
  for label, labels in ((None, [0, 1, 2, 0]), (2, [2] * 4)):
    output = tmp_path / f"of-{label}"
    words = ["--mode", "sample", "--num", "4", "--batch_size", "3", *(["--label", "2"] if label else [])]
    main(["--workdir", str(tmp_path / "model"), *words, "--output", f"{output}/"])
    files = sorted(output.iterdir())
    assert [file.name for file in files] == [f"00000{i}_label_{k}.png" for i, k in enumerate(labels)]
    expected = np.asarray(model.sample(0, 4, label=np.array(labels)))[..., 0] * 255
    np.testing.assert_allclose([pixels(file) for file in files], expected, atol=0.51)
