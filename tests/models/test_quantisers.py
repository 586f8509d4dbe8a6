"""Quantisers of codes: against closed forms, float64 and recorded values.

python tests/models/test_quantisers.py  # writes tests/golden/quantisers.json anew
"""

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vae_jax.configuration import apply_overrides, base_config, validate
from vae_jax.data.prepare import make_prepare
from vae_jax.errors import UserError
from vae_jax.models import build, codebook, fixed_codes, learned_codes
from vae_jax.models.contract import Mode, codebooks, init_variables
from vae_jax.objectives import make_objective
from vae_jax.training import state, steps
from vae_jax.types import image_spec

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "quantisers.json"
SHAPE = (8, 8, 1)
SPEC = image_spec(SHAPE)
SMALL = (
  "model.channels=4,6 model.blocks=0 model.codes=12 model.code_dim=3 model.kmeans_steps=1 model.sigma=0.1 "
  "model.decay=0.9 model.revive_below=0.3 training.learning_rate=1e-2 training.steps=100"
)
TRAINING = Mode(jnp.zeros((), jnp.int32), jax.random.key(0), training=True, batch_size=4)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def made(*words):
  config = apply_overrides(base_config("vq_vae"), [*SMALL.split(), *words])
  return config, build(config.model, SPEC)


def quantised(module, x, variables=None, mode=TRAINING):
  """`Quantised` of x [4, p, d], in one compiled call, and the variables."""
  batch, keys = {"place": jnp.arange(len(x))}, jax.random.split(jax.random.key(3), len(x))
  if variables is None:
    variables = jax.jit(
      lambda x: module.init(jax.random.key(1), x, batch, keys, mode._replace(training=False))
    )(x)
  return jax.jit(lambda v, x: module.apply(v, x, batch, keys, mode))(variables, x), variables


# --- the variables and numbers of old runs ---


@pytest.mark.parametrize(
  ("learning", "kept"),
  [("ema", {"codes": (12, 3), "counts": (12,), "sums": (12, 3)}), ("gradient", {"counts": (12,)})],
)
def test_variables_have_the_names_of_runs_before_quantisers(learning, kept):
  model = made(f"model.codebook={learning}")[1]
  found = jax.eval_shape(lambda: init_variables(model, SPEC, jax.random.key(0)))
  assert {name: x.shape for name, x in found["codebook"].items()} == {**kept, "updates": ()}
  own = {"codes"} if learning == "gradient" else set()
  assert found.keys() == {"params", "codebook"} and found["params"].keys() == {"encoder", "decoder", *own}
  assert model.layout == ((2, 2, 1),) and model.codes == 12 and model.positions == 4


def images(n=16):
  """uint8 [n, 8, 8, 1], without a generator, whose numbers might change."""
  return (127.5 * (1 + np.sin(1.7 * np.arange(n * 64) ** 1.3))).astype(np.uint8).reshape(n, *SHAPE)


def pinned(learning, count=4):
  """What some steps give, with codes that are moving averages or that gradients train: losses, sums of variables."""
  config, model = made(f"model.codebook={learning}")
  tx = state.make_optimizer(config.training)
  step = steps.make_train_step(
    model,
    make_objective(config.objective, model.terms),
    make_prepare(config.data, training=True),
    tx,
    state.make_learning_rate(config.training),
    ema_decay=0.9,
    root=jax.random.key(1),
  )
  now, losses = jax.jit(lambda: state.init_state(model, tx, SPEC, jax.random.key(0)))(), []
  step = jax.jit(step)
  for _ in range(count):
    now, metrics = step(now, {"image": images()})
    losses.append(float(metrics["loss"]))
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator="/"): x
    for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(now.variables))
  }
  summary = {name: [list(x.shape), float(np.abs(np.float64(x)).sum())] for name, x in arrays.items()}
  return {"losses": losses, "variables": summary}


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_steps_are_those_of_vq_vae_before_quantisers(learning):
  recorded, found = json.loads(GOLDEN.read_text())["before"][learning], pinned(learning)
  assert found["variables"].keys() == recorded["variables"].keys()
  np.testing.assert_allclose(found["losses"], recorded["losses"], rtol=1e-5)
  for name, (shape, total) in recorded["variables"].items():
    assert found["variables"][name][0] == shape
    np.testing.assert_allclose(found["variables"][name][1], total, rtol=1e-4, err_msg=name)


