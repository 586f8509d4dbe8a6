"""The training step: written once, for one global batch. Wrappers in `parallel` place it on devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int

from vae_jax.data.prepare import Prepare
from vae_jax.models.blocks import in_loop
from vae_jax.models.contract import Family, Mode, Output
from vae_jax.models.opponent import Opponent, OpponentState
from vae_jax.objectives import Objective
from vae_jax.training import opponents as facing
from vae_jax.training.state import TrainState
from vae_jax.types import NO_FROZEN, Array, ArrayLike, Batch, Frozen, Key, Params, Variables

Metrics = dict[str, Array]
Step = Callable[..., tuple[TrainState, Metrics]]

PREPARE_STREAM, MODEL_STREAM, STEP_STREAM = 0, 1, 2


class Descent(NamedTuple):
  """What a pass through the model gives: means over examples, so that devices and parts of a batch are averaged.

  moves: 0 for an opponent, or a part of the model's parameters, that a guard holds, else 1; the others always move.
  """

  loss: Array
  parts: Metrics
  statistics: Any
  grads: Params
  opponent_grads: dict[str, Params]
  moves: dict[str, Array] = {}  # noqa: RUF012  (never changed)


def example_keys(key: Key, stream: int, ids: Int[Array, " b"]) -> Key:
  """One key per example: what is drawn for it depends on `key`, the stream and its id, not on its neighbours."""
  key = jax.random.fold_in(key, stream)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def update_if(condition: Array, new: Callable[[], Any], old: Any) -> Any:
  """new() where the condition holds, else old.

  A branch on CPUs, where it also keeps XLA from fusing gradients into the update (measured on an MLP: 1.4 times the
  steps a second); a selection elsewhere, because a branch makes a GPU wait for the host.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.cond(condition, new, lambda: old)
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new(), old)


def in_parts(descend: Callable[[Batch, Key], Descent], batch: Batch, keys: Key, accumulate: int) -> Descent:
  """The mean of `descend` over parts of the batch, one after the other.

  Part i has every accumulate-th example, so that each has an equal share of every device's.
  """
  parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), (dict(batch), keys))

  def add(total: Descent, part: tuple[Batch, Key]) -> tuple[Descent, None]:
    return jax.tree.map(jnp.add, total, descend(*part)), None

  one = jax.eval_shape(lambda part: descend(*part), jax.tree.map(lambda x: x[0], parts))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
  with in_loop():
    total, _ = jax.lax.scan(add, zero, parts)
  return jax.tree.map(lambda x: x / accumulate, total)


def make_descent(
  model: Family, objective: Objective, opponents: dict[str, Opponent], samples: int, axis_name: str | None
) -> Callable[..., Descent]:
  """`descend(state, batch, keys, key, frozen, batch_size)`: a prepared batch through the model and back.

  The batch may be a part of one of `batch_size` examples. There is one key per example, and one of the step.
  """

  def mean(tree: Any) -> Any:
    """Over the devices, which all have equally many examples."""
    return jax.lax.pmean(tree, axis_name) if axis_name else tree

  def whole(x: Array) -> Array:
    return jax.lax.all_gather(x, axis_name, tiled=True) if axis_name else x

  def descend(
    state: TrainState, batch: Batch, keys: Key, key: Key, frozen: Frozen, batch_size: int
  ) -> Descent:
    mode = Mode(state.step, key, True, samples, batch_size, path=objective.path, apart=objective.apart)

    def forward(params: Params) -> Any:
      return model.apply({"params": params, **state.rest}, batch, keys, mode)

    def score(output: Output) -> tuple[Array, tuple[Metrics, Any]]:
      loss, parts = objective(output, batch, state.step, frozen)
      loss, parts = loss.mean(), {name: part.mean() for name, part in parts.items()}
      if objective.whole:
        more, scalars = objective.over_batch(output, key, state.step, whole)
        loss, parts = loss + more, parts | scalars
      return loss, (parts, output.statistics)

    if opponents:
      kernel = model.last_kernel
      loss, parts, statistics, grads, moves, opponent_grads = facing.gradients(
        opponents, state.opponents, forward, score, state.params, batch, key, state.step, kernel, mean, whole
      )
      return Descent(loss, parts, statistics, grads, opponent_grads, moves)
    both = jax.value_and_grad(lambda params: score(forward(params)), has_aux=True)
    (loss, (parts, statistics)), grads = both(state.params)
    return Descent(loss, parts, statistics, grads, {})

  return descend


