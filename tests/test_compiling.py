"""The options, and where programs may be called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import compiling


@pytest.fixture
def fresh():
  compiling._are_known.cache_clear()
  yield
  compiling._are_known.cache_clear()


def test_options_are_for_cpus_alone(monkeypatch):
  assert compiling.options()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert compiling.options() is None


def test_a_version_that_does_not_know_an_option_gets_none(monkeypatch, fresh):
  monkeypatch.setattr(compiling, "_OPTIONS", {"xla_of_another_version": "1"})
  assert compiling.options() is None
  np.testing.assert_array_equal(compiling.jit(lambda x: 2 * x)(jnp.ones(3)), 2)


def test_convolutions_are_xlas_own():
  def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

  x, kernel = jnp.ones((2, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
  program = jax.jit(conv, compiler_options=compiling.options()).lower(x, kernel).compile().as_text()
  assert "convolution(" in program and "ynn_fusion" not in program


def test_jit_is_called_alone_and_within_other_programs():
  double = compiling.jit(lambda x, y: 2 * x + y)
  x, y = jnp.arange(3.0), 1.0
  np.testing.assert_array_equal(double(x, y), [1, 3, 5])
  np.testing.assert_array_equal(jax.jit(double)(x, y), [1, 3, 5])
  np.testing.assert_array_equal(jax.jit(lambda: double(x, y))(), [1, 3, 5])
  np.testing.assert_array_equal(jax.vmap(double, (0, None))(x, y), [1, 3, 5])
  np.testing.assert_array_equal(jax.grad(lambda x: double(x, y).sum())(x), [2, 2, 2])
