"""Where a step runs: on all devices of all processes, which share the batch. Two thin wrappers around the same step.

jit: one program over a mesh, of which XLA makes the parts for the devices; with fsdp each device keeps a part of the
parameters and the optimiser's state. pmap: one program a device, whose gradients and means are averaged by `pmean`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.compiling import options
from vae_jax.errors import UserError
from vae_jax.training.stopping import Stopped
from vae_jax.types import NO_FROZEN

AXIS = "data"
SMALL = 2**10  # arrays of fewer elements are not worth dividing
SILENCE = 30  # seconds without a sign of life after which a process counts as dead, and JAX ends the others


class Placement(NamedTuple):
  """Devices and how arrays lie on them: `replicated`, `batch` (axis 0 over "data") and `batches` (axis 1 over "data").

  way: "jit" or "pmap". fsdp: whether parameters and the optimiser's state are divided over the devices (jit).
  """

  mesh: Mesh
  replicated: NamedSharding
  batch: NamedSharding
  batches: NamedSharding
  way: str = "jit"
  fsdp: bool = False

  @property
  def axis_name(self) -> str | None:
    """For `steps.make_train_step`."""
    return AXIS if self.way == "pmap" else None

  @property
  def shard(self) -> tuple[int, int]:
    """(this process, number of processes), for `pipeline.batches`."""
    return jax.process_index(), jax.process_count()

  def state(self, like: Any) -> Any:
    """The sharding of each array of a state: all on every device or, with fsdp, the large ones divided."""
    return jax.tree.map(self._divided if self.fsdp else lambda _: self.replicated, like)

  def _divided(self, x: Any) -> NamedSharding:
    # Over the longest axis that divides evenly.
    axes = sorted(range(len(x.shape)), key=lambda i: -x.shape[i])
    axis = next((i for i in axes if x.shape[i] % self.mesh.size == 0), None)
    if axis is None or np.prod(x.shape) < SMALL:
      return self.replicated
    return NamedSharding(
      self.mesh, PartitionSpec(*(AXIS if i == axis else None for i in range(len(x.shape))))
    )

  def put(self, tree: Any) -> Any:
    """On every device what each process has alike."""
    return jax.device_put(tree, self.replicated)

  def put_batch(self, local: Any, axis: int = 0) -> Any:
    """This process's part of a batch on its devices; `axis` is that of the examples."""
    if self.way == "pmap":  # an axis of devices before that of the examples; pmap sends them
      count = len(self.mesh.local_devices)
      return jax.tree.map(
        lambda x: np.reshape(x, (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])), local
      )
    sharding = self.batches if axis else self.batch
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local)


def make_placement(batch_size: int, devices: Any = None, way: str = "jit", fsdp: bool = False) -> Placement:
  """A placement over all devices, or those given; the batch size must divide over them."""
  devices = jax.devices() if devices is None else devices
  if batch_size % len(devices):
    raise UserError(
      f"training.batch_size = {batch_size}: must be a multiple of the {len(devices)} devices, "
      f"e.g. --config.training.batch_size={-(-batch_size // len(devices)) * len(devices)}"
    )
  # Explicit axes, the default, break Linen and gathers; see jax.sharding.AxisType.
  mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
  specs = (PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS))
  replicated, batch, batches = (NamedSharding(mesh, spec) for spec in specs)
  return Placement(mesh, replicated, batch, batches, way, fsdp)


def compile_train_call(call: Callable, placement: Placement, like: Any = None) -> Callable:
  """Compiles `call(state, stored, batches, frozen={})` from `steps.make_train_call`. The state is donated.

  like: the state or its shapes, where `placement.fsdp`. Metrics come back replicated; so does the state otherwise.
  """
  p = placement
  if p.way == "pmap":
    mapped = jax.pmap(
      call,
      axis_name=AXIS,
      in_axes=(None, None, 1, None),
      out_axes=None,
      donate_argnums=(0,),
      devices=p.mesh.devices.flatten().tolist(),
    )
    return lambda state, stored, batches, frozen=NO_FROZEN: mapped(state, stored, batches, frozen)
  state = p.state(like) if p.fsdp else p.replicated
  compiled = jax.jit(
    call,
    in_shardings=(state, p.replicated, p.batches, p.replicated),
    out_shardings=(state, p.replicated),
    donate_argnums=(0,),
    compiler_options=options(),
  )
  return TrainCall(compiled)


