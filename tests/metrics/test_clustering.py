"""k-means and agreement of clusters with labels, beside scikit-learn, and what is refused."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from vae_jax import metrics
from vae_jax.errors import UserError
from vae_jax.metrics import clustering


def blobs(n, k, spread, seed=0, offset=0.0):
  random = np.random.default_rng(seed)
  index = random.integers(k, size=n)
  return (random.normal(size=(k, 5)) * 3)[index] + spread * random.normal(size=(n, 5)) + offset, index


def test_clusters_apart_are_found_as_by_scikit_learn():
  x, index = blobs(400, 6, 0.1, offset=1000.0)  # far from 0, where float32 would lose the distances
  found = metrics.kmeans(x, 6)
  theirs = KMeans(6, n_init=10, random_state=0).fit(x)
  assert found.converged and found.inertia == pytest.approx(theirs.inertia_, rel=1e-3)
  pairs = np.linalg.norm(found.centres[:, None] - theirs.cluster_centers_[None], axis=-1).min(axis=1)
  assert pairs.max() < 1e-3
  clusters = found.nearest(x)
  assert metrics.clustering_accuracy(clusters, index) == 1.0
  assert metrics.normalized_mutual_information(clusters, index) == pytest.approx(1.0)
  np.testing.assert_array_equal(found.nearest(x[:3] + 1e-3), clusters[:3])


def test_clusters_that_overlap_have_the_inertia_of_scikit_learn_and_are_an_optimum_of_it():
  x, _ = blobs(500, 8, 2.0, seed=1)
  found = metrics.kmeans(x, 8, seed=3)
  theirs = KMeans(8, n_init=30, random_state=0).fit(x)
  assert theirs.inertia_ * 0.999 < found.inertia < theirs.inertia_ * 1.02
  on = KMeans(8, n_init=1, init=found.centres.astype(np.float64), tol=0).fit(x)
  assert on.inertia_ == pytest.approx(found.inertia, rel=1e-4) and on.n_iter_ <= 2
  np.testing.assert_array_equal(on.labels_, found.nearest(x))


def test_the_best_of_the_starts_is_kept_and_a_seed_repeats():
  x, _ = blobs(300, 9, 1.0, seed=2)
  one = [metrics.kmeans(x, 9, seed=seed, restarts=1).inertia for seed in range(6)]
  assert len({round(value, 3) for value in one}) > 1
  both = [metrics.kmeans(x, 9, seed=5) for _ in range(2)]
  np.testing.assert_array_equal(both[0].centres, both[1].centres)
  assert (
    both[0].inertia <= min(one) * 1.02 and both[0].inertia <= metrics.kmeans(x, 9, seed=5, restarts=1).inertia
  )


def test_an_iteration_limit_is_told(monkeypatch):
  x, _ = blobs(300, 9, 2.0, seed=2)
  monkeypatch.setattr(clustering, "MOST_ITERATIONS", 1)
  clustering._iterated.clear_cache()
  found = metrics.kmeans(x, 9, restarts=1)
  clustering._iterated.clear_cache()
  assert not found.converged and found.iterations == 1


def test_a_centre_without_examples_stays():
  x = np.array([[0.0], [1.0], [10.0]], np.float32)
  centres = np.array([[0.0], [10.0], [500.0]], np.float32)
  found, assigned, _, moved = clustering._iterated(x, centres)
  np.testing.assert_allclose(found, [[0.5], [10.0], [500.0]])
  assert np.asarray(assigned).tolist() == [0, 0, 1] and not moved


def test_accuracy_is_that_of_the_best_permutation():
  random = np.random.default_rng(4)
  for k in (2, 3, 4):
    clusters, labels = random.integers(k, size=(2, 30))
    right = max(np.mean(np.array(order)[clusters] == labels) for order in itertools.permutations(range(k)))
    assert metrics.clustering_accuracy(clusters + 5, labels - 9) == pytest.approx(right)
  # more clusters than labels: two of the four have none
  assert metrics.clustering_accuracy([0, 1, 2, 3], [0, 0, 1, 1]) == 0.5
  assert metrics.clustering_accuracy([0, 0, 0, 0], [0, 1, 2, 3]) == 0.25


def test_nmi_is_that_of_scikit_learn():
  random = np.random.default_rng(5)
  for n, a, b in ((50, 3, 5), (200, 10, 10), (12, 2, 6)):
    clusters, labels = random.integers(a, size=n), random.integers(b, size=n)
    labels = np.where(random.uniform(size=n) < 0.5, clusters, labels)
    expected = normalized_mutual_info_score(labels, clusters)
    assert metrics.normalized_mutual_information(clusters, labels) == pytest.approx(expected, abs=1e-12)
  same = np.zeros(4, int)
  assert metrics.normalized_mutual_information(same, same) == normalized_mutual_info_score(same, same) == 1.0
  assert metrics.normalized_mutual_information(same, np.arange(4)) == 0.0


def test_what_is_refused():
  x = np.arange(12.0).reshape(6, 2)
  with pytest.raises(UserError, match="6 examples are fewer than the 7 clusters"):
    metrics.kmeans(x, 7)
  with pytest.raises(
    UserError, match="the latents of 6 examples have 2 different values, fewer than 3 clusters"
  ):
    metrics.kmeans(np.repeat(x[:2], 3, axis=0), 3, what="latents")
  with pytest.raises(UserError, match="the latents of 1 of 6 examples are not finite"):
    metrics.kmeans(np.where(x == 5, np.nan, x), 2, what="latents")
  for features, k, restarts in ((x[:, 0], 2, 1), (x, 0, 1), (x, 2, 0), (x[:0], 1, 1)):
    with pytest.raises(ValueError, match="features"):
      metrics.kmeans(features, k, restarts=restarts)
  for function in (metrics.clustering_accuracy, metrics.normalized_mutual_information):
    for clusters, labels in (([0, 1], [0]), ([], []), ([[0]], [[0]])):
      with pytest.raises(ValueError, match=r"clusters .* and labels"):
        function(clusters, labels)
