"""Flows of a posterior: inverses, log-determinants against autodiff, and which latent sees which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vae_jax.models.iaf import IAF, MADE
from vae_jax.priors.real_nvp import RealNVP

UNITS, CONTEXT, ROWS = 4, 3, 4
NOISE = jax.random.normal(jax.random.key(0), (ROWS, UNITS))
H = jax.random.normal(jax.random.key(1), (ROWS, CONTEXT))


def filled(module, scale, *args, method=None):
  """Variables of the module's shapes with normal values: a fresh flow is close to the identity."""
  tree = jax.eval_shape(lambda key: module.init(key, *args, method=method), jax.random.key(0))
  leaves, tree = jax.tree.flatten(tree)
  random = np.random.default_rng(1)
  return jax.tree.unflatten(
    tree, [jnp.asarray(scale * random.normal(size=x.shape), jnp.float32) for x in leaves]
  )


@pytest.fixture(scope="module", params=["iaf", "real_nvp"])
def flow(request):
  module = {"iaf": IAF, "real_nvp": RealNVP}[request.param](UNITS, 3, 8)
  return module, filled(module, 0.5, NOISE, H, method="forward")


def test_forward_and_inverse_undo_one_another(flow):
  module, variables = flow
  z, log_det = module.apply(variables, NOISE, H, method="forward")
  back, inverse = jax.jit(lambda z: module.apply(variables, z, H, method="inverse"))(z)
  assert np.abs(z - NOISE).max() > 0.3
  np.testing.assert_allclose(back, NOISE, atol=1e-5)
  np.testing.assert_allclose(inverse, -log_det, atol=1e-5)
  again, _ = module.apply(variables, back, H, method="forward")
  np.testing.assert_allclose(again, z, atol=1e-5)


def test_log_determinants_are_those_of_the_jacobian(flow):
  module, variables = flow
  one = lambda x, h: module.apply(variables, x[None], h[None], method="forward")[0][0]  # noqa: E731
  jacobians = np.float64(jax.jit(jax.vmap(jax.jacfwd(one)))(NOISE, H))
  z, log_det = module.apply(variables, NOISE, H, method="forward")
  # The order of the latents changes between layers.
  for side in (np.triu(jacobians, 1), np.tril(jacobians, -1)):
    assert np.abs(side).max() > 1e-3
  expected = np.linalg.slogdet(jacobians)[1]
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-4)
  density = jax.jit(lambda z: module.apply(variables, z, H, method="log_prob"))(z)
  np.testing.assert_allclose(
    density, multivariate_normal(np.zeros(UNITS)).logpdf(NOISE) - expected, rtol=1e-4
  )


def test_a_row_sees_its_own_context_alone(flow):
  module, variables = flow
  z, _ = module.apply(variables, NOISE, H, method="forward")
  other, _ = module.apply(variables, NOISE, H.at[1].add(1.0), method="forward")
  assert (np.abs(other - z).max(axis=1) > 1e-3).tolist() == [False, True, False, False]


@pytest.mark.parametrize("units", [1, UNITS])
def test_a_latent_sees_those_before_it_and_the_context(units):
  """By the Jacobians of gates and shifts: strictly lower triangular, and full in the context."""
  made = MADE(units, 7)
  z, h = NOISE[:1, :units], H[:1]
  variables = filled(made, 1.0, z, h)
  for part in (0, 1):
    to_z, to_h = jax.jacrev(lambda z, h, part=part: made.apply(variables, z, h)[part][0], (0, 1))(z, h)
    seen = np.abs(to_z[:, 0]) > 1e-9
    np.testing.assert_array_equal(seen, np.tril(np.ones((units, units), bool), -1))
    assert (np.abs(to_h[:, 0]) > 1e-9).all()


def test_a_fresh_flow_keeps_most_of_each_latent():
  module = IAF(UNITS, 1, 8)
  variables = module.init(jax.random.key(0), NOISE, H)
  z, log_det = module.apply(variables, NOISE, H)
  gate = 1 / (1 + np.exp(-2.0))
  np.testing.assert_allclose(z, gate * NOISE, rtol=1e-5)
  np.testing.assert_allclose(log_det, np.full(ROWS, UNITS * np.log(gate)), rtol=1e-5)
