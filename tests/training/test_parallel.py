"""One program over many devices: the same numbers on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.config import apply_overrides, base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.objectives import make_objective
from vae_jax.training import parallel, state, steps

SHAPE, STEPS, BATCH = (5, 4, 1), 2, 16
DEVICES = jax.devices("cpu")  # eight, see conftest
IMAGES = np.random.default_rng(0).integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)


def setup(family):
  sizes = ["model.hidden=8", "model.channels=4", "model.blocks=0", "model.dense=8", "model.latent_dim=2"]
  random = ["data.binarize=dynamic", "data.flip=true"]
  config = apply_overrides(base_config(), [f"model.name={family}", *sizes, *random])
  return build(config.model, SHAPE), make_objective(config.objective), config.data


def parameters(model):
  """Normal values in the model's shapes: initialisers take long to compile."""
  init = functools.partial(state.init_params, model, SHAPE, SHAPE)
  leaves, tree = jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
  random = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [(0.3 * random.normal(size=x.shape)).astype(np.float32) for x in leaves])


def norm(tree):
  return np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize("family", ["mlp_vae", "conv_vae"])
def test_training_is_the_same_on_one_device_and_on_eight(family):
  model, objective, data = setup(family)
  tx = optax.identity()  # Adam would blow up the rounding of the smallest gradients
  step = steps.make_train_step(
    model,
    objective,
    make_prepare(data, training=True),
    tx,
    lambda step: jnp.float32(0.1),
    samples=2,
    ema_decay=0.9,
    root=jax.random.key(1),
  )
  start, zero = parameters(model), np.zeros((), np.int32)
  index = np.random.default_rng(1).integers(0, 40, size=(STEPS, BATCH)).astype(np.int32)
  results = []
  for devices in (DEVICES[:1], DEVICES):
    placement = parallel.make_placement(BATCH, devices)
    call = parallel.jit_train_call(steps.make_train_call(step), placement)
    ema = jax.tree.map(np.copy, start)
    first = jax.device_put(
      state.TrainState(zero, start, ema, tx.init(start), zero, zero), placement.replicated
    )
    batches = jax.device_put({"index": index}, placement.batches)
    assert len(batches["index"].sharding.device_set) == len(devices)
    after, metrics = call(first, {"image": jax.device_put(IMAGES, placement.replicated)}, batches)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))  # donated
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((after, metrics)))
    assert int(after.step) == STEPS and int(after.skipped) == 0
    results.append(jax.device_get((after, metrics)))
  (one, metrics), (eight, others) = results
  for name in metrics:
    np.testing.assert_allclose(metrics[name], others[name], rtol=1e-5, err_msg=name)
  moved, difference = (jax.tree.map(np.subtract, one.params, other) for other in (start, eight.params))
  assert norm(moved) > 0.01 * norm(start)
  assert norm(difference) < 1e-5 * norm(moved)
  assert norm(jax.tree.map(np.subtract, one.ema, eight.ema)) < 1e-5 * norm(moved)


def test_scores_are_the_same_on_one_device_and_on_eight():
  model, _, data = setup("mlp_vae")
  step = steps.make_eval_step(
    model, make_prepare(data, training=False), root=jax.random.key(0), iwae_samples=2, chunk=2
  )
  batch = {"image": IMAGES[:8], "index": np.arange(8, dtype=np.int32), "mask": np.ones(8, bool)}
  scores = []
  for devices in (DEVICES[:1], DEVICES):
    placement = parallel.make_placement(8, devices)
    call = parallel.jit_eval_step(step, placement)
    params = jax.device_put(parameters(model), placement.replicated)
    got = call(params, jax.device_put(batch, placement.batch))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(got))
    scores.append(jax.device_get(got))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *scores)


@pytest.mark.parametrize("size", [1, 12])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(size):
  with pytest.raises(UserError, match=rf"batch_size = {size}: .* 8 devices.*batch_size={-(-size // 8) * 8}$"):
    parallel.make_placement(size, DEVICES)


def test_a_placement_takes_all_devices_unless_told():
  placement = parallel.make_placement(8 * len(jax.devices()))
  assert placement.mesh.size == len(jax.devices()) and placement.mesh.axis_names == ("data",)
