"""How much memory and disk there is, to refuse beforehand what cannot fit."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from vae_jax.errors import UserError

_GROUP = Path("/sys/fs/cgroup")
# A container's limit, what it uses, and how much of that are caches, which are given back: versions 2 and 1.
_LIMITS = (
  ("memory.max", "memory.current", "memory.stat"),
  ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def host_memory(groups: tuple[str, ...] = (_LIMITS[0][0], _LIMITS[1][0])) -> int | None:
  """Bytes of memory that this process may use: of the machine or, if less, of its container."""
  try:
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
  except (ValueError, OSError, AttributeError):  # not everywhere
    return None
  for name in groups:
    try:
      found.append(int((_GROUP / name).read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
      continue
  return min(found)


def available_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = _GROUP) -> int | None:
  """Bytes of memory that this process can still take: what is free, caches and free swap, within its container.

  Where a system does not report that (macOS), all of `host_memory`; None where nothing is known.
  """
  facts = _numbers(meminfo)
  if "MemAvailable" not in facts:
    return host_memory()
  found = [1024 * (facts["MemAvailable"] + facts.get("SwapFree", 0))]
  for limit, used, stat in _LIMITS:
    try:
      left = int((groups / limit).read_text()) - int((groups / used).read_text())
    except (OSError, ValueError):
      continue
    caches = _numbers(groups / stat)
    found.append(left + caches.get("inactive_file", 0) + caches.get("active_file", 0))
  return max(0, min(found))


def _numbers(path: Path) -> dict[str, int]:
  """Lines such as "MemFree:  5 kB" or "inactive_file 5"; nothing where there is no such file."""
  try:
    return {name: int(value) for name, value in re.findall(r"(?m)^(\w+):?\s+(\d+)", path.read_text())}
  except OSError:
    return {}


def free_space(folder: Path) -> int | None:
  """Bytes that a user may still write to the disk of a folder, which may not be there yet; None if that is unknown."""
  for place in (folder, *folder.absolute().parents):
    try:
      return shutil.disk_usage(place).free
    except FileNotFoundError:
      continue
    except OSError:
      return None
  return None


def check_memory(what: str, needed: int, remedy: str) -> None:
  """Raises UserError where `what` needs more bytes of memory than there are."""
  available = available_memory()
  if available is not None and needed > available:
    raise UserError(
      f"{what} needs at least {_size(needed)} of memory, {_size(available)} are available; {remedy}"
    )


def check_space(folder: Path, what: str, needed: int, remedy: str) -> None:
  """Raises UserError where `what` needs more bytes on the disk of a folder than are free."""
  free = free_space(folder)
  if free is not None and needed > free:
    raise UserError(
      f"{folder}: {what} needs at least {_size(needed)} of disk, {_size(free)} are free; {remedy}"
    )


def _size(number: int) -> str:
  return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"
