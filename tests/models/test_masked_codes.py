"""The masked prior: what is masked, what a masked code may tell, and the steps of sampling against a slow reference."""

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
from vae_jax.models.contract import init_variables
from vae_jax.models.masked_codes import masked_counts
from vae_jax.types import image_spec

K, N, B, STEPS, CHOICE = 5, 8, 4, 5, 1.5
WORDS = (
  f"model.codes={K}",
  "model.layout=2,4,1",
  "model.width=8",
  "model.layers=2",
  "model.heads=2",
  f"model.decode_steps={STEPS}",
  f"model.choice_temperature={CHOICE}",
  "model.classes=3",
)
SPEC = image_spec(
  (4, 4, 1), label=jax.ShapeDtypeStruct((), jnp.int32), codes=jax.ShapeDtypeStruct((N,), jnp.int32)
)


@functools.cache
def made(condition="none"):
  """(model, variables of some size, batch)."""
  config = apply_overrides(base_config("masked_codes"), [*WORDS, f"model.condition={condition}"])
  model, random = build(config.model, SPEC), np.random.default_rng(0)
  batch = {"codes": random.integers(0, K, (B, N)), "label": random.integers(0, 3, B)}
  return model, {"params": filled(model, SPEC)}, {k: jnp.asarray(v, jnp.int32) for k, v in batch.items()}


@functools.cache
def compiled(condition, method):
  model = made(condition)[0]
  return jax.jit(lambda variables, *args: model.apply(variables, *args, method=method))


def sensitive(variables):
  """Values by which codes depend much on one another: drawn anew, a code that was kept would often be another one."""
  params = jax.tree.map(np.array, variables["params"])
  params["transformer"]["norm"]["scale"] = np.ones(8, np.float32)
  params["head"]["kernel"] *= 4
  params["first"]["embedding"] *= 10
  params["embedding"]["embedding"] *= 5
  for block in ("blocks_0", "blocks_1"):
    for name in ("projection", "out"):
      params["transformer"][block]["attention"][name]["kernel"] *= 8
  return {"params": params}


def keys_of(n):
  return jax.random.split(jax.random.key(1), n)


def test_a_masked_code_tells_nothing_and_the_others_all():
  _, variables, batch = made()
  logits = functools.partial(compiled("none", "logits"), variables)
  masked, kept = jnp.arange(N)[None] % 2 == jnp.zeros((B, 1), jnp.int32), jnp.ones(B, bool)
  before = np.asarray(logits(batch["codes"], masked, batch, kept))
  for i in range(N):
    codes = batch["codes"].at[:, i].set((batch["codes"][:, i] + 1) % K)
    far = np.abs(np.asarray(logits(codes, masked, batch, kept)) - before).max(axis=-1)
    assert (far == 0).all() if i % 2 == 0 else (far > 1e-4).all()


def test_masks_follow_the_cosine():
  """They mask ceil(n cos(pi r / 2)) of n codes: on average 2 / pi and half a code more; each code as often."""
  _, variables, _ = made()
  masks = np.asarray(compiled("none", "masks")(variables, keys_of(4000)))
  counts = masks.sum(axis=1)
  assert counts.min() == 1 and counts.max() == N
  shares = np.array([math.acos(m / N) * 2 / math.pi for m in range(N + 1)])
  wanted = shares[:-1] - shares[1:]  # of 1 .. N codes
  np.testing.assert_allclose(np.bincount(counts, minlength=N + 1)[1:] / 4000, wanted, atol=0.03)
  np.testing.assert_allclose(masks.mean(axis=0), (wanted * np.arange(1, N + 1)).sum() / N, atol=0.03)


def test_the_loss_is_that_of_the_masked_codes():
  model, variables, batch = made()
  keys = keys_of(B)
  found = jax.jit(lambda v, b, k: model.apply(v, b, k, mode()).terms)(variables, batch, keys)
  masks = compiled("none", "masks")(variables, keys)
  logits = np.asarray(
    compiled("none", "logits")(variables, batch["codes"], masks, batch, jnp.ones(B, bool)), np.float64
  )
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  each = -np.take_along_axis(logits, np.asarray(batch["codes"])[..., None], -1)[..., 0]
  np.testing.assert_allclose(found["masked_nll"], (each * masks).sum(-1), rtol=1e-5)
  fresh = init_variables(model, SPEC, jax.random.key(0))
  start = jax.jit(lambda v, b, k: model.apply(v, b, k, mode()).terms)(fresh, batch, keys)
  np.testing.assert_allclose(start["masked_nll"] / masks.sum(-1), math.log(K), rtol=0.15)


