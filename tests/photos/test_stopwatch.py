"""Seconds without compilation."""

import pytest
from scored_folders import BICUBIC, enlarge, photo, save

from vae_jax.photos import stopwatch
from vae_jax.photos.score_folder import benchmark

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_time_without_compilation(tmp_path, monkeypatch):
  """The first of a size takes 100 s, all others 1 s on a clock that stands still meanwhile."""
  now, compiled = [0.0], set()
  monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

  def restore(low):
    now[0] += 1 if low.shape in compiled else 100
    compiled.add(low.shape)
    return enlarge(low)

  widths = [24, 24, 26, 28, 30, 30, 32]
  save(tmp_path, {f"{i}.png": photo(24, w) for i, w in enumerate(widths)})
  scores, _ = benchmark(restore, tmp_path, BICUBIC, channels=3)
  # Four are timed when the fourth size comes: it is not restored again.
  rate = 1e6 / (12 * 13)  # of the small images that are timed, 12 x 12, 12 x 12, 12 x 13 and 12 x 15
  expected = {"mean": 1, "median": 1, "images": [1, 1, 1, None, None, 1, None]}
  assert scores["seconds"]["ours"] == expected | {"per_megapixel": pytest.approx((rate + 1e6 / 144) / 2)}
  assert scores["seconds"]["bicubic"]["images"] == [0, 0, 0, None, None, 0, None]
  assert now[0] == 5 * 100 + 2 + 2
  assert "without compilation" in scores["protocol"]["seconds"] and scores["nonfinite"] == []
