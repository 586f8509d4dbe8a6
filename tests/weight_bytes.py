"""Files of weights written by hand, as bytes, and what is said of one that is refused."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from torch_files import mapping, text, zipped

from vae_jax.errors import UserError
from vae_jax.storage.weight_files import read_arrays

A = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = '{"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'


def torch_zip(item, storage=bytes(16), **others):
  return zipped({"a/data.pkl": mapping({"x": item}), "a/data/0": storage, **others})


MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."  # 1001
MACHINE = b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + b"\x88u."


def listed(*keys):
  return b"\x80\x02](" + b"".join(map(text, keys)) + b"e."


def stored(values, count=None):
  return struct.pack("<q", values.size if count is None else count) + values.tobytes()


ZERO = listed("0")


def legacy(tree, *storages, keys=ZERO, machine=MACHINE, magic=MAGIC, version=VERSION):
  """The bytes of torch's format before 1.6, of its pickles and storages."""
  return magic + version + machine + tree + keys + b"".join(storages)


def npz(**arrays):
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def hdf5(fill):
  h5py = pytest.importorskip("h5py")
  file = io.BytesIO()
  with h5py.File(file, "w") as group:
    fill(group)
  return file.getvalue()


def keras(group):
  layer = group.create_group("model_weights/block1_conv1")
  layer.attrs["weight_names"] = [b"block1_conv1/kernel:0", b"block1_conv1/bias:0"]
  layer["block1_conv1/kernel:0"] = np.arange(12, dtype="f4").reshape(2, 1, 3, 2)
  layer["block1_conv1/bias:0"] = np.ones(2, "f4")
  group["optimizer_weights/iter"] = np.int64(3)


def safetensors(header, data=b"", size=None):
  header = header.encode()
  return struct.pack("<Q", len(header) if size is None else size) + header + data


def refusal(path, **options):
  with pytest.raises(UserError) as error:
    read_arrays(path, **options)
  line = str(error.value)
  assert "\n" not in line and str(path) in line and len(line) < 1000
  return line.replace(str(path), "")  # the words looked for may be in the test's name


def peak_of(call):
  """MiB of memory that Python and numpy took on the way."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1] / 2**20
  finally:
    tracemalloc.stop()
