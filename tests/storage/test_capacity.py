"""Memory and disk that there are, from files as Linux has them, and what is refused."""

import pytest

from vae_jax.errors import UserError
from vae_jax.storage import capacity
from vae_jax.storage.capacity import available_memory, check_memory, check_space, free_space, host_memory

MEMINFO = """MemTotal:       24684084 kB
MemFree:         1000 kB
MemAvailable:    5000000 kB
SwapFree:         500000 kB
"""


def test_the_memory_of_a_container_counts(tmp_path):
  (tmp_path / "memory.max").write_text("123456789\n")
  (tmp_path / "none").write_text("max\n")
  assert host_memory((tmp_path / "memory.max",)) == 123456789
  assert host_memory((tmp_path / "none", tmp_path / "absent")) > 10**8


@pytest.mark.parametrize(
  ("limit", "used", "stat"),
  [
    ("memory.max", "memory.current", "inactive_file 30\nactive_file 12\nfile 99\n"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_cache 7\ninactive_file 42\n"),
  ],
)
def test_available_memory(tmp_path, limit, used, stat):
  """Free memory, caches and swap; less in a container, whose caches of files do not count as used."""
  meminfo = tmp_path / "meminfo"
  meminfo.write_text(MEMINFO)
  assert available_memory(meminfo, tmp_path) == 5_500_000 * 1024
  (tmp_path / "memory").mkdir()
  (tmp_path / limit).write_text("max\n")
  assert available_memory(meminfo, tmp_path) == 5_500_000 * 1024
  (tmp_path / limit).write_text("1000\n")
  (tmp_path / used).write_text("900\n")
  assert available_memory(meminfo, tmp_path) == 100
  (tmp_path / limit).with_name("memory.stat").write_text(stat)
  assert available_memory(meminfo, tmp_path) == 142
  (tmp_path / used).write_text("2000\n")
  assert available_memory(meminfo, tmp_path) == 0
  assert available_memory(tmp_path / "absent", tmp_path) == host_memory()


def test_free_space_is_that_of_the_nearest_folder(tmp_path, monkeypatch):
  asked = []

  def usage(place):
    asked.append(place)
    if place != tmp_path:
      raise FileNotFoundError
    return type("", (), {"free": 5})

  monkeypatch.setattr(capacity.shutil, "disk_usage", usage)
  assert free_space(tmp_path / "a" / "b") == 5 and asked == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
  monkeypatch.undo()
  assert free_space(tmp_path / "a") > 0


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(capacity, "available_memory", lambda: 2 * 10**9)
  monkeypatch.setattr(capacity, "free_space", lambda folder: 10**6)
  check_memory("x", 2 * 10**9, "y")
  check_space(tmp_path, "x", 10**6, "y")
  with pytest.raises(UserError, match=r"^x needs at least 2\.5 GB of memory, 2 GB are available; y$"):
    check_memory("x", 5 * 10**9 // 2, "y")
  with pytest.raises(UserError, match=r"x needs at least 1\.5 MB of disk, 1 MB are free; y$"):
    check_space(tmp_path, "x", 15 * 10**5, "y")
