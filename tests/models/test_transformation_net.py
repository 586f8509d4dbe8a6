"""The transformation network: the interface of a restoration model, its start, how far it sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import batch_of, mode
from tiles import tiled

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data.degrade import bicubic_up
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

OVERRIDES = ["model.name=transformation_net", "model.likelihood=gaussian"]
FACTORS = [1, 2, 3, 4, 8]


def configured(*overrides):
  return apply_overrides(base_config(), [*OVERRIDES, "model.channels=4", *overrides])


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def made(factor, *overrides):
  config = configured(*overrides)
  return build(config.model, image_spec((12 * factor, 12 * factor, 3), (12, 12, 3)))


def initialised(model, key):
  return init_variables(model, image_spec((4 * model.factor, 4 * model.factor, 3), (4, 4, 3)), key)


@functools.cache
def network(factor, blocks=1, likelihood="gaussian"):
  """A network of random parameters: fresh ones begin at the base, which sees little."""
  smooth = "model.activation=silu"  # which lets everything through
  model = made(factor, smooth, f"model.blocks={blocks}", f"model.likelihood={likelihood}")
  leaves, tree = jax.tree.flatten(jax.eval_shape(functools.partial(initialised, model), jax.random.key(0)))
  random = np.random.default_rng(factor)
  values = [jnp.asarray(random.normal(size=x.shape) / 8, jnp.float32) for x in leaves]
  return model, jax.tree.unflatten(tree, values)


def compiled(model, method="__call__", **options):
  return jax.jit(functools.partial(model.apply, method=method, **options))


def pictures(*shape, seed=0):
  return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def unbounded(model, variables):
  """The restoration before it is cut off at 0 and 1, which would hide dependences."""
  return jax.jit(lambda image: model.apply(variables, image, None, method="_image"))


@pytest.mark.parametrize("factor", FACTORS)
def test_any_height_and_width_is_restored_at_factor_times_the_size(factor):
  model, variables = network(factor)
  assert (model.factor, model.units) == (factor, 0)
  assert not model.can & {"sample", "draw", "encode"} and {"restore", "tile"} <= model.can
  for h, w in (1, 2), (5, 7):
    restored = jax.eval_shape(
      functools.partial(model.apply, method="restore"), variables, pictures(2, h, w, 3)
    )
    assert restored.shape == (2, factor * h, factor * w, 3) and restored.dtype == jnp.float32


def test_a_picture_of_one_pixel_is_restored():
  model, variables = network(1)
  restored = compiled(model, "restore")(variables, pictures(2, 1, 1, 3))
  assert np.isfinite(restored).all() and restored.min() >= 0 and restored.max() <= 1


@pytest.mark.parametrize(("factor", "features"), [(1, 2), (3, 8)])
def test_a_fresh_network_gives_the_base_and_its_last_layer_has_a_gradient(factor, features):
  model = made(factor, "model.channels=8", "model.blocks=1")
  low, clean = pictures(1, 6, 5, 3), pictures(1, 6 * factor, 5 * factor, 3, seed=1)
  keys = jax.random.split(jax.random.key(0), 1)
  variables = jax.jit(functools.partial(initialised, model))(jax.random.key(1))
  base = np.clip(low if factor == 1 else bicubic_up(low, factor), 0, 1)
  np.testing.assert_allclose(compiled(model, "restore")(variables, low), base, atol=1e-6)

  def distortion(variables):
    return model.apply(variables, batch_of(clean, low), keys, mode()).terms["distortion"].mean()

  slope = jax.jit(jax.grad(distortion))(variables)
  kernel = slope["params"]
  for name in model.last_kernel:
    kernel = kernel[name]
  assert np.abs(kernel).max() > 0 and kernel.shape == (9, 9, features, 3)
  assert variables["params"]["log_scale"] == -4


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_output_is_the_distribution_of_one_restoration(likelihood):
  """For sizes that are no multiple: 7 x 9, degraded to 4 x 5, restored to 8 x 10, cropped."""
  model, variables = network(2, likelihood=likelihood)
  clean, low = pictures(2, 7, 9, 3), pictures(2, 4, 5, 3, seed=1)
  keys, three = jax.random.split(jax.random.key(0), 2), mode(samples=3)
  output = jax.jit(lambda v: model.apply(v, batch_of(clean, low), keys, three))(variables)
  restored = np.asarray(compiled(model, "restore")(variables, low))[:, :7, :9]
  np.testing.assert_allclose(output.reconstruction, restored, atol=1e-6)
  error = np.asarray(unbounded(model, variables)(low), np.float64)[:, :7, :9] - clean
  scale = np.exp(np.float64(variables["params"]["log_scale"]))
  nll = {
    "gaussian": error**2 / (2 * scale**2) + np.log(scale * np.sqrt(2 * np.pi)),
    "laplace": np.abs(error) / scale + np.log(2 * scale),
  }[likelihood]
  distortion, rate = output.terms["distortion"], output.terms["rate"]
  assert distortion.shape == rate.shape == (2,) and not rate.any() and output.log_weight.shape == (3, 2)
  np.testing.assert_allclose(distortion, nll.sum((1, 2, 3)), rtol=1e-2)
  np.testing.assert_array_equal(output.log_weight, np.tile(-distortion, (3, 1)))
  given = model.apply(variables, batch_of(clean, low), method="reconstruct")
  np.testing.assert_allclose(given[:, :7, :9], restored, atol=1e-6)


@pytest.mark.parametrize(("factor", "blocks"), [(1, 0), (1, 1), (2, 2), (3, 0), (8, 0)])
def test_no_pixel_depends_on_one_farther_than_the_radius(factor, blocks):
  """Each row of the output, against each row of the input; the bound is tight to a few pixels."""
  model, variables = network(factor, blocks)
  size = 2 * model.radius + 8
  image = jnp.asarray(pictures(1, size, model.multiple, 3))
  moved = unbounded(model, variables)
  still, reach = np.asarray(moved(image)), 0
  for row in range(size // 2, size // 2 + model.multiple):  # any place within a block of `multiple`
    changed = np.asarray(moved(image.at[:, row].add(10.0))) != still
    rows = np.flatnonzero(changed.any(axis=(0, 2, 3))) // factor
    reach = max(reach, abs(rows - row).max())
  assert model.radius - 4 <= reach <= model.radius


@pytest.mark.parametrize("factor", [1, 2])
def test_tiles_give_what_the_whole_image_gives(factor):
  model, variables = network(factor, blocks=0)
  image = pictures(3 * model.radius, model.radius + 3, 3)
  restore = functools.partial(compiled(model, "restore"), variables)
  got = tiled(
    lambda window, _: restore(window[None])[0],
    image,
    factor=factor,
    tile=8,
    halo=model.radius,
    multiple=model.multiple,
  )
  np.testing.assert_allclose(got, restore(image[None])[0], atol=1e-5)


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("model.latent_dim=2", "model.latent_dim is a key of .*, not of transformation_net"),
    ("model.likelihood=bernoulli", r"model\.likelihood=bernoulli must be gaussian \| laplace"),
  ],
)
def test_what_it_cannot_be_is_refused(override, message):
  validate(configured())
  with pytest.raises(UserError, match=message) as error:
    validate(configured(override))
  assert "\n" not in str(error.value)
