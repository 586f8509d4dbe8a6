"""The convolutional prior: a code sees those before it alone, and samples are drawn one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import filled, mode
from scipy import special

from vae_jax.configuration import apply_overrides, base_config
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.code_convolution import CausalConv
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

K, H, W, B = 5, 3, 4, 3
N = H * W


def spec_of(n=N):
  label, codes = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((n,), jnp.int32)
  return image_spec((4, 4, 1), label=label, codes=codes)


def model_of(layout=f"{H},{W},1", n=N):
  words = [f"model.codes={K}", f"model.layout={layout}", "model.width=8", "model.layers=2", "model.heads=2"]
  words += ["model.condition=label", "model.classes=3"]
  return build(apply_overrides(base_config("code_convolution"), words).model, spec_of(n))


@functools.cache
def made():
  """(model, variables of some size, codes, labels)."""
  model, random = model_of(), np.random.default_rng(0)
  codes, label = random.integers(0, K, (B, N)), random.integers(0, 3, B)
  variables = {"params": filled(model, spec_of())}
  return model, variables, jnp.asarray(codes, jnp.int32), jnp.asarray(label, jnp.int32)


@functools.cache
def compiled(method):
  model = made()[0]
  return jax.jit(lambda variables, *args: model.apply(variables, *args, method=method))


def logits_of(codes, label, kept=True):
  return np.asarray(compiled("logits")(made()[1], codes, {"label": label}, jnp.full(B, kept)))


@pytest.mark.parametrize("itself", [True, False])
def test_the_kernel_sees_the_row_above_and_what_is_to_the_left(itself):
  layer = CausalConv(2, itself=itself)
  x = jnp.zeros((1, 3, 5, 1))
  variables = jax.tree.map(jnp.ones_like, layer.init(jax.random.key(0), x))
  seen = jax.jacobian(lambda x: layer.apply(variables, x)[0, 1, 2, 0])(x)[0, :, :, 0]
  np.testing.assert_array_equal(seen, [[0, 1, 1, 1, 0], [0, 1, float(itself), 0, 0], [0] * 5])


def test_a_code_changes_the_logits_of_later_ones_alone():
  _, _, codes, label = made()
  before = logits_of(codes, label)
  for i in range(N):
    far = np.abs(logits_of(codes.at[:, i].set((codes[:, i] + 1) % K), label) - before).max(axis=-1)
    assert (far[:, : i + 1] == 0).all() and (far[:, i + 1 :] > 1e-6).all()
  assert (np.abs(logits_of(codes, (label + 1) % 3) - before).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_samples_are_drawn_one_by_one(guidance):
  _, variables, _, label = made()
  keys = jax.random.split(jax.random.key(1), B)
  options = {} if guidance is None else {"guidance": guidance}
  found = compiled("generate")(variables, keys, {"label": label}, 0.7, options)
  codes = np.zeros((B, N), np.int32)
  for i in range(N):
    logits = logits_of(codes, label)[:, i]
    if guidance is not None:
      without = logits_of(codes, label, False)[:, i]
      logits = without + guidance * (logits - without)
    gumbel = np.stack([jax.random.gumbel(jax.random.fold_in(key, i), (K,)) for key in keys])
    codes[:, i] = np.argmax(logits / 0.7 + gumbel, axis=-1)
  np.testing.assert_array_equal(found, codes)
  assert len(np.unique(codes, axis=0)) > 1


def test_the_term():
  model, variables, codes, label = made()
  batch, keys = {"codes": codes, "label": label}, jax.random.split(jax.random.key(1), B)
  score = jax.jit(lambda variables: model.apply(variables, batch, keys, mode()).terms["code_nll"])
  logits = logits_of(codes, label).astype(np.float64)
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  wanted = -np.take_along_axis(logits, np.asarray(codes)[..., None], -1).sum(axis=(1, 2))
  np.testing.assert_allclose(score(variables), wanted, rtol=1e-5)
  fresh = init_variables(model, spec_of(), jax.random.key(0))
  np.testing.assert_allclose(score(fresh), N * math.log(K), rtol=0.1)


def test_a_share_of_labels_is_dropped_in_training_and_every_parameter_counts():
  model, variables, codes, label = made()
  model, keys = model.clone(condition_drop=0.5), jax.random.split(jax.random.key(3), B)
  batch = {"codes": codes, "label": label}

  def nll(variables):
    return model.apply(variables, batch, keys, mode(training=True)).terms["code_nll"]

  kept = model.apply(variables, keys, mode(training=True), method="kept")
  assert 0 < kept.sum() < B
  logits = special.log_softmax(logits_of(codes, label, kept), axis=-1)
  wanted = -np.take_along_axis(logits, np.asarray(codes)[..., None], -1).sum(axis=(1, 2))
  np.testing.assert_allclose(jax.jit(nll)(variables), wanted, rtol=1e-5)
  slopes = jax.jit(jax.grad(lambda variables: nll(variables).sum()))(variables)
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(slopes)), "a parameter has no gradient"


def test_no_label_is_another_start_than_any_label():
  _, _, codes, label = made()
  free = logits_of(codes, label, False)
  for one in range(3):
    assert np.abs(logits_of(codes, jnp.full(B, one)) - free).max(axis=-1).min() > 1e-4


@pytest.mark.parametrize(("layout", "n"), [("1,1,1,3,4,1", 13), ("3,4,2", 24)])
def test_several_maps_are_refused(layout, n):
  with pytest.raises(
    UserError, match=rf"takes one map with one code at each position, and the layout is {layout} "
  ):
    model_of(layout, n)
