"""The arrays of a checkpoint: read by tensorstore under the path of their names, and put in the structure asked for.

Reading needs neither Orbax, nor the optimiser or the devices that wrote the arrays.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.plain_paths import plain_path
from vae_jax.storage.verification import Damaged

_AT_ONCE = 2**28  # bytes that are read back at a time


def nest(flat: dict[str, Any]) -> dict[str, Any]:
  """Makes nested dicts of arrays by name; undoes `flat`."""
  tree: dict[str, Any] = {}
  for name, x in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = x
  return tree


def flat(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a pytree by name: "params/encoder/kernel"."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def modern(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Gives the arrays of older runs, which had one discriminator, the names that they have now."""
  old, new = "discriminator/", "opponents/adversarial/"
  return {new + name.removeprefix(old) if name.startswith(old) else name: x for name, x in arrays.items()}


def choose_part(arrays: dict[str, list], only: str | tuple[str, ...] | None, path: Path) -> str | None:
  """Returns the first of the parts asked for that the checkpoint has; UserError where it has none."""
  if only is None:
    return None
  wanted = (only,) if isinstance(only, str) else only
  parts = {name.split("/")[0] for name in arrays}
  found = [name for name in wanted if name in parts]
  if not found:
    raise UserError(f"checkpoint {path} has no part {wanted[0]!r}; it has {', '.join(sorted(parts))}")
  return found[0]


def select(arrays: dict[str, list], part: str | None) -> dict[str, list]:
  """Keeps the arrays of one part; all of them where `part` is None."""
  return {n: x for n, x in arrays.items() if part is None or n == part or n.startswith(f"{part}/")}


def read_stored(path: Path, record: dict[str, list]) -> dict[str, np.ndarray]:
  """Reads the arrays in `record` (name -> [shape, dtype]); Damaged where they are stored otherwise or not at all."""
  like = {n: (tuple(shape), jax.numpy.dtype(dtype)) for n, (shape, dtype) in record.items()}
  with _opened(path, like) as stores:
    reads = {n: store.read() for n, store in stores.items()}
    arrays = {n: read.result() for n, read in reads.items()}
  return {n: arrays[n] if n in arrays else np.empty(shape, dtype) for n, (shape, dtype) in like.items()}


def compare_stored(path: Path, arrays: dict[str, Any]) -> None:
  """Raises Damaged unless each of `arrays` is stored with its shape and type and, if it is numpy's, bit for bit.

  Reads some arrays at a time, so that this takes little memory.
  """
  for group in _groups(arrays):
    like = {n: (tuple(x.shape), jax.numpy.dtype(x.dtype)) for n, x in group.items()}
    with _opened(path, like) as stores:
      reads = {n: store.read() for n, store in stores.items() if isinstance(group[n], np.ndarray)}
      for n, read in reads.items():
        if read.result().tobytes() != group[n].tobytes():
          raise Damaged(f"{n} is not stored as it was")


def _groups(arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """The arrays in groups of about `_AT_ONCE` bytes."""
  group: dict[str, Any] = {}
  for name, x in arrays.items():
    group[name] = x
    if sum(other.nbytes for other in group.values()) > _AT_ONCE:
      yield group
      group = {}
  yield group


@contextlib.contextmanager
def _opened(path: Path, like: dict[str, tuple[tuple[int, ...], np.dtype]]) -> Iterator[dict[str, Any]]:
  """Opens the arrays that hold something; Damaged where they are not there, of another shape or type, or unreadable."""
  import tensorstore as ts  # the library by which Orbax stores arrays

  with plain_path(path) as plain:
    try:
      context = ts.Context({"cache_pool#index": {"total_bytes_limit": 10**8}})
      kvstore = _kvstore(plain, context)

      def open_array(name: str) -> Any:
        spec = {"driver": "zarr", "kvstore": kvstore | {"path": name.replace("/", ".") + "/"}}
        return ts.open(spec | {"fill_missing_data_reads": False}, read=True, context=context)

      opened = {n: open_array(n) for n, (shape, _) in like.items() if math.prod(shape)}
      stores = {n: store.result() for n, store in opened.items()}
      for n, store in stores.items():
        shape, dtype = like[n]
        # A chunk is decompressed whole, so that one which is larger than its array could fill the memory.
        chunk = store.chunk_layout.read_chunk.shape or ()
        if store.shape != shape or store.dtype.numpy_dtype != dtype or any(map(int.__gt__, chunk, shape)):
          raise Damaged(f"{n} is stored as {store.dtype.name}{list(store.shape)}, in chunks of {list(chunk)}")
      yield stores
    except Damaged:
      raise
    except Exception as error:
      raise Damaged(one_line(error)) from error


def _kvstore(path: Path, context: Any) -> dict[str, Any]:
  """Where the keys of the arrays are: in one database or, where a save did not merge them, in one for each process."""
  parts = [part for part in path.glob("ocdbt.process_*") if part.is_dir()]
  if (path / "manifest.ocdbt").exists() or not parts:
    return _database(path) | {"cache_pool": "cache_pool#index"}
  import tensorstore as ts

  merged = {"driver": "memory"}
  memory = ts.KvStore.open(merged, context=context).result()
  for part in parts:
    store = ts.KvStore.open(_database(part), context=context).result()
    for key in store.list().result():
      memory.write(key, store.read(key).result().value).result()
  return merged


def _database(path: Path) -> dict[str, Any]:
  return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}


def shape_as(arrays: dict[str, np.ndarray], like: Any, only: str | None, path: Path) -> Any:
  """Puts `arrays` in nested dicts, or in the structure and on the devices of `like`; UserError if they do not fit."""
  if like is None:
    tree = nest(arrays)
    for part in only.split("/") if only else []:
      tree = tree[part]
    return tree
  remedy = "use the config that wrote it, or another workdir"
  placed = []
  names = []
  for name, want in flat(like).items():
    name = "/".join(part for part in (only, name) if part)
    if name not in arrays:
      raise UserError(f"checkpoint {path} lacks {name}; {remedy}")
    x = arrays[name]
    if x.shape != tuple(want.shape) or x.dtype != want.dtype:
      is_not = f"is {x.dtype.name}{list(x.shape)}, not {want.dtype.name}{list(want.shape)}"
      raise UserError(f"checkpoint {path}: {name} {is_not}; {remedy}")
    names.append(name)
    placed.append(jax.device_put(x, getattr(want, "sharding", None)))
  if extra := sorted(set(arrays) - set(names)):
    raise UserError(f"checkpoint {path} has {extra[0]}, which this model lacks; {remedy}")
  return jax.tree.unflatten(jax.tree.structure(like), placed)


def one_line(error: BaseException) -> str:
  """Returns the system's reason, where it is in the error or in its text; else the first line of the text."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = str(error).strip() or type(error).__name__
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
    if os.strerror(number) in text:
      return os.strerror(number)
  return text.splitlines()[0][:200]