def make_update(
  model: Family,
  tx: optax.GradientTransformation,
  opponents: dict[str, Opponent],
  ema_decay: float,
) -> Callable[[TrainState, Descent, Array], TrainState]:
  """`update(state, descent, rate)`: the state after an accepted step, its counters apart."""

  def update(state: TrainState, descent: Descent, rate: Array) -> TrainState:
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))  # a young average follows faster
    direction, opt_state = tx.update(descent.grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    params, opt_state = _held((params, opt_state), (state.params, state.opt_state), descent.moves)
    rest: Variables = state.rest
    if jax.tree.leaves(descent.statistics):
      rest = model.absorb({"params": params, **state.rest}, descent.statistics)
      params, rest = rest["params"], {name: x for name, x in rest.items() if name != "params"}
    ema = state.ema
    if ema is not None:
      ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)
    moved: dict[str, OpponentState] = {
      name: opponent.update(state.opponents[name], descent.opponent_grads[name])
      for name, opponent in opponents.items()
    }
    moved = _held(moved, state.opponents, descent.moves)
    return state.replace(params=params, rest=rest, ema=ema, opt_state=opt_state, opponents=moved)  # type: ignore[attr-defined]

  return update


def _held(new: Any, old: Any, moves: dict[str, Array]) -> Any:
  """`new`, but the arrays of `old` below every name that does not move; an optimiser's arrays have the same names."""

  def chosen(path: Any, new: Array, old: Array) -> Array:
    for name, move in moves.items():
      if any(getattr(part, "key", None) == name for part in path):
        return jnp.where(move > 0.5, new, old)
    return new

  return jax.tree_util.tree_map_with_path(chosen, new, old)


def make_train_step(
  model: Family,
  objective: Objective,
  prepare: Prepare,
  tx: optax.GradientTransformation,
  learning_rate: Callable[[ArrayLike], Array],
  *,
  ema_decay: float,
  root: Key,
  samples: int = 1,
  opponents: dict[str, Opponent] | None = None,
  accumulate: int = 1,
  axis_name: str | None = None,
) -> Step:
  """`train_step(state, batch, frozen={}) -> (state, metrics)`, pure. The batch is uint8 as from the pipeline.

  Loss and gradients are means over the batch, which goes through the model in `accumulate` parts, one after the other.
  With an axis_name (pmap) the batch is this device's part of the global one, and means are over all parts. A step whose
  loss, gradient norm or statistics are not finite changes nothing but `step` and the counters. metrics: float32
  scalars: loss, the objective's parts, gradient_norm, learning_rate, skipped. Opponents are trained in the same step,
  and skipped with the model.
  """
  opponents = opponents or {}
  descend = make_descent(model, objective, opponents, samples, axis_name)
  update = make_update(model, tx, opponents, ema_decay)

  def train_step(state: TrainState, batch: Batch, frozen: Frozen = NO_FROZEN) -> tuple[TrainState, Metrics]:
    key, count = jax.random.fold_in(root, state.step), batch["image"].shape[0]
    first = jax.lax.axis_index(axis_name) * count if axis_name else 0
    places = first + jnp.arange(count)  # in the global batch
    batch = {**prepare(example_keys(key, PREPARE_STREAM, places), batch, frozen), "place": places}
    keys, step_key = example_keys(key, MODEL_STREAM, places), jax.random.fold_in(key, STEP_STREAM)

    devices = jax.lax.axis_size(axis_name) if axis_name else 1

    def one(batch: Batch, keys: Key) -> Descent:
      return descend(state, batch, keys, step_key, frozen, count * devices)

    descent = in_parts(one, batch, keys, accumulate) if accumulate > 1 else one(batch, keys)
    descent = jax.lax.pmean(descent, axis_name) if axis_name else descent
    # Keeps XLA from fusing gradients and update into one another: 6 % of an MLP's step on CPUs.
    loss, *moved = jax.lax.optimization_barrier(
      (descent.loss, descent.grads, descent.opponent_grads, descent.statistics)
    )
    descent = descent._replace(loss=loss, grads=moved[0], opponent_grads=moved[1], statistics=moved[2])
    norm = optax.tree.norm(descent.grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(descent.opponent_grads))
    finite &= jnp.isfinite(optax.tree.norm(descent.statistics))

    rate = learning_rate(state.step)
    bad = jnp.where(finite, 0, 1)
    state = update_if(finite, lambda: update(state, descent, rate), state)
    state = state.replace(  # type: ignore[attr-defined]
      step=state.step + 1,
      skipped=state.skipped + bad,
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    parts = {**descent.parts, "gradient_norm": norm, "learning_rate": rate, "skipped": state.skipped}
    return state, {"loss": loss} | {name: jnp.asarray(value, jnp.float32) for name, value in parts.items()}

  return train_step


def make_train_call(train_step: Step) -> Step:
  """Many steps in one dispatch: `call(state, stored, batches, frozen={})` scans over axis 0 of `batches`.

  stored: the whole split on the device ("image" [n, h, w, c], ...), from which each step gathers its batch by
  `batches["index"]` [steps, b]; or an empty dict, where `batches` holds the images themselves [steps, b, h, w, c].
  metrics have a leading axis of steps.
  """

  def call(
    state: TrainState, stored: Batch, batches: Batch, frozen: Frozen = NO_FROZEN
  ) -> tuple[TrainState, Metrics]:
    def body(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
      gathered: Any = jax.tree.map(lambda values: values[batch["index"]], stored)
      return train_step(state, {**gathered, **batch}, frozen)

    with in_loop():
      return jax.lax.scan(body, state, batches)

  return call