class TrainCall:
  """A jitted training call whose programs may be compiled ahead, to know what a step costs."""

  def __init__(self, jitted: Any):
    self._jitted = jitted
    self._programs: dict[int, Any] = {}  # by number of steps

  def compile(self, arguments: tuple[Any, ...], lowered: Callable[[float | None], None]) -> None:
    """Compiles the program for (state, stored, batches, frozen). `lowered` receives the FLOPs of one step in between,
    None where they are unknown: XLA counts one turn of the loop over steps."""
    program = self._jitted.lower(*arguments)
    try:
      flops = (program.cost_analysis() or {}).get("flops")
    except (jax.errors.JaxRuntimeError, NotImplementedError):
      flops = None
    lowered(flops)
    self._programs[_steps(arguments[2])] = program.compile()

  def __call__(self, state: Any, stored: Any, batches: Any, frozen: Any = NO_FROZEN) -> Any:
    program = self._programs.get(_steps(batches), self._jitted)
    return program(state, stored, batches, frozen)


def _steps(batches: Any) -> int:
  return jax.tree.leaves(batches)[0].shape[0]


def compile_eval_step(step: Callable, placement: Placement, like: Any = None) -> Callable:
  """Compiles `step(variables, batch, frozen={})`; per-example results come back replicated.

  like: the variables or their shapes, where `placement.fsdp`.
  """
  p = placement
  if p.way == "pmap":
    mapped = jax.pmap(
      lambda variables, batch, frozen: jax.lax.all_gather(step(variables, batch, frozen), AXIS, tiled=True),
      axis_name=AXIS,
      in_axes=(None, 0, None),
      out_axes=None,
      devices=p.mesh.devices.flatten().tolist(),
    )
    return lambda variables, batch, frozen=NO_FROZEN: mapped(variables, batch, frozen)
  variables_at = p.state(like) if p.fsdp else p.replicated
  compiled = jax.jit(
    step,
    in_shardings=(variables_at, p.batch, p.replicated),
    out_shardings=p.replicated,
    compiler_options=options(),
  )
  return lambda variables, batch, frozen=NO_FROZEN: compiled(variables, batch, frozen)


@contextlib.contextmanager
def processes(
  coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> Iterator[None]:
  """Joins the processes of a run, before anything else asks JAX for devices. One process needs nothing of this.

  One that fails says why and ends at once. It does not wait for the others, as JAX would have it do: they may be in the
  midst of a sum that lacks its part. They notice, at the latest by its silence, and end too.

  Args:
    coordinator: host:port of process 0; "auto": JAX finds all in the environment (any cluster that it knows); None: one
      process, unless SLURM, Open MPI or a TPU pod started several.
    count, index: how many processes, and which of them this is.

  Raises:
    UserError: one of the three without the others, or no connection.
  """
  _connect(coordinator, count, index)
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    if isinstance(error, Stopped):  # all of them have, at the same step
      main = jax.process_index() == 0
      jax.distributed.shutdown()
      if not main:
        os._exit(error.status)
      raise
    status = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    line = " ".join(str(error).split()) or ("interrupted" if status == 130 else type(error).__name__)
    if _is_of_another(error):
      line = f"another process is gone; its own last line says why ({line[:200]})"
    elif status == 1:
      traceback.print_exc()
    print(
      f"error: process {jax.process_index()} of {jax.process_count()}: {line}", file=sys.stderr, flush=True
    )
    os._exit(status)


def _is_of_another(error: BaseException) -> bool:
  """Whether a sum over processes failed for want of one."""
  words = ("gloo", "peer", "nccl", "heartbeat", "coordination", "barrier")
  return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error).lower() for word in words)


def _connect(coordinator: str | None, count: int | None, index: int | None) -> None:
  if coordinator is None and count is None and index is None and not _are_several(os.environ):
    return
  found = coordinator in (None, "auto") and count is None and index is None
  if not found:
    if coordinator is None or count is None or index is None:
      raise UserError("--coordinator, --processes and --process go together: give all three, or none")
    if not 0 <= index < count:
      raise UserError(f"--process={index} must be one of 0 .. {count - 1}, as --processes={count}")
  try:
    place = (None, None, None) if found else (coordinator, count, index)
    jax.distributed.initialize(*place, heartbeat_timeout_seconds=SILENCE)
  except Exception as error:
    line = " ".join(str(error).split())[:200]
    where = "the others (by the environment)" if found else f"{coordinator} as process {index}"
    raise UserError(f"cannot join {where}: {line}; is process 0 running and its port free?") from error


def _are_several(environment: Mapping[str, str]) -> bool:
  """Whether a scheduler started several processes of this run."""
  tasks = (environment.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
  return any(n != "1" for n in tasks) or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
  """The first process before the others: what it downloads or prepares, they find."""
  from jax.experimental.multihost_utils import sync_global_devices

  several, main = jax.process_count() > 1, jax.process_index() == 0
  if several and not main:
    sync_global_devices("first_alone")
  yield
  if several and main:
    sync_global_devices("first_alone")
