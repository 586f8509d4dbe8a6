"""What is drawn does not depend on what JAX is set to: its generator, its types, how it divides draws."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import spec_of, trained

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.generator import GENERATOR, new_key, own_key, standard
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training import assemble
from vae_jax.training.loop import train

TINY = [
  "data.name=npz",
  "data.flip=true",
  "data.binarize=dynamic",
  "model.hidden=4",
  "model.latent_dim=2",
  "training.batch_size=8",
  "training.log_every=2",
  "training.eval_every=4",
  "training.checkpoint_every=2",
  "evaluation.batch_size=8",
  "evaluation.pictures=2",
  "training.steps=4",
]


@contextlib.contextmanager
def other_settings():
  """What JAX_ENABLE_X64=1, JAX_DEFAULT_PRNG_IMPL=rbg and JAX_THREEFRY_PARTITIONABLE=0 set."""
  with jax.enable_x64(True), jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
    yield


def data(folder):
  random = np.random.default_rng(0)
  for split in ("train", "validation"):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, (9, 4, 4, 1), dtype=np.uint8))
  return folder


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_a_run_does_not_depend_on_settings_of_jax(tmp_path):
  config = apply_overrides(base_config(), [*TINY, f"data.dir={data(tmp_path)}"])
  plain = train(config, tmp_path / "plain")
  with other_settings():
    assert_same(train(config, tmp_path / "other"), plain)
  rows = [(tmp_path / run / "metrics.jsonl").read_text().split('"waiting"')[0] for run in ("plain", "other")]
  assert rows[0] == rows[1]


def test_a_run_of_another_generator_is_refused(tmp_path):
  config = apply_overrides(base_config(), [*TINY, f"data.dir={data(tmp_path)}"])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assemble, "RECORD", "philox")
    train(config, tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "4").rename(tmp_path / "4")
  with pytest.raises(
    UserError, match=r"checkpoints/2 is of a run with the generator 'philox'.*threefry"
  ) as error:
    train(config, tmp_path / "run")
  assert "\n" not in str(error.value)
  assert Checkpoints(tmp_path / "run" / "checkpoints").restore()[1]["generator"] == "philox"


def test_draws_of_a_loaded_model_do_not_depend_on_settings_of_jax():
  model = trained(
    apply_overrides(base_config(), ["model.hidden=4", "model.latent_dim=2"]), spec_of((4, 4, 1))
  )

  def drawn():
    key = new_key(1)
    return [model.sample(key, 3), model.sample(key, 3, temperature=0.5, pixels=True), model.latents(key, 5)]

  plain = drawn()
  with other_settings():
    assert_same(drawn(), plain)


@pytest.mark.parametrize("other", ["rbg", "unsafe_rbg"])
def test_a_key_of_another_generator_is_taken(other):
  """The first images do not depend on how many there are; under vmap, draws of rbg would."""
  model = trained(
    apply_overrides(base_config(), ["model.hidden=4", "model.latent_dim=2"]), spec_of((4, 4, 1))
  )
  key = jax.random.key(1, impl=other)
  np.testing.assert_array_equal(model.latents(key, 6)[:2], model.latents(key, 2))
  assert str(jax.random.key_impl(own_key(key))) == GENERATOR
  with jax.default_prng_impl(other):
    raw = jax.random.PRNGKey(1)
    np.testing.assert_array_equal(model.latents(raw, 2), model.latents(key, 2))


def test_a_key_of_ours_stays():
  assert jax.random.key_data(own_key(new_key(3))).tolist() == [0, 3]
  np.testing.assert_array_equal(
    jax.random.key_data(own_key(jax.random.PRNGKey(3))), jax.random.key_data(jax.random.key(3))
  )


def test_standard_types():
  with other_settings(), standard():
    assert jnp.zeros(2).dtype == jnp.float32 and jnp.arange(2).dtype == jnp.int32
    assert str(jax.random.key_impl(jax.random.key(0))) == GENERATOR
