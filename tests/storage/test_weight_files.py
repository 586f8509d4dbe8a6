"""Reading arrays from files of any origin, and refusing everything else in one line."""

import hashlib
import io
import pickle
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import mapping, pth, tensor, text, zipped
from weight_bytes import (
  MAGIC,
  ONE,
  VERSION,
  A,
  hdf5,
  keras,
  legacy,
  listed,
  npz,
  peak_of,
  refusal,
  safetensors,
  stored,
  torch_zip,
)

from vae_jax.errors import UserError
from vae_jax.storage import weight_files as files
from vae_jax.storage.weight_files import read_arrays


def test_npz(write):
  turned = np.asfortranarray(A)
  arrays = read_arrays(
    write(npz(**{"a/kernel": A, "turned": turned, "half": A.astype("f2"), "n": np.int64(3)}))
  ).arrays
  assert set(arrays) == {"a/kernel", "turned", "half", "n"}
  for name in ("a/kernel", "turned", "half"):
    np.testing.assert_array_equal(arrays[name], A)
  assert arrays["half"].dtype == np.float16 and arrays["n"] == 3


def test_npz_compressed(tmp_path):
  np.savez_compressed(tmp_path / "a.npz", x=A)
  np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz").arrays["x"], A)


def test_safetensors(write):
  pytest.importorskip("safetensors")
  bits = (np.float32([1.5, -2.0]).view(np.uint32) >> 16).astype("<u2")
  header = (
    '{"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},'
    ' "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]}, "__metadata__": {"format": "pt"}}'
  )
  arrays = read_arrays(write(safetensors(header, A.tobytes() + bits.tobytes()))).arrays
  np.testing.assert_array_equal(arrays["x"], A)
  assert arrays["b"].dtype == np.float32 and arrays["b"].tolist() == [1.5, -2.0]


def test_digest(write):
  path = write(npz(x=A))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert read_arrays(path, sha256=digest.upper()).sha256 == digest
  read_arrays(path, sha256=digest[:8])
  other = "0" * 64
  line = refusal(path, sha256=other)
  assert digest in line and other in line
  assert "hexadecimal" in refusal(path, sha256="md5")
  assert "hexadecimal" in refusal(path, sha256=digest[:7])


def test_file_too_large(write, monkeypatch):
  path = write(npz(x=A))
  monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size)
  read_arrays(path)
  monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size - 1)
  assert "bytes, more than" in refusal(path)


def test_not_a_file(tmp_path):
  assert "does not exist" in refusal(tmp_path / "none.pth")
  assert "not a file" in refusal(tmp_path)
  with pytest.raises(UserError, match=r"does not exist|cannot be read"):
    read_arrays("a\0b")


@pytest.mark.parametrize(
  ("data", "words"),
  [
    (b"", "is empty"),
    (b"hello, world", "is none of"),
    (b"\n<!DOCTYPE html><html>", "HTML"),
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b"\x93NUMPY\x01\x00", "one array"),
    (MAGIC + VERSION, "whole torch file"),
    (b"sys_info".ljust(257, b"\0") + b"ustar\x0000", "before 0.1.10"),
    (b"\x80\x03]q\x00.", "dict of arrays"),
    (b"\x80\x03\x8f.", "opcode EMPTY_SET"),
    (b"\x80\x03}]K\x01a(X\x01\x00\x00\x00aK\x01u.", "other than dicts"),
    (b"\x80\x03}K\x01a.", "no list"),
    (b"\x80\x03}X\x01\x00\x00\x00a]s.", "'a', of type list"),
    (b"\x80\x03K\x01.", "dict of arrays"),
    (b"\x80\x03}X\x01\x00\x00\x00aK\x01s.", "'a', of type int"),
    (b"PK\5\6" + bytes(18), "zip file of nothing"),
    (zipped({"a.txt": b"hi"}), "'a.txt'"),
    (zipped({"model.weights.h5": b"", "config.json": b""}), "save_weights"),
  ],
)
def test_other_formats(write, data, words):
  assert words in refusal(write(data, "vgg16.pth"))


def test_zip_that_declares_more_than_it_has(write):
  def declaring(data, size):
    """With another size, before and after compression, of every member in the central directory."""
    head, *entries = data.split(b"PK\1\2")
    sizes = struct.pack("<II", size, size)
    return b"PK\1\2".join([head, *(entry[:16] + sizes + entry[24:] for entry in entries)])

  arrays = npz(x=A, y=A)
  assert "would unpack to" in refusal(write(declaring(arrays, 2**32 - 2)))
  assert "whole zip" in refusal(write(declaring(arrays, 2**20)))
  tensors = torch_zip(tensor("0", (4,), (1,), 4))
  assert "more bytes than it has" in refusal(write(declaring(tensors, 2**20)))
  assert "would unpack to" in refusal(write(declaring(tensors, 2**30)))


def test_npz_members(write):
  assert "of type object" in refusal(write(npz(x=np.array([None]))))
  assert "of type <U1" in refusal(write(npz(x=np.array(["a"]))))
  assert "only arrays of numbers" in refusal(write(npz(x=np.zeros(2, [("a", "f4")]))))
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
  )
  assert "not an array of shape" in refusal(write(zipped({"x.npy": file.getvalue()})))
  member = npz(x=A)
  assert "compression" in refusal(write(zipped({"x.npy": member}, zipfile.ZIP_LZMA)))


