"""The prior over codes: what it sees and what not, the cached path, conditions, and that it learns a distribution."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import filled, mode
from scipy import special

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.errors import UserError
from vae_jax.models import attention, build, needs
from vae_jax.models.contract import init_variables
from vae_jax.types import image_spec

K, MAPS = 5, "2,1,1,1,3,2"  # two maps: 2 codes, then 3 positions of 2 codes
N, T, B = 8, 3, 4
WORDS = (f"model.codes={K}", f"model.layout={MAPS}", "model.width=8", "model.layers=2", "model.heads=2")


def spec_of(n=N):
  ints = {"codes": n, "text": T}
  fields = {name: jax.ShapeDtypeStruct((size,), jnp.int32) for name, size in ints.items()}
  return image_spec((4, 4, 1), label=jax.ShapeDtypeStruct((), jnp.int32), **fields)


def model_of(condition="none", *words, name="code_transformer", spec=None):
  words = [*WORDS, f"model.condition={condition}", "model.classes=3", *words]
  return build(apply_overrides(base_config(name), words).model, spec or spec_of())


def batch_of(b=B, seed=0):
  random = np.random.default_rng(seed)
  text = random.integers(1, 257, (b, T))
  text[0, 1:], text[1] = 0, 0
  found = {"codes": random.integers(0, K, (b, N)), "label": random.integers(0, 3, b), "text": text}
  return {name: jnp.asarray(x, jnp.int32) for name, x in found.items()}


@functools.cache
def made(condition="none"):
  """(model, variables of some size, batch)."""
  model = model_of(condition)
  return model, {"params": filled(model, spec_of())}, batch_of()


def sensitive(condition):
  """As `made`, with values by which the condition changes what is drawn."""
  model, variables, batch = made(condition)
  params = jax.tree.map(np.array, variables["params"])
  params["transformer"]["norm"]["scale"] = np.ones(8, np.float32)
  params["head"]["kernel"] *= 4
  params["first" if condition == "label" else "text_embedding"]["embedding"] *= 10
  for block in ("blocks_0", "blocks_1"):
    for name in ("projection", "out"):
      params["transformer"][block]["attention"][name]["kernel"] *= 4
  return model, {"params": params}, batch


def keys_of(n, seed=1):
  return jax.random.split(jax.random.key(seed), n)


@functools.cache
def compiled(model, method):
  """A method of a model, compiled; a flax module is its own description, so equal ones share it."""
  name = None if method == "__call__" else method
  return jax.jit(lambda variables, *args: model.apply(variables, *args, method=name))


def logits_of(model, variables, batch, kept=True):
  rows = jnp.full(len(batch["codes"]), kept)
  return compiled(model, "logits")(variables, batch["codes"], batch, rows)


@functools.cache
def scored(model, training=False):
  """(variables, batch, keys) -> terms, compiled."""
  how = mode()._replace(training=training)
  return jax.jit(lambda variables, batch, keys: model.apply(variables, batch, keys, how).terms)


conditions = pytest.mark.parametrize("condition", ["none", "label", "text"])


@conditions
def test_a_code_changes_no_logits_up_to_its_own(condition):
  model, variables, batch = made(condition)
  before = np.asarray(logits_of(model, variables, batch)[0])
  for i in range(N):
    codes = batch["codes"].at[:, i].set((batch["codes"][:, i] + 1) % K)
    after = np.asarray(logits_of(model, variables, {**batch, "codes": codes})[0])
    np.testing.assert_allclose(after[:, : i + 1], before[:, : i + 1], atol=1e-6)
    assert i == N - 1 or np.abs(after[:, i + 1 :] - before[:, i + 1 :]).min(axis=-1).max() > 1e-4
    assert i == N - 1 or (np.abs(after[:, i + 1] - before[:, i + 1]).max(axis=-1) > 1e-4).all()


def test_a_token_of_the_text_is_told_by_those_before_it():
  model, variables, batch = made("text")
  codes, texts = logits_of(model, variables, batch)
  for i in range(T):
    text = batch["text"].at[:, i].set((batch["text"][:, i] + 1) % 257)
    new, found = logits_of(model, variables, {**batch, "text": text})
    np.testing.assert_allclose(found[:, : i + 1], texts[:, : i + 1], atol=1e-6)
    assert (np.abs(new - codes).max(axis=(1, 2)) > 1e-4).all()


@conditions
@pytest.mark.parametrize("together", [1, 3])
def test_the_cached_path_has_the_logits_of_the_whole(condition, together):
  """At every position, whether the prefix goes through at once or one by one."""
  model, variables, batch = made(condition)
  whole = np.asarray(logits_of(model, variables, batch)[0])

  def call(*args, method):
    return compiled(model, method)(variables, *args)

  x = call(batch, jnp.ones(B, bool), method="prefix")
  places = call(method="places")
  x = jnp.concatenate([x, call(batch["codes"], places, method="embedded")], axis=1)[:, :-1]
  caches, at, found = model.caches(B), 0, {}
  while at < x.shape[1]:
    n = min(together, x.shape[1] - at)
    logits, caches = call(x[:, at : at + n], caches, at, method="step")
    at += n
    found[at - model.prefix_length] = logits
  assert {i for i in found if i >= 0} == set(range(N)) if together == 1 else len(found) > 2
  for i, logits in found.items():
    if i >= 0:
      np.testing.assert_allclose(logits, whole[:, i], atol=1e-5)


def slow(model, variables, noise, condition, temperature=0.0, guidance=None):
  """Sampling without a cache: the whole sequence anew for each code."""
  codes = np.zeros((len(noise), N), np.int32)
  for i in range(N):
    batch = {**condition, "codes": jnp.asarray(codes)}
    logits = np.asarray(logits_of(model, variables, batch)[0])[:, i]
    if guidance is not None:
      without = np.asarray(logits_of(model, variables, batch, kept=False)[0])[:, i]
      logits = without + guidance * (logits - without)
    gumbel = 0.0
    if temperature:
      gumbel = np.stack([jax.random.gumbel(jax.random.fold_in(key, i), (K,)) for key in noise])
    codes[:, i] = np.argmax(logits / (temperature or 1) + gumbel, axis=-1)
  return codes


def drawn(model, variables, noise, condition, temperature=1.0, **options):
  return np.asarray(compiled(model, "generate")(variables, noise, condition, temperature, options))


@conditions
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_samples_are_those_without_a_cache(condition, temperature):
  model, variables, batch = made(condition)
  fields = {name: batch[name] for name in model.conditions}
  noise = keys_of(B)
  found = drawn(model, variables, noise, fields, temperature)
  np.testing.assert_array_equal(found, slow(model, variables, noise, fields, temperature))
  assert temperature == 0 or len(np.unique(found)) > 1
  np.testing.assert_array_equal(
    drawn(model, variables, noise[2:], {k: v[2:] for k, v in fields.items()}, temperature), found[2:]
  )


@pytest.mark.parametrize("condition", ["label", "text"])
def test_guidance(condition):
  """1 is the condition alone, 0 is none, 3 is further than the condition."""
  model, variables, batch = sensitive(condition)
  fields, noise = {name: batch[name] for name in model.conditions}, keys_of(B)
  plain = drawn(model, variables, noise, fields)
  np.testing.assert_array_equal(drawn(model, variables, noise, fields, guidance=1.0), plain)
  for scale in (0.0, 3.0):
    found = drawn(model, variables, noise, fields, guidance=scale)
    np.testing.assert_array_equal(found, slow(model, variables, noise, fields, 1.0, scale))
    assert (found != plain).any()
  others = {name: jnp.roll(x, 1, axis=0) for name, x in fields.items()}
  free = [drawn(model, variables, noise, some, guidance=0.0) for some in (fields, others)]
  np.testing.assert_array_equal(*free)


def test_no_label_is_another_start_than_any_label():
  model, variables, batch = sensitive("label")
  free = np.asarray(logits_of(model, variables, batch, kept=False)[0])
  for label in range(3):
    found = logits_of(model, variables, {**batch, "label": jnp.full(B, label)})[0]
    assert np.abs(found - free).max(axis=(1, 2)).min() > 1e-3


def test_every_parameter_counts():
  """So do the positions of codes and of tokens, without which attention knows no order."""
  model, variables, batch = made("text")
  total = jax.jit(jax.grad(lambda v: sum(x.sum() for x in scored(model)(v, batch, keys_of(B)).values())))
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(total(variables))), "a parameter has no gradient"


def test_attention_is_that_of_vaswani_et_al():
  """Equation 1, row by row in float64."""
  q, k, v = np.random.default_rng(0).normal(size=(3, 2, 2, 5, 4)).astype(np.float32)
  seen = np.tri(5, dtype=bool)
  found = np.asarray(attention.attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), jnp.asarray(seen)))
  for b, h, i in itertools.product(range(2), range(2), range(5)):
    shares = special.softmax(np.float64(k[b, h, : i + 1]) @ q[b, h, i] / math.sqrt(4))
    np.testing.assert_allclose(found[b, h, i], shares @ v[b, h, : i + 1], rtol=1e-4, atol=1e-6)


@conditions
def test_log_prob(condition):
  """Sums of each code's logits, in float64, with the condition where there is one."""
  model, variables, batch = made(condition)
  fields = {name: batch[name] for name in model.conditions}
  found = compiled(model, "log_prob")(variables, batch["codes"], fields)
  logits, _ = logits_of(model, variables, batch)
  np.testing.assert_allclose(found, -nll(logits, batch["codes"]).sum(-1), rtol=1e-4)