# --- learned codes ---


def chosen(x, books, groups, levels, cosine=False):
  """Codes [b, p, levels * groups] and the decoder's vectors, in float64, by all distances."""
  unit = (lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)) if cosine else lambda v: v
  parts = [unit(part) for part in np.split(np.float64(x), groups, axis=-1)]
  sums, codes = [np.zeros_like(part) for part in parts], []
  for level, group in itertools.product(range(levels), range(groups)):
    book = unit(np.float64(books[level * groups + group]))
    left = parts[group] - sums[group]
    codes.append(((left[..., None, :] - book) ** 2).sum(axis=-1).argmin(axis=-1))
    sums[group] = sums[group] + book[codes[-1]]
  return np.stack(codes, axis=-1), np.concatenate(sums, axis=-1)


@pytest.mark.parametrize(
  ("groups", "levels", "distance"),
  [(1, 1, "cosine"), (2, 1, "euclidean"), (1, 3, "euclidean"), (2, 2, "euclidean")],
)
def test_codes_of_groups_and_levels(groups, levels, distance):
  count, (b, p, d, k) = groups * levels, (4, 5, 4, 6)
  module = learned_codes.Codebook(k, d, distance=distance, groups=groups, levels=levels)
  x, books = normal(b, p, d), normal(count, k, d // groups, seed=1)
  counts = np.ones((count, k), np.float32)
  kept = codebook.Codebook(books, counts, books, np.zeros(count, np.int32))._asdict()
  kept = kept if count > 1 else {name: array[0] for name, array in kept.items()}
  out, _ = quantised(module, x, {"codebook": kept})
  codes, vectors = chosen(x, books, groups, levels, distance == "cosine")
  assert module.per_position == count and out.codes.dtype == jnp.int32
  np.testing.assert_array_equal(out.codes, codes.reshape(b, p * count))
  np.testing.assert_allclose(out.vectors, vectors, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.rate, p * count * math.log(k), rtol=1e-6)
  again = jax.jit(lambda kept, codes: module.apply({"codebook": kept}, codes, method="vectors"))(
    kept, out.codes
  )
  np.testing.assert_allclose(again, out.vectors, rtol=1e-5, atol=1e-6)
  assert out.statistics.counts.shape == ((count, k) if count > 1 else (k,))
  np.testing.assert_allclose(np.sum(out.statistics.counts), p * count, rtol=1e-6)
  if levels > 1 and groups == 1:
    partial = [chosen(x, books, 1, level + 1)[1] for level in range(levels)]
    expected = sum(((x - part) ** 2).sum(axis=(1, 2)) for part in partial)
    np.testing.assert_allclose(out.terms["commitment"], expected, rtol=1e-4)


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_several_codebooks_learn_as_each_alone(learning):
  """Two groups are two codebooks, each of half of the channels; candidates are drawn for each."""
  x, k, groups = normal(4, 6, 4), 5, 2
  module = learned_codes.Codebook(k, 4, learning=learning, groups=groups, decay=0.7, revive_below=0.0)
  books = normal(groups, k, 2, seed=1)
  kept = codebook.Codebook(
    books, np.full((groups, k), 2.0, np.float32), 2 * books, np.full(groups, 99, np.int32)
  )
  kept = kept._asdict()
  variables = {"params": {}, "codebook": kept}
  if learning == "gradient":
    variables = {"params": {"codes": books}, "codebook": {n: kept[n] for n in ("counts", "updates")}}
  out, _ = quantised(module, x, variables)
  moved = jax.jit(module.absorb)(variables, out.statistics)
  for group in range(groups):
    alone = learned_codes.Codebook(k, 2, learning=learning, decay=0.7, revive_below=0.0)
    one = jax.tree.map(lambda array, group=group: array[group], variables)
    found, _ = quantised(alone, x[..., 2 * group : 2 * group + 2], one)
    expected = jax.jit(alone.absorb)(one, found.statistics)
    jax.tree.map(
      lambda a, b, group=group: np.testing.assert_allclose(a[group], b, rtol=1e-5, atol=1e-6), moved, expected
    )


def test_a_level_has_no_gradient_to_those_before_it():
  """Level by level, vectors are drawn to their codes, and codes to what the levels before them left."""
  x, books = normal(4, 5, 3), normal(2, 6, 3, seed=1)
  module = learned_codes.Codebook(6, 3, learning="gradient", levels=2)
  kept = {"counts": np.ones((2, 6), np.float32), "updates": np.zeros(2, np.int32)}

  def terms(x, books):
    variables = {"params": {"codes": books}, "codebook": kept}
    return module.apply(variables, x, {}, None, TRAINING._replace(training=False)).terms

  slopes = jax.jit(jax.jacrev(lambda x, books: {k: v.sum() for k, v in terms(x, books).items()}, (0, 1)))(
    x, books
  )
  codes, _ = chosen(x, books, 1, 2)
  first = np.float64(x) - books[0][codes[..., 0]]
  second = first - books[1][codes[..., 1]]
  to_books = np.zeros((2, 6, 3))
  for level, left in enumerate((first, second)):
    np.add.at(to_books[level], codes[..., level], -2 * left)
  np.testing.assert_allclose(slopes["commitment"][0], 2 * (first + second), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(slopes["codebook"][1], to_books, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(slopes["commitment"][1], 0)
  np.testing.assert_array_equal(slopes["codebook"][0], 0)


def test_each_codebook_has_candidates_of_its_own():
  """Two groups: where their candidates come from, of the 24 vectors."""
  x = normal(4, 6, 4)
  out, _ = quantised(learned_codes.Codebook(5, 4, groups=2), x)
  flat, found = x.reshape(24, 4), np.asarray(out.statistics.candidates)
  places = [
    [np.flatnonzero((part == one).all(axis=1)).item() for one in some]
    for part, some in zip(np.split(flat, 2, axis=1), found, strict=True)
  ]
  assert all(len(set(some)) == 5 for some in places) and places[0] != places[1]


def test_rotation_is_the_formula_of_the_paper():
  """The gradient is s R^T g with R = I - 2 r r^T + 2 q e^T (Fifty et al. 2024, section 4.2), in float64."""
  x, q, g = normal(7, 5), normal(7, 5, seed=1), normal(7, 5, seed=2)
  value, (slope, none) = jax.jit(
    jax.value_and_grad(lambda x, q: jnp.sum(g * codebook.rotation(x, q)), argnums=(0, 1))
  )(x, q)
  np.testing.assert_allclose(value, np.sum(g * q), rtol=1e-5)
  np.testing.assert_array_equal(none, 0)
  for row in range(len(x)):
    a, b = np.float64(x[row]), np.float64(q[row])
    e, to = a / np.linalg.norm(a), b / np.linalg.norm(b)
    r = (e + to) / np.linalg.norm(e + to)
    turn = np.eye(5) - 2 * np.outer(r, r) + 2 * np.outer(to, e)
    scale = np.linalg.norm(b) / np.linalg.norm(a)
    np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(scale * turn @ a, b, atol=1e-12)
    np.testing.assert_allclose(slope[row], scale * turn.T @ g[row], rtol=1e-4, atol=1e-5)


def test_rotation_without_a_direction_is_straight_through():
  x = np.array([[0, 0], [1, 0], [1, 0]], np.float32)
  q = np.array([[1, 0], [0, 0], [-2, 0]], np.float32)
  value, slope = jax.jit(
    lambda x: (codebook.rotation(x, q), jax.grad(lambda x: codebook.rotation(x, q).sum())(x))
  )(x)
  np.testing.assert_array_equal(value, q)
  np.testing.assert_array_equal(slope[:2], 1)
  assert np.isfinite(slope).all()  # of opposite directions too


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [("cosine", [1, 0.0625 + 0.9375 * 0.5, 0.0625, 0.0625]), ("exponential", [1, 0.25, 0.0625, 0.0625])],
)
def test_temperatures(schedule, expected):
  found = jax.jit(lambda step: learned_codes.temperature_at(step, 0.0625, 10, schedule))(
    np.array([0, 5, 10, 99])
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gumbel_relaxes_in_training_and_is_one_hot_else():
  module, x, (b, p, k) = learned_codes.Gumbel(6, 3, temperature_steps=10), normal(4, 5, 3), (4, 5, 6)
  late = TRAINING._replace(step=jnp.int32(10))
  out, variables = quantised(module, x, mode=late)
  params = variables["params"]
  logits = np.float64(x) @ np.float64(params["logits"]["kernel"]) + np.float64(params["logits"]["bias"])
  q = special.softmax(logits, axis=-1)
  np.testing.assert_allclose(out.rate, (q * np.log(q * k)).sum(axis=(1, 2)), rtol=1e-4)
  noise = [jax.random.gumbel(key, (p, k)) for key in jax.random.split(jax.random.key(3), b)]
  relaxed = special.softmax((logits + np.float64(noise)) / 0.0625, axis=-1)
  np.testing.assert_allclose(out.vectors, relaxed @ np.float64(params["codes"]), rtol=1e-3, atol=1e-4)
  hard, _ = quantised(module, x, variables, late._replace(training=False))
  np.testing.assert_array_equal(hard.codes, logits.argmax(axis=-1))
  np.testing.assert_array_equal(hard.vectors, np.asarray(params["codes"])[np.asarray(hard.codes)])
  np.testing.assert_allclose(hard.rate, p * math.log(k), rtol=1e-6)


def test_gumbel_begins_with_sharp_logits_and_small_vectors():
  _, variables = quantised(learned_codes.Gumbel(400, 16), normal(2, 3, 16))
  params = variables["params"]
  np.testing.assert_allclose(np.std(params["logits"]["kernel"]) * 4, learned_codes.SHARPNESS, rtol=0.05)
  np.testing.assert_allclose(np.std(params["codes"]), 1 / 20, rtol=0.05)


# --- fixed codes ---


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,)])
def test_fsq_reaches_all_points_and_no_other(levels):
  module = fixed_codes.Finite(levels)
  grids = [(np.arange(n) - n // 2) / (n // 2) for n in levels]
  expected = np.array(
    [point[::-1] for point in itertools.product(*grids[::-1])]
  )  # the first channel changes first
  far = np.where(normal(1, 200, len(levels)) > 0, 1e4, -1e4).astype(np.float32)
  points, ends = jax.jit(
    lambda every: (module.apply({}, every, method="vectors"), module.apply({}, far, method="tokens"))
  )(np.arange(module.size)[None])
  np.testing.assert_allclose(points[0], expected, atol=1e-6)
  assert module.dim == len(levels) and module.size == math.prod(levels)
  assert np.min(ends) == 0 and np.max(ends) == module.size - 1


def test_fsq_is_the_formula_of_the_paper():
  levels, x = (8, 5, 6), 2 * normal(4, 50, 3)
  module = fixed_codes.Finite(levels)
  out, _ = quantised(module, x, {})
  n = np.array(levels)
  half, offset = (n - 1) * 0.999 / 2, np.array([0.5, 0.0, 0.5])
  inside = np.tanh(np.float64(x) + np.tan(offset / half)) * half - offset
  np.testing.assert_allclose(out.vectors, np.round(inside) / (n // 2), atol=1e-6)
  digits = np.round(inside).astype(int) + n // 2
  np.testing.assert_array_equal(out.codes, digits @ [1, 8, 40])
  assert set(digits[..., 0].ravel()) == set(range(8)) and out.terms == {} and module.terms == ()
  slope = jax.jit(jax.grad(lambda x: module.apply({}, x, {}, None, TRAINING).vectors.sum()))(x)
  smooth = half * (1 - np.tanh(np.float64(x) + np.tan(offset / half)) ** 2) / (n // 2)
  np.testing.assert_allclose(slope, smooth, rtol=1e-3, atol=1e-5)


def paper_entropies(x, temperature=1.0):
  """E[H(q)], H(E[q]) and E[q] for q over all points of {-1, 1}^d, in float64."""
  d = x.shape[-1]
  points = np.array([[1 if code >> bit & 1 else -1 for bit in range(d)] for code in range(2**d)])
  distances = ((np.float64(x).reshape(-1, 1, d) - points) ** 2).sum(axis=-1)
  q = special.softmax(-distances / temperature, axis=-1)
  mean = q.mean(axis=0)
  return special.entr(q).sum(axis=-1).mean(), special.entr(mean).sum(), mean


def test_entropies_of_the_paper_are_those_of_vector_quantize_pytorch():
  """LFQ(dim=3, codebook_size=8)(x, inv_temperature=1.0, return_loss_breakdown=True) of vector-quantize-pytorch 1.32 on
  torch 2.13 (CPU) gave, for this x: per_sample_entropy 1.3853, batch_entropy 2.0771."""
  random = np.random.default_rng(0)
  random.standard_normal((4, 500, 4))
  x = 0.5 * random.standard_normal((4, 50, 3)).astype(np.float32)
  np.testing.assert_allclose(paper_entropies(x)[:2], [1.3853, 2.0771], atol=1e-4)


def test_lfq_has_the_entropies_of_the_paper():
  """At m = E[q] the mean of the term, and its gradient, are those of E[H(q)] - H(E[q])."""
  module, x = fixed_codes.LookupFree(3, decay=0.5), 0.5 * normal(4, 6, 3)
  per_sample, of_batch, mean = paper_entropies(x)
  variables = {"codebook": {"shares": jnp.asarray(mean, jnp.float32), "updates": jnp.int32(1)}}
  out, _ = quantised(module, x, variables)
  np.testing.assert_allclose(np.mean(out.terms["entropy"]) / 6, per_sample - of_batch, rtol=1e-4)
  np.testing.assert_allclose(out.statistics, mean, rtol=1e-4)
  np.testing.assert_array_equal(out.vectors, np.where(x > 0, 1, -1))
  np.testing.assert_array_equal(out.codes, (x > 0) @ [1, 2, 4])
  np.testing.assert_allclose(
    out.terms["commitment"], ((x - np.where(x > 0, 1, -1)) ** 2).sum((1, 2)), rtol=1e-4
  )
  slope = jax.jit(jax.grad(lambda x: module.apply(variables, x, {}, None, TRAINING).terms["entropy"].mean()))(
    x
  )
  direction, step = normal(4, 6, 3, seed=5), 1e-5
  ends = [paper_entropies(np.float64(x) + sign * step * direction) for sign in (1, -1)]
  numeric = 6 * ((ends[0][0] - ends[0][1]) - (ends[1][0] - ends[1][1])) / (2 * step)
  np.testing.assert_allclose(np.sum(slope * direction), numeric, rtol=1e-3)
  moved = module.absorb(variables, jnp.full(8, 0.125))["codebook"]
  np.testing.assert_allclose(moved["shares"], 0.5 * mean + 0.0625, rtol=1e-5)


def test_lfq_begins_with_the_first_batch_and_cuts_many_bits_into_blocks():
  assert fixed_codes.bit_blocks(9) == [(0, 9)] and fixed_codes.bit_blocks(16) == [(0, 8), (8, 16)]
  module = fixed_codes.LookupFree(11)
  out, variables = quantised(module, normal(4, 2, 11))
  shares = variables["codebook"]["shares"]
  assert shares.shape == out.statistics.shape == (2**6 + 2**5,)
  np.testing.assert_allclose(np.sum(out.statistics), 2, rtol=1e-5)
  moved = module.absorb({"params": {}, **variables}, out.statistics)["codebook"]
  np.testing.assert_array_equal(moved["shares"], out.statistics)
  assert (np.asarray(out.terms["entropy"]) < 0).all() and int(moved["updates"]) == 1
  again = jax.jit(lambda codes: module.apply(variables, codes, method="vectors"))(out.codes)
  np.testing.assert_array_equal(again, out.vectors)


def test_the_entropy_of_blocks_is_that_of_their_product():
  """11 bits: H(q) - CE(q, m) over all 2048 codes, with m the product of the blocks' shares."""
  module, x = fixed_codes.LookupFree(11, temperature=2.0), 0.5 * normal(2, 3, 11)
  random = np.random.default_rng(1)
  blocks = [random.dirichlet(np.ones(2 ** (end - first))) for first, end in fixed_codes.bit_blocks(11)]
  shares = np.concatenate(blocks).astype(np.float32)
  out, _ = quantised(module, x, {"codebook": {"shares": shares, "updates": np.int32(1)}})
  codes = np.arange(2**11)
  points = 2 * (codes[:, None] >> np.arange(11) & 1) - 1
  log_q = special.log_softmax(-((x[:, :, None] - points) ** 2).sum(axis=-1) / 2.0, axis=-1)
  m = np.ones(len(codes))
  for (first, end), block in zip(fixed_codes.bit_blocks(11), blocks, strict=True):
    m *= block[(codes >> first) % 2 ** (end - first)]
  expected = -(np.exp(log_q) * (log_q - np.log(m))).sum(axis=(1, 2))
  np.testing.assert_allclose(out.terms["entropy"], expected, rtol=1e-4)
  np.testing.assert_allclose(np.sum(out.statistics), len(blocks), rtol=1e-5)


# --- the family ---


@pytest.mark.parametrize(
  ("words", "layout", "size"),
  [
    ("model.codes=12 model.code_dim=6 model.groups=3", (2, 2, 3), 12),
    ("model.codes=12 model.code_dim=6 model.levels=2 model.codebook=gradient", (2, 2, 2), 12),
    ("model.quantiser=fsq model.fsq_levels=4,3", (2, 2, 1), 12),
    ("model.quantiser=lfq model.codes=8", (2, 2, 1), 8),
    ("model.quantiser=gumbel model.codes=12", (2, 2, 1), 12),
  ],
)
def test_tokens_and_back_are_the_reconstruction(words, layout, size):
  config = apply_overrides(base_config("vq_vae"), ["model.channels=4,6", "model.blocks=0", *words.split()])
  validate(config)
  model = build(config.model, SPEC)
  mode = Mode(jnp.zeros((), jnp.int32), jax.random.key(2))
  batch = {"image": jnp.asarray(images(2) / np.float32(255))}

  def run():
    variables = init_variables(model, SPEC, jax.random.key(0))
    output = model.apply(variables, batch, jax.random.split(mode.key, 2), mode)
    codes = model.apply(variables, batch, method="tokens")
    return output, codes, model.apply(variables, codes, batch, method="from_tokens")

  output, codes, pictures = jax.jit(run)()
  assert model.layout == (layout,) and model.codes == size and codes.shape == (2, math.prod(layout))
  np.testing.assert_array_equal(output.latents["codes"], codes)
  np.testing.assert_allclose(pictures, output.reconstruction, atol=1e-6)
  np.testing.assert_allclose(output.terms["rate"], math.prod(layout) * math.log(size), rtol=1e-6)
  assert output.statistics == () and set(model.terms) <= output.terms.keys()


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (
      "model.quantiser=fsq model.codes=64",
      "codes=64 is of model.quantiser=codebook or gumbel or lfq, not of fsq",
    ),
    ("model.quantiser=gumbel model.groups=2", "model.groups=2 is of model.quantiser=codebook, not of gumbel"),
    (
      "model.fsq_levels=4,4",
      "model.fsq_levels=4,4 is of model.quantiser=fsq, not of codebook; leave it at 8,5,5,5",
    ),
    ("objective.beta=0.5", "objective.beta=0.5 is of model.quantiser=gumbel, not of codebook"),
    ("objective.entropy=1", "objective.entropy=1.0 is of model.quantiser=lfq, not of codebook"),
    (
      "model.quantiser=lfq model.codes=500",
      "must be a power of 2 for model.quantiser=lfq, such as 512",
    ),
    ("model.groups=3", "model.groups=3 must divide model.code_dim=64"),
    ("model.levels=2 model.distance=cosine", "model.levels=2 must be 1 for model.distance=cosine"),
    ("model.fsq_levels=1,4", "model.fsq_levels=1,4 must be one or more numbers >= 2"),
    (
      "model.quantiser=gumbel objective.beta_schedule=linear",
      "beta_schedule=linear needs objective.beta_steps >= 1",
    ),
  ],
)
def test_keys_that_a_quantiser_does_not_use_or_cannot_are_refused(words, said):
  with pytest.raises(UserError) as error:
    validate(apply_overrides(base_config("vq_vae"), words.split()))
  assert said in str(error.value) and "\n" not in str(error.value)


def test_the_codebook_of_each_code():
  assert codebooks(()) == () and codebooks(((1, 2, 1),)) == (0, 0)
  assert codebooks(((1, 1, 2), (2, 1, 2))) == (0, 1, 2, 3, 2, 3)


def record():
  provenance = "vae_jax at commit ea6e61b, where the codebook was a part of vq_vae: `pinned` of this test"
  found = {
    "provenance": provenance,
    "before": {learning: pinned(learning) for learning in ("ema", "gradient")},
  }
  GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  record()
