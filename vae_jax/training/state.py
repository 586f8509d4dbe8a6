"""The train state, the optimiser and its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

from vae_jax.models import Model, Shape
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.training.adversarial import Adversarial, DiscriminatorState
from vae_jax.types import Array, ArrayLike, Key, Params


@flax.struct.dataclass
class TrainState:
  """All that a run needs to continue, together with its config.

  step: int32, optimiser steps done, skipped ones included; also the position in the data.
  params: what the optimiser moves.
  ema: moving average of params; None where training.ema_decay is 0.
  opt_state: of the optax transformation.
  skipped: int32, steps skipped because loss or gradients were not finite; skipped_in_a_row: of these, the latest run.
  discriminator: of the adversarial term; None where there is none.
  """

  step: Array
  params: Params
  ema: Params | None
  opt_state: optax.OptState
  skipped: Array
  skipped_in_a_row: Array
  discriminator: DiscriminatorState | None = None

  @property
  def averaged(self) -> Params:
    """What is scored and sampled: the moving average where there is one."""
    return self.params if self.ema is None else self.ema


def _matrices(params: Params) -> Params:
  """How Muon sees each parameter: kernels as matrices (inputs and window, outputs); None for biases and scales."""

  def axes(p: Array) -> optax.contrib.MuonDimensionNumbers | None:
    return optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1) if p.ndim > 1 else None

  return jax.tree.map(axes, params)


def _muon(config: ConfigDict) -> optax.GradientTransformation:
  # A rate of -1, because optax negates it, and the step scales by the learning rate.
  return optax.contrib.muon(-1.0, eps=config.adam_eps, muon_weight_dimension_numbers=_matrices)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Clipping, the optimiser, decoupled weight decay: gradients -> a direction that the step scales by -learning_rate.

  adam: Kingma & Ba 2015. muon: momentum orthogonalised by Newton-Schulz iterations (Jordan et al. 2024) for kernels,
  Adam at the same learning rate for biases and scales. Muon costs a few products of each kernel with itself, so it pays
  at large batches, and wants a learning rate near 0.02.
  """
  transforms = [_muon(config) if config.optimizer == "muon" else optax.scale_by_adam(eps=config.adam_eps)]
  if config.clip_norm > 0:
    transforms.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.weight_decay > 0:
    transforms.append(optax.add_decayed_weights(config.weight_decay))
  return optax.chain(*transforms)


def make_learning_rate(config: ConfigDict) -> Callable[[ArrayLike], Array]:
  """Linear warm-up, then a cosine to `final_learning_rate` times the peak at the last step."""
  warmup = min(config.warmup_steps, max(config.steps - 1, 0))
  return optax.warmup_cosine_decay_schedule(
    init_value=config.learning_rate / max(warmup, 1),
    peak_value=config.learning_rate,
    warmup_steps=warmup,
    decay_steps=max(config.steps, 1),
    end_value=config.learning_rate * config.final_learning_rate,
  )


def init_params(model: Model, shape: Shape, degraded_shape: Shape, key: Key) -> Params:
  """Fresh parameters for clean images of `shape` and encoder inputs of `degraded_shape`, both (h, w, c)."""
  image, degraded = jnp.zeros((1, *shape)), jnp.zeros((1, *degraded_shape))
  return model.init(key, image, jax.random.split(key, 1), degraded)["params"]


def init_state(
  model: Model,
  tx: optax.GradientTransformation,
  shape: Shape,
  degraded_shape: Shape,
  key: Key,
  ema: bool = True,
  adversarial: Adversarial | None = None,
) -> TrainState:
  """The state before the first step, with a moving average or without, with a discriminator or without."""
  params = init_params(model, shape, degraded_shape, key)

  def zero() -> Array:  # a buffer of its own for each counter: the state is donated, and one buffer only once
    return jnp.zeros((), jnp.int32)

  averaged = jax.tree.map(jnp.copy, params) if ema else None
  judge = adversarial.init(shape, jax.random.fold_in(key, 1)) if adversarial else None
  return TrainState(zero(), params, averaged, tx.init(params), zero(), zero(), judge)


def start_from(state: TrainState, checkpoints: Checkpoints) -> TrainState:
  """A fresh state with the (averaged) parameters of another run's newest checkpoint; its optimiser starts anew.

  Raises UserError: no such checkpoint, or one of another model.
  """
  like = jax.eval_shape(lambda: state.params)
  params, _ = checkpoints.restore(like=like, only=("ema", "params"))
  averaged = None if state.ema is None else jax.tree.map(jnp.copy, params)
  return dataclasses.replace(state, params=params, ema=averaged)
