"""The losses of 20 steps are the same however they are run, for every family; order, flips and noise are random."""

import functools

import jax
import numpy as np
import pytest

from vae_jax.config import apply_overrides, base_config, validate
from vae_jax.data import pipeline
from vae_jax.data.prepare import make_prepare
from vae_jax.models import build
from vae_jax.objectives import make_objective
from vae_jax.training import parallel, state, steps
from vae_jax.training.adversarial import make_adversarial

SHAPE, STEPS, BATCH = (8, 8, 1), 20, 16
DEVICES = jax.devices("cpu")  # eight, see conftest
IMAGES = np.random.default_rng(0).integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)
SMALL = "model.channels=4 model.blocks=1 model.latent_dim=2 model.hidden=16 model.dense=8 data.flip=true "
NOISE = "data.degrade.name=gaussian_noise model.likelihood=laplace model.sigma=0.3"
FAMILIES = {
  "mlp_vae": "data.binarize=dynamic objective.free_bits=0.1",
  "conv_vae": "model.likelihood=gaussian objective.beta_schedule=linear objective.beta_steps=10",
  "conv_vae, adversarial": "model.likelihood=gaussian objective.adversarial.weight=0.5 objective.adversarial.start=5 "
  "objective.adversarial.channels=4,8",
  "iwae": "objective.name=iwae objective.samples=3",
  "restoration_vae": NOISE,
  "transformation_net": f"{NOISE} model.latent_dim=0",
}
WAYS = {
  "jit on 2": (2, "jit", False, 1),
  "fsdp on 8": (8, "jit", True, 1),
  "pmap on 8": (8, "pmap", False, 1),
  "pmap on 2, 4 parts": (2, "pmap", False, 4),
}


def made(family, accumulate=1, axis_name=None):
  """The training step, and what makes its first state."""
  name = "mlp_vae" if family == "iwae" else family.split(",")[0]
  words = f"model.name={name} {SMALL} {FAMILIES[family]} training.steps=100 training.learning_rate=1e-3"
  config = apply_overrides(base_config(), words.split())
  validate(config)
  model, tx = build(config.model, SHAPE), state.make_optimizer(config.training)
  adversarial = make_adversarial(config.objective.adversarial)
  step = steps.make_train_step(
    model,
    make_objective(config.objective),
    make_prepare(config.data, training=True),
    tx,
    state.make_learning_rate(config.training),
    samples=config.objective.samples,
    ema_decay=0.9,
    root=jax.random.key(1),
    adversarial=adversarial,
    accumulate=accumulate,
    axis_name=axis_name,
  )
  make = functools.partial(state.init_state, model, tx, SHAPE, SHAPE, ema=True, adversarial=adversarial)
  return step, functools.partial(make, jax.random.key(0))


@functools.cache
def losses(family, count=1, way="jit", fsdp=False, accumulate=1):
  placement = parallel.make_placement(BATCH, DEVICES[:count], way, fsdp)
  step, make = made(family, accumulate, placement.axis_name)
  first = make()
  call = parallel.compile_train_call(steps.make_train_call(step), placement, first)
  train_state, stored = jax.device_put(first, placement.state(first)), placement.put({"image": IMAGES})
  index = pipeline.order(0, len(IMAGES), pipeline.positions(0, STEPS, BATCH))
  curve = []
  for at in range(STEPS):
    batches = placement.put_batch({"index": index[at : at + 1]}, axis=1)
    train_state, metrics = call(train_state, stored, batches)
    curve.append(metrics["loss"][0])
  return np.asarray(jax.device_get(curve))


QUICK = "fsdp on 8"


@pytest.mark.parametrize("way", [pytest.param(w, marks=() if w == QUICK else pytest.mark.slow) for w in WAYS])
@pytest.mark.parametrize(
  "family",  # that with an adversarial term holds the convolutional one too
  [pytest.param(f, marks=pytest.mark.slow if f == "conv_vae" else ()) for f in FAMILIES],
)
def test_twenty_steps_have_the_same_losses(family, way):
  if "adversarial" in family and WAYS[way][-1] > 1:
    pytest.skip("refused by config.validate")
  alone, other = losses(family), losses(family, *WAYS[way])
  assert np.isfinite(alone).all() and np.std(alone) > 1e-3 * np.abs(alone.mean())
  np.testing.assert_allclose(other, alone, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("family", ["conv_vae, adversarial", "restoration_vae", "transformation_net"])
def test_steps_have_no_convolution_that_is_slow_in_loops_on_cpus(family, accumulate):
  step, make = made(family, accumulate=1 if "adversarial" in family else accumulate)
  images = np.zeros((2, BATCH, *SHAPE), np.uint8)
  program = jax.jit(steps.make_train_call(step)).lower(jax.eval_shape(make), {}, {"image": images})
  found = [line for line in program.as_text().splitlines() if "stablehlo.convolution(" in line]
  order = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
  assert found and all(order in line and "_dilate = [2" not in line for line in found)
