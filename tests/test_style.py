"""The style loss in a run: Gram matrices of a style image, computed once, frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vae_jax import losses, perceptual
from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.models.contract import Output
from vae_jax.objectives import load_frozen, make_objective
from vae_jax.perceptual import Extractor

RANDOM = np.random.default_rng(0)
STYLE = RANDOM.integers(0, 256, size=(20, 17, 3), dtype=np.uint8)
TERMS = ("distortion", "rate")


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
  zero, terms = jnp.zeros((2, 1)), {"distortion": jnp.ones(2), "rate": jnp.zeros(2)}
  return Output(terms, jnp.asarray(fake), zero, zero, -jnp.ones((1, 2))), {"image": image}


def test_the_term_is_the_style_loss_beside_the_perceptual_one(path):
  config = configured(f"style.image={path}", "perceptual.weight=2").objective
  o, batch = output()
  loss, parts = make_objective(config, TERMS)(o, batch, 0, load_frozen(config))
  both = perceptual.load("squeezenet", ("relu1", "fire3"), weights="random")
  fakes, style, clean = both(o.reconstruction), both(STYLE[None] / np.float32(255)), both(batch["image"])
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
  frozen, (o, batch) = load_frozen(config), output()
  assert "perceptual" not in frozen
  assert {name: gram.shape for name, gram in frozen["style"].grams.items()} == {
    "relu1": (1, 64, 64),
    "fire3": (1, 128, 128),
  }
  assert seen == [(1, *STYLE.shape)]

  def loss(fake, frozen):
    return make_objective(config, TERMS)(o._replace(reconstruction=fake), batch, 0, frozen)[0].sum()

  slope = jax.jit(jax.grad(loss))(o.reconstruction, frozen)
  assert (1, *STYLE.shape) not in seen[1:]
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0
  constants = jax.make_jaxpr(loss)(o.reconstruction, frozen).consts
  assert sum(np.size(c) for c in constants) < 1000


def test_a_picture_in_the_style_has_no_style_loss(path):
  config = configured(f"style.image={path}").objective
  image, zero = jnp.asarray(STYLE[None] / np.float32(255)), jnp.zeros((1, 1))
  same = Output({"distortion": jnp.ones(1), "rate": jnp.zeros(1)}, image, zero, zero, -jnp.ones((1, 1)))
  _, parts = make_objective(config, TERMS)(same, {"image": image}, 0, load_frozen(config))
  np.testing.assert_allclose(parts["style"], 0, atol=1e-8)


def test_nothing_is_loaded_where_the_weight_is_zero():
  assert load_frozen(configured("style.weight=0", "style.image=nowhere.png").objective) == {}


@pytest.mark.parametrize(
  ("override", "fault"), [("style.image=nowhere.png", "nowhere.png"), ("style.layers=relu9", "relu9")]
)
def test_what_cannot_be_had_is_an_error(path, override, fault):
  with pytest.raises(UserError, match=fault) as error:
    load_frozen(configured(f"style.image={path}", override).objective)
  assert "\n" not in str(error.value)


def test_a_weight_without_an_image_is_refused():
  with pytest.raises(UserError, match=r"needs objective\.style\.image"):
    validate(configured())
