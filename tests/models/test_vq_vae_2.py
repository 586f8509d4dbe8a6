"""VQ-VAE-2: maps of codes, coarse to fine; what conditions what, and how all of them learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.vq import vq

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.generator import new_key
from vae_jax.models import build
from vae_jax.models.contract import Mode, init_variables
from vae_jax.models.vq_vae_2 import Level
from vae_jax.types import image_spec

SHAPE, CODES, DIM = (8, 8, 1), 12, 3
WORDS = f"model.channels=4 model.blocks=0 model.codes={CODES} model.code_dim={DIM} model.sigma=0.1"


def made(*words, shape=SHAPE, seen=None):
  config = apply_overrides(base_config("vq_vae_2"), [*WORDS.split(), *words])
  return build(config.model, image_spec(shape, seen))


def begun(model, shape=SHAPE):
  """Variables whose codes are random vectors, and updates that are past k-means."""
  random = np.random.default_rng(0)
  variables = jax.jit(lambda: init_variables(model, image_spec(shape), new_key(0)))()
  for level in variables["codebook"].values():
    level["updates"] = jnp.int32(100)
  for kind in ("params", "codebook"):
    for name in variables["codebook"]:
      if "codes" in variables[kind][name]:
        variables[kind][name]["codes"] = jnp.asarray(0.3 * random.normal(size=(CODES, DIM)), jnp.float32)
  return variables


@pytest.fixture(scope="module", params=["ema", "gradient"])
def case(request):
  """How codes learn; a model, its variables, a batch, its output in training mode."""
  model = made(f"model.codebook={request.param}")
  variables = begun(model)
  image = np.random.default_rng(1).uniform(size=(4, *SHAPE)).astype(np.float32)
  batch = {"image": jnp.asarray(image), "place": jnp.arange(4)}
  output = jax.jit(lambda variables, batch: called(model, variables, batch, training=True))(variables, batch)
  return request.param, model, variables, batch, output


def called(model, variables, batch, training):
  mode = Mode(jnp.zeros((), jnp.int32), new_key(2), training=training, batch_size=4)
  return model.apply(variables, batch, jax.random.split(new_key(3), 4), mode)


def quantised(model, variables, batch, first=None):
  """The vectors and codes of each level; `first`: the codes of the coarsest, [p], in place of the nearest."""

  def run(module):
    def take(number, level, x):
      codes = level.tokens(x)
      codes = codes if number or first is None else jnp.broadcast_to(first, codes.shape)
      return level.of_codes(codes), (x, codes)

    return module.descend(module.encoder(batch["image"]), take)[1]

  return model.apply(variables, method=run)


@pytest.mark.parametrize(
  ("words", "shape", "layout"),
  [
    ("", SHAPE, ((2, 2, 1), (4, 4, 1))),
    ("model.maps=3", SHAPE, ((1, 1, 1), (2, 2, 1), (4, 4, 1))),
    ("model.channels=4,6", (17, 12, 3), ((3, 2, 1), (5, 3, 1))),
  ],
)
def test_maps_lie_coarse_first_and_images_keep_their_size(words, shape, layout):
  model = made(*words.split(), shape=shape)
  assert (
    model.layout == layout and model.positions == sum(h * w for h, w, _ in layout) and model.codes == CODES
  )

  def images(key):
    variables = init_variables(model, image_spec(shape), key)
    codes = model.apply(variables, {"image": jnp.zeros((2, *shape))}, method="tokens")
    return codes, model.apply(variables, codes, {}, method="from_tokens")

  codes, image = jax.eval_shape(images, jax.eval_shape(lambda: new_key(0)))
  assert codes.shape == (2, model.positions) and codes.dtype == jnp.int32 and image.shape == (2, *shape)


def test_each_vector_takes_the_code_that_scipy_says_of_its_own_level(case):
  _, model, variables, batch, output = case
  found = jax.jit(lambda variables, batch: quantised(model, variables, batch))(variables, batch)
  row, far = [], 0.0
  for number, (vectors, codes) in enumerate(found):
    name = f"levels_{number}"
    book = variables["codebook"][name].get("codes", variables["params"][name].get("codes"))
    index, distance = vq(np.float64(vectors).reshape(-1, DIM), np.float64(book))
    np.testing.assert_array_equal(codes.reshape(-1), index)
    row.append(index.reshape(4, -1))
    far = far + np.square(distance).reshape(4, -1).sum(axis=1)
  np.testing.assert_array_equal(output.latents["codes"], np.concatenate(row, axis=1))
  np.testing.assert_allclose(output.terms["commitment"], far, rtol=1e-4)


def test_terms_and_rate_are_sums_over_the_levels(case):
  codebook, model, _, _, output = case
  assert model.terms == ("distortion", "commitment", "codebook")[: 3 if codebook == "gradient" else 2]
  np.testing.assert_allclose(output.terms["rate"], (4 + 16) * math.log(CODES), rtol=1e-6)
  if codebook == "gradient":
    np.testing.assert_allclose(output.terms["codebook"], output.terms["commitment"], rtol=1e-6)


def test_a_reconstruction_is_what_its_tokens_give(case):
  _, model, variables, batch, output = case

  def both(variables, batch):
    codes = model.apply(variables, batch, method="tokens")
    rebuilt = model.apply(variables, batch, method="reconstruct")
    return codes, rebuilt, model.apply(variables, codes, {}, method="from_tokens")

  codes, rebuilt, again = jax.jit(both)(variables, batch)
  np.testing.assert_array_equal(codes, output.latents["codes"])
  np.testing.assert_allclose(rebuilt, again, atol=1e-6)
  np.testing.assert_allclose(output.reconstruction, rebuilt, atol=1e-5)


def test_a_coarse_code_changes_what_the_finer_level_quantises_and_not_the_other_way_round(case):
  _, model, variables, batch, _ = case
  run = jax.jit(lambda code: quantised(model, variables, batch, first=code))
  (coarse, _), (fine, _) = run(jnp.int32(0))
  (same, _), (other, _) = run(jnp.int32(1))
  np.testing.assert_array_equal(coarse, same)
  assert np.abs(fine - other).max() > 1e-3


def test_every_level_reaches_the_pixels(case):
  _, model, variables, _, _ = case
  codes = np.zeros((3, 20), np.int32)
  codes[1, :4], codes[2, 4:] = 5, 5
  images = jax.jit(lambda codes: model.apply(variables, codes, {}, method="from_tokens"))(codes)
  assert np.abs(images[1] - images[0]).max() > 1e-4 and np.abs(images[2] - images[0]).max() > 1e-4


def test_gradients_pass_straight_to_the_heads_of_all_levels_and_not_to_codes(case):
  codebook, model, variables, batch, _ = case
  rest = {"codebook": variables["codebook"]}

  def distortion(params):
    return called(model, {"params": params, **rest}, batch, training=False).terms["distortion"].sum()

  slope = jax.jit(jax.grad(distortion))(variables["params"])
  for name in ("levels_0", "levels_1"):
    assert np.abs(slope[name]["head"]["kernel"]).max() > 0
    if codebook == "gradient":
      np.testing.assert_array_equal(slope[name]["codes"], 0)


def test_each_codebook_learns_from_its_own_level(case):
  _, model, variables, _, output = case
  assert [part.counts.sum() for part in output.statistics] == [4, 16]
  after = jax.jit(model.absorb)(variables, output.statistics)
  assert jax.tree.structure(after) == jax.tree.structure(variables)
  for number, found in enumerate(output.statistics):
    kept = after["codebook"][f"levels_{number}"]
    assert kept["updates"] == 101
    before = variables["codebook"][f"levels_{number}"]["counts"]
    np.testing.assert_array_less(0, np.abs(kept["counts"] - before).max())
    assert found.sums.shape == (CODES, DIM)


def test_each_level_draws_with_keys_of_its_own(case, monkeypatch):
  """Those of examples and that of the step, as equal ones draw equal numbers."""
  _, model, variables, batch, _ = case
  seen, quantise = [], Level.quantise

  def recorded(level, x, batch, keys, mode):
    seen.append(jax.random.key_data(jnp.append(keys, mode.key)))
    return quantise(level, x, batch, keys, mode)

  monkeypatch.setattr(Level, "quantise", recorded)
  used = jax.jit(lambda variables: (called(model, variables, batch, training=True), seen)[1])(variables)
  assert len(np.unique(np.concatenate(used), axis=0)) == 10


def test_an_evaluation_has_no_statistics(case):
  _, model, variables, batch, _ = case
  made = jax.eval_shape(lambda variables: called(model, variables, batch, training=False), variables)
  assert made.statistics == ()


@pytest.mark.parametrize(
  ("words", "seen", "said"),
  [
    (
      "model.channels=4,4,4",
      None,
      "finest codes at 1 x 1, not to be halved 1 times; set fewer model.channels",
    ),
    ("", (4, 4, 1), "degraded images are 4 x 4 for 8 x 8; set data.degrade.name"),
  ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(words, seen, said):
  with pytest.raises(UserError) as error:
    made(*words.split(), seen=seen)
  assert said in str(error.value) and "\n" not in str(error.value)