@pytest.mark.parametrize(
  ("data", "words"),
  [
    (safetensors("{}", size=200_000_000), "header too large"),
    (safetensors("{", size=2**63), "header too large"),
    (safetensors(ONE, bytes(23)), "whole safetensors"),
    (safetensors('{"x": {"dtype": "F32", "shape": [99999999, 99999999], "data_offsets": [0, 24]}}'), "whole"),
    (safetensors('{"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}', b"a"), "F8_E4M3"),
    (safetensors('{"x": os.system}'), "whole"),
  ],
)
def test_safetensors_that_lie(write, data, words):
  pytest.importorskip("safetensors")
  assert words in refusal(write(data))


@pytest.mark.parametrize(
  ("package", "data"),
  [("safetensors", safetensors(ONE, A.tobytes()))],
)
def test_missing_package(write, monkeypatch, package, data):
  monkeypatch.setitem(sys.modules, package, None)
  assert f"pip install {package}" in refusal(write(data))


def test_bombs_take_no_memory(write):
  bombs = {
    "memo": b"\x80\x04}r\xff\xff\xff\x7fK\x01.",  # an index of 2^31
    "length": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "dicts": b"\x80\x04}q\x00"
    + b"".join(
      b"}(" + text("a") + b"h" + bytes([n]) + text("b") + b"h" + bytes([n]) + b"uq" + bytes([n + 1])
      for n in range(60)
    )
    + b".",
    "tuples": b"\x80\x04)q\x00"
    + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    + b"h\x3ch\x3c\x93.",  # as the name of a global
    "cycle": b"\x80\x04}q\x00" + text("a") + b"h\x00s.",
    "names": b"\x80\x04}" + text("a" * 1000) + b"Ns.",
    "many": b"\x80\x04" + b"}" * 200_000 + b".",
    "shape": pickle.dumps({"x": A}, 3).replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
  }
  for name, data in bombs.items():
    path = write(data)
    assert peak_of(lambda path=path: refusal(path)) < 64, name
  assert "nested without end" in refusal(write(bombs["cycle"]))


PACKAGES = {"hdf5": "h5py", "safetensors": "safetensors"}


def small(kind):
  """A small file of each format; its inner parts too, since a checksum guards those of a zip."""
  if kind in PACKAGES:
    pytest.importorskip(PACKAGES[kind])
  make = {
    "torch": lambda: pth({"a.weight": A, "a.bias": A[0]}),
    "legacy": lambda: legacy(
      mapping({"x": tensor("0", (2, 2), (2, 1), 4), "y": tensor("1", (3,), (1,), 3, view=b"N")}),
      stored(A[0]),
      stored(A.ravel()[:4]),
      keys=listed("1", "0"),
    ),
    "npz": lambda: npz(**{"a/kernel": A, "b": A[0]}),
    "pickle": lambda: pickle.dumps({"a": {"kernel": A, "bias": A[0]}, "b": A}, 3),
    "pickle4": lambda: pickle.dumps({"a": {"kernel": A, "bias": A[0]}, "b": A}, 4),
    "safetensors": lambda: safetensors(ONE, A.tobytes()),
    "hdf5": lambda: hdf5(keras),
    "torch inside": lambda: mapping({"x": tensor("0", (2, 2), (2, 1), 4), "y": tensor("0", (4,), (1,), 4)}),
    "npy inside": lambda: zipfile.ZipFile(io.BytesIO(npz(x=A))).read("x.npy"),
  }
  return make[kind]()


def wrap(kind, data):
  if kind == "torch inside":
    return zipped({"a/data.pkl": data, "a/data/0": bytes(16)})
  return zipped({"x.npy": data}) if kind == "npy inside" else data


def mutate(data, edits, end):
  data = bytearray(data)
  for place, how, piece in edits:
    at = int(place * len(data))
    if how == "set":
      data[at : at + len(piece)] = piece
    elif how == "insert":
      data[at:at] = piece
    elif how == "delete":
      del data[at : at + len(piece)]
    else:
      data[at:at] = data[at : at + 8 * len(piece)]
  return bytes(data[: max(1, round(end * len(data)))])


EDITS = st.lists(
  st.tuples(
    st.floats(0, 1),
    st.sampled_from(["set", "insert", "delete", "repeat"]),
    st.one_of(
      st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(4), b"\0\0\0\x7f"])
    ),
  ),
  max_size=4,
)


@pytest.mark.parametrize(
  "kind", ["torch", "legacy", "npz", "pickle", "pickle4", "safetensors", "hdf5", "torch inside", "npy inside"]
)
def test_damaged_files_give_arrays_or_one_line(write, kind):
  whole = small(kind)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  def outcome(data):
    path = write(data)
    try:
      arrays = read_arrays(path).arrays
    except UserError as error:
      assert "\n" not in str(error) and str(path) in str(error)
      return {}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert sum(len(array.tobytes()) for array in arrays.values()) <= 4 * len(
      data
    )  # readable to the last byte
    return arrays

  suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

  @settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=suppressed
  )
  @given(EDITS, st.one_of(st.just(1.0), st.floats(0, 1)))
  def check(edits, end):
    outcome(wrap(kind, mutate(whole, edits, end)))

  assert outcome(wrap(kind, whole))
  check()
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_every_truncation(write):
  for kind in ("torch", "legacy", "npz", "pickle", "safetensors"):
    data = small(kind)
    for end in range(0, len(data) - 1, max(1, len(data) // 60)):
      refusal(write(data[:end]))
