"""(model output, step) -> total loss per example and its named parts. The only place where terms are weighted.

All terms are nats per image, summed over pixels and latents; means over pixels never enter. A loss is a mean of
per-example terms, so it does not depend on how a batch is divided over devices or processes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import losses
from vae_jax.types import Array, ArrayLike, VAEOutput

Parts = dict[str, Array]
Objective = Callable[[VAEOutput, ArrayLike], tuple[Array, Parts]]


def beta_at(step: ArrayLike, beta: float, schedule: str, period: int) -> Array:
  """The weight of the rate at a step.

  constant: beta. linear: from 0 to beta over `period` steps (Bowman et al. 2016). cyclical: in each period, from 0
  to beta over its first half, then beta (Fu et al. 2019, R = 0.5).
  """
  step = jnp.asarray(step, jnp.float32)
  if schedule == "constant":
    return jnp.full_like(step, beta)
  if schedule == "linear":
    return beta * jnp.minimum(step / period, 1.0)
  if schedule == "cyclical":
    return beta * jnp.minimum(2.0 * (step % period) / period, 1.0)
  raise ValueError(f"unknown schedule {schedule!r}; known: constant, linear, cyclical")


def _elbo(config: ConfigDict, output: VAEOutput, beta: Array) -> tuple[Array, Parts]:
  distortion = output.distortion.mean(axis=0)
  penalised = losses.free_bits(output.kl_units, config.free_bits)  # 0 bits: the rate itself
  weighted_distortion = config.vae_weight * config.alpha * distortion
  weighted_rate = config.vae_weight * beta * penalised
  parts = {"weighted_distortion": weighted_distortion, "weighted_rate": weighted_rate}
  return weighted_distortion + weighted_rate, parts


def _iwae(config: ConfigDict, output: VAEOutput, beta: Array) -> tuple[Array, Parts]:
  # alpha and beta would turn the importance weights into something that bounds nothing.
  bound = losses.iwae_loss(output.log_weight)
  return config.vae_weight * bound, {"neg_iwae": bound}


OBJECTIVES = {"elbo": _elbo, "iwae": _iwae}


def make_objective(config: ConfigDict) -> Objective:
  """The training objective of `config.objective`.

  elbo: vae_weight * (alpha * distortion + beta(step) * rate), the rate with free bits if asked for. With alpha = beta
  = 1 it is the negative evidence lower bound (Kingma & Welling 2014, eq. 3); beta is that of Higgins et al. 2017;
  vae_weight and alpha are the weights by which perceptual VAEs mix the bound with other terms.
  iwae: the negative importance-weighted bound over the output's samples (Burda et al. 2016, eq. 8).

  Returns (output, step) -> (loss [b], parts: name -> [b]). Parts are logged as they are: `distortion`, `rate` and
  `neg_elbo` raw, terms whose name begins with `weighted_` as they enter the loss.
  """
  terms = OBJECTIVES[config.name]

  def objective(output: VAEOutput, step: ArrayLike) -> tuple[Array, Parts]:
    beta = beta_at(step, config.beta, config.beta_schedule, config.beta_steps)
    loss, parts = terms(config, output, beta)
    distortion, rate = output.distortion.mean(axis=0), output.rate.sum(axis=-1)
    parts |= {"distortion": distortion, "rate": rate, "neg_elbo": distortion + rate}
    parts["beta"] = jnp.full_like(loss, beta)
    return loss, parts

  return objective
