"""Variational autoencoders for images in JAX. Importing the package imports nothing else, not even jax.

import vae_jax
config = vae_jax.config("mnist_vae")               # or vae_jax.base_config("conv_vae"), to begin from defaults
model = vae_jax.train(config, "runs/mnist_vae")    # trains, or continues the run that is there
scores = vae_jax.evaluate(model)                   # of the test split
model = vae_jax.load("runs/mnist_vae")             # a trained run, or a pretrained model: vae_jax.load("superres_x2")
images = model.sample(0, 16)                       # see vae_jax.inference

from vae_jax import losses, metrics                # pure functions of arrays; need jax only
from vae_jax import perceptual                     # frozen feature networks, LPIPS
from vae_jax import priors                         # densities fitted to latents
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # all of these are imported at their first use
  from vae_jax import distributions, errors, inference, losses, metrics, models, perceptual, priors
  from vae_jax.api import choose_model, config, evaluate, train
  from vae_jax.configuration import base_config
  from vae_jax.inference import load

__version__ = "0.1.0"

__all__ = [
  "__version__",
  "base_config",
  "choose_model",
  "config",
  "distributions",
  "errors",
  "evaluate",
  "inference",
  "load",
  "losses",
  "metrics",
  "models",
  "perceptual",
  "priors",
  "train",
]

_FUNCTIONS = {
  "base_config": "configuration",
  "choose_model": "api",
  "config": "api",
  "evaluate": "api",
  "load": "inference",
  "train": "api",
}
# What other libraries call it: name -> what to use here.
_ELSEWHERE = {
  "VAE": "vae_jax.load(...) for a trained model, vae_jax.train(...) for a new one",
  "TrainedVAE": "vae_jax.inference.TrainedVAE",
  "load_model": "vae_jax.load",
  "from_pretrained": "vae_jax.load",
  "restore": "vae_jax.load(...).restore",
  "sample": "vae_jax.load(...).sample",
  "fit": "vae_jax.train",
  "score": "vae_jax.evaluate",
  "export": "vae_jax.inference.export",
  "get_config": "vae_jax.config",
  "load_config": "vae_jax.config",
}


def __getattr__(name: str) -> Any:
  """Imports a part of the package, or a function of the front door, at its first use."""
  if name in _FUNCTIONS:
    return getattr(importlib.import_module(f"vae_jax.{_FUNCTIONS[name]}"), name)
  if name in __all__:
    return importlib.import_module(f"vae_jax.{name}")
  from vae_jax.errors import missing

  raise missing("vae_jax", name, _ELSEWHERE)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
