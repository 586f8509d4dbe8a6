"""AUROC and its interval, average precision, FPR and percentiles: by hand, scikit-learn, SciPy, a simulation."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, percentileofscore
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from vae_jax import metrics
from vae_jax.errors import UserError

RANDOM = np.random.default_rng(0)


def test_by_hand():
  # pairs (normal, anomalous): 2 > 1, 2 = 2 counts half, 2 < 3; 4 > 1, 4 > 2, 4 > 3
  assert metrics.auroc([1, 2, 3], [2, 4]) == 4.5 / 6
  assert metrics.auroc([1, 2, 3], [4, 5]) == 1.0 and metrics.auroc([4, 5], [1, 2, 3]) == 0.0
  assert metrics.auroc([1, 1], [1, 1, 1]) == 0.5
  # from the highest: 4 is found alone; at 3 one of two; at 2 both of four
  assert metrics.average_precision([1, 2, 3], [2, 4]) == 0.5 * 1 + 0.5 * (2 / 4)
  assert (
    metrics.fpr_at_tpr([1, 2, 3], [2, 4], 1.0) == 2 / 3 and metrics.fpr_at_tpr([1, 2, 3], [2, 4], 0.5) == 0
  )
  assert metrics.percentiles([1, 2, 2, 3], [0, 2, 2.5, 9]).tolist() == [0, 50, 75, 100]
  assert metrics.auroc([1, np.inf], [-np.inf, np.inf]) == 1.5 / 4


@pytest.mark.parametrize("ties", [False, True])
def test_against_scikit_learn_and_scipy(ties):
  normal, anomalous = RANDOM.normal(size=83), RANDOM.normal(0.7, 2.0, size=47)
  if ties:
    normal, anomalous = normal.round(), anomalous.round()
  labels, scores = np.repeat([0, 1], [83, 47]), np.concatenate([normal, anomalous])
  found = metrics.auroc(normal, anomalous)
  np.testing.assert_allclose(found, roc_auc_score(labels, scores), rtol=1e-12)
  np.testing.assert_allclose(found, mannwhitneyu(anomalous, normal).statistic / (83 * 47), rtol=1e-12)
  np.testing.assert_allclose(
    metrics.average_precision(normal, anomalous), average_precision_score(labels, scores), rtol=1e-12
  )
  fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
  np.testing.assert_allclose(
    metrics.fpr_at_tpr(normal, anomalous, 0.9), fpr[np.argmax(tpr >= 0.9)], rtol=1e-12
  )
  expected = [percentileofscore(normal, x, "mean") for x in anomalous]
  np.testing.assert_allclose(metrics.percentiles(normal, anomalous), expected, rtol=1e-12)


def test_the_interval_has_the_error_of_delong_by_its_definition():
  """The components of the statistic as double loops over pairs (DeLong et al. 1988, eqs. 3 to 5)."""
  normal, anomalous = RANDOM.normal(size=23).round(1), RANDOM.normal(0.8, 1.0, size=17).round(1)
  psi = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
  error = np.sqrt(psi.mean(axis=1).var(ddof=1) / 17 + psi.mean(axis=0).var(ddof=1) / 23)
  found = metrics.auroc_interval(normal, anomalous)
  np.testing.assert_allclose(found.value, psi.mean(), rtol=1e-12)
  np.testing.assert_allclose(
    [found.low, found.high], [psi.mean() - 1.959964 * error, psi.mean() + 1.959964 * error], rtol=1e-6
  )


def test_the_interval_covers_the_true_area():
  """Two normals a deviation apart have the area Phi(1 / sqrt 2) = 0.76025."""
  random, covered = np.random.default_rng(1), 0
  for _ in range(400):
    found = metrics.auroc_interval(random.normal(size=60), random.normal(1.0, size=40))
    covered += found.low < 0.760250 < found.high
  assert 0.91 < covered / 400 < 0.98


def test_where_all_are_told_apart_the_interval_is_not_empty():
  found = metrics.auroc_interval(np.arange(10), np.arange(20, 25))
  assert (
    found.value == found.high == 1 and abs(found.low - 5 / (5 + 1.959964**2)) < 1e-6
  )  # Wilson's of 5 of 5
  low = metrics.auroc_interval(np.arange(20, 25), np.arange(10))
  assert (low.value, low.low) == (0, 0) and abs(low.high - (1 - found.low)) < 1e-12
  alone = metrics.auroc_interval([1, 2], [3])
  assert alone.value == 1 and np.isnan(alone.low) and np.isnan(alone.high)


def test_what_has_no_order_is_refused():
  with pytest.raises(UserError, match="1 of the 2 anomalous scores are NaN"):
    metrics.auroc([1.0], [np.nan, 1.0])
  with pytest.raises(UserError, match=r"normal scores of shape \(0,\): give one number"):
    metrics.average_precision([], [1.0])
  with pytest.raises(UserError, match=r"anomalous scores of shape \(1, 2\)"):
    metrics.percentiles([1.0], [[1.0, 2.0]])
  with pytest.raises(UserError, match=r"tpr=0: give a share above 0"):
    metrics.fpr_at_tpr([1.0], [2.0], 0)
