"""Strict arithmetic for every test: no silent broadcasting of ranks, eight CPU devices for the multi-device tests, and
arguments and results of the shapes that signatures name."""

import os
import tempfile

import jax
import jaxtyping
import pytest

from vae_jax.models import FAMILIES

# Before the first of these modules is imported. Shapes of jaxtyping and types alike are checked at every call, which in
# compiled functions is once. Layers, codebooks and losses also take numpy arrays, and have their own checks.
CHECKED = ("contract", "vae", "autoencoder", "spectral", "restorer", "encoders", "decoders", "vq_networks")
jaxtyping.install_import_hook(
  [
    *FAMILIES.values(),
    *(f"vae_jax.models.{name}" for name in CHECKED),
    "vae_jax.objectives",
    "vae_jax.training.steps",
  ],
  "beartype.beartype",
)

# Half of the suite's time would be compilation of programs that run once, on a few pixels. And XLA ends a process whose
# virtual devices do not meet within 40 s, as on a machine with other work. Read when JAX first runs, by subprocesses
# too; later versions of XLA may not know these flags, and end where they do not.
if jax.__version_info__ < (0, 11):
  flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
  flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

# Each program is compiled once a session: the processes that tests start, and the workers of pytest-xdist, share a
# folder, which workers inherit. A process that is killed while it writes there leaves half a file; JAX then warns and
# compiles, and pyproject.toml and PYTHONWARNINGS keep that warning out of what tests compare.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _compiled = tempfile.TemporaryDirectory(prefix="vae_jax_compiled_", ignore_cleanup_errors=True)
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache entry"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


# The longest files, to begin with: one that came last would have a worker to itself while the others idle.
LONGEST = (
  "test_processes.py",
  "test_resume.py",
  "test_loop.py",
  "test_end_to_end.py",
  "test_restoration.py",
  "test_disk_full.py",
  "test_damaged.py",
  "test_behaviour.py",
  "test_contract.py",
  "test_data_faults.py",
)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture
def write(tmp_path):
  """Writes bytes into a file, and gives its path."""

  def write(data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path

  return write
