"""Distances of sets of images on a feature network: against scipy and loops, with a protocol that must agree."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.linalg

from vae_jax import metrics, perceptual
from vae_jax.errors import UserError
from vae_jax.metrics import FeatureSet, FeatureStatistics, Protocol
from vae_jax.perceptual import distances

VGG = Protocol("vgg16", "relu4_3", "1b" * 32, "bilinear to 32 x 32", "float [0, 1]", pooling="mean")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
  return perceptual.load("squeezenet", ("relu1", "fire3"), weights="random")


def unweighted(name, layer):
  """A network without weights: enough for its protocol, and quick to make."""
  return perceptual.Extractor({}, perceptual.NETWORKS[name](layers=(layer,)), name, "", "random")


def images(n=5, height=16, width=16, channels=3, seed=0):
  return np.random.default_rng(seed).uniform(size=(n, height, width, channels)).astype(np.float32)


def feature_set(values, protocol=VGG):
  return FeatureSet(protocol).update(values, np.arange(len(values)))


def correlated(n, d, shift=0.0, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift).astype(np.float32)


# Features -----------------------------------------------------------------------------------------------------------


def test_features_are_means_over_the_positions_of_one_layer(network):
  x = images()
  found = perceptual.image_features(network, x, layer="relu1", size=24, batch_size=2)
  larger = jax.image.resize(x, (5, 24, 24, 3), "linear")
  expected = np.asarray(network(larger)["relu1"]).mean((1, 2))
  assert found.features.dtype == np.float32 and found.count == 5
  np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
  assert found.protocol == Protocol(
    "squeezenet", "relu1", "random", "bilinear to 24 x 24", "float [0, 1]", pooling="mean"
  )


def test_features_do_not_depend_on_batches_and_parts(network):
  x = images(7)
  whole = perceptual.image_features(network, x, layer="relu1")
  other = perceptual.image_features(network, x, layer="relu1", batch_size=3)
  np.testing.assert_allclose(other.features, whole.features, rtol=1e-5, atol=1e-6)
  parts = [perceptual.image_features(network, x[i:j], layer="relu1", first=i) for i, j in ((4, 7), (0, 4))]
  np.testing.assert_allclose(parts[0].merge(parts[1]).features, whole.features, rtol=1e-5, atol=1e-6)


def test_grey_is_colour_with_equal_channels(network):
  grey = images(3, channels=1)
  found = perceptual.image_features(network, grey, layer="fire3")
  colour = perceptual.image_features(network, np.repeat(grey, 3, axis=-1), layer="fire3")
  np.testing.assert_allclose(found.features, colour.features, rtol=1e-5, atol=1e-6)
  assert found.protocol == colour.protocol


@pytest.mark.parametrize(
  ("layer", "given", "seen"),
  [
    ("relu4_3", (28, 28), "32 x 32"),
    ("relu5_3", (28, 28), "64 x 64"),
    ("relu2_2", (28, 28), "28 x 28"),
    ("relu4_3", (64, 48), "64 x 48"),
    ("relu4_3", (40, 20), "64 x 32"),
    ("relu4_3", (1, 1), "32 x 32"),
  ],
)
def test_small_images_are_enlarged_to_a_size_that_is_stated(layer, given, seen):
  vgg = unweighted("vgg16", layer)
  protocol = perceptual.feature_protocol(vgg, (*given, 1))
  assert protocol.resize == f"bilinear to {seen}" and protocol.layer == layer


def test_a_layer_that_small_images_do_not_reach():
  alexnet = unweighted("alexnet", "relu5")
  assert perceptual.feature_protocol(alexnet, (28, 28, 1)).resize == "bilinear to 96 x 96"
  with pytest.raises(UserError, match="images of 28 x 28 are too small"):
    perceptual.feature_protocol(alexnet, (28, 28, 1), size=28)


def test_bicubic_stays_in_range_and_is_another_protocol(network):
  edges = (images(3, 8, 8) > 0.5).astype(np.float32)  # a cubic overshoots here
  found = perceptual.image_features(network, edges, layer="relu1", size=(16, 24), resize="bicubic")
  larger = np.clip(jax.image.resize(edges, (3, 16, 24, 3), "cubic"), 0, 1)
  expected = np.asarray(network(larger)["relu1"]).mean((1, 2))
  np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
  assert found.protocol.resize == "bicubic to 16 x 24"
  linear = perceptual.image_features(network, edges, layer="relu1", size=(16, 24))
  with pytest.raises(UserError, match="differ in resize: 'bicubic to 16 x 24' and 'bilinear to 16 x 24'"):
    perceptual.compare(found, linear, subset_size=2)


def test_inception_brings_images_to_its_own_size():
  inception = unweighted("inception_fid", "pool2048")
  protocol = perceptual.feature_protocol(inception, (32, 32, 3))
  assert protocol == Protocol("inception_fid", "pool2048", "random", "bilinear", "float [0, 1]")
  with pytest.raises(UserError, match="size of its own"):
    perceptual.feature_protocol(inception, (32, 32, 3), size=64)


@pytest.mark.parametrize(
  ("given", "options", "words"),
  [
    (images(0), {"layer": "relu1"}, r"images of shape \(0, 16, 16, 3\)"),
    (images()[0], {"layer": "relu1"}, r"images of shape \(16, 16, 3\)"),
    (images(channels=2), {"layer": "relu1"}, "one grey channel"),
    (images() * 255, {"layer": "relu1"}, "values from"),
    (images().astype(np.uint8), {"layer": "relu1"}, "type uint8"),
    (images(), {}, "relu1, fire3; say which one"),
    (images(), {"layer": "fire4"}, "layer 'fire4' is unknown"),
    (images(), {"layer": "relu1", "resize": "nearest"}, "resize 'nearest' is unknown"),
    (images(), {"layer": "relu1", "size": 0}, "size is 0"),
    (images(), {"layer": "relu1", "batch_size": 0}, "batch_size is 0"),
  ],
)
def test_images_that_cannot_be_seen_are_refused(network, given, options, words):
  with pytest.raises(UserError, match=words) as raised:
    perceptual.image_features(network, given, **options)
  assert "\n" not in str(raised.value)


def test_features_are_of_float32():
  half = perceptual.load("squeezenet", ("relu1",), weights="random", dtype="bfloat16")
  with pytest.raises(UserError, match="computes in bfloat16"):
    perceptual.image_features(half, images())


# Distances ----------------------------------------------------------------------------------------------------------


def test_frechet_is_that_of_sqrtm_in_float64():
  a, b = correlated(200, 12), correlated(150, 12, shift=0.5, seed=1)
  found = perceptual.compare(feature_set(a), feature_set(b), subsets=1, subset_size=10)
  x, y = a.astype(np.float64), b.astype(np.float64)
  cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = np.real(scipy.linalg.sqrtm(cov_x @ cov_y))
  expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x + cov_y - 2 * root)
  np.testing.assert_allclose(found["frechet_distance"], expected, rtol=1e-6)


def test_the_kernel_distance_is_that_of_loops():
  a, b = correlated(12, 4), correlated(12, 4, shift=0.3, seed=1)
  found = perceptual.compare(feature_set(a), feature_set(b), subsets=3, subset_size=12)
  x, y = a.astype(np.float64), b.astype(np.float64)

  def k(u, v):
    return (u @ v / 4 + 1) ** 3

  def within(z):
    return np.mean([k(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j])

  expected = within(x) + within(y) - 2 * np.mean([k(u, v) for u, v in itertools.product(x, y)])
  np.testing.assert_allclose(found["kernel_distance"], expected, rtol=1e-9)  # each subset is the whole set
  np.testing.assert_allclose(found["kernel_distance_std"], 0, atol=1e-9)


def test_what_is_reported():
  a, b = correlated(40, 6), correlated(30, 6, seed=1)
  found = perceptual.compare(feature_set(a), feature_set(b), subsets=5, subset_size=20, seed=3)
  kernel = metrics.kernel_distance_subsets(feature_set(a), feature_set(b), subsets=5, size=20, seed=3)
  assert (found["kernel_distance"], found["kernel_distance_std"]) == kernel
  assert found["names"] == {
    "frechet_distance": "frechet_vgg16_relu4_3",
    "kernel_distance": "kernel_vgg16_relu4_3",
    **{name: f"{name}_vgg16_relu4_3" for name in ("precision", "recall", "density", "coverage")},
  }
  assert (found["precision"], found["recall"]) == metrics.precision_recall(feature_set(a), feature_set(b))
  assert (found["density"], found["coverage"]) == metrics.density_coverage(feature_set(a), feature_set(b))
  estimates = metrics.score_intervals(feature_set(a), feature_set(b), seed=3)
  for name in found["names"]:
    low, high = found["intervals"][name]
    assert low <= found[name] <= high
    if name != "kernel_distance":
      assert (low, high) == estimates[name][1:]
  whole = estimates["kernel_distance"]  # of all pairs; that of five subsets varies more
  low, high = found["intervals"]["kernel_distance"]
  expected = np.hypot((whole.high - whole.low) / 2, scipy.stats.t.ppf(0.975, 19) * kernel[1] / 5**0.5)
  np.testing.assert_allclose((low, high), (kernel[0] - expected, kernel[0] + expected), rtol=1e-9)
  assert found["interval"]["level"] == 0.95 and found["interval"]["groups"] == 20
  assert found["interval"]["varied"] == "real and fake images" and found["absent"] == {}
  assert (found["precision_recall_k"], found["density_coverage_k"]) == (3, 5)
  assert (found["n_real"], found["n_fake"], found["dimensions"]) == (40, 30, 6)
  assert found["protocol"] == dataclasses.asdict(VGG) and found["notes"] == []
  assert not any("fid" in key or "kid" in key for key in found)


def test_fewer_images_than_dimensions_are_noted_and_scored():
  found = perceptual.compare(
    feature_set(correlated(8, 12)), feature_set(correlated(20, 12)), subsets=2, subset_size=8
  )
  (note,) = found["notes"]
  assert note.startswith("8 real images are not more than the 12 dimensions") and "rank-deficient" in note
  assert np.isfinite(found["frechet_distance"]) and found["frechet_distance"] > 0


def test_fid_and_kid_are_of_the_true_inception_alone():
  true = dataclasses.replace(VGG, network="inception_fid", layer="pool2048")
  distances = {"frechet_distance": "fid", "kernel_distance": "kid"}
  assert perceptual.score_names(true).items() > distances.items()
  assert perceptual.score_names(true)["precision"] == "precision_inception_fid_pool2048"
  for other in (dataclasses.replace(true, weights="random"), dataclasses.replace(true, layer="pool192")):
    assert perceptual.score_names(other)["frechet_distance"] == f"frechet_inception_fid_{other.layer}"
  sets = feature_set(correlated(9, 3), true), feature_set(correlated(9, 3), true)
  names = perceptual.compare(*sets, subsets=2, subset_size=5)["names"]
  assert (names["frechet_distance"], names["kernel_distance"]) == ("fid", "kernel_inception_fid_pool2048")


def test_too_few_images_are_refused():
  a, b = feature_set(correlated(9, 3)), feature_set(correlated(7, 3))
  with pytest.raises(UserError, match="9 real images are too few for subsets of 1000"):
    perceptual.compare(a, b)
  with pytest.raises(UserError, match="7 fake images are too few for subsets of 8"):
    perceptual.compare(a, b, subset_size=8)
  with pytest.raises(UserError, match="5 subsets of 1 images"):
    perceptual.compare(a, b, subsets=5, subset_size=1)


@pytest.mark.parametrize("entry", [f.name for f in dataclasses.fields(Protocol) if f.compare])
def test_sets_of_other_protocols_are_refused(entry):
  other = feature_set(correlated(9, 3), dataclasses.replace(VGG, **{entry: "another"}))
  with pytest.raises(UserError, match=f"differ in {entry}: .* and 'another'") as raised:
    perceptual.compare(feature_set(correlated(9, 3)), other, subset_size=2)
  assert "\n" not in str(raised.value)


def test_noisier_images_are_farther_away(network):
  clean, rng = images(24, seed=5) * 0.5 + 0.25, np.random.default_rng(1)
  protocols = {"layer": "relu1"}
  real = perceptual.image_features(network, clean[:12], **protocols)
  scores = []
  for noise in (0.0, 0.1, 0.2):
    fake = np.clip(clean[12:] + noise * rng.normal(size=(12, 16, 16, 3)), 0, 1).astype(np.float32)
    features = perceptual.image_features(network, fake, **protocols)
    scores.append(perceptual.compare(real, features, subsets=2, subset_size=12)["frechet_distance"])
  assert scores[0] < scores[1] < scores[2]


# Files --------------------------------------------------------------------------------------------------------------


def test_a_saved_reference_gives_the_same_scores(tmp_path):
  real, fake = feature_set(correlated(50, 6)), feature_set(correlated(30, 6, seed=1))
  path = tmp_path / "new" / "real.npz"
  perceptual.save_reference(path, real)
  options = {"subsets": 5, "subset_size": 20}
  loaded = perceptual.load_reference(path, protocol=VGG)
  expected = perceptual.compare(real, fake, **options)
  found = perceptual.compare(loaded, fake, **options)
  np.testing.assert_allclose(found.pop("frechet_distance"), expected.pop("frechet_distance"), rtol=1e-12)
  intervals = [scores["intervals"].pop("frechet_distance") for scores in (found, expected)]
  np.testing.assert_allclose(*intervals, rtol=1e-9)
  assert found == expected
  np.testing.assert_array_equal(loaded.features.index, np.arange(50))
  statistics = metrics.load_statistics(path)  # also what programs for FID read
  np.testing.assert_allclose(statistics.mean, correlated(50, 6).astype(np.float64).mean(0), rtol=1e-12)


def test_a_reference_may_keep_some_of_the_features(tmp_path):
  real, fake = feature_set(correlated(50, 6)), feature_set(correlated(30, 6, seed=1))
  perceptual.save_reference(tmp_path / "real.npz", real, keep=20)
  loaded = perceptual.load_reference(tmp_path / "real.npz")
  assert loaded.features.count == 20 and loaded.statistics.count == 50
  np.testing.assert_array_equal(loaded.features.features, real.features[loaded.features.index])
  found = perceptual.compare(loaded, fake, subsets=2, subset_size=20)
  whole = perceptual.compare(real, fake, subsets=2, subset_size=20)
  np.testing.assert_allclose(found["frechet_distance"], whole["frechet_distance"], rtol=1e-12)
  assert found["n_real"] == 50 and found["notes"] == [
    "all but the Frechet distance are of 20 of the 50 real images"
  ]
  assert found["interval"]["varied"].endswith("for the Frechet distance fake images only")
  with pytest.raises(UserError, match="20 real images are too few for subsets of 30"):
    perceptual.compare(loaded, fake, subset_size=30)
  with pytest.raises(UserError, match="keep is 1"):
    perceptual.save_reference(tmp_path / "real.npz", real, keep=1)


def test_statistics_without_features_give_the_frechet_distance_and_the_reason_for_the_rest(tmp_path):
  path, fake = tmp_path / "real.npz", feature_set(correlated(30, 6, seed=1))
  metrics.save_statistics(path, FeatureStatistics(VGG).update(correlated(50, 6)))
  reference = perceptual.load_reference(path, protocol=VGG)
  assert reference.features is None
  found = perceptual.compare(reference, fake)
  whole = perceptual.compare(feature_set(correlated(50, 6)), fake, subsets=2, subset_size=20)
  np.testing.assert_allclose(found["frechet_distance"], whole["frechet_distance"], rtol=1e-12)
  low, high = found["intervals"]["frechet_distance"]
  assert low < found["frechet_distance"] < high and found["n_real"] == 50
  missing = ["kernel_distance", "precision", "recall", "density", "coverage"]
  assert list(found["absent"]) == missing and found["kernel_distance_std"] is None
  for name in missing:
    assert found[name] is None and found["intervals"][name] is None
    assert "known by their statistics alone" in found["absent"][name]
  assert found["interval"]["varied"] == "fake images"
  other = dataclasses.replace(VGG, layer="relu3_3")
  with pytest.raises(UserError, match="differ in layer"):
    perceptual.compare(reference, feature_set(correlated(30, 6), other))


def test_too_few_images_for_neighbours_are_said():
  found = perceptual.compare(feature_set(correlated(9, 3)), feature_set(correlated(5, 3)), subset_size=2)
  assert found["precision"] is not None and found["density"] is None and found["intervals"]["density"] is None
  assert found["absent"]["density"] == "it needs 6 images of each set; there are 9 real and 5 fake"
  assert list(found["absent"]) == ["density", "coverage"]


def test_a_reference_of_another_protocol_is_refused(tmp_path):
  path = tmp_path / "real.npz"
  perceptual.save_reference(path, feature_set(correlated(50, 6)))
  other = dataclasses.replace(VGG, layer="relu3_3")
  with pytest.raises(UserError, match=r"real\.npz: features differ in layer: 'relu4_3' and 'relu3_3'"):
    perceptual.load_reference(path, protocol=other)
  with pytest.raises(UserError, match="differ in layer: 'relu4_3' and 'relu3_3'"):
    perceptual.compare(perceptual.load_reference(path), feature_set(correlated(30, 6), other), subset_size=2)


def test_a_reference_that_does_not_fit_together_is_refused(tmp_path):
  path = tmp_path / "real.npz"
  small = FeatureStatistics(VGG).update(correlated(5, 6))
  metrics.save_statistics(path, small, feature_set(correlated(9, 6)))
  with pytest.raises(UserError, match="9 features of 6 dimensions do not belong to statistics of 5"):
    perceptual.load_reference(path)
  with pytest.raises(UserError, match="not finite"):
    perceptual.save_reference(path, feature_set(np.full((3, 2), np.nan, np.float32)))


def test_one_block_or_many_give_the_same_statistics(monkeypatch):
  features = feature_set(correlated(50, 6))
  whole = distances._statistics(features)
  monkeypatch.setattr(distances, "BLOCK", 7)
  parts = distances._statistics(features)
  np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
  np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-10)
