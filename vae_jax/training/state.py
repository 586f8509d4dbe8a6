"""The train state, the optimiser and its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

from vae_jax.errors import UserError
from vae_jax.models.contract import Family, init_variables
from vae_jax.models.opponent import Opponent, OpponentState
from vae_jax.types import Array, ArrayLike, Key, Params, Spec, Variables


@flax.struct.dataclass
class TrainState:
  """All that a run needs to continue, together with its config.

  step: int32, optimiser steps done, skipped ones included; also the position in the data.
  params: what the optimiser moves.
  rest: the model's other variables (EMA codebooks, running statistics), by collection; {} for none.
  ema: moving average of params; None where training.ema_decay is 0.
  opt_state: of the optax transformation.
  skipped: int32, steps skipped because loss or gradients were not finite; skipped_in_a_row: of these, the latest run.
  opponents: the state of each discriminator, by name; {} for none.
  """

  step: Array
  params: Params
  ema: Params | None
  opt_state: optax.OptState
  skipped: Array
  skipped_in_a_row: Array
  opponents: dict[str, OpponentState] = flax.struct.field(default_factory=dict)
  rest: Variables = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> Variables:
    """What the model is applied with in training."""
    return {"params": self.params, **self.rest}

  @property
  def averaged(self) -> Variables:
    """What is scored and sampled: the moving average where there is one."""
    return {"params": self.params if self.ema is None else self.ema, **self.rest}


ADAMS = ("head", "filters", "means", "logvars", "inputs")


def _matrices(params: Params) -> Params:
  """How Muon sees each parameter: kernels as matrices (inputs and window, outputs); None: Adam's.

  Adam's are biases and scales, and kernels of modules whose name ends in "head", which make the outputs, or "filters",
  which see the image and should stay what they have become. A learned prior's rows are no matrix either: those of a
  mixture, and pseudo-inputs.
  """

  def axes(path: Any, p: Array) -> optax.contrib.MuonDimensionNumbers | None:
    by_adam = any(str(getattr(part, "key", "")).endswith(ADAMS) for part in path)
    matrix = optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)
    return matrix if p.ndim > 1 and not by_adam else None

  return jax.tree_util.tree_map_with_path(axes, params)


def _muon(config: ConfigDict) -> optax.GradientTransformation:
  # A rate of -1, because optax negates it, and the step scales by the learning rate.
  how = {
    "eps": config.adam_eps,
    "weight_decay": config.weight_decay,
    "weight_decay_mask": _kernels if config.decayed == "kernels" else None,
    "adam_learning_rate": -config.adam_rate,
    "muon_weight_dimension_numbers": _matrices,
  }
  return optax.contrib.muon(-1.0, **how)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Clipping, the optimiser, decoupled weight decay: gradients -> a direction that the step scales by -learning_rate.

  adam: Kingma & Ba 2015. muon: momentum orthogonalised by Newton-Schulz iterations (Jordan et al. 2024) for parameters
  of two axes and more; for biases, scales and output layers Adam with Nesterov momentum (NAdam, Dozat 2016), whose rate
  is `training.adam_rate` of the learning rate. Muon costs a few products of each kernel with itself. Its updates have
  one size, whatever the gradient, so weights grow without weight decay (0.1 to 0.3), which reaches its own kernels.

  Weight decay (Loshchilov & Hutter 2019) reaches kernels alone: it would draw a likelihood's sigma towards 1, and
  scales and codes towards 0. `training.decayed` = "all" is the rule of older runs.
  """
  transforms = [_muon(config) if config.optimizer == "muon" else optax.scale_by_adam(eps=config.adam_eps)]
  if config.clip_norm > 0:
    transforms.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.weight_decay > 0 and config.optimizer == "adam":
    transforms.append(
      optax.add_decayed_weights(config.weight_decay, _kernels if config.decayed == "kernels" else None)
    )
  return optax.chain(*transforms)


