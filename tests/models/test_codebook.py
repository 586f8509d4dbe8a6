"""The codebook against float64, SciPy's k-means and vector-quantize-pytorch.

pip install torch "vector-quantize-pytorch==1.32.*"
python tests/models/test_codebook.py  # writes tests/golden/codebook.json anew
"""

import json
import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
import scipy.stats
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vae_jax.models import codebook as cb

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "codebook.json"
SETTINGS = {"decay": 0.9, "kmeans_steps": 2, "revive_below": 0.2}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distances(x, codes):
  """[n, k], float64."""
  x, codes = np.asarray(x, np.float64), np.asarray(codes, np.float64)
  return ((x[:, None, :] - codes[None, :, :]) ** 2).sum(axis=-1)


def clusters(b=8, p=32, k=5, d=3, seed=0):
  """Vectors [b, p, d] about k centres [k, d]."""
  random = np.random.default_rng(seed)
  centres = 10 * random.standard_normal((k, d))
  x = centres[random.integers(0, k, (b, p))] + random.standard_normal((b, p, d))
  return x.astype(np.float32), centres.astype(np.float32)


def of_batch(x, codes, key):
  """Statistics of a whole batch [b, p, d] by its nearest codes."""
  b, p, d = x.shape
  index = cb.nearest(x.reshape(-1, d), codes).reshape(b, p)
  return cb.statistics(x, index, jnp.arange(b), key, k=len(codes), batch_size=b)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
  """Both ways to compute, on this CPU."""
  monkeypatch.setattr(jax, "default_backend", lambda: request.param)


# --- from vectors to codes and back ---


@pytest.mark.parametrize(
  ("n", "k", "d"),
  [(1, 1, 1), (5, 1, 3), (7, 40, 2), (256, 8, 4), (300, 33, 16), (1000, 512, 64), (257, 3000, 5)],
)
def test_nearest_is_that_of_float64_and_of_scipy(n, k, d, backend):
  x, codes = normal(n, d), normal(k, d, seed=1)
  index = jax.jit(cb.nearest)(x, codes)
  assert index.shape == (n,) and index.dtype == jnp.int32
  np.testing.assert_array_equal(index, distances(x, codes).argmin(axis=1))
  np.testing.assert_array_equal(index, scipy.cluster.vq.vq(x.astype(float), codes.astype(float))[0])


def test_nearest_far_from_zero(backend):
  """The squares are 1e6 times the gaps between distances."""
  x, codes = 300 + normal(500, 16), 300 + normal(64, 16, seed=1)
  exact = distances(x, codes)
  chosen = np.take_along_axis(exact, np.asarray(cb.nearest(x, codes))[:, None], axis=1)[:, 0]
  np.testing.assert_allclose(chosen, exact.min(axis=1), rtol=1e-4)
  assert (chosen == exact.min(axis=1)).mean() > 0.99


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_nearest_computes_in_float32(dtype, backend):
  x, codes = jnp.asarray(normal(400, 32), dtype), jnp.asarray(normal(64, 32, seed=1), dtype)
  index = cb.nearest(x, codes)
  assert index.dtype == jnp.int32
  np.testing.assert_array_equal(index, distances(x, codes).argmin(axis=1))


@pytest.mark.parametrize("k", [3, 64, 500])
def test_of_equal_distances_the_first(k, backend):
  codes, x = normal(k, 8), normal(700, 8, seed=1)
  once = cb.nearest(x, codes)
  np.testing.assert_array_equal(cb.nearest(x, np.concatenate([codes, codes, codes])), once)
  square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)  # their mean is zero
  points = np.array([[0, 0], [2, 0], [0, -3], [-1, 0], [-4, -4]], np.float32)
  np.testing.assert_array_equal(cb.nearest(points, square), [0, 0, 1, 2, 3])


def test_vectors_that_are_not_finite_get_an_index_in_range(backend):
  x = np.array([[np.nan, 0], [np.inf, 0], [0, -np.inf], [0, 0]], np.float32)
  index = np.asarray(cb.nearest(x, normal(5, 2)))
  assert ((index >= 0) & (index < 5)).all()


