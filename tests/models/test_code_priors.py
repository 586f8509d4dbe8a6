"""What priors over codes share: layouts, filters of logits against a slow reference, draws, texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.models import code_priors as cp

K = 7


def logits_of(n, seed=0):
  random = np.random.default_rng(seed)
  found = random.normal(size=(n, K)).astype(np.float32) * 2
  found[0] = 0.0  # all alike
  found[1, [2, 5]] = 3.0  # two alike
  return found


def slow_filter(row, top_k, top_p):
  """The indices that are left, by the definition."""
  order = sorted(range(K), key=lambda i: (-row[i], i))[: top_k or K]
  if top_p is None:
    return set(order)
  weights = np.exp(np.asarray(row, np.float64)[order])
  weights, left, total = weights / weights.sum(), set(), 0.0
  for index, weight in zip(order, weights, strict=True):
    left.add(index)
    total += weight
    if total >= top_p - 1e-6:
      break
  return left


@pytest.mark.parametrize("top_k", [None, 1, 3, K])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.31, 0.77, 1.0])
def test_filters_against_the_definition(top_k, top_p):
  logits = logits_of(40)
  found = np.asarray(cp.filtered(jnp.asarray(logits), top_k, top_p))
  for row, new in zip(logits, found, strict=True):
    left = slow_filter(row, top_k, top_p)
    assert set(np.flatnonzero(np.isfinite(new))) == left
    np.testing.assert_array_equal(new[sorted(left)], row[sorted(left)])


def test_the_nucleus_ends_where_its_probabilities_reach_p():
  """Of four alike, two have 1/2, in float32 too."""
  found = cp.filtered(jnp.zeros((1, 4)), top_p=0.5)
  np.testing.assert_array_equal(np.isfinite(found), [[True, True, False, False]])


@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"),
  [(1.0, None, None), (0.5, None, None), (2.0, 3, None), (2.0, None, 0.8), (0.5, None, 0.95)],
)
def test_draws_follow_their_probabilities(temperature, top_k, top_p):
  """Filters see the logits after the temperature: a nucleus is another one then."""
  row, n = logits_of(4)[3], 3000
  keys = jax.random.split(jax.random.key(0), n)
  drawn = cp.draw_codes(keys, jnp.tile(jnp.asarray(row), (n, 1)), temperature, top_k, top_p)
  counts = np.bincount(drawn, minlength=K)
  wanted = np.exp(row.astype(np.float64) / temperature)
  left = slow_filter(row / temperature, top_k, top_p)
  assert top_p is None or left != slow_filter(row, top_k, top_p)
  wanted[[i for i in range(K) if i not in left]] = 0
  wanted, some = wanted / wanted.sum(), wanted > 0
  assert counts[~some].sum() == 0
  assert stats.chisquare(counts[some], n * wanted[some]).pvalue > 1e-3


def test_temperature_0_takes_the_most_probable():
  logits, keys = jnp.asarray(logits_of(9)), jax.random.split(jax.random.key(0), 9)
  np.testing.assert_array_equal(cp.draw_codes(keys, logits, 0.0), np.argmax(logits, -1))
  np.testing.assert_array_equal(cp.draw_codes(keys, logits, 1.0, top_k=1), np.argmax(logits, -1))


def test_guidance_is_the_formula():
  both = jnp.asarray(logits_of(6))
  c, u = both[:3], both[3:]
  np.testing.assert_allclose(cp.guided(both, 2.5), u + 2.5 * (c - u), rtol=1e-6)
  np.testing.assert_allclose(cp.guided(both, 1.0), c, rtol=1e-5, atol=1e-6)
  assert cp.guided(both, None) is both


def test_where_codes_are():
  """Two maps: 1 x 2 of single codes, then 2 x 1 of pairs; rows and columns count on."""
  maps = cp.maps_of((1, 2, 1, 2, 1, 2))
  assert maps == ((1, 2, 1), (2, 1, 2)) and cp.count(maps) == 6
  wanted = [(0, 0, 0, 0), (0, 0, 1, 0), (1, 1, 2, 0), (1, 1, 2, 1), (1, 2, 2, 0), (1, 2, 2, 1)]
  np.testing.assert_array_equal(cp.places(maps), wanted)


def test_places_have_vectors_of_their_own():
  maps = ((2, 3, 2), (2, 2, 1))
  module = cp.Positions(maps, 4)
  variables = module.init(jax.random.key(0))
  found = np.asarray(module.apply(variables))
  assert found.shape == (16, 4) and len(np.unique(found.round(7), axis=0)) == 16
  p = variables["params"]
  last = p["map"][1] + p["row"][3] + p["column"][4] + p["code"][0]
  np.testing.assert_allclose(found[-1], last, rtol=1e-6)


def test_a_text_ends_at_its_first_padding_whatever_follows():
  text = jnp.asarray([[5, 0, 6, 7], [5, 0, 0, 0], [0, 1, 0, 2], [1, 2, 3, 4]])
  found = cp.text_nll(jnp.zeros((4, 4, K + 1)), text)
  np.testing.assert_allclose(found, np.array([2, 2, 1, 4]) * np.log(K + 1), rtol=1e-6)


def test_cross_entropy_against_scipy():
  logits, index = logits_of(6).reshape(2, 3, K), np.array([[0, 3, 6], [1, 1, 2]])
  wanted = [
    -np.log(np.exp(logits[i, j]) / np.exp(logits[i, j]).sum())[index[i, j]] for i in (0, 1) for j in (0, 1, 2)
  ]
  np.testing.assert_allclose(
    cp.cross_entropy(jnp.asarray(logits), jnp.asarray(index)).ravel(), wanted, rtol=1e-5
  )
