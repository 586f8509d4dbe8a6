import sys

import jax
import pytest


@pytest.fixture(scope="module")
def compiled_quickly():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def no_packages(monkeypatch):
  """Neither BM3D nor scikit-image: quick, and the same on every machine."""
  monkeypatch.setitem(sys.modules, "bm3d", None)
  monkeypatch.setitem(sys.modules, "skimage.restoration", None)