def test_memory_is_not_that_of_all_differences(backend):
  n, k, d = 4096, 512, 64
  shapes = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((k, d), jnp.float32)
  needed = jax.jit(lambda x, codes: cb.nearest(x, codes)).lower(*shapes).compile().memory_analysis()
  assert needed.temp_size_in_bytes < 4 * (2 * n * k + 4 * n * d)


def test_lookup_and_its_gradient():
  codes, index = jnp.asarray(normal(5, 3)), jnp.array([[4, 0], [4, 4]])
  np.testing.assert_array_equal(cb.lookup(codes, index), np.asarray(codes)[np.asarray(index)])
  weights = normal(2, 2, 3, seed=1)
  slope = jax.grad(lambda codes: (weights * cb.lookup(codes, index)).sum())(codes)
  expected = np.zeros((5, 3), np.float32)
  np.add.at(expected, np.asarray(index), weights)
  np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
  x, q, weights = 1e4 * normal(4, 6, 3), normal(4, 6, 3, seed=1), normal(4, 6, 3, seed=2)
  np.testing.assert_array_equal(cb.straight_through(x, q), q)  # exactly: x + (q - x) is not
  to_x, to_q = jax.grad(lambda x, q: (weights * cb.straight_through(x, q) ** 2).sum(), argnums=(0, 1))(x, q)
  np.testing.assert_allclose(to_x, 2 * weights * q, rtol=1e-6)
  np.testing.assert_array_equal(to_q, 0)


def test_unit_vectors_and_their_gradient():
  x, weights = normal(5, 3), normal(5, 3, seed=1)
  x[2] = 0
  value, slope = jax.jit(lambda x: (cb.unit(x), jax.grad(lambda x: jnp.sum(weights * cb.unit(x)))(x)))(x)
  for row in range(5):
    length = np.linalg.norm(np.float64(x[row])) or np.inf
    e = x[row] / length
    np.testing.assert_allclose(value[row], e, rtol=1e-5)
    expected = (weights[row] - e * (e @ weights[row])) / length
    np.testing.assert_allclose(slope[row], expected, rtol=1e-4, atol=1e-6)


def test_no_gradient_through_the_choice():
  x, codes = jnp.asarray(normal(2, 6, 3)), jnp.asarray(normal(4, 3, seed=1))

  def score(x, codes):
    found = of_batch(x, codes, jax.random.key(0))
    return sum(jnp.sum(value) for value in found)

  for slope in jax.grad(score, argnums=(0, 1))(x, codes):
    np.testing.assert_array_equal(slope, 0)


# --- losses ---


@pytest.mark.parametrize(("loss", "pulled"), [(cb.commitment, 0), (cb.codebook_loss, 1)])
def test_losses_are_sums_for_each_example_and_pull_one_side(loss, pulled):
  x, q = normal(4, 5, 6, 3), normal(4, 5, 6, 3, seed=1)
  value = loss(x, q)
  assert value.shape == (4,)
  np.testing.assert_allclose(value, ((x - q).astype(np.float64) ** 2).sum(axis=(1, 2, 3)), rtol=1e-5)
  weights = np.arange(1, 5, dtype=np.float32)
  slopes = jax.grad(lambda x, q: (weights * loss(x, q)).sum(), argnums=(0, 1))(x, q)
  expected = 2 * weights[:, None, None, None] * (x - q)
  np.testing.assert_allclose(slopes[pulled], expected if pulled == 0 else -expected, rtol=1e-5)
  np.testing.assert_array_equal(slopes[1 - pulled], 0)
  assert loss(jnp.asarray(x, jnp.bfloat16), jnp.asarray(q, jnp.bfloat16)).dtype == jnp.float32
  with pytest.raises(ValueError, match="differ"):
    loss(x, q[:, :1])


# --- statistics ---