def _kernels(params: Params) -> Params:
  """Whether each parameter is a layer's kernel."""
  return jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[-1], "key", "") == "kernel", params)


def make_learning_rate(config: ConfigDict) -> Callable[[ArrayLike], Array]:
  """Linear warm-up, then a cosine to `final_learning_rate` times the peak at the last step."""
  warmup, peak = min(config.warmup_steps, max(config.steps - 1, 0)), config.learning_rate
  # As optax.warmup_cosine_decay_schedule, which asks whether the peak is 0, for one that may vary in a program.
  rise = optax.linear_schedule(peak / max(warmup, 1), peak, warmup)
  fall = optax.cosine_decay_schedule(
    peak, max(config.steps, 1) - warmup, peak * config.final_learning_rate / peak
  )
  return optax.join_schedules([rise, fall], [warmup])


def init_state(
  model: Family,
  tx: optax.GradientTransformation,
  spec: Spec,
  key: Key,
  ema: bool = True,
  opponents: dict[str, Opponent] | None = None,
) -> TrainState:
  """The state before the first step, with a moving average or without, with opponents or without."""
  rest = init_variables(model, spec, key)
  params = rest.pop("params")

  def zero() -> Array:  # a buffer of its own for each counter: the state is donated, and one buffer only once
    return jnp.zeros((), jnp.int32)

  averaged = jax.tree.map(jnp.copy, params) if ema else None
  facing = {
    name: opponent.init(model, {"params": params, **rest}, spec, jax.random.fold_in(key, 1 + number))
    for number, (name, opponent) in enumerate((opponents or {}).items())
  }
  return TrainState(zero(), params, averaged, tx.init(params), zero(), zero(), facing, rest)


def start_from(
  model: Family, state: TrainState, variables: Variables, name: str
) -> tuple[TrainState, list[str], list[str]]:
  """Returns a fresh state with another run's (averaged) variables, and the parts that are new and those left out.

  Parts are the modules at the top of the parameters. Parts that only one model has start fresh, or are left out; so
  a network may get a ladder of latents, or another head. Parts that both have must agree in all shapes.

  variables: {"params": ..., **rest} of the other run. name: of it, for messages. Raises UserError: a part of another
  shape, or none in common.
  """
  fresh = {"params": state.params, **state.rest}
  given = {**variables, "params": model.adopt(variables["params"])}
  tree: dict[str, Any] = {}
  new, common = [], 0
  for collection, parts in fresh.items():
    tree[collection] = {}
    for part, mine in parts.items():
      theirs = given.get(collection, {}).get(part)
      if theirs is None:
        new.append(part)
        theirs = mine
      else:
        common += 1
        _check_alike(mine, theirs, f"training.init_from={name}: {part}")
      tree[collection][part] = jax.tree.map(lambda x, y: jnp.asarray(y, x.dtype), mine, theirs)
  if not common:
    raise UserError(f"training.init_from={name}: has no part of this model; name a run of the same family")
  left = [
    part for collection, parts in given.items() for part in parts if part not in fresh.get(collection, {})
  ]
  params = tree.pop("params")
  averaged = None if state.ema is None else jax.tree.map(jnp.copy, params)
  return dataclasses.replace(state, params=params, rest=tree, ema=averaged), new, left


def _check_alike(mine: Any, theirs: Any, name: str) -> None:
  """Raises UserError where two trees of arrays have other names or shapes."""
  a, b = (
    {jax.tree_util.keystr(k): x.shape for k, x in jax.tree_util.tree_leaves_with_path(t)}
    for t in (mine, theirs)
  )
  for key in sorted(a.keys() | b.keys()):
    if a.get(key) != b.get(key):
      raise UserError(
        f"{name}{key} is {list(b[key]) if key in b else 'not there'}, and this model has "
        f"{list(a[key]) if key in a else 'none'}; use the same values of model.*, or train from the start"
      )
