"""Models with normal values in place of a training: initialisers take long to compile."""

import jax
import numpy as np

from vae_jax.inference import TrainedVAE
from vae_jax.models import build
from vae_jax.models.contract import init_variables
from vae_jax.runs import Run
from vae_jax.types import image_spec


def spec_of(shape, input_shape=None):
  """The spec of images of `shape`; of an `input_shape` that is another, degraded ones beside them."""
  return image_spec(shape, None if input_shape in (None, shape) else input_shape)


def shapes(config, spec):
  """The variables' shapes and types."""
  return jax.eval_shape(lambda key: init_variables(build(config.model, spec), spec, key), jax.random.key(0))


def variables(config, spec, seed, scale=1.0):
  """Normal values of that deviation, the same for a seed."""
  leaves, tree = jax.tree.flatten(shapes(config, spec))
  random = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [(scale * random.normal(size=x.shape)).astype(x.dtype) for x in leaves])


def trained(config, spec, seed=0, scale=1.0, step=1):
  """A model that was trained, as it were."""
  return TrainedVAE(Run(config, variables(config, spec, seed, scale), spec, step))
