"""The style loss in a run: Gram matrices of a style image, computed once, frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax import losses, perceptual
from vae_jax.config import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.objectives import Styled, load_perceptual, make_objective
from vae_jax.perceptual import Extractor
from vae_jax.types import VAEOutput

RANDOM = np.random.default_rng(0)
STYLE = RANDOM.integers(0, 256, size=(20, 17, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
  Image.fromarray(STYLE).save(tmp_path / "style.png")
  return tmp_path / "style.png"


def configured(*overrides):
  given = ["perceptual.network=squeezenet", "perceptual.weights=random", "perceptual.layers=fire3"]
  style = ["style.weight=3", "style.layers=relu1,fire3"]
  return apply_overrides(base_config(), [f"objective.{o}" for o in [*given, *style, *overrides]])


def output(seed=1):
  image, fake = np.random.default_rng(seed).uniform(size=(2, 2, 16, 16, 3)).astype(np.float32)
  zero = jnp.zeros((2, 1))
  return VAEOutput(jnp.ones((1, 2)), zero, -jnp.ones((1, 2)), zero, zero, jnp.asarray(fake)), image


def test_the_term_is_the_style_loss_beside_the_perceptual_one(path):
  config = configured(f"style.image={path}", "perceptual.weight=2").objective
  o, image = output()
  networks = load_perceptual(config)
  loss, parts = make_objective(config)(o, 0, image, networks)
  both = perceptual.load("squeezenet", ("relu1", "fire3"), weights="random")
  fakes, style, clean = both(o.reconstruction), both(STYLE[None] / np.float32(255)), both(image)
  expected = losses.style_loss(fakes, style)
  np.testing.assert_allclose(parts["style"], expected, rtol=1e-4)
  np.testing.assert_allclose(parts["weighted_style"], 3 * expected, rtol=1e-4)
  content = losses.perceptual_loss({"fire3": fakes["fire3"]}, {"fire3": clean["fire3"]})
  np.testing.assert_allclose(parts["perceptual"], content, rtol=1e-4)
  np.testing.assert_allclose(loss, 1 + 3 * expected + 2 * content, rtol=1e-4)


@pytest.mark.parametrize("remat", ["false", "true"])
def test_the_style_image_is_seen_once_and_what_it_gives_is_an_argument(path, monkeypatch, remat):
  config = configured(f"style.image={path}", f"perceptual.remat={remat}").objective
  seen, forward = [], Extractor.__call__
  monkeypatch.setattr(Extractor, "__call__", lambda self, x: seen.append(x.shape) or forward(self, x))
  networks, (o, image) = load_perceptual(config), output()
  assert isinstance(networks, Styled) and networks.perceptual is None
  assert {name: gram.shape for name, gram in networks.grams.items()} == {
    "relu1": (1, 64, 64),
    "fire3": (1, 128, 128),
  }
  assert seen == [(1, *STYLE.shape)]

  def loss(fake, networks):
    return make_objective(config)(o._replace(reconstruction=fake), 0, image, networks)[0].sum()

  slope = jax.jit(jax.grad(loss))(o.reconstruction, networks)
  assert (1, *STYLE.shape) not in seen[1:]
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0
  constants = jax.make_jaxpr(loss)(o.reconstruction, networks).consts
  assert sum(np.size(c) for c in constants) < 1000


def test_a_picture_in_the_style_has_no_style_loss(path):
  config = configured(f"style.image={path}").objective
  o, _ = output()
  same = o._replace(reconstruction=jnp.asarray(STYLE[None] / np.float32(255)), distortion=jnp.ones((1, 1)))
  same = same._replace(rate=jnp.zeros((1, 1)), kl_units=jnp.zeros((1, 1)))
  _, parts = make_objective(config)(same, 0, STYLE[None], load_perceptual(config))
  np.testing.assert_allclose(parts["style"], 0, atol=1e-8)


def test_nothing_is_loaded_where_the_weight_is_zero():
  assert load_perceptual(configured("style.weight=0", "style.image=nowhere.png").objective) is None


@pytest.mark.parametrize(
  ("override", "fault"), [("style.image=nowhere.png", "nowhere.png"), ("style.layers=relu9", "relu9")]
)
def test_what_cannot_be_had_is_an_error(path, override, fault):
  with pytest.raises(UserError, match=fault) as error:
    load_perceptual(configured(f"style.image={path}", override).objective)
  assert "\n" not in str(error.value)


def test_a_weight_without_an_image_is_refused():
  with pytest.raises(UserError, match=r"needs objective\.style\.image"):
    validate(configured())