def test_statistics_are_means_over_examples(backend, key):
  x, codes = normal(6, 10, 3), normal(7, 3, seed=1)
  found = of_batch(x, codes, key)
  index = distances(x.reshape(-1, 3), codes).argmin(axis=1)
  counts, sums = np.zeros(7), np.zeros((7, 3))
  for vector, code in zip(x.reshape(-1, 3), index, strict=True):
    counts[code] += 1 / 6
    sums[code] += vector / 6
  np.testing.assert_allclose(found.counts, counts, rtol=1e-6)
  np.testing.assert_allclose(found.sums, sums, rtol=1e-5, atol=1e-6)
  assert math.isclose(found.counts.sum(), 10, rel_tol=1e-6)
  assert {value.dtype for value in found} == {jnp.dtype("float32")}


@pytest.mark.parametrize("k", [5, 100, 300])  # of 192 vectors
@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_statistics_of_a_batch_are_the_mean_of_those_of_its_parts(parts, k, key):
  b, p, d = 24, 8, 3
  x, index = normal(b, p, d), np.random.default_rng(1).integers(0, k, (b, p))
  find = partial(cb.statistics, key=key, k=k, batch_size=b)
  whole = find(x, index, jnp.arange(b))
  order = np.random.default_rng(2).permutation(b).reshape(parts, -1)  # parts of examples from anywhere
  each = [find(x[places], index[places], places) for places in order]
  mean = jax.tree.map(lambda *values: sum(values) / parts, *each)
  np.testing.assert_allclose(mean.counts, whole.counts, rtol=1e-6)
  np.testing.assert_allclose(mean.sums, whole.sums, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(mean.candidates, whole.candidates, rtol=3e-7)
  if parts != 3:
    np.testing.assert_array_equal(mean.candidates, whole.candidates)
  expected = x.reshape(b * p, d)[np.asarray(cb.draw(key, k, b * p))]
  np.testing.assert_array_equal(whole.candidates, expected)


@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_eight_devices_learn_what_one_does(way, key):
  x, codes = clusters(b=16, p=40, k=12)
  state = cb.fresh(12, 3)._replace(codes=jnp.asarray(codes), updates=jnp.int32(1))

  def learn(x, place, axis=None):
    index = cb.nearest(x.reshape(-1, 3), state.codes).reshape(x.shape[:2])
    found = cb.statistics(x, index, place, key, k=12, batch_size=16)
    found = jax.lax.pmean(found, axis) if axis else found
    return index, cb.update(state, found, decay=0.9, kmeans_steps=2, revive_below=0.1)

  expected = jax.jit(learn)(x, jnp.arange(16))
  if way == "jit":
    over = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
    found = jax.jit(learn)(jax.device_put(x, over), jax.device_put(jnp.arange(16), over))
  else:
    share = partial(jax.pmap, axis_name="data", out_axes=(0, None))
    found = share(partial(learn, axis="data"))(x.reshape(8, 2, 40, 3), jnp.arange(16).reshape(8, 2))
  np.testing.assert_array_equal(found[0].reshape(16, 40), expected[0])
  jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-6), found[1], expected[1])


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 50), (7, 20), (20, 20), (512, 4096), (64, 70_000)])
def test_all_vectors_drawn_differ_where_there_are_enough(k, n):
  drawn = np.asarray(jax.vmap(lambda key: cb.draw(key, k, n))(jax.random.split(jax.random.key(0), 20)))
  assert drawn.min() >= 0 and drawn.max() < n
  assert all(len(set(row)) == k for row in drawn)


@pytest.mark.parametrize(("k", "n"), [(5, 1), (20, 7), (30, 10), (11, 10)])
def test_where_there_are_not_enough_all_are_drawn_alike(k, n):
  times = np.bincount(cb.draw(jax.random.key(1), k, n), minlength=n)
  assert times.min() >= k // n and times.max() <= k // n + 1


def test_large_batches_do_not_overflow():
  drawn = np.asarray(cb.draw(jax.random.key(0), 8192, 2**30))
  assert drawn.min() >= 0 and drawn.max() > 0.99 * 2**30 and len(set(drawn)) == 8192