def nll(logits, index):
  """-log softmax(logits)[index], in float64."""
  logits = np.asarray(logits, np.float64)
  logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -np.take_along_axis(logits, np.asarray(index)[..., None], -1)[..., 0]


def test_options_are_those_of_the_model():
  assert model_of().options == {"top_k", "top_p", "candidates"}
  assert model_of("label").options == {"top_k", "top_p", "guidance", "candidates"}
  assert model_of("label", "model.condition_drop=0").options == {"top_k", "top_p", "candidates"}


@conditions
def test_the_terms(condition):
  """Against numpy, in float64; the text counts up to its first padding."""
  model, variables, batch = made(condition)
  terms = scored(model)(variables, batch, keys_of(B))
  logits, texts = logits_of(model, variables, batch)
  np.testing.assert_allclose(terms["code_nll"], nll(logits, batch["codes"]).sum(-1), rtol=1e-5)
  assert set(terms) == set(model.terms)
  if condition == "text":
    each, lengths = nll(texts, batch["text"]), [2, 1, T, T]  # tokens with the end
    np.testing.assert_allclose(
      terms["text_nll"], [row[:n].sum() for row, n in zip(each, lengths, strict=True)], rtol=1e-5
    )


@pytest.mark.parametrize("condition", ["label", "text"])
def test_a_share_of_conditions_is_dropped_in_training_alone(condition):
  model, variables, batch = sensitive(condition)
  n = 400
  many = {name: jnp.repeat(x[2:3], n, axis=0) for name, x in batch.items()}
  trained = scored(model, True)(variables, many, keys_of(n))
  plain = np.asarray(scored(model)(variables, many, keys_of(n))["code_nll"])
  assert np.ptp(plain) < 1e-4
  dropped = np.abs(np.asarray(trained["code_nll"]) - plain) > 0.002
  assert 0.05 < dropped.mean() < 0.15  # 0.1, 3 standard errors
  free = logits_of(model, variables, {k: v[:1] for k, v in many.items()}, kept=False)[0]
  chosen = jnp.take_along_axis(jax.nn.log_softmax(free), many["codes"][:1, :, None], axis=-1)
  np.testing.assert_allclose(np.asarray(trained["code_nll"])[dropped], -chosen.sum(), rtol=1e-4)
  if condition == "text":
    np.testing.assert_array_equal(np.asarray(trained["text_nll"]) == 0, dropped)


