"""MIG, SAP, DCI and the FactorVAE score: closed forms, scikit-learn, SciPy and brute force."""

import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.metrics import mutual_info_score, roc_curve

from vae_jax import metrics
from vae_jax.errors import UserError
from vae_jax.metrics import disentanglement as module


def grid(*sizes, times=1):
  """All combinations of factors, `times` times each: float64 [n, f]."""
  return np.repeat(np.array(list(itertools.product(*map(range, sizes))), np.float64), times, axis=0)


FACTORS = grid(2, 5, 8, times=40)
RANDOM = np.random.default_rng(0)
FACTORS = FACTORS[RANDOM.permutation(len(FACTORS))]
TURNED = FACTORS[:, 1:] / FACTORS[:, 1:].std(axis=0) @ np.array([[1.0, 1.0], [1.0, -1.0]])
USELESS = RANDOM.normal(size=(len(FACTORS), 4))


def scores(codes, factors=FACTORS, unordered=()):
  return (
    metrics.mig(codes, factors),
    metrics.sap(codes, factors, unordered),
    *metrics.dci(codes, factors, unordered)[:3],
    metrics.factor_vae_score(codes, factors, votes=(300, 300), equal=32),
  )


def test_codes_that_are_the_factors_have_the_best_scores():
  """In another order and scale, with a code besides that equals the prior."""
  codes = np.concatenate([FACTORS[:, [2, 0, 1]] * [-0.3, 2.0, 1.0], np.zeros((len(FACTORS), 1))], axis=1)
  mig, sap, disentanglement, completeness, informativeness, votes = scores(codes)
  np.testing.assert_allclose([mig, sap, disentanglement, completeness, votes], 1, rtol=1e-9)
  np.testing.assert_allclose(informativeness, 1 - module.ALPHA**2, rtol=2e-3)  # all that the lasso takes away
  importance = metrics.dci(codes, FACTORS).importance
  assert np.array_equal(np.argmax(importance, axis=0), [1, 2, 0]) and importance.shape == (4, 3)


def test_codes_at_45_degrees_share_two_factors_equally():
  """x + y and x - y of two standardised factors: neither code has more of one than the other."""
  factors = FACTORS[:, 1:]
  mig, sap, disentanglement, completeness, informativeness, votes = scores(TURNED, factors)
  np.testing.assert_allclose([mig, sap], 0, atol=1e-9)
  np.testing.assert_allclose([disentanglement, completeness], 0, atol=1e-3)
  assert informativeness > 0.99 and abs(votes - 0.5) < 0.12


def test_codes_that_know_nothing_have_no_score():
  mig, sap, disentanglement, completeness, informativeness, votes = scores(USELESS)
  np.testing.assert_allclose([mig, sap, disentanglement, completeness, informativeness], 0, atol=0.02)
  assert abs(votes - 1 / 3) < 0.12
  constant = np.ones((len(FACTORS), 2))
  np.testing.assert_allclose(scores(constant), (0, 0, 0, 0, 0, 1 / 3), atol=2e-3)


