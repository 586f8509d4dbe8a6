"""The runs of a loop: one, or several in one program, whose states are stacked along a first axis, that of members.

Members share the opened data, the frozen networks and the compiled functions. They differ in their keys and, where
`training.vmap_values` says so, in one number. Both are arguments of the shared functions, so these compile once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vae_jax import runs
from vae_jax.configuration import member_configs, member_folder, several, to_values, varied, written
from vae_jax.configuration.members import not_variable
from vae_jax.errors import UserError
from vae_jax.storage.checkpoints import Checkpoints
from vae_jax.storage.verification import is_good
from vae_jax.training import assemble, drawing, parallel, state, steps
from vae_jax.training import workdir as workdirs
from vae_jax.training.assemble import Functions, Opened, Parts, Roots
from vae_jax.types import NO_FROZEN, Array, Batch, Frozen


class Variant(NamedTuple):
  """In what a member differs from the others: its keys, and its value of the number that varies (else 0)."""

  roots: Roots
  value: Array


class Team(NamedTuple):
  """The runs of a loop.

  config: as given, filled in. parts, folders: of each run. call, like: the training call of all, and the shapes of its
  state. Where there are several, states have the members on their first axis, metrics on their second. same_batches:
  whether all see the same batches; else batches have the members on their third axis, after steps and examples.
  """

  config: ConfigDict
  workdir: Path
  parts: list[Parts]
  folders: list[Path]
  call: Any
  like: state.TrainState
  same_batches: bool = True

  @property
  def several(self) -> bool:
    return several(self.config)

  def member(self, tree: Any, number: int) -> Any:
    """A member's part of what has the members on its first axis: a state, or a part of one."""
    return _at(tree, number) if self.several else tree


@jax.jit
def _at(tree: Any, number: int) -> Any:
  return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), tree)


def assemble_team(config: ConfigDict, workdir: Path) -> Team:
  """The run of a config, or its members, built and checked before the first step. Raises UserError."""
  if not several(config):
    one = assemble.assemble(config, workdir)
    return Team(config, workdir, [one], [workdir], one.train_call, one.like)
  workdirs.check_together(config, workdir)
  placement, stage = assemble.place(config), runs.open_first_stage(config)
  configs = member_configs(config)
  folders = [member_folder(workdir, number) for number in range(len(configs))]
  checkpoints = [assemble.open_checkpoints(*each) for each in zip(configs, folders, strict=True)]
  opened = assemble.open_data(configs[0], placement, stage, all(c.latest() is None for c in checkpoints))
  keys = [assemble.roots(c.training.seed) for c in configs]
  first = assemble.make_functions(configs[0], opened, keys[0])
  assemble.check_data(configs[0], opened, first.model)
  for other in (config, *configs[1:]):
    other.data.update(configs[0].data)
    runs.fill_texts(other)
  config.training.extended_at = configs[0].training.extended_at
  made = [first, *(assemble.make_functions(c, opened, k) for c, k in zip(configs[1:], keys[1:], strict=True))]

  key = varied(config)[0]
  variants = [Variant(k, _number(c, key)) for k, c in zip(keys, configs, strict=True)]
  of = functools.partial(variant_functions, configs[0], key, opened)
  if key != "training.seed":
    check_varied(config, of, variants, opened)
  like, where = assemble.state_like(first, placement)
  compiled = _compile_shared(of, opened, where)
  parts = [
    assemble.make_parts(c, opened, f, held, like, **compiled(placement.put(variant)))
    for c, f, held, variant in zip(configs, made, checkpoints, variants, strict=True)
  ]
  call = train_together(of, _stacked(variants), key != "training.seed")
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(parts), *x.shape), x.dtype, sharding=x.sharding), like
  )
  call = parallel.compile_train_call(call, placement)
  return Team(config, workdir, parts, folders, call, stacked, key != "training.seed")


def _number(config: ConfigDict, dotted: str) -> Array:
  """The value of the key `dotted` in float32 or int32; 0 of a seed, which is in the keys."""
  value = 0 if dotted == "training.seed" else to_values(config)[dotted]
  return jnp.asarray(value, jnp.float32 if isinstance(value, float) else jnp.int32)


def variant_functions(config: ConfigDict, dotted: str, opened: Opened, variant: Variant) -> Functions:
  """The functions of a member, which differs in the key `dotted`. The variant may be traced."""
  if dotted != "training.seed":
    config = ConfigDict(config.to_dict(), type_safe=False)  # a traced number is of no type of a key
    *sections, name = dotted.split(".")
    functools.reduce(lambda node, section: node[section], sections, config)[name] = variant.value
  return assemble.make_functions(config, opened, variant.roots)