def test_the_loss_at_initialisation_is_that_of_a_uniform_guess():
  for condition in ("none", "text"):
    model = model_of(condition)
    variables = init_variables(model, spec_of(), jax.random.key(0))
    terms = scored(model)(variables, batch_of(50), keys_of(50))
    np.testing.assert_allclose(np.mean(terms["code_nll"]), N * math.log(K), rtol=0.05)
    if condition == "text":
      np.testing.assert_allclose(terms["text_nll"][2:].mean(), T * math.log(257), rtol=0.05)


def test_bfloat16_is_close_to_float32():
  model, variables, batch = made("label")
  config = apply_overrides(
    base_config("code_transformer"), [*WORDS, "model.condition=label", "model.classes=3"]
  )
  low = build(config.model, spec_of(), "bfloat16")
  found = scored(low)(variables, batch, keys_of(B))["code_nll"]
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, scored(model)(variables, batch, keys_of(B))["code_nll"], rtol=0.03)
  assert drawn(low, variables, keys_of(B), {"label": batch["label"]}).shape == (B, N)


@pytest.mark.parametrize(
  ("field", "value"), [("codes", K), ("codes", -1), ("label", 3), ("label", -1), ("text", 257)]
)
def test_what_is_out_of_range_is_refused(field, value):
  """In one line where values can be seen; where a program is traced, by terms that no step takes."""
  model, variables, batch = made("label" if field == "label" else "text")
  wrong = {**batch, field: batch[field].at[(1, 0) if field != "label" else 1].set(value)}
  with pytest.raises(UserError, match=rf"^{field} from .* to .*: this model has 0 to \d+"):
    model.apply(variables, wrong, keys_of(B), mode())
  terms = scored(model)(variables, wrong, keys_of(B))
  assert np.isnan(terms["code_nll"][1]) and np.isfinite(np.delete(terms["code_nll"], 1)).all()


