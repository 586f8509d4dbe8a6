"""What the tests of models, steps and objectives share: calls of a model by the contract, and cheap variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.models.contract import Mode, init_variables

KEY = jax.random.key(0)


def mode(samples=1, step=0, **others):
  return Mode(jnp.asarray(step, jnp.int32), KEY, samples=samples, **others)


def batch_of(image, degraded=None):
  """A prepared batch of images and, where there are some, what the encoder sees of them."""
  return {"image": image} if degraded is None else {"image": image, "degraded": degraded}


def score(model, params, image, keys, degraded=None, samples=1):
  """The output of a model of which `params` are all the variables."""
  return model.apply({"params": params}, batch_of(image, degraded), keys, mode(samples))


def shapes(model, spec):
  """The shapes of a model's parameters."""
  return jax.eval_shape(functools.partial(init_variables, model, spec), jax.random.key(0))["params"]


def filled(model, spec, scale=0.3):
  """Parameters of the model's shapes with normal values: initialisers take long to compile."""
  leaves, tree = jax.tree.flatten(shapes(model, spec))
  random = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [(scale * random.normal(size=x.shape)).astype(x.dtype) for x in leaves])