def check_varied(
  config: ConfigDict, of: Callable[[Variant], Functions], variants: Sequence[Variant], opened: Opened
) -> None:
  """Traces all functions of a member. Raises UserError where the value decides over the program, or is not in it."""
  t = config.training
  shown: Any = opened.shown
  batches: Any = {
    name: jax.ShapeDtypeStruct((1, t.batch_size, *x.shape[1:]), x.dtype)
    for name, x in shown.items()
    if name != "mask"
  }

  def trained(variant: Variant) -> Any:
    functions = of(variant)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(functions.init))
    zeros: Any = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batches)
    return functions.train_call(start, {}, zeros, opened.frozen)[0]

  def used(variant: Variant) -> Any:
    functions = of(variant)
    begun = functions.init()
    scores = functions.eval_step(begun.averaged, shown, opened.frozen)
    return trained(variant), scores, functions.draw(begun.averaged, shown, opened.frozen)

  try:
    jax.eval_shape(used, variants[0])
  except UserError:
    raise
  except Exception as error:  # whatever Python does with a number that is none yet: branches, shapes, texts
    raise not_variable(config) from error
  values = jnp.stack([variant.value for variant in variants])
  try:
    alike = jax.vmap(lambda value: trained(variants[0]._replace(value=value)), out_axes=None)
    jax.eval_shape(alike, values)
  except ValueError:  # vmap has no result that is the same for all values
    return
  raise UserError(f"{written(config)}: has no effect on a training step of this config; leave it out")


def _compile_shared(of: Callable[[Variant], Functions], opened: Opened, where: Any) -> Callable[[Any], Any]:
  """`compiled(variant)`: a member's functions by their names in `Parts`, of programs that all members share."""

  def evaluate(given: tuple[Variant, Any], batch: Batch, frozen: Frozen) -> Any:
    return of(given[0]).eval_step(given[1], batch, frozen)

  def draw(given: tuple[Variant, Any], batch: Batch, frozen: Frozen) -> Any:
    return of(given[0]).draw(given[1], batch, frozen)

  init = jax.jit(lambda variant: of(variant).init(), out_shardings=where)
  eval_step = parallel.compile_eval_step(evaluate, opened.placement)
  drawn = drawing.compile_draw(draw, opened.shown, opened.placement)

  def compiled(variant: Any) -> dict[str, Any]:
    return {
      "init": lambda: init(variant),
      "train_call": None,  # that of all is `Team.call`
      "eval_step": lambda variables, batch, frozen: eval_step((variant, variables), batch, frozen),
      "draw": lambda variables, frozen: drawn((variant, variables), frozen),
    }

  return compiled


def over_members(function: Callable[..., Any], *arguments: Any) -> Any:
  """`function` of each member's arguments, which have the members on their first axis, and so has the result.

  vmap, but on CPUs a loop: XLA's matrix products with a batch axis are slower there than those without one.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda own: function(*own), arguments)
  return jax.vmap(function)(*arguments)


def train_together(of: Callable[[Variant], Functions], variants: Variant, same_batches: bool) -> steps.Step:
  """`call(state, stored, batches, frozen={})` of all members, as `steps.make_train_call` of one; see `Team`."""

  def call(
    state: Any, stored: Batch, batches: Batch, frozen: Frozen = NO_FROZEN
  ) -> tuple[Any, steps.Metrics]:
    def one(variant: Variant, state: Any, batches: Batch) -> tuple[Any, steps.Metrics]:
      return of(variant).train_call(state, stored, batches, frozen)

    if same_batches:
      state, metrics = over_members(lambda variant, state: one(variant, state, batches), variants, state)
    else:
      own: Any = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), batches)
      state, metrics = over_members(one, variants, state, own)
    return state, {name: x.T for name, x in metrics.items()}

  return call


def _stacked(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def start(team: Team) -> tuple[state.TrainState, list[Any]]:
  """The state of the newest checkpoint that all members have, or a fresh one; and the steps since the last row."""
  if not team.several:
    return assemble.start(team.parts[0])
  step = common_step(team)
  begun = [assemble.begin(p) if step is None else assemble.resume(p, step) for p in team.parts]
  stacked = _stacked([train_state for train_state, _ in begun])
  stacked = jax.device_put(stacked, jax.tree.map(lambda x: x.sharding, team.like))
  windows = [window[0] for _, window in begun if window]
  if not windows:
    return stacked, []
  lengths = {len(values) for window in windows for values in window.values()}
  if len(windows) < len(begun) or len(lengths) > 1:
    raise UserError(
      f"{team.workdir}: its checkpoints of step {step} are of runs with other training.log_every; go on with each "
      "member alone, or give another --workdir"
    )
  return stacked, [{name: np.stack([w[name] for w in windows], axis=1) for name in windows[0]}]


def common_step(team: Team) -> int | None:
  """The newest step of which all members have a whole checkpoint; None before the first.

  A run that was killed may have saved some members of a step and not the others. Raises UserError where members have
  gone on apart.
  """
  checkpoints: list[Checkpoints] = [parts.checkpoints for parts in team.parts]
  held = [set(c.steps()) for c in checkpoints]
  for step in sorted(set.intersection(*held), reverse=True):
    if damaged := [c.folder for c in checkpoints if not is_good(c.folder / str(step))]:
      logging.getLogger(__name__).warning(f"checkpoint {damaged[0] / str(step)} is damaged; falling back")
      continue
    return step
  if not any(held) or (not all(held) and max(map(len, held)) == 1):  # stopped while the first ones were saved
    return None
  raise UserError(
    f"{team.workdir}: no step has a whole checkpoint of each of its {len(held)} members; go on with each of them alone "
    f"(--workdir {team.folders[0]}), or give another --workdir"
  )