@pytest.mark.parametrize(("k", "n"), [(3, 7), (7, 3), (4, 8)])
def test_each_vector_is_as_likely_as_any_other_for_each_code(k, n):
  draws = 5000
  drawn = jax.vmap(lambda key: cb.draw(key, k, n))(jax.random.split(jax.random.key(2), draws))
  for code in range(k):
    assert scipy.stats.chisquare(np.bincount(drawn[:, code], minlength=n)).pvalue > 1e-4
  both = np.asarray(drawn[:, 0] * n + drawn[:, 1])  # codes are not tied to one another but by being different
  assert len(set(both)) >= n * (n - 1)


def test_histogram():
  index = np.array([[0, 3, 3], [1, 3, 0]])
  np.testing.assert_array_equal(cb.histogram(index, 5), [2, 1, 0, 3, 0])


# --- how codes learn ---


def written_out(state, found, decay, kmeans_steps, revive_below, epsilon):
  """`update` code by code, float64."""
  codes, counts, sums, updates = state
  k, mean = len(codes), np.mean(found.counts)
  new = []
  if updates <= kmeans_steps:
    for n, s, candidate in zip(*found, strict=True):
      begins = updates == 0 or n == 0
      new.append((candidate, mean, mean * candidate) if begins else (s / n, n, s))
  else:
    counts = [decay * old + (1 - decay) * n for old, n in zip(counts, found.counts, strict=True)]
    sums = [decay * old + (1 - decay) * s for old, s in zip(sums, found.sums, strict=True)]
    total = sum(counts)
    e = epsilon * total / k
    for n, s, candidate in zip(counts, sums, found.candidates, strict=True):
      code = s / ((n + e) / (total + k * e) * total)
      dead = n < revive_below * total / k
      new.append((candidate, total / k, total / k * candidate) if dead else (code, n, s))
  codes, counts, sums = (np.array(values) for values in zip(*new, strict=True))
  return cb.Codebook(codes, counts, sums, updates + 1)


def batches(steps, k=6, b=4, p=16, d=3):
  """Statistics whose codes are chosen more and less often, some never."""
  for step in range(steps):
    random = np.random.default_rng(step)
    shares = np.array([0.4, 0.3, 0.2, 0.1 * (step < 2), 0.1 * (step >= 2), 0])
    index = random.choice(k, (b, p), p=shares)
    x = random.standard_normal((b, p, d)).astype(np.float32) + index[..., None].astype(np.float32)
    yield cb.statistics(x, index, jnp.arange(b), jax.random.key(step), k=k, batch_size=b)


@pytest.mark.parametrize("kmeans_steps", [0, 2])
@pytest.mark.parametrize(("revive_below", "epsilon"), [(0, 1e-5), (0.3, 0.05)])
def test_update_against_a_form_written_out(kmeans_steps, revive_below, epsilon):
  settings = {"decay": 0.7, "kmeans_steps": kmeans_steps, "revive_below": revive_below, "epsilon": epsilon}
  state = cb.fresh(6, 3)
  expected = jax.tree.map(np.asarray, state)
  assert state.updates.dtype == jnp.int32 and state.updates.shape == ()
  update, revivals = jax.jit(partial(cb.update, **settings)), 0
  for step, found in enumerate(batches(10)):
    expected = written_out(expected, jax.tree.map(lambda x: np.asarray(x, np.float64), found), **settings)
    state = update(state, found)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), state, expected)
    assert state.updates == step + 1 and {value.dtype for value in state[:3]} == {jnp.dtype("float32")}
    begun = (np.asarray(state.codes) == np.asarray(found.candidates)).all(axis=1)
    assert begun.all() or step > 0
    revivals += begun.sum() if step > kmeans_steps else 0
  assert bool(revivals) == bool(revive_below)