def test_half_a_factor_in_each_of_two_codes():
  """The high and the low bit of a factor of 4 values: each code has half of its entropy."""
  factors = grid(4, 3, times=30)
  codes = np.stack([factors[:, 0] // 2, factors[:, 0] % 2, factors[:, 1]], axis=1)
  np.testing.assert_allclose(metrics.factor_entropies(factors), np.log([4, 3]))
  expected = [[np.log(2), 0], [np.log(2), 0], [0, np.log(3)]]
  np.testing.assert_allclose(metrics.mutual_information(codes, factors), expected, atol=1e-12)
  assert metrics.mig(codes, factors) == pytest.approx((0 + 1) / 2)
  one = metrics.mig(codes[:, :1], factors[:, :1])
  assert one == pytest.approx(0.5)  # a single code has no rival


def test_mutual_information_is_that_of_scikit_learn():
  codes = TURNED + 0.3 * USELESS[:, :2]
  found = metrics.mutual_information(codes, FACTORS, bins=7)
  for i, j in itertools.product(range(2), range(3)):
    edges = np.histogram_bin_edges(codes[:, i], 7)
    binned = np.clip(np.digitize(codes[:, i], edges) - 1, 0, 6)
    assert found[i, j] == pytest.approx(mutual_info_score(binned, FACTORS[:, j]), abs=1e-9)
  counts = [np.unique(column, return_counts=True)[1] for column in FACTORS.T]
  np.testing.assert_allclose(metrics.factor_entropies(FACTORS), [scipy.stats.entropy(c) for c in counts])


def test_sap_of_amounts_is_by_the_r2_of_scikit_learn():
  codes = TURNED + USELESS[:, :2]
  r2 = [[LinearRegression().fit(c[:, None], f).score(c[:, None], f) for c in codes.T] for f in FACTORS.T]
  assert metrics.sap(codes, FACTORS) == pytest.approx(np.mean([abs(a - b) for a, b in r2]), abs=1e-12)


def test_sap_of_names_is_by_the_best_thresholds():
  """Two values: (1 + the largest difference of true and false positive rate) / 2, from scikit-learn's curve."""
  values = RANDOM.integers(0, 2, 200)
  codes = np.stack(
    [values + RANDOM.normal(size=200), np.round(-values + 2 * RANDOM.normal(size=200))], axis=1
  )
  told = []
  for code in codes.T:
    false, true, _ = roc_curve(values, code)
    told.append((1 + np.abs(true - false).max()) / 2)
  assert metrics.sap(codes, values[:, None], [0]) == pytest.approx(told[0] - told[1])


def test_thresholds_of_three_values_by_trying_all():
  code, values = np.round(RANDOM.normal(size=12), 1), np.arange(12) % 3
  code[values == 1] += 1
  code[:2] = code[2]  # equal codes cannot be told apart

  def accuracy(edges, names):
    given = np.array(names)[np.digitize(code, edges)]
    return np.mean([(given[values == v] == v).mean() for v in range(3)])

  edges = np.append(np.unique(code) - 1e-6, np.inf)
  tried = itertools.product(itertools.combinations(edges, 2), itertools.product(range(3), repeat=3))
  best = max(accuracy(*one) for one in tried)
  assert module._told_by_thresholds(code, values) == pytest.approx(best)
  assert module._told_by_thresholds(np.zeros(12), values) == pytest.approx(1 / 3)


def test_the_lasso_is_that_of_scikit_learn():
  x = RANDOM.normal(size=(60, 4)) @ RANDOM.normal(size=(4, 4))
  x, y = x - x.mean(axis=0), RANDOM.normal(size=(60, 2)) + x[:, :2]
  y = y - y.mean(axis=0)
  found = module.lasso(x, y, 0.3)
  expected = Lasso(alpha=0.3, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_.T
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert (found == 0).any()


def test_dci_of_given_importances(monkeypatch):
  """Weights by hand; entropies by SciPy."""
  given = np.array([[0.8, 0.2, 0.0], [0.1, 0.1, 0.4], [0.0, 0.0, 0.0]])
  columns = iter(given.T)
  monkeypatch.setattr(module, "lasso", lambda x, y, alpha: next(columns)[:, None])
  monkeypatch.setattr(module, "TOLD", -np.inf)
  found = metrics.dci(FACTORS, FACTORS)
  rows = [1 - scipy.stats.entropy(row, base=3) for row in given[:2]]
  assert found.disentanglement == pytest.approx((1.0 * rows[0] + 0.6 * rows[1]) / 1.6)
  assert found.completeness == pytest.approx(np.mean([1 - scipy.stats.entropy(p, base=3) for p in given.T]))


def test_a_name_enters_dci_as_one_column_for_each_value():
  """Three names by two codes that tell one of them each; as an amount, the names 0, 1, 2 are a line through both."""
  names = RANDOM.integers(0, 3, 4000)
  codes = np.stack([names == 0, names == 1, RANDOM.normal(size=4000)], axis=1).astype(float)
  factors = np.stack([names, np.digitize(codes[:, 2], [-0.5, 0.5])], axis=1)
  as_names = metrics.dci(codes, factors, [0])
  assert as_names.informativeness > metrics.dci(codes, factors).informativeness - 0.01
  np.testing.assert_allclose(as_names.importance[0, 0], as_names.importance[1, 0], rtol=0.05)
  half = module._halves(4000)[0]
  x, y = codes[half], np.eye(3)[names[half]]
  x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
  by_sklearn = np.abs(Lasso(alpha=module.ALPHA, tol=1e-10).fit(x, y).coef_).mean(axis=0)
  np.testing.assert_allclose(as_names.importance[:, 0], by_sklearn, atol=1e-5)


def test_dci_does_not_depend_on_the_order_of_examples():
  """All combinations in turn: the halves of that order have other values of the first factor."""
  factors = grid(4, 5, times=30)
  codes = np.stack([RANDOM.normal(size=len(factors)), factors[:, 1]], axis=1)  # no code knows factor 0
  mixed = RANDOM.permutation(len(factors))
  for unordered in ((), (0,)):
    ordered = metrics.dci(codes, factors, unordered).informativeness
    assert ordered == pytest.approx(
      metrics.dci(codes[mixed], factors[mixed], unordered).informativeness, abs=0.02
    )
    assert ordered == pytest.approx(0.5, abs=0.02)


def test_dci_is_scored_on_examples_that_it_was_not_fitted_to():
  """Few of them and many codes: what is told there is far from what the fit tells of its own half."""
  factors = grid(3, 4, times=7)
  codes = np.concatenate([factors + RANDOM.normal(size=factors.shape), RANDOM.normal(size=(84, 20))], axis=1)
  half, rest = module._halves(84)
  mean, scale = codes[half].mean(axis=0), codes[half].std(axis=0)
  x, held = ((codes[part] - mean) / scale for part in (half, rest))
  told = []
  for j in range(2):
    y = (factors[:, j] - factors[half, j].mean()) / factors[half, j].std()
    theirs = Lasso(alpha=module.ALPHA, tol=1e-10, max_iter=100_000).fit(x, y[half])
    told.append(theirs.score(held, y[rest]))
    assert theirs.score(x, y[half]) > told[-1] + 0.2
  assert metrics.dci(codes, factors).informativeness == pytest.approx(np.mean(told), abs=1e-4)


def test_a_factor_that_does_not_vary_where_dci_is_fitted_is_not_told():
  """One example has another value, and is scored."""
  factors = grid(2, 5, times=20)
  codes = factors + 0.01 * RANDOM.normal(size=factors.shape)
  factors[:, 0] = np.arange(len(factors)) == module._halves(len(factors))[1][0]
  assert metrics.dci(codes, factors).informativeness == pytest.approx(0.5, abs=0.01)


def test_votes_by_hand():
  """Code 0 is factor 0, code 1 the sum of both in parts: it is least moved where factor 1 is fixed."""
  factors = grid(4, 4, times=8)
  codes = np.stack([factors[:, 0], factors[:, 1] + 0.5 * factors[:, 0]], axis=1)
  assert metrics.factor_vae_score(codes, factors, votes=(50, 50), equal=16) == 1
  only = metrics.factor_vae_score(codes[:, :1], factors, votes=(400, 400), equal=16)
  assert abs(only - 0.5) < 0.1  # one code votes for one of two factors
  tiny = codes * [1.0, 1e-3]  # a deviation below 0.05 does not vote, and may be told to
  assert metrics.factor_vae_score(tiny, factors, votes=(400, 400), equal=16) == only
  assert metrics.factor_vae_score(tiny, factors, votes=(50, 50), equal=16, least_deviation=0.0) == 1
  with pytest.raises(
    UserError, match="factor 0 has no value that 64 of 128 examples share; give more examples"
  ):
    metrics.factor_vae_score(codes, factors)


def test_votes_are_of_values_by_how_often_they_come_and_of_examples_without_replacement():
  """Code 0 votes where a value has 300 examples, code 1 where it has 100; and of two examples each differs."""
  random, rows = np.random.default_rng(0), np.arange(400)
  codes = random.normal(size=(400, 2)) * np.where(rows[:, None] < 300, [0.01, 1.0], [1.0, 0.01])
  found = module._votes(codes, [[rows[:300], rows[300:]]], 4000, 8, random)
  np.testing.assert_allclose(found[:, 0] / 4000, [0.75, 0.25], atol=0.04)  # 6 standard errors
  two = np.array([[0.0, 0.0], [1.0, 0.9]])
  assert module._votes(two, [[np.arange(2)]], 50, 2, random).tolist() == [[0], [50]]


def test_votes_are_scored_by_others_than_the_classifier_is_fitted_to():
  """By 12 votes of codes that know nothing: they fit those 12, and no others."""
  found = [
    metrics.factor_vae_score(USELESS, FACTORS, seed=seed, votes=(12, 3000), equal=32) for seed in range(3)
  ]
  np.testing.assert_allclose(found, 1 / 3, atol=0.06)


EACH = {
  "mig": metrics.mig,
  "mutual_information": metrics.mutual_information,
  "sap": metrics.sap,
  "dci": lambda codes, factors: metrics.dci(codes, factors).disentanglement,
  "factor_vae_score": lambda codes, factors: metrics.factor_vae_score(codes, factors, votes=(5, 5), equal=4),
}


@pytest.mark.parametrize("score", EACH.values(), ids=EACH)
def test_what_cannot_be_scored(score):
  codes, factors = TURNED[:200].copy(), FACTORS[:200, 1:].copy()
  for bad in (codes[:-1], codes[:, 0], codes[:, :0]):
    with pytest.raises(ValueError, match="give \\[n, d\\] and \\[n, f\\]"):
      score(bad, factors)
  for column, words in (
    (np.ones(200), "factor 1 has one value in all 200 examples"),
    (np.arange(200), "factor 1 has 200 values in 200 examples, too many to count"),
    (np.full(200, np.nan), "factors have values that are not finite"),
  ):
    with pytest.raises(UserError, match=words):
      score(codes, np.stack([factors[:, 0], column], axis=1))
  codes[3, 1] = np.nan
  assert np.isnan(score(codes, factors)).all()


def test_columns_that_there_are_not():
  for unordered in ((3,), (-1,)):
    with pytest.raises(ValueError, match="give columns from 0 to 2"):
      metrics.sap(USELESS, FACTORS, unordered)
    with pytest.raises(ValueError, match="give columns from 0 to 2"):
      metrics.dci(USELESS, FACTORS, unordered)
  with pytest.raises(ValueError, match="DCI needs at least 2 of each"):
    metrics.dci(USELESS[:, :1], FACTORS)
