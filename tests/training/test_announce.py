"""Models out of proportion are reported before anything is compiled; those of configs/ are not."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax.configuration import apply_overrides, base_config, load_config_file
from vae_jax.data import sources
from vae_jax.data.degrade import factor_of
from vae_jax.errors import UserError
from vae_jax.models import build, family, needs
from vae_jax.training import announce, parallel, state
from vae_jax.training.assemble import assemble
from vae_jax.training.loop import train
from vae_jax.types import image_spec

CONFIGS = Path(__file__).parents[2] / "configs"


def check(config, shape, given=None, fsdp=False):
  """`announce.check_size` of a config, for images of `shape`, on the eight devices of tests."""
  spec = image_spec(shape, given)
  if "classes" in config.model:
    spec["label"] = jax.ShapeDtypeStruct((), np.int32)
  if "latents" in family(config.model.name).FAMILY.NEEDS:  # of a first stage
    spec["latents"] = jax.ShapeDtypeStruct((64,), np.float32)
  if "text" in needs(config.model):
    spec["text"] = jax.ShapeDtypeStruct((config.data.text_length,), np.int32)
  if "codes" in family(config.model.name).FAMILY.NEEDS:
    spec["codes"], config.model.codes, config.model.layout = (
      jax.ShapeDtypeStruct((49,), np.int32),
      512,
      (7, 7, 1),
    )
  model, tx = build(config.model, spec, "float32"), state.make_optimizer(config.training)
  like = jax.eval_shape(lambda: state.init_state(model, tx, spec, jax.random.key(0)))
  placement = parallel.make_placement(8, fsdp=fsdp)
  like = jax.tree.map(
    lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), like, placement.state(like)
  )
  announce.check_size(config, spec, like, placement)
  return like, announce._needed(like, placement)


@pytest.fixture
def memory(monkeypatch):
  """Sets the memory of the host, in bytes."""
  return lambda size: monkeypatch.setattr(announce, "host_memory", lambda: size)


def test_a_model_out_of_proportion_is_reported_with_its_remedy(memory, capsys):
  memory(10**13)
  check(base_config("conv_vae"), (700, 1000, 3))
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("warning: model.name=conv_vae for images of 700 x 1000 x 3 has 1.44 G parameters (")
  assert line.endswith("set data.size=64,64, or set model.dense=0 (a map of latents)")
  check(apply_overrides(base_config("conv_vae"), ["model.dense=0"]), (700, 1000, 3))
  check(base_config("vq_vae"), (700, 1000, 3))
  assert not capsys.readouterr().err


@pytest.mark.parametrize("fsdp", [False, True])
def test_memory_is_that_of_state_and_gradients(memory, fsdp):
  """Parameters, their average, two moments of Adam, gradients: five times 4 bytes; on each of eight devices."""
  memory(10**13)
  config = base_config("mlp_vae")
  like, needed = check(config, (64, 64, 1), fsdp=fsdp)
  assert needed == pytest.approx(announce.count_parameters(like) * 5 * 4 * (1 if fsdp else 8), rel=0.01)
  memory(needed)
  check(config, (64, 64, 1), fsdp=fsdp)
  memory(needed - 1)
  with pytest.raises(UserError, match=r"has 4.22 M parameters .* of memory\); set model.name=conv_vae"):
    check(config, (64, 64, 1), fsdp=fsdp)


LARGE = {"vqgan_f16"}  # needs more memory than the test says there is


@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.py")} - LARGE))
def test_no_false_alarm(name, memory, capsys):
  """No config warns on images of the size that it names, else of 32 x 32, on a host of 8 GB."""
  memory(8 * 10**9)
  config = load_config_file(CONFIGS / f"{name}.py")
  height, width = config.data.size if any(config.data.size) else (32, 32)
  factor = factor_of(config.data.degrade)
  given = None if config.data.degrade.name == "identity" else (height // factor, width // factor, 3)
  check(config, (height, width, 3), given)
  assert not capsys.readouterr().err


def test_a_refused_run_leaves_no_folder(tmp_path, memory):
  for split in ("train", "validation"):
    np.savez(tmp_path / f"{split}.npz", image=np.arange(8 * 20, dtype=np.uint8).reshape(8, 5, 4, 1))
  memory(1000)
  words = ("data.name=npz", f"data.dir={tmp_path}", "training.batch_size=8", "evaluation.batch_size=8")
  with pytest.raises(UserError, match=r"there are 1 kB of memory\); set model.name=conv_vae$"):
    train(apply_overrides(base_config(), words), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("family", "channels", "said"), [("mlp_vae", 3, True), ("mlp_vae", 1, False), ("vq_vae", 3, False)]
)
def test_too_few_images_of_colour_for_new_ones_are_reported(family, channels, said, tmp_path, capsys):
  image = np.arange(8 * 8 * 8 * channels, dtype=np.uint8).reshape(8, 8, 8, channels)
  for split in ("train", "validation"):
    np.savez(tmp_path / f"{split}.npz", image=image)
  words = ("data.name=npz", f"data.dir={tmp_path}", "training.batch_size=8", "evaluation.batch_size=8")
  sources._say.cache_clear()  # a line is said once a process
  assemble(apply_overrides(base_config(family), words), tmp_path / "run")
  line = "note: data.train=train has 8 images: from so few a model learns to rebuild images and to draw paths"
  assert (line in capsys.readouterr().err) == said


def test_numbers_are_short():
  assert [announce._short(x) for x in (7, 999.4, 1e3, 3.61e8, 2.5e12)] == [
    "7 ",
    "999 ",
    "1 k",
    "361 M",
    "2.5 T",
  ]


@pytest.mark.parametrize(
  ("overrides", "stored", "said"),
  [
    ([], (28, 28, 1), ""),
    (["data.size=28,28"], (28, 28, 1), ""),
    (["data.size=32,32"], (28, 28, 1), ""),
    (["data.size=7,7"], (28, 28, 1), ", cut out of 28 x 28 (data.fit=crop)"),
    (["data.size=7,7"], None, ", cut out (data.fit=crop)"),
    (["data.size=7,7", "data.fit=resize"], (28, 28, 1), ""),
  ],
)
def test_images_that_are_parts_of_others_are_said_to_be(overrides, stored, said):
  assert announce._cut(apply_overrides(base_config(), overrides).data, stored) == said
