"""Where a step runs: one program over a mesh of all devices, the batch sharded over its "data" axis.

The door for other ways (one wrapper a way) is `place`: it takes the same pure functions from `steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import UserError
from vae_jax.training.steps import NOTHING


class Placement(NamedTuple):
  """Shardings of a mesh: `replicated`, `batch` (axis 0 over "data") and `batches` (axis 1 over "data")."""

  mesh: Mesh
  replicated: NamedSharding
  batch: NamedSharding
  batches: NamedSharding


def make_placement(batch_size: int, devices: Any = None) -> Placement:
  """A placement over all devices; the batch size must divide over them."""
  devices = jax.devices() if devices is None else devices
  if batch_size % len(devices):
    raise UserError(
      f"training.batch_size = {batch_size}: must be a multiple of the {len(devices)} devices, "
      f"e.g. --config.training.batch_size={-(-batch_size // len(devices)) * len(devices)}"
    )
  # Explicit axes, the default, break Linen and gathers; see jax.sharding.AxisType.
  mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "data"))
  return Placement(mesh, *(NamedSharding(mesh, spec) for spec in specs))


def jit_train_call(call: Callable, placement: Placement) -> Callable:
  """Compiles `call(state, stored, batches, frozen=Frozen())`. The state is donated; all comes back replicated."""
  p = placement
  compiled = jax.jit(
    call,
    in_shardings=(p.replicated, p.replicated, p.batches, p.replicated),
    out_shardings=(p.replicated, p.replicated),
    donate_argnums=(0,),
  )
  return lambda state, stored, batches, frozen=NOTHING: compiled(state, stored, batches, frozen)


def jit_eval_step(step: Callable, placement: Placement) -> Callable:
  """Compiles `step(params, batch, frozen=Frozen())`; per-example results come back replicated."""
  p = placement
  compiled = jax.jit(step, in_shardings=(p.replicated, p.batch, p.replicated), out_shardings=p.replicated)
  return lambda params, batch, frozen=NOTHING: compiled(params, batch, frozen)