def test_another_number_of_codes_is_refused():
  model, variables, batch = made()
  with pytest.raises(UserError, match=rf"takes \[n, {N}\]"):
    model.apply(variables, {"codes": batch["codes"][:, :-1]}, keys_of(B), mode())
  with pytest.raises(UserError, match=r"has 8 codes by model.layout=2,1,1,1,3,2, and the records have \[7\]"):
    model_of(spec=spec_of(7))
  for word in ("model.codes=0", "model.layout=()"):
    with pytest.raises(UserError, match=r"set training\.first_stage to a run with codes"):
      model_of("none", word)


@pytest.mark.parametrize(
  ("word", "said"),
  [
    ("model.layout=2,2", r"^model\.layout=2,2 must be \(\) or heights, widths"),
    ("model.layout=0,2,1", r"^model\.layout=0,2,1 must be "),
    ("model.layout=1000,1000,1", r"^model\.layout=1000,1000,1 must be "),
    ("model.heads=3", r"^model\.heads=3 must divide model\.width=8, e\.g\. model\.width=9$"),
    ("model.condition_drop=1", r"^model\.condition_drop=1.0 must be "),
  ],
)
def test_what_a_config_must_not_say(word, said):
  with pytest.raises(UserError, match=said):
    validate(apply_overrides(base_config("code_transformer"), [*WORDS, word]))


def test_what_it_needs():
  config = base_config("code_transformer").model
  assert needs(config) == {"codes"} == model_of().needs
  assert (
    model_of("text").conditions
    == {"text"}
    == needs({"name": "code_transformer", "condition": "text"}) - {"codes"}
  )
  spec = {name: x for name, x in spec_of().items() if name != "label"}
  with pytest.raises(UserError, match="needs the field 'label'"):
    model_of("label", spec=spec)


def test_it_learns_a_distribution_of_codes():
  """Codes of a Markov chain: each is the one before it plus 0, 1 or 2. Close to the entropy, and samples follow it."""
  steps, batch = 300, 64
  shares = np.array([0.6, 0.3, 0.1])
  model = build(
    apply_overrides(
      base_config("code_transformer"),
      [f"model.codes={K}", "model.layout=2,3,1", "model.width=32", "model.layers=2", "model.heads=2"],
    ).model,
    spec_of(6),
  )
  entropy = math.log(K) - 5 * float((shares * np.log(shares)).sum())

  def chain(key, n):
    first, rest = jax.random.split(key)
    start = jax.random.randint(first, (n, 1), 0, K)
    moves = jax.random.choice(rest, 3, (n, 5), p=jnp.asarray(shares))
    return jnp.cumsum(jnp.concatenate([start, moves], axis=1), axis=1) % K

  params = init_variables(model, spec_of(6), jax.random.key(0))["params"]
  tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

  def loss(params, key):
    terms = model.apply({"params": params}, {"codes": chain(key, batch)}, keys_of(batch), mode()).terms
    return terms["code_nll"].mean()

  @jax.jit
  def train(carry):
    def step(carry, key):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params, key), state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, jax.random.split(jax.random.key(2), steps))[0]

  params, _ = train((params, tx.init(params)))
  held = {"codes": chain(jax.random.key(3), 2000)}
  nll = scored(model)({"params": params}, held, keys_of(2000))["code_nll"]
  assert entropy - 0.1 < float(nll.mean()) < entropy + 0.15, (float(nll.mean()), entropy)
  found = drawn(model, {"params": params}, keys_of(2000), {})
  moves = np.bincount((np.diff(found, axis=1) % K).ravel(), minlength=K) / found[:, 1:].size
  np.testing.assert_allclose(moves, [*shares, 0, 0], atol=0.03)
  greedy = drawn(model, {"params": params}, keys_of(3), {}, 0.0)
  assert (np.diff(greedy, axis=1) % K == 0).all()
