"""--mode export: a run as one small folder, of 32, 16 or 8 bits, that gives what the run gives."""

import json

import jax
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax import inference, runs
from vae_jax.cli.evaluate import main
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.storage.checkpoints import Checkpoints

SHAPE = (4, 4, 1)


@pytest.fixture
def run(tmp_path):
  """A run with a checkpoint: (workdir, its model)."""
  config = apply_overrides(base_config(), ["model.hidden=64", "model.latent_dim=4"])
  model = trained(config, spec_of(SHAPE), scale=0.1)
  meta = {"config": config.to_dict(), **runs.describe_spec(model.spec)}
  with Checkpoints(tmp_path / "run" / "checkpoints") as store:
    store.save(1, {"params": model.params}, meta=meta, score=None)
  (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
  return tmp_path / "run", model


def test_fewer_bits_are_smaller_and_give_nearly_the_same(run, tmp_path, capsys):
  """A float16 is off by at most 2^-11 of itself, an int8 by 1 / 254 of the largest value of its channel."""
  workdir, model = run
  images = np.random.default_rng(0).uniform(size=(8, *SHAPE)).astype(np.float32)
  expected, sizes, errors = np.asarray(model.reconstruct(images)), [], []
  for bits in 32, 16, 8:
    folder, words = tmp_path / f"of_{bits}", ["--bits", str(bits)] if bits < 32 else []
    main(["--workdir", str(workdir), "--mode", "export", "--output", str(folder), *words])
    assert capsys.readouterr().out == f"wrote {folder}: load it with vae_jax.load('{folder}')\n"
    other = inference.load(folder)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(other.variables)) and other.step == model.step
    errors.append(np.std(other.reconstruct(images) - expected) / expected.std())
    sizes.append((folder / "model.safetensors").stat().st_size)
  assert sizes[0] > 1.7 * sizes[1] and sizes[1] > 1.3 * sizes[2]  # with headers of a kilobyte
  assert errors[0] == 0 < errors[1] < 2**-11 < errors[2] < 0.02, errors
