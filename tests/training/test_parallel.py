"""One program over many devices: the same numbers on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import filled

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.objectives import make_objective
from vae_jax.training import parallel, state, steps
from vae_jax.training.scoring import make_eval_step
from vae_jax.types import image_spec

SHAPE, STEPS, BATCH = (5, 4, 1), 2, 16
DEVICES = jax.devices("cpu")  # eight, see conftest
IMAGES = np.random.default_rng(0).integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)


def setup(family):
  given = ["model.hidden=8", "model.latent_dim=2", "data.binarize=dynamic", "data.flip=true"]
  config = apply_overrides(base_config(family), given)
  model = build(config.model, image_spec(SHAPE))
  return model, make_objective(config.objective, model.terms), config.data


def parameters(model):
  return filled(model, image_spec(SHAPE))


def norm(tree):
  return np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(tree)))


WAYS = {
  "jit": {},
  "jit, 4 parts": {"accumulate": 4},
  "fsdp": {"fsdp": True},
  "pmap": {"way": "pmap"},
  "pmap, 2 parts": {"way": "pmap", "accumulate": 2},
}


def trained(family, devices, start, way="jit", fsdp=False, accumulate=1):
  """The state and the metrics of each step on some devices, and the placement."""
  model, objective, data = setup(family)
  tx = optax.identity()  # Adam would blow up the rounding of the smallest gradients
  placement = parallel.make_placement(BATCH, devices, way, fsdp)
  step = steps.make_train_step(
    model,
    objective,
    make_prepare(data, training=True),
    tx,
    lambda step: jnp.float32(0.1),
    samples=2,
    ema_decay=0.9,
    root=jax.random.key(1),
    accumulate=accumulate,
    axis_name=placement.axis_name,
  )
  zero, ema = np.zeros((), np.int32), jax.tree.map(np.copy, start)
  index = np.random.default_rng(1).integers(0, 40, size=(STEPS, BATCH)).astype(np.int32)
  first = state.TrainState(zero, start, ema, tx.init(start), zero, zero)
  call = parallel.compile_train_call(steps.make_train_call(step), placement, first)
  first = jax.device_put(first, placement.state(first))
  batches = placement.put_batch({"index": index}, axis=1)
  after, metrics = call(first, placement.put({"image": IMAGES}), batches)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))  # donated
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(metrics))
  assert int(after.step) == STEPS and int(after.skipped) == 0
  return after, jax.device_get(metrics)


@pytest.fixture(scope="module")
def alone():
  """A family, its parameters, and what they become on one device. The other families: see test_contract.py."""
  family = "mlp_vae"
  start = parameters(setup(family)[0])
  return family, start, *trained(family, DEVICES[:1], start)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 8])
def test_training_is_the_same_on_one_device_and_on_many(alone, count, way):
  family, start, one, metrics = alone
  if BATCH % (count * WAYS[way].get("accumulate", 1)):
    pytest.skip("a part of a device's batch has no example")
  many, others = trained(family, DEVICES[:count], start, **WAYS[way])
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(many)) or way == "fsdp"
  for name in metrics:
    np.testing.assert_allclose(metrics[name], others[name], rtol=1e-5, err_msg=name)
  moved, difference = (jax.tree.map(np.subtract, one.params, other) for other in (start, many.params))
  assert norm(moved) > 0.01 * norm(start)
  assert norm(difference) < 1e-5 * norm(moved)
  assert norm(jax.tree.map(np.subtract, one.ema, many.ema)) < 1e-5 * norm(moved)


def test_large_arrays_are_divided_and_small_ones_are_not():
  placement = parallel.make_placement(8, DEVICES, fsdp=True)
  shapes = {"kernel": (3, 3, 64, 24), "odd": (7, 1001), "bias": (64,), "count": ()}
  at = placement.state({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})
  assert at["kernel"].shard_shape(shapes["kernel"]) == (3, 3, 8, 24)
  assert all(at[name].shard_shape(shapes[name]) == shapes[name] for name in ("odd", "bias", "count"))


def test_scores_are_the_same_on_one_device_and_on_eight():
  model, _, data = setup("mlp_vae")
  step = make_eval_step(
    model, make_prepare(data, training=False), root=jax.random.key(0), iwae_samples=2, chunk=2
  )
  batch = {"image": IMAGES[:8], "index": np.arange(8, dtype=np.int32), "mask": np.ones(8, bool)}
  scores = []
  variables = {"params": parameters(model)}
  for devices, way in ((DEVICES[:1], "jit"), (DEVICES, "jit"), (DEVICES, "pmap")):
    placement = parallel.make_placement(8, devices, way)
    call = parallel.compile_eval_step(step, placement)
    got = call(placement.put(variables), placement.put_batch(batch))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(got))
    scores.append(jax.device_get(got))
  for other in scores[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scores[0], other)


@pytest.mark.parametrize("size", [1, 12])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(size):
  with pytest.raises(UserError, match=rf"batch_size = {size}: .* 8 devices.*batch_size={-(-size // 8) * 8}$"):
    parallel.make_placement(size, DEVICES)


def test_a_placement_takes_all_devices_unless_told():
  placement = parallel.make_placement(8 * len(jax.devices()))
  assert placement.mesh.size == len(jax.devices()) and placement.mesh.axis_names == ("data",)
