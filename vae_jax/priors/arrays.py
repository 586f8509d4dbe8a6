"""Fitted priors as named arrays, for files, and back. Names and shapes from a file are compared before use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vae_jax.generator import new_key
from vae_jax.priors.base import Prior
from vae_jax.priors.flow import FlowPrior
from vae_jax.priors.gaussian import GaussianPrior
from vae_jax.priors.mixture import MixturePrior
from vae_jax.priors.real_nvp import RealNVP, init_real_nvp

FLOW = "flow/"  # before the names of a flow's parameters


def to_arrays(prior: Prior) -> dict[str, np.ndarray]:
  """The numbers of a prior by name, float32 on the host."""
  if isinstance(prior, FlowPrior):
    found = {FLOW + name: x for name, x in flatten_dict(prior.params, sep="/").items()}
    found |= vars(prior.gaussian)
  else:
    found = dict(vars(prior))
  return {name: np.array(x, np.float32, order="C") for name, x in found.items()}


def from_arrays(kind: str, given: Mapping[str, Any], units: int) -> Prior:
  """The prior of such numbers. Raises ValueError where they are none of this kind over `units` latents."""
  for name, x in given.items():
    if not np.isfinite(x).all():
      raise ValueError(f"{name[:80]!r} has values that are not finite")
  if kind == "gaussian":
    _check_shapes(given, {"mean": (units,), "cholesky": (units, units)})
    return GaussianPrior(jnp.asarray(given["mean"]), _factors(given["cholesky"]))
  if kind == "mixture":
    k = np.size(given.get("log_weights", ()))
    _check_shapes(given, {"log_weights": (k,), "means": (k, units), "choleskys": (k, units, units)})
    total = np.exp(np.asarray(given["log_weights"], np.float64)).sum()
    if not abs(total - 1) < 1e-3:
      raise ValueError(f"weights with the sum {total:g}")
    factors = _factors(given["choleskys"])
    return MixturePrior(jnp.asarray(given["log_weights"]), jnp.asarray(given["means"]), factors)
  if kind != "flow":
    raise ValueError(f"{str(kind)[:80]!r} is no kind of prior")
  return _flow(given, units)


def _flow(given: Mapping[str, Any], units: int) -> FlowPrior:
  """The numbers of layers and of hidden units are those of the arrays, so that no memory is taken for others."""
  layers = sum(name.endswith("/out/kernel") for name in given)
  hidden = np.shape(given.get(f"{FLOW}coupling_0/hidden_0/bias", ()))
  if not layers or len(hidden) != 1 or not hidden[0]:
    raise ValueError("there are no coupling layers")
  module = RealNVP(units, layers, hidden[0])
  wanted = flatten_dict(jax.eval_shape(lambda key: init_real_nvp(module, key), new_key(0)), sep="/")
  shapes = {FLOW + name: x.shape for name, x in wanted.items()}
  _check_shapes(given, {"mean": (units,), "cholesky": (units, units), **shapes})
  params = {name.removeprefix(FLOW): jnp.asarray(x) for name, x in given.items() if name.startswith(FLOW)}
  gaussian = GaussianPrior(jnp.asarray(given["mean"]), _factors(given["cholesky"]))
  return FlowPrior(gaussian, unflatten_dict(params, sep="/"), layers, hidden[0])


def _check_shapes(given: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
  for name in sorted(given.keys() | wanted.keys()):
    has = f"{given[name].dtype}{list(given[name].shape)}" if name in given else "nothing"
    needs = f"float32{list(wanted[name])}" if name in wanted else "nothing"
    if has != needs:
      raise ValueError(f"{name[:80]!r} is {has}, not {needs}")


def _factors(x: Any) -> jax.Array:
  """Cholesky factors [..., d, d]. Raises ValueError where they are not lower triangular with a positive diagonal."""
  diagonal = np.diagonal(x, axis1=-2, axis2=-1)
  if np.triu(x, 1).any() or not (diagonal > 0).all():
    raise ValueError("a factor of a covariance is not lower triangular with a diagonal above 0")
  return jnp.asarray(x)