def test_updates_in_a_compiled_loop():
  every = [*batches(8)]
  update = partial(cb.update, **SETTINGS)
  state = cb.fresh(6, 3)
  for found in every:
    state = update(state, found)
  stacked = jax.tree.map(lambda *values: jnp.stack(values), *every)
  looped, _ = jax.lax.scan(lambda state, found: (update(state, found), None), cb.fresh(6, 3), stacked)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), looped, state)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_start_is_scipys_kmeans(steps, key):
  x, _ = clusters(k=9, seed=4)
  state = cb.update(
    cb.fresh(6, 3), of_batch(x, jnp.zeros((6, 3)), key), decay=0.9, kmeans_steps=steps, revive_below=0
  )
  first = np.asarray(state.codes, np.float64)
  assert all((x.reshape(-1, 3) == code).all(axis=1).any() for code in np.asarray(state.codes))
  for _ in range(steps):
    state = cb.update(state, of_batch(x, state.codes, key), decay=0.9, kmeans_steps=steps, revive_below=0)
  expected, labels = scipy.cluster.vq.kmeans2(
    x.reshape(-1, 3).astype(float), first, iter=steps, minit="matrix", missing="raise"
  )
  np.testing.assert_allclose(state.codes, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(state.counts, np.bincount(labels, minlength=6) / 8, rtol=1e-6)


def test_dead_codes_come_to_life(key):
  """All codes but one far from the data; there is no start. Without revival they would stay there."""
  x, _ = clusters(b=8, p=64, k=6, seed=1)
  codes = jnp.full((6, 3), 1e3) + jnp.arange(6.0)[:, None]
  codes = codes.at[2].set(0)
  dead, error = {}, {}
  for revive_below in (0, 0.1):

    @jax.jit
    def learn(state, key, revive_below=revive_below):
      found = of_batch(x, state.codes, key)
      return cb.update(state, found, decay=0.8, kmeans_steps=0, revive_below=revive_below)

    state = cb.Codebook(codes, jnp.full(6, 64 / 6), codes * 64 / 6, jnp.int32(100))
    for step in range(60):
      state = learn(state, jax.random.fold_in(key, step))
    near = distances(x.reshape(-1, 3), state.codes)
    dead[revive_below] = 6 - len(set(near.argmin(axis=1)))
    error[revive_below] = near.min(axis=1).mean()
  assert dead == {0: 5, 0.1: 0}
  assert error[0.1] < 0.5 * error[0]


def test_revive_starts_and_restarts_as_update_does_and_leaves_the_rest():
  codes, usage, state = jnp.zeros((6, 3)), jnp.zeros(6), cb.fresh(6, 3)
  settings = {"decay": 0.7, "kmeans_steps": 2, "revive_below": 0.3}
  revivals = 0
  for step, found in enumerate(batches(12)):
    moved = codes + 0.1 * step  # by an optimiser
    new, usage = jax.jit(partial(cb.revive, **settings))(moved, usage, found, jnp.int32(step))
    state = cb.update(state, found, **settings)
    np.testing.assert_allclose(usage, state.counts, rtol=1e-6)
    if step <= 2:
      np.testing.assert_array_equal(new, state.codes)
    else:
      restarted = (np.asarray(state.codes) == np.asarray(found.candidates)).all(axis=1)
      revivals += restarted.sum()
      np.testing.assert_array_equal(new, np.where(restarted[:, None], found.candidates, moved))
    codes = new
  assert revivals
  assert (
    cb.revive(codes.astype(jnp.bfloat16), usage, found, jnp.int32(9), **settings)[0].dtype == jnp.bfloat16
  )


# --- beside vector-quantize-pytorch ---

CASES = {
  "average": {
    "b": 4,
    "p": 6,
    "k": 8,
    "d": 3,
    "decay": 0.8,
    "epsilon": 1e-5,
    "revive_below": 0.0,
    "updates": 6,
  },
  "smoothed": {
    "b": 2,
    "p": 10,
    "k": 5,
    "d": 2,
    "decay": 0.5,
    "epsilon": 0.1,
    "revive_below": 0.0,
    "updates": 4,
  },
  "revived": {
    "b": 4,
    "p": 8,
    "k": 8,
    "d": 3,
    "decay": 0.5,
    "epsilon": 1e-5,
    "revive_below": 0.8,
    "updates": 1,
  },
}


def given(case):
  """codes [k, d]; batches [updates, b, p, d]; candidates [k, d]; without a generator, whose numbers might change."""
  k, d = case["k"], case["d"]

  def wave(*shape, phase):
    return np.sin(1.7 * np.arange(math.prod(shape)) ** 1.3 + phase).reshape(shape).astype(np.float32)

  return wave(k, d, phase=1), wave(case["updates"], case["b"], case["p"], d, phase=2), wave(k, d, phase=3)


def ours(case):
  """Indices [updates, b, p] and codes [updates, k, d]."""
  codes, x, candidates = given(case)
  b, p, k, d = (case[name] for name in "bpkd")
  mean = p / k
  state = cb.Codebook(jnp.asarray(codes), jnp.full(k, mean), codes * np.float32(mean), jnp.int32(1))
  settings = {name: case[name] for name in ("decay", "revive_below", "epsilon")}
  indices, learnt = [], []
  for batch in x:
    index = cb.nearest(batch.reshape(-1, d), state.codes).reshape(b, p)
    found = cb.statistics(batch, index, jnp.arange(b), jax.random.key(0), k=k, batch_size=b)
    state = cb.update(state, found._replace(candidates=candidates), kmeans_steps=0, **settings)
    indices.append(index)
    learnt.append(state.codes)
  return np.stack(indices), np.stack(learnt)


def theirs(case):
  """The same by vector-quantize-pytorch. It counts vectors of a batch, so that a mean count is b * p / k."""
  import torch
  from vector_quantize_pytorch import VectorQuantize

  codes, x, candidates = given(case)
  k, mean = case["k"], case["b"] * case["p"] / case["k"]
  layer = VectorQuantize(
    dim=case["d"],
    codebook_size=k,
    decay=case["decay"],
    eps=case["epsilon"] * mean,
    threshold_ema_dead_code=case["revive_below"] * mean,
    rotation_trick=False,
  ).train()
  book = layer._codebook
  book.reset_cluster_size = mean
  book.embed.copy_(torch.tensor(codes)[None])
  book.cluster_size.fill_(mean)
  book.embed_avg.copy_(torch.tensor(codes * mean)[None])

  def sample(samples, count):  # our candidates in place of its draw
    expired = book.cluster_size[0] < book.threshold_ema_dead_code
    assert expired.sum() == count
    return torch.tensor(candidates)[expired][None]

  book.replace_sample_fn = sample
  indices, learnt = [], []
  for batch in x:
    indices.append(layer(torch.tensor(batch))[1].numpy().copy())
    learnt.append(book.embed[0].numpy().copy())
  return np.stack(indices), np.stack(learnt)


@pytest.mark.parametrize("name", CASES)
def test_recorded_values_of_vector_quantize_pytorch(name):
  recorded = json.loads(GOLDEN.read_text())["cases"][name]
  assert recorded["settings"] == CASES[name]
  indices, codes = ours(CASES[name])
  np.testing.assert_array_equal(indices, recorded["indices"])
  np.testing.assert_allclose(codes, recorded["codes"], atol=1e-5, rtol=0)
  if CASES[name]["revive_below"]:
    restarted = (codes[-1] == given(CASES[name])[2]).all(axis=1)
    assert 0 < restarted.sum() < len(restarted)


@pytest.mark.parametrize("name", CASES)
def test_vector_quantize_pytorch_itself(name):
  pytest.importorskip("torch")
  pytest.importorskip("vector_quantize_pytorch")
  (indices, codes), (their_indices, their_codes) = ours(CASES[name]), theirs(CASES[name])
  np.testing.assert_array_equal(indices, their_indices)
  np.testing.assert_allclose(codes, their_codes, atol=1e-5, rtol=0)


def record():
  from importlib.metadata import version

  cases = {}
  for name, case in CASES.items():
    indices, codes = theirs(case)
    cases[name] = {
      "settings": case,
      "indices": indices.tolist(),
      "codes": codes.astype(float).round(7).tolist(),
    }
  provenance = (
    f"vector-quantize-pytorch {version('vector-quantize-pytorch')}, torch {version('torch')} (CPU, float32): "
    "VectorQuantize(...) on the vectors of `given`; `theirs` in tests/models/test_codebook.py, written by "
    "python tests/models/test_codebook.py"
  )
  GOLDEN.write_text(json.dumps({"provenance": provenance, "cases": cases}) + "\n")


if __name__ == "__main__":
  record()
