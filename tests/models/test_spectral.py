"""Spectral normalisation against the singular values and vectors that numpy finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.models import spectral

RANDOM = np.random.default_rng(0)
DENSE, CONV = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((5, 7), (3, 2, 4, 6)))
PARAMS = {
  "dense": {"kernel": DENSE, "bias": np.ones(7, np.float32)},
  "block": {"conv": {"kernel": CONV}, "norm": {"scale": np.full(4, 3.0, np.float32)}},
  "zero": {"kernel": np.zeros((3, 2), np.float32)},
}


@pytest.fixture(scope="module")
def vectors():
  """After 200 power iterations."""
  fresh = jax.jit(spectral.fresh)(PARAMS, jax.random.key(0))
  np.testing.assert_allclose([np.linalg.norm(u) for u in jax.tree.leaves(fresh)], 1, rtol=1e-6)
  move = jax.jit(lambda u: jax.lax.fori_loop(0, 200, lambda _, u: spectral.iterated(PARAMS, u), u))
  moved = jax.device_get(move(fresh))
  np.testing.assert_array_equal(moved["zero"], fresh["zero"])
  return moved


def test_sigma_is_the_2_norm_of_a_matrix_with_a_row_for_each_output(vectors):
  """A kernel [h, w, c, d] has that of the matrix [d, c h w] (Miyato et al. 2018, section 2), in any order."""
  rows = CONV.transpose(3, 2, 0, 1).reshape(6, 24)
  for kernel, u, expected in (
    (DENSE, vectors["dense"], np.linalg.norm(np.float64(DENSE), 2)),
    (CONV, vectors["block"]["conv"], np.linalg.norm(np.float64(rows), 2)),
  ):
    np.testing.assert_allclose(spectral.sigma(kernel, u), expected, rtol=1e-5)
    assert spectral.sigma(kernel, RANDOM.normal(size=u.shape).astype(np.float32)) < expected


def test_kernels_are_divided_by_it_and_nothing_else_is(vectors):
  found = jax.jit(spectral.normalised)(PARAMS, vectors)
  assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
  for kernel, given in ((found["dense"]["kernel"], DENSE), (found["block"]["conv"]["kernel"], CONV)):
    flat = np.float64(given).reshape(-1, given.shape[-1])
    np.testing.assert_allclose(kernel, given / np.linalg.norm(flat, 2), rtol=1e-4)
  np.testing.assert_array_equal(found["zero"]["kernel"], PARAMS["zero"]["kernel"])
  np.testing.assert_array_equal(found["dense"]["bias"], PARAMS["dense"]["bias"])
  np.testing.assert_array_equal(found["block"]["norm"]["scale"], PARAMS["block"]["norm"]["scale"])


def test_the_slope_of_sigma_is_the_product_of_the_singular_vectors(vectors):
  """Miyato et al. 2018, eq. 9; and a kernel of zeros has a finite gradient."""
  left, _, right = np.linalg.svd(np.float64(DENSE.T))
  slope = jax.grad(spectral.sigma)(jnp.asarray(DENSE), vectors["dense"])
  np.testing.assert_allclose(slope, np.outer(left[:, 0], right[0]).T, atol=2e-4)
  total = jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(spectral.normalised(p, vectors))))(PARAMS)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(total))
