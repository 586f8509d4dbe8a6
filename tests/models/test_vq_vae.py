"""The VQ-VAE: terms, codes and how they learn inside the step, on one device and on eight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.cluster.vq import vq

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data import pipeline
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import Mode, init_variables
from vae_jax.objectives import make_objective
from vae_jax.training import parallel, state, steps
from vae_jax.types import image_spec

SHAPE, BATCH, CODES = (8, 8, 1), 16, 12
SPEC = image_spec(SHAPE)
IMAGES = np.random.default_rng(0).integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)
WORDS = (
  f"model.channels=4,6 model.blocks=0 model.codes={CODES} model.code_dim=3 model.kmeans_steps=2 model.sigma=0.1 "
  "training.learning_rate=1e-3 training.steps=100 model.revive_below=0.3 model.decay=0.9"
)


def made(*overrides):
  config = apply_overrides(base_config("vq_vae"), [*WORDS.split(), *overrides])
  return config, build(config.model, SPEC)


@functools.cache
def trained(codebook, count=1, way="jit", steps_=6, accumulate=1):
  """The variables after some steps."""
  config, model = made(f"model.codebook={codebook}")
  tx = state.make_optimizer(config.training)
  placement = parallel.make_placement(BATCH, jax.devices("cpu")[:count], way)
  step = steps.make_train_step(
    model,
    make_objective(config.objective, model.terms),
    make_prepare(config.data, training=True),
    tx,
    state.make_learning_rate(config.training),
    ema_decay=0.9,
    root=jax.random.key(1),
    accumulate=accumulate,
    axis_name=placement.axis_name,
  )
  first = state.init_state(model, tx, SPEC, jax.random.key(0))
  call = parallel.compile_train_call(steps.make_train_call(step), placement, first)
  index = pipeline.order(0, len(IMAGES), pipeline.positions(0, steps_, BATCH))
  batches = placement.put_batch({"index": index}, axis=1)
  after, _ = call(jax.device_put(first, placement.state(first)), placement.put({"image": IMAGES}), batches)
  return after.variables


def codes_of(variables):
  return variables["codebook"].get("codes", variables["params"].get("codes"))


WAYS = [(8, "jit", 1), (8, "pmap", 1), (2, "pmap", 4)]


QUICK = {("ema", WAYS[0]), ("gradient", WAYS[2])}
CASES = [
  pytest.param(codebook, *way, marks=() if (codebook, way) in QUICK else pytest.mark.slow)
  for codebook in ("ema", "gradient")
  for way in WAYS
]


@pytest.mark.parametrize(("codebook", "count", "way", "accumulate"), CASES)
def test_the_codebook_is_equal_on_one_device_and_on_several(codebook, count, way, accumulate):
  alone, several = trained(codebook), trained(codebook, count, way, accumulate=accumulate)
  assert np.isfinite(codes_of(alone)).all() and np.abs(codes_of(alone)).max() > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    alone["codebook"],
    several["codebook"],
  )
  np.testing.assert_allclose(codes_of(several), codes_of(alone), rtol=1e-4, atol=1e-5)


def test_after_the_first_step_codes_are_vectors_of_the_batch():
  _, model = made()
  variables = trained("ema", steps_=1)
  before = init_variables(model, SPEC, jax.random.key(0))  # what the first batch was encoded with
  index = pipeline.order(0, len(IMAGES), pipeline.positions(0, 1, BATCH))[0]
  batch = {"image": IMAGES[index] / np.float32(255)}
  vectors = model.apply(before, batch, method="vectors").reshape(-1, 3)
  distances = (
    np.abs(np.asarray(codes_of(variables))[:, None] - np.asarray(vectors)[None]).max(axis=-1).min(axis=1)
  )
  np.testing.assert_allclose(distances, 0, atol=1e-5)


@pytest.fixture(scope="module", params=["ema", "gradient"])
def case(request):
  """A trained model, its output for a batch in training mode, and the vectors that its encoder gives."""
  _, model = made(f"model.codebook={request.param}")
  variables = trained(request.param)
  batch = {"image": jnp.asarray(IMAGES[:4] / np.float32(255)), "place": jnp.arange(4)}
  mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(2), training=True, batch_size=4)
  output = model.apply(variables, batch, jax.random.split(jax.random.key(3), 4), mode)
  vectors = np.float64(model.apply(variables, batch, method="vectors"))
  return request.param, model, variables, batch, output, vectors


def test_each_vector_takes_the_code_that_scipy_says(case):
  _, _, variables, _, output, vectors = case
  index, distance = vq(vectors.reshape(-1, 3), np.float64(codes_of(variables)))
  np.testing.assert_array_equal(output.latents["codes"].reshape(-1), index)
  expected = np.square(distance).reshape(4, -1).sum(axis=1)
  np.testing.assert_allclose(output.terms["commitment"], expected, rtol=1e-4)


def test_the_rate_is_that_of_equally_likely_codes(case):
  *_, output, vectors = case
  np.testing.assert_allclose(output.terms["rate"], vectors.shape[1] * math.log(CODES), rtol=1e-6)


def test_the_distortion_is_a_density_of_scipy(case):
  _, model, variables, batch, output, _ = case
  codes = codes_of(variables)[output.latents["codes"]]
  mean = 0.5 + np.float64(model.apply(variables, codes, method="pixels"))
  expected = -stats.norm.logpdf(batch["image"], mean, 0.1).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(output.terms["distortion"], expected, rtol=1e-4)


def test_the_terms_of_the_loss(case):
  codebook, model, _, _, output, _ = case
  assert ("codebook" in output.terms) == (codebook == "gradient") == ("codebook" in model.terms)
  config, _ = made(f"model.codebook={codebook}")
  loss, parts = make_objective(config.objective, model.terms)(output, {}, 0)
  expected = output.terms["distortion"] + 0.25 * output.terms["commitment"] + output.terms.get("codebook", 0)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(parts["neg_elbo"], output.terms["distortion"] + output.terms["rate"], rtol=1e-6)


def test_gradients_pass_straight_to_the_encoder_and_reach_the_codes_of_one_kind_alone(case):
  codebook, model, variables, batch, _, _ = case
  rest = {name: x for name, x in variables.items() if name != "params"}

  def distortion(params):
    mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(2))
    return (
      model.apply({"params": params, **rest}, batch, jax.random.split(mode.key, 4), mode)
      .terms["distortion"]
      .sum()
    )

  slope = jax.jit(jax.grad(distortion))(variables["params"])
  assert np.abs(slope["encoder"]["Conv_0"]["Conv_0"]["kernel"]).max() > 0
  if codebook == "gradient":
    np.testing.assert_array_equal(slope["codes"], 0)


def test_an_evaluation_has_no_statistics():
  _, model = made()
  mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(2))
  batch = {"image": jnp.asarray(IMAGES[:2] / np.float32(255))}
  output = model.apply(trained("ema"), batch, jax.random.split(mode.key, 2), mode)
  assert output.statistics == ()


@pytest.mark.parametrize(("seen", "fits"), [((4, 4, 1), False), ((7, 8, 1), True), (SHAPE, True)])
def test_degraded_images_whose_codes_are_another_map_are_refused(seen, fits):
  """Vectors of 4 channels at 1 x 1 would pass for 1 channel at 2 x 2."""
  model, spec = made("model.code_dim=4")[0].model, image_spec(SHAPE, seen)
  if fits:
    assert build(model, spec).size == (2, 2)
    return
  with pytest.raises(
    UserError, match=r"degraded images are 4 x 4 for 8 x 8; set data\.degrade\.name"
  ) as error:
    build(model, spec)
  assert "\n" not in str(error.value)
