"""What a run says at its start, on standard error: data, devices, output, model, compilation.

Also what it says, before anything is compiled, of a model that is out of proportion to its images.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax.configuration import varied
from vae_jax.errors import UserError, printable
from vae_jax.models.contract import codebooks
from vae_jax.storage.capacity import host_memory
from vae_jax.training.optional_logs import check_wandb
from vae_jax.types import Shape, Spec, image_shape, input_shape

if TYPE_CHECKING:
  from vae_jax.training.assemble import Parts
  from vae_jax.training.parallel import Placement
  from vae_jax.training.state import TrainState
  from vae_jax.training.together import Team

LARGE = 10**8  # parameters of a model that may be out of proportion ...
SHARE = 0.75  # ... where two arrays, the layers between pixels and latents, have this share of them


def say(line: str) -> None:
  """Prints a line on standard error; one that cannot be written is lost."""
  with contextlib.suppress(OSError):
    print(printable(line), file=sys.stderr, flush=True)


def begin(team: Team) -> None:
  """Says what a run, or several in one program, train on, on which devices, and where they write; nothing where they
  have finished already.

  Raises UserError: a model that does not fit into memory, or wandb asked for and not installed.
  """
  parts, c = team.parts[0], team.config
  devices = parts.placement.mesh.devices.flatten()
  if min(p.checkpoints.latest() or 0 for p in team.parts) >= c.training.steps:
    return
  check_wandb(c.training.wandb)
  check_size(c, parts.spec, parts.like, parts.placement, len(team.parts))
  if jax.process_index() != 0:
    return
  counts = [f"{len(split.source):,} in {name}" for split, name in _splits(parts)]
  where = f" from {c.data.dir}" if c.data.dir else ""
  shape, given = image_shape(parts.spec), input_shape(parts.spec)
  degraded = f", given as {_size(given)}" if given != shape else ""
  seen = f"{_size(shape)}{_cut(c.data, parts.train.source.uniform_shape)}{degraded}"
  say(f"data: {c.data.name}{where}, images of {seen}: {', '.join(counts)}")
  processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
  say(f"devices: {len(devices)} x {devices[0].device_kind}{processes}, {c.training.dtype}")
  say(f"output: {team.workdir}")
  if team.several:
    key, values = varied(c)
    say(f"members: {len(values)} runs in one program, with {key} {', '.join(values)}")


def compilation(team: Team, tell: Callable[[str], None], arguments: tuple[Any, ...]) -> None:
  """Compiles the training call for these arguments, and reports the model and how long that took.

  A training call that cannot be compiled ahead (pmap) is compiled by its first call.
  """

  def lowered(flops: float | None) -> None:
    tell(_model(team.parts[0], None if team.several else flops))  # of several, XLA may count one or all
    tell("compiling the training step ...")

  began, compile_ahead = time.monotonic(), getattr(team.call, "compile", None)
  if compile_ahead is None:
    lowered(None)
  else:
    compile_ahead(arguments, lowered)
    tell(f"compiled in {time.monotonic() - began:.1f} s")


def _splits(parts: Parts) -> list[tuple[Any, str]]:
  data = parts.config.data
  return [(parts.train, data.train), (parts.held_out, data.validation)]


def _cut(data: ConfigDict, stored: Shape | None) -> str:
  """Says that images are parts of the stored ones. stored: None where sizes differ."""
  height, width = data.size
  if data.fit != "crop" or not height:
    return ""
  # A remark is made of smaller ones.
  if stored and (stored[:2] == (height, width) or stored[0] < height or stored[1] < width):
    return ""
  whole = f" of {_size(stored[:2])}" if stored else ""
  return f", cut out{whole} (data.fit=crop)"


def _size(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


def count_parameters(like: TrainState) -> int:
  """Counts the parameters of a model, from a state or its shapes."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(like.params))


def _model(parts: Parts, flops: float | None) -> str:
  model, t = parts.model, parts.config.training
  facts = [parts.config.model.name, f"{count_parameters(parts.like):,} parameters"]
  if "encode" in model.can:
    facts.append(f"{model.units:,} latents")
  if model.codes:
    many = max(codebooks(model.layout), default=0) + 1
    facts.append(f"{'a codebook' if many == 1 else f'{many} codebooks'} of {model.codes:,}")
  if flops:  # the parts of a batch are a loop, of which one turn is counted
    facts.append(f"{_short(flops * t.accumulate)}FLOP a step of {t.batch_size}")
  return "model: " + ", ".join(facts)


def _short(number: float) -> str:
  """1.23e9 -> "1.23 G"."""
  for unit in ("", "k", "M", "G", "T"):
    if number < 999.5:
      return f"{number:.3g} {unit}"
    number /= 1000
  return f"{number:.3g} P"


def check_size(
  config: ConfigDict, spec: Spec, like: TrainState, placement: Placement, members: int = 1
) -> None:
  """Warns of a model that is out of proportion to its images. Raises UserError where it cannot fit into memory.

  like: the shapes of the state, and how they are divided over the devices. members: states that are held at a time.
  """
  count, needed = count_parameters(like), members * _needed(like, placement)
  memory = _memory(placement)
  facts = (
    f"model.name={config.model.name} for images of {_size(image_shape(spec))} has {_short(count).rstrip()} parameters "
    f"({_short(needed)}B with gradients, average and optimiser state"
    f"{f', of {members} members' if members > 1 else ''}"
  )
  if memory is not None and needed > memory:
    raise UserError(f"{facts}; there are {_short(memory)}B of memory); {_remedy(config, spec)}")
  if jax.process_index() == 0 and count >= LARGE and _share_of_two(like) >= SHARE:
    say(f"warning: {facts}), nearly all between pixels and latents; {_remedy(config, spec)}")


def _remedy(config: ConfigDict, spec: Spec) -> str:
  m, ways = config.model, []
  if min(image_shape(spec)[:2]) > 64:
    ways.append("set data.size=64,64")
  if m.get("dense", 0):
    ways.append("set model.dense=0 (a map of latents)")
  elif "hidden" in m:
    ways.append("set model.name=conv_vae")
  return ", or ".join(ways or ["make its layers narrower (model.*)"])


def _share_of_two(like: TrainState) -> float:
  """The share of the two largest arrays."""
  sizes = sorted(int(np.prod(x.shape)) for x in jax.tree.leaves(like.params))
  return sum(sizes[-2:]) / max(sum(sizes), 1)


def _needed(like: TrainState, placement: Placement) -> int:
  """Bytes of the state and of gradients on one device; on CPUs, whose devices share memory, on all of this process."""

  def total(tree: Any) -> int:
    return sum(
      int(np.prod(x.sharding.shard_shape(x.shape))) * _itemsize(x.dtype) for x in jax.tree.leaves(tree)
    )

  here = placement.mesh.local_devices
  return (total(like) + total(like.params)) * (len(here) if here[0].platform == "cpu" else 1)


def _itemsize(dtype: Any) -> int:
  return 4 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize


def _memory(placement: Placement) -> int | None:
  """Bytes of memory of a device, of the host for CPUs; None where that is unknown."""
  device = placement.mesh.local_devices[0]
  if device.platform == "cpu":
    return host_memory()
  stats: Callable[[], Any] = device.memory_stats
  try:
    return (stats() or {}).get("bytes_limit")
  except jax.errors.JaxRuntimeError:
    return None
