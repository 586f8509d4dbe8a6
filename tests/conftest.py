"""Strict arithmetic for every test: no silent broadcasting of ranks, eight CPU devices for the multi-device tests."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def key():
  return jax.random.key(0)
