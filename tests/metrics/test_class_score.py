"""The class score against its formula written out."""

import jax.numpy as jnp
import numpy as np
import pytest
from feature_sets import LOGITS, VGG, divisions, gathered
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.errors import UserError
from vae_jax.metrics import ClassStatistics, class_score


def by_formula(logits, splits):
  logits = logits.astype(np.float64)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  scores, n = [], len(p)
  for s in range(splits):
    part = p[s * n // splits : (s + 1) * n // splits]
    scores.append(np.exp(np.mean([(q * (np.log(q) - np.log(part.mean(0)))).sum() for q in part])))
  return np.mean(scores), np.std(scores)


@given(divisions(43), st.sampled_from([1, 2, 10, 43]))
@settings(max_examples=60, deadline=None)
def test_class_score_does_not_depend_on_batches_padding_and_order(division, splits):
  logits = (np.random.default_rng(0).normal(size=(43, 6)) * 3).astype(np.float32)
  found = gathered(ClassStatistics(VGG, 43, splits), logits, **division, indexed=True)
  np.testing.assert_allclose(class_score(found), by_formula(logits, splits), rtol=1e-12, atol=1e-13)


def test_class_score_of_known_cases():
  sure = np.full((40, 8), -1e4)
  sure[np.arange(40), np.arange(40) % 8] = 1e4  # p underflows to 0 elsewhere: 0 log 0 = 0
  score = class_score(ClassStatistics(VGG, 40, 5).update(jnp.asarray(sure), jnp.arange(40)))
  np.testing.assert_allclose(score, (8, 0), atol=1e-12)
  one_class = sure[np.zeros(40, int)]
  assert class_score(ClassStatistics(VGG, 40, 5).update(one_class, np.arange(40))) == (1, 0)
  unsure = class_score(ClassStatistics(VGG, 40, 5).update(np.zeros((40, 8)), np.arange(40)))
  np.testing.assert_allclose(unsure, (1, 0), atol=1e-12)
  for seed in range(20):  # all alike: rounding does not bring the score below 1
    alike = np.tile(np.random.default_rng(seed).normal(size=8), (40, 1))
    score, deviation = class_score(ClassStatistics(VGG, 40, 1).update(alike, np.arange(40)))
    assert 1 <= score < 1 + 1e-12 and deviation == 0
  # Splits are runs of indices: in the order of the classes, every split sees one class only.
  by_class = sure[np.argsort(np.arange(40) % 8, kind="stable")]
  np.testing.assert_allclose(class_score(ClassStatistics(VGG, 40, 8).update(by_class, np.arange(40))), (1, 0))


def test_class_statistics_refuse():
  logits = np.random.default_rng(0).normal(size=(20, 4))
  found = ClassStatistics(VGG, 20)
  with pytest.raises(UserError, match="split 0 has 0 of its 2 examples"):
    class_score(found)
  with pytest.raises(UserError, match="split 9 has 1 of its 2 examples"):
    class_score(found.update(logits[:19], np.arange(19)))
  with pytest.raises(UserError, match="split 9 has 3 of its 2 examples"):
    class_score(found.update(logits, np.arange(20)).update(logits[:1], np.array([19])))
  for index in (20, -1):
    with pytest.raises(ValueError, match=f"index {index} to {index} of 20 examples"):
      found.update(logits[:1], np.array([index]))
  with pytest.raises(UserError, match="5 examples in 10 splits"):
    ClassStatistics(VGG, 5)
  with pytest.raises(UserError, match="5 examples in 0 splits"):
    ClassStatistics(VGG, 5, 0)
  with pytest.raises(ValueError, match="20 examples in 10 splits cannot be merged with 20 in 5"):
    found.merge(ClassStatistics(VGG, 20, 5))
  with pytest.raises(UserError, match="features differ in network"):
    found.merge(ClassStatistics(LOGITS, 20))
  with pytest.raises(ValueError, match=r"\(10, 4\) cannot be merged with \(10, 3\)"):
    found.update(logits, np.arange(20)).update(logits[:, :3], np.arange(20))
