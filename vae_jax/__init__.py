"""Variational autoencoders for images in JAX. Importing the package imports nothing else, not even jax.

import vae_jax
model = vae_jax.load("runs/mnist_vae")    # a trained run: see vae_jax.inference
from vae_jax import losses, metrics       # pure functions over arrays; need jax only
from vae_jax import perceptual            # frozen feature networks, LPIPS
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
  "__version__",
  "distributions",
  "errors",
  "inference",
  "load",
  "losses",
  "metrics",
  "models",
  "perceptual",
]


def __getattr__(name: str) -> Any:
  """Imports a part of the package at its first use; `load` is `inference.load`."""
  if name == "load":
    return importlib.import_module("vae_jax.inference").load
  if name in __all__:
    return importlib.import_module(f"vae_jax.{name}")
  raise AttributeError(f"module 'vae_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
