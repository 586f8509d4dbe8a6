"""Folders of any name: a run there can be loaded and continued, or is refused before its first step."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from trained import spec_of, trained

import vae_jax
from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training.loop import train

TINY = [
  "data.name=npz",
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
# The kinds: patterns, encodings, quotes, what shells, addresses, URLs and Windows have a meaning for.
KINDS = ["a[1]/w", "été 日本", "a\nb", b"no \xff text", "a{b,c}%d#e?f*g"]
NAMES = [
  *KINDS,
  *("[ab]", "a]b", "*", "a*b", "?", "**", "{}", "{a}", "%s", "%2F", "#", "a#b", ":", "a:b", "C:", "gs:", "~", "~x"),
  *("-w", "--workdir", " a ", "a\tb", "'a'", '"a"', "a\\b", "$HOME", "`a`", "a;b", "a&b", "a|b", "<a>", "a.", "..."),
  *("a=b", "a,b", "@", "\x1b[1m", "\u202ea", "n" * 255, "d/" * 300 + "w", "ocdbt.process_0/1", "3.removed/2"),
]  # fmt: skip


def images(folder):
  random = np.random.default_rng(0)
  for split in ("train", "validation"):
    np.savez(folder / f"{split}.npz", image=random.integers(0, 256, (9, 4, 4, 1), dtype=np.uint8))
  return folder


def arrays_of(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", KINDS)
def test_checkpoints_in_a_folder_of_any_name_come_back(tmp_path, name):
  folder = tmp_path / os.fsdecode(name)
  tree = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones((2, 3), np.int32)}}
  with Checkpoints(folder, keep=9) as store:
    store.try_out(tree)
    assert store.steps() == [] and list(folder.iterdir()) == []
    store.save(1, tree, meta={})
    store.save(2, tree, meta={})
  assert Checkpoints(folder).steps() == [1, 2] and (folder / "2" / "manifest.ocdbt").is_file()
  restored, _ = Checkpoints(folder).restore()
  np.testing.assert_array_equal(restored["a"], tree["a"])
  np.testing.assert_array_equal(restored["b"]["c"], tree["b"]["c"])
  assert [p.name for p in tmp_path.iterdir()] == [folder.relative_to(tmp_path).parts[0]]  # and no second one


@pytest.mark.slow
def test_forty_names(tmp_path):
  """A run in each is continued from its middle, and loaded."""
  config = apply_overrides(base_config(), [*TINY, f"data.dir={images(tmp_path)}"])
  expected = arrays_of(train(config, tmp_path / "plain").ema)
  (tmp_path / "runs").mkdir()
  assert len(NAMES) >= 40
  for name in map(os.fsdecode, NAMES):
    folder = tmp_path / "runs" / name
    train(config, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    train(config, folder)
    assert arrays_of(vae_jax.load(folder).params) == expected, name


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("gs://bucket/run", "gs://bucket/run is an address"),
    (Path("s3://bucket/run"), "s3:/bucket/run is an address"),
    ("n" * 256, "cannot be used as a folder .File name too long"),
    ("a\0b", "cannot be used as a folder .*null"),
    ("", "not the name of a folder"),
    ("~nobody_of_this_name/run", "cannot be used as a folder"),
  ],
)
def test_what_is_no_folder_is_refused(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  for call in (lambda: train(base_config(), name), lambda: vae_jax.load(name)):
    with pytest.raises(UserError, match=message) as error:
      call()
    assert "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []


def test_an_export_in_a_folder_of_any_name_comes_back(tmp_path):
  model = trained(base_config(), spec_of((4, 4, 1)))
  for name in map(os.fsdecode, KINDS):
    vae_jax.inference.export(model, tmp_path / name)
    assert arrays_of(vae_jax.load(tmp_path / name).params) == arrays_of(model.params)
