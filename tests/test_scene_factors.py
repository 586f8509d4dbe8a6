"""benchmarks/scene_factors.py: what its classifier is trained on and gives, its file, and the score."""

import numpy as np
import pytest
import scripts

from vae_jax.data import scenes


@pytest.fixture(scope="module")
def benchmark():
  return scripts.script("benchmarks/scene_factors")


def test_scenes_of_the_classifier_have_all_pairs_and_are_in_no_split(benchmark):
  pictures, found = benchmark.rendered(400, 0)
  assert pictures.shape == (400, 32, 32, 3) and pictures.dtype == np.uint8 and found.shape == (400, 9)
  assert (found.min(axis=0) == [1, 1, 1, 1, 0, 0, 0, 0, 0]).all()
  assert (found.max(axis=0) == np.array(benchmark.SIZES) - 1).all()
  pairs = {(scenes.COLOURS[row[2] - 1], scenes.SHAPES[row[3] - 1]) for row in found.tolist()}
  assert pairs > set(scenes.HELD_OUT)
  known = {
    scenes.render(e.scene, 32, e.seed).tobytes() for e in (scenes.example("train", i) for i in range(400))
  }
  assert not known & {picture.tobytes() for picture in pictures}


def test_a_picture_counts_if_all_of_it_is_found(benchmark):
  wanted = np.arange(36).reshape(4, 9)
  found = wanted.copy()
  found[1, 2] = -1
  found[2, [2, 8]] = -1
  figures = benchmark.score(found, wanted)
  assert figures["share"] == 0.5 and figures["pictures"] == 4
  np.testing.assert_allclose(figures["interval_95"], [0.15, 0.85], atol=0.01)  # Wilson's of 2 of 4
  assert figures["by_factor"]["colour"] == 0.5 and figures["by_factor"]["shape_2"] == 0.75
  assert figures["by_factor"]["count"] == 1.0


def test_the_classifier_is_trained_once(benchmark, tmp_path):
  find, facts = benchmark.classifier(tmp_path / "some.npz", 2, 8, 4)
  again, same = benchmark.classifier(tmp_path / "some.npz", 2, 8, 4)
  pictures = benchmark.rendered(3, 1)[0].astype(np.float32) / 255
  first = find(pictures)
  assert facts == same and facts["steps"] == 2
  assert first.shape == (3, 9) and (first >= 0).all() and (first < benchmark.SIZES).all()
  np.testing.assert_array_equal(first, again(pictures))