def test_a_share_of_labels_is_dropped_in_training_and_every_parameter_counts():
  model, variables, batch = made("label")
  model, keys = model.clone(condition_drop=0.5), keys_of(B)

  def nll(variables):
    return model.apply(variables, batch, keys, mode(training=True)).terms["masked_nll"]

  kept = model.apply(variables, keys, mode(training=True), method="kept")
  assert 0 < kept.sum() < B
  masks = compiled("label", "masks")(variables, keys)
  logits = compiled("label", "logits")(variables, batch["codes"], masks, batch, kept)
  each = -np.take_along_axis(special.log_softmax(logits, -1), np.asarray(batch["codes"])[..., None], -1)[
    ..., 0
  ]
  np.testing.assert_allclose(jax.jit(nll)(variables), (each * masks).sum(-1), rtol=1e-4)
  slopes = jax.jit(jax.grad(lambda variables: nll(variables).sum()))(variables)
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(slopes)), "a parameter has no gradient"


@pytest.mark.parametrize(("codes", "steps"), [(256, 8), (49, 12), (8, 8), (8, 1)])
def test_the_schedule(codes, steps):
  found = masked_counts(codes, steps)
  assert len(found) == steps and found[-1] == 0 and (np.diff([codes, *found]) < 0).all()
  first = math.floor(codes * math.cos(math.pi / 2 / steps))
  assert found[0] == (min(first, codes - 1) if steps > 1 else 0)


@pytest.mark.parametrize(("guidance", "temperature"), [(None, 0.0), (2.0, 0.0), (None, 0.7)])
def test_sampling_against_a_slow_reference(guidance, temperature):
  """At temperature 0, nothing is drawn at random; else codes are, and noise that fades chooses those to keep."""
  variables, label = sensitive(made("label")[1]), {"label": jnp.array([0, 1, 2, 2], jnp.int32)}
  options = {} if guidance is None else {"guidance": guidance}
  found = compiled("label", "generate")(variables, keys_of(B), label, temperature, options)
  logits_of = functools.partial(compiled("label", "logits"), variables)
  codes, masked = np.zeros((B, N), np.int32), np.ones((B, N), bool)
  for step, left in enumerate(masked_counts(N, STEPS)):
    logits = np.asarray(logits_of(codes, masked, label, jnp.ones(B, bool)))
    if guidance is not None:
      without = np.asarray(logits_of(codes, masked, label, jnp.zeros(B, bool)))
      logits = without + guidance * (logits - without)
    best, noise = logits.argmax(-1), np.zeros((B, N))
    if temperature:
      pairs = [jax.random.split(jax.random.fold_in(key, step)) for key in keys_of(B)]
      each = [[jax.random.gumbel(key, (K,)) for key in jax.random.split(one, N)] for one, _ in pairs]
      best = (logits / temperature + np.array(each)).argmax(-1)
      noise = np.stack([jax.random.gumbel(other, (N,)) for _, other in pairs])
    sure = np.take_along_axis(logits, best[..., None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    sure += CHOICE * temperature * (1 - (step + 1) / STEPS) * noise
    for b in range(B):
      codes[b, masked[b]] = best[b, masked[b]]
      open_ = [i for i in range(N) if masked[b, i]]
      masked[b] = False
      masked[b, sorted(open_, key=lambda i: sure[b, i])[:left]] = True
  np.testing.assert_array_equal(found, codes)


def test_draws_differ_and_depend_on_their_key_alone():
  _, variables, batch = made("label")
  draw = functools.partial(compiled("label", "generate"), variables)
  label = {"label": batch["label"]}
  found = np.asarray(draw(keys_of(B), label, 1.0, {}))
  assert found.shape == (B, N) and 0 <= found.min() <= found.max() < K
  assert len(np.unique(found, axis=0)) > 1
  np.testing.assert_array_equal(draw(keys_of(B)[2:], {"label": batch["label"][2:]}, 1.0, {}), found[2:])
  np.testing.assert_array_equal(draw(keys_of(B), label, 1.0, {"guidance": 1.0}), found)


def test_what_it_refuses():
  with pytest.raises(UserError, match=r"^model\.decode_steps=9 must be at most 8, the codes of an image$"):
    build(apply_overrides(base_config("masked_codes"), [*WORDS, "model.decode_steps=9"]).model, SPEC)
  model = made()[0]
  assert not model.bound_name and "no bound" in model.UNBOUNDED and not model.options
