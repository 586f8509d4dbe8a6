"""The peak of a lattice against its closed form, and on pictures without one."""

import numpy as np
import pytest

from vae_jax.errors import UserError
from vae_jax.metrics import lattice_peak


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("period", "rows"), [(4, 0), (4, 1), (2, 1), (3, 1)])
def test_a_pattern_in_noise_has_the_peak_of_its_energy(period, rows):
  """By Parseval: A cos(...) in noise of variance s^2 puts A^2 N / 4 into the 9 bins (A^2 N at the highest frequency,
  where the two frequencies of a cosine are one), each of which has s^2 of noise."""
  size, amplitude = 240, 0.5
  y, x = np.mgrid[:size, :size]
  pattern = amplitude * np.cos(2 * np.pi * (rows * y + x) / period)
  ratio = amplitude**2 * size**2 * (4 if period == 2 else 1) / (4 * 9)
  found = [lattice_peak(pattern + noise(size, size, seed=seed), period) for seed in range(4)]
  # The strongest of three surroundings is somewhat above their mean.
  assert 0.5 * ratio < np.mean(found) < 1.05 * ratio


def test_noise_and_edges_have_no_lattice():
  assert 0.3 < lattice_peak(noise(96, 100, 3), 4) < 3.5
  stripes = np.zeros((96, 96))
  stripes[:, 40:50] = 1  # an edge: strong along one axis
  assert lattice_peak(stripes + 0.01 * noise(96, 96), 4) < 4
  assert lattice_peak(np.full((48, 48), 0.5), 4) == 1
  assert np.isnan(lattice_peak(np.where(noise(48, 48) > 3, np.nan, 1.0), 2))


def test_small_images_are_refused():
  with pytest.raises(UserError, match="at least 48 x 48 pixels"):
    lattice_peak(noise(47, 60), 4)
  with pytest.raises(UserError, match="a period of 2 or more"):
    lattice_peak(noise(47, 60), 1)
